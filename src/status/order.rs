//! Changes that an operator can request of a running filter, below the path of the status pages.
//!
//! They need the token: an address gives access to the pages only. As with the pages, without permission these requests
//! are handled like any other.

use super::{Status, bears};
use crate::lookup::Lookup;
use crate::mode::{ModeWord, UnknownMode};

/// A requested change. A host that does not support it lets the request go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `PUT` to `mode/WORD`: set this mode in place of the policy's.
    SetMode(ModeWord),
    /// `DELETE` of `mode`: return to the policy's mode.
    ClearMode,
    /// `POST` to `purge`: serve no response that was kept before.
    Purge,
}

impl Status {
    /// The change that the request asks for, if it has the token.
    pub(crate) fn order(&self, request: &Lookup<'_>) -> Option<Result<Order, UnknownMode>> {
        let token = self.token.as_ref()?;
        let name = request.path().strip_prefix(self.path.as_bytes())?.strip_prefix(b"/")?;
        let order = match (request.method(), name) {
            (b"DELETE", b"mode") => Ok(Order::ClearMode),
            (b"POST", b"purge") => Ok(Order::Purge),
            (b"PUT", name) => {
                let word = name.strip_prefix(b"mode/")?;
                String::from_utf8_lossy(word).parse().map(Order::SetMode)
            }
            _ => return None,
        };
        let has_token = request.header("authorization").is_some_and(|it| bears(it, token));
        has_token.then_some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::recorded::Recorded;
    use crate::policy::Policy;

    const POLICY: &str = r#"{"version": 1, "status": {"addresses": ["192.0.2.1"],
        "token_sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}}"#;

    fn order(method: &str, path: &str, token: Option<&str>) -> Option<Result<Order, UnknownMode>> {
        let policy = Policy::parse(POLICY).unwrap();
        let facts = Recorded { method: method.into(), ..Recorded::get(path).from("192.0.2.1") };
        let facts = token.map_or(facts.clone(), |token| facts.with("authorization", format!("Bearer {token}")));
        policy.status.as_ref().unwrap().order(&Lookup::new(&facts))
    }

    #[test]
    fn who_bears_the_token_may_order_and_nobody_else() {
        let set = |word| Some(Ok(Order::SetMode(word)));
        assert_eq!(order("PUT", "/tidegate/mode/strict", Some("abc")), set(ModeWord::Strict));
        assert_eq!(order("DELETE", "/tidegate/mode", Some("abc")), Some(Ok(Order::ClearMode)));
        assert_eq!(order("POST", "/tidegate/purge?x", Some("abc")), Some(Ok(Order::Purge)));
        for token in [None, Some("abd"), Some("")] {
            assert_eq!(order("PUT", "/tidegate/mode/strict", token), None, "{token:?}");
            assert_eq!(order("POST", "/tidegate/purge", token), None, "{token:?}");
        }
    }

    #[test]
    fn what_is_no_order_goes_on_and_a_slip_is_told() {
        for (method, path) in [
            ("GET", "/tidegate/mode"),
            ("POST", "/tidegate/mode/strict"),
            ("PUT", "/tidegate/mode"),
            ("DELETE", "/tidegate/mode/strict"),
            ("PUT", "/elsewhere/mode/strict"),
            ("POST", "/tidegatepurge"),
        ] {
            assert_eq!(order(method, path, Some("abc")), None, "{method} {path}");
        }
        let slip = order("PUT", "/tidegate/mode/strct", Some("abc")).unwrap().unwrap_err();
        assert!(slip.to_string().contains("write one of \"enforce\""));
    }
}
