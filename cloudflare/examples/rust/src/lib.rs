//! A Worker with its own handler behind Tidegate. Requests over a limit never reach the handler.

use tidegate_cloudflare::protect;
// The Worker that binds the Durable Object for `global` limits must export its class.
pub use tidegate_cloudflare::TidegateAuthority;
use worker::{Context, Env, Fetch, Request, Response, Result, event};

#[event(fetch)]
async fn fetch(request: Request, env: Env, ctx: Context) -> Result<Response> {
    protect(include_str!("../policy.json"), request, env, ctx, handler).await
}

async fn handler(request: Request, env: Env, _ctx: Context) -> Result<Response> {
    match request.path().as_str() {
        "/api/greeting" => {
            Response::ok(env.var("GREETING").map_or("hello".to_owned(), |greeting| greeting.to_string()))
        }
        _ => Fetch::Request(request).send().await,
    }
}
