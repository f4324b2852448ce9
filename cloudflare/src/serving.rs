//! Applies a route's response rules to one request.

use crate::cache;
use crate::facts::Facts;
use crate::gate::Gate;
use crate::host::{Request, Response, put};
use crate::now;
use crate::reply;
use js_sys::{Object, Uint8Array};
use std::rc::Rc;
use tidegate::assets::{Answer, AssetRequest, Edit, Image};
use tidegate::metrics::Total;
use tidegate::stale::record::Record;
use tidegate::stale::serve::{Why, serve};
use tidegate::stale::{Collecting, undo_coding};
use wasm_bindgen::JsValue;

/// The response rules still to be applied to a request.
pub struct Serving {
    gate: Rc<Gate>,
    request: Option<AssetRequest>,
}

/// A response that is being collected. An isolate collects at most 64 at one time.
pub struct Kept {
    gate: Rc<Gate>,
    collecting: Option<Collecting>,
    is_kept: bool,
}

impl Serving {
    /// Finds the rules for a request on a route.
    pub fn new(gate: &Rc<Gate>, request: &Request) -> Self {
        let whole = request.body().is_null();
        let request = if gate.assets.is_empty() { None } else { gate.assets.plan(&Facts::new(request), whole) };
        Self { gate: Rc::clone(gate), request }
    }

    /// The target to request from the upstream, if it differs from the client's.
    pub fn target(&self) -> Option<&[u8]> {
        let request = self.request.as_ref()?;
        request.image.as_ref().map(|image| &image.source).or(request.target.as_ref()).map(Vec::as_slice)
    }

    /// The image transformation to request from Cloudflare: the `cf` object of a fetch.
    pub fn cf_options(&self) -> Option<Object> {
        let Image { format, width, .. } = self.request.as_ref()?.image.as_ref()?;
        let image = Object::new();
        if let Some(format) = format {
            put(&image, "format", &JsValue::from_str(format));
        }
        if let Some(width) = width {
            put(&image, "width", &JsValue::from(*width));
        }
        // As with transformation by path: never enlarge an image.
        put(&image, "fit", &JsValue::from_str("scale-down"));
        let options = Object::new();
        put(&options, "image", &image);
        Some(options)
    }

    /// The header edits for an upstream's response, and the collector if the response is to be kept.
    pub fn answered(&self, answer: &Response) -> (Vec<Edit>, Option<Kept>) {
        let Some(request) = &self.request else { return (Vec::new(), None) };
        let mut lines = answer.lines();
        let shown = show(answer, &lines);
        let edits = self.gate.assets.edits(request, &shown);
        let Some(keeping) = self.gate.assets.keeping(request) else { return (edits, None) };
        undo_coding(&mut lines, &UNDONE);
        let (shown, now) = (show(answer, &lines), now());
        let draft = keeping.draft(&shown.edited(&edits), now);
        let work = &mut *self.gate.work();
        let draft = draft.filter(|draft| draft.is_due(&mut work.recent, now));
        let kept = draft.and_then(|draft| {
            let max_object = self.gate.engine.policy().kept().max_object;
            let collecting = if work.collected < MAX_COLLECTED { draft.collect(max_object) } else { None };
            work.collected = work.collected.saturating_add(u32::from(collecting.is_some()));
            let kept = collecting.map(|it| Kept { gate: Rc::clone(&self.gate), collecting: Some(it), is_kept: false });
            work.counters.add(Total::NotKept, u64::from(kept.is_none()));
            kept
        });
        (edits, kept)
    }

    /// The kept response for the request; `None` if there is none.
    pub async fn find(&self, request: &Request, why: Why) -> Option<Response> {
        let key = self.request.as_ref()?.key?;
        let facts = Facts::new(request);
        let bytes = cache::find(facts.origin(), key).await?;
        let record = Record::decode(&bytes, cache::SEED, key)?;
        let served = serve(&record, &facts, why, now())?;
        let lines: Vec<_> = served
            .lines
            .iter()
            .map(|(name, value)| (String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
            .collect();
        let lines = lines.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
        Some(reply::answer(served.status, "tidegate_stale", lines, &Uint8Array::from(served.body)))
    }
}

impl Kept {
    /// Adds the next chunk. Returns `false` if the response is too large.
    pub fn push(&mut self, piece: &Uint8Array) -> bool {
        let size = usize::try_from(piece.length()).unwrap_or(usize::MAX);
        let fits = |collecting: &mut Collecting| collecting.has_room(size) && collecting.push(&piece.to_vec());
        let pushed = self.collecting.as_mut().is_some_and(fits);
        if !pushed {
            self.collecting = None;
        }
        pushed
    }

    /// Stores the response. Its stream has ended properly.
    pub async fn keep(mut self, request: &Request) {
        if let Some(collecting) = self.collecting.take() {
            self.is_kept = cache::keep(Facts::new(request).origin(), collecting, now()).await;
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let work = &mut *self.gate.work();
        work.collected = work.collected.saturating_sub(1);
        work.counters.add(if self.is_kept { Total::Kept } else { Total::NotKept }, 1);
        if let Some(collecting) = &self.collecting {
            // It was not stored; that says nothing about the next response.
            work.recent.forget(collecting.key());
        }
    }
}

/// A response as the core reads it.
fn show<'a>(answer: &Response, lines: &'a [(String, String)]) -> Answer<'a> {
    Answer::new(answer.status(), lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
}

/// The content codings that workerd decodes when a body is read.
const UNDONE: [&str; 2] = ["gzip", "br"];

/// The responses collected at one time. Bounded, so that a slow upstream does not fill the isolate's memory.
const MAX_COLLECTED: u32 = 64;
