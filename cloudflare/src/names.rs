//! Header names as cached JavaScript strings: converting a name costs more than looking up the header.

use js_sys::JsString;
use std::cell::RefCell;

thread_local! {
    static KNOWN: RefCell<Vec<(Box<str>, JsString)>> = const { RefCell::new(Vec::new()) };
}

/// Calls `call` with this name as a JavaScript string. `call` must not use this function.
pub fn with<T>(name: &str, call: impl FnOnce(&JsString) -> T) -> T {
    KNOWN.with_borrow_mut(|known| {
        if let Some((_, text)) = known.iter().find(|(known, _)| **known == *name) {
            return call(text);
        }
        let text = JsString::from(name);
        let came = call(&text);
        if known.len() < MOST {
            known.push((name.into(), text));
        }
        came
    })
}

/// Names come from policies. This is more than a policy has, and still quick to search.
const MOST: usize = 64;
