//! Texts that repeat, as cached JavaScript strings: converting a header's name costs more than looking up the header.

use js_sys::JsString;
use std::cell::RefCell;

thread_local! {
    static KNOWN: RefCell<Vec<(Box<str>, JsString)>> = const { RefCell::new(Vec::new()) };
}

/// Calls `call` with this text as a JavaScript string. `call` must not use this function.
pub fn with<T>(text: &str, call: impl FnOnce(&JsString) -> T) -> T {
    KNOWN.with_borrow_mut(|known| {
        if let Some((_, converted)) = known.iter().find(|(known, _)| **known == *text) {
            return call(converted);
        }
        let converted = JsString::from(text);
        let came = call(&converted);
        if known.len() < MOST {
            known.push((text.into(), converted));
        }
        came
    })
}

/// Forgets all texts. To be called with a new policy: they are the policy's.
pub fn clear() {
    KNOWN.with_borrow_mut(Vec::clear);
}

/// This is more than most policies have, and still quick to search.
const MOST: usize = 64;
