//! A small HTTP front that speaks Upstash's REST protocol, as documented, and forwards to a real Redis.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// A running front. Dropping it stops it.
pub struct Front {
    pub addr: SocketAddr,
    serving: JoinHandle<()>,
}

impl Front {
    /// Starts a front of this Redis that requires the token.
    pub async fn start(redis: SocketAddr, token: &'static str) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let answer =
                        service_fn(
                            move |request| async move { Ok::<_, Infallible>(answer(redis, token, request).await) },
                        );
                    let _ = Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { addr, serving }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(redis: SocketAddr, token: &str, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let sent = parts.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if sent != format!("Bearer {token}") {
        return json_response(401, &json!({ "error": "WRONGPASS invalid or missing auth token" }));
    }
    if parts.method != Method::POST {
        return json_response(405, &json!({ "error": "ERR method not allowed" }));
    }
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let commands = match (parts.uri.path(), serde_json::from_slice::<Value>(&body)) {
        ("/pipeline", Ok(Value::Array(commands))) if commands.iter().all(Value::is_array) => commands,
        ("/", Ok(command @ Value::Array(_))) => vec![command],
        _ => return json_response(400, &json!({ "error": "ERR failed to parse pipeline request" })),
    };
    let answers = tokio::task::spawn_blocking(move || run(redis, &commands)).await.unwrap();
    match answers {
        Ok(answers) if parts.uri.path() == "/" => {
            json_response(if answers[0]["error"].is_null() { 200 } else { 400 }, &answers[0])
        }
        Ok(answers) => json_response(200, &Value::Array(answers)),
        Err(error) => json_response(503, &json!({ "error": format!("ERR cannot reach Redis: {error}") })),
    }
}

/// Redis' reply to each command.
fn run(redis: SocketAddr, commands: &[Value]) -> redis::RedisResult<Vec<Value>> {
    let client = redis::Client::open(format!("redis://{redis}/"))?;
    let mut connection = client.get_connection_with_timeout(REDIS_WITHIN)?;
    connection.set_read_timeout(Some(REDIS_WITHIN))?;
    let mut answers = Vec::new();
    for words in commands {
        let mut command = redis::Cmd::new();
        for word in words.as_array().into_iter().flatten() {
            command.arg(word.as_str().map_or_else(|| word.to_string(), str::to_owned));
        }
        answers.push(match command.query::<redis::Value>(&mut connection) {
            Ok(value) => json!({ "result": to_json(&value) }),
            // Redis' error messages begin with their code.
            Err(error) => match error.code() {
                Some(code) => json!({ "error": format!("{code} {}", error.detail().unwrap_or_default()) }),
                None => return Err(error),
            },
        });
    }
    Ok(answers)
}

fn to_json(value: &redis::Value) -> Value {
    match value {
        redis::Value::Int(number) => json!(number),
        redis::Value::BulkString(bytes) => json!(String::from_utf8_lossy(bytes)),
        redis::Value::SimpleString(text) => json!(text),
        redis::Value::Okay => json!("OK"),
        redis::Value::Array(items) => items.iter().map(to_json).collect(),
        _ => Value::Null,
    }
}

fn json_response(status: u16, answer: &Value) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Full::from(answer.to_string())).unwrap()
}

const REDIS_WITHIN: Duration = Duration::from_secs(10);
