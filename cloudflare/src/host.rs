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

    /// `null` when there is none.
    #[wasm_bindgen(method, getter, structural)]
    pub fn body(this: &Request) -> JsValue;

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

    /// ISO 3166-2 without the country.
    #[wasm_bindgen(method, getter, structural, js_name = regionCode)]
    pub fn region_code(this: &Cf) -> Option<String>;

    #[wasm_bindgen(method, getter, structural)]
    pub fn colo(this: &Cf) -> Option<String>;

    /// An answer, the upstream's or one of our own.
    pub type Response;

    #[wasm_bindgen(constructor)]
    pub fn new(body: JsValue, init: &JsValue) -> Response;

    #[wasm_bindgen(method, getter, structural)]
    pub fn status(this: &Response) -> u16;

    #[wasm_bindgen(method, getter, structural, js_name = headers)]
    pub fn answer_headers(this: &Response) -> Headers;

    #[wasm_bindgen(js_namespace = console, js_name = error)]
    pub fn log_error(text: &str);

    #[wasm_bindgen(js_namespace = console, js_name = warn)]
    pub fn log_warning(text: &str);
}
