//! The names of headers as JavaScript has them, which a request need not be kept waiting for: to make a text of bytes costs more than
//! to look for the header.

use js_sys::JsString;
use std::cell::RefCell;

thread_local! {
    static KNOWN: RefCell<Vec<(Box<str>, JsString)>> = const { RefCell::new(Vec::new()) };
}

/// What comes of a call that takes this name, and does not ask for another one meanwhile.
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

/// Names come from policies, one after the other: so many are more than one has, and quickly looked through.
const MOST: usize = 64;
