//! What is called of workerd on a request's way through, declared here and not taken from `web-sys`, whose conversions and tables
//! cost more than the decision.

use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// The request as workerd hands it over.
    pub type Request;

    #[wasm_bindgen(method, getter, structural)]
    pub fn method(this: &Request) -> String;

    #[wasm_bindgen(method, getter, structural)]
    pub fn url(this: &Request) -> String;

    #[wasm_bindgen(method, getter, structural)]
    pub fn headers(this: &Request) -> Headers;

    /// What Cloudflare knows of the connection; absent outside of its network.
    #[wasm_bindgen(method, getter, structural)]
    pub fn cf(this: &Request) -> Option<Cf>;

    pub type Headers;

    /// The values of a repeated header joined by `, `.
    #[wasm_bindgen(method, structural)]
    pub fn get(this: &Headers, name: &str) -> Option<String>;

    pub type Cf;

    #[wasm_bindgen(method, getter, structural)]
    pub fn country(this: &Cf) -> Option<String>;

    pub type Response;

    /// An answer of our own.
    #[wasm_bindgen(constructor)]
    pub fn new(body: &str, init: &JsValue) -> Response;
}
