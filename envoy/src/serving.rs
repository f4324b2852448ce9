//! Applies a route's response rules to one stream.

use crate::facts::Facts;
use crate::host::{self, Level, Map};
use crate::instance::{Instance, Work};
use crate::shelf::SharedShelf;
use tidegate::assets::{Answer, AssetRequest, Edit};
use tidegate::metrics::Total;
use tidegate::stale::shelf::Kept;
use tidegate::stale::{AnswerKey, Collecting, Draft};
use tidegate::units::Timestamp;

/// The response rules still to be applied to a stream.
#[derive(Default)]
pub struct Serving {
    request: Option<Box<AssetRequest>>,
    /// The number of the response that is being collected.
    collecting: Option<u32>,
}

impl Serving {
    /// Finds the rules for a request, and replaces its target if the route says so. `is_whole`: it has no body.
    #[inline(never)]
    pub fn request(&mut self, instance: &Instance, is_whole: bool) {
        let Some(request) = instance.assets.plan(&Facts, is_whole) else { return };
        if let Some(target) = &request.target
            && let Err(error) = host::replace_header(Map::Request, ":path", target)
        {
            // Otherwise the response would be kept under another target.
            host::log(Level::Warn, format_args!("cannot ask for a variant: {error}"));
            return;
        }
        self.request = Some(Box::new(request));
    }

    /// Edits the response's headers, and begins to collect the response if it may be kept.
    pub fn answer(&mut self, instance: &Instance, is_whole: bool) {
        if let Some(request) = self.request.take() {
            self.edit(&request, instance, is_whole);
        }
    }

    #[inline(never)]
    fn edit(&mut self, request: &AssetRequest, instance: &Instance, is_whole: bool) {
        let bytes = match host::header_lines(Map::Response) {
            Ok(bytes) => bytes,
            Err(error) => {
                return host::log(Level::Warn, format_args!("cannot read an answer's header: {error}"));
            }
        };
        let status = host::lines(&bytes).find(|(name, _)| *name == b":status").map(|(_, status)| status);
        let Some(status) = status.and_then(|status| str::from_utf8(status).ok()?.parse().ok()) else { return };
        let answer = Answer::new(status, host::lines(&bytes));
        let edits = instance.assets.edits(request, &answer);
        for edit in &edits {
            let sent = if edit.replaces {
                host::replace_header(Map::Response, edit.name, &edit.value)
            } else {
                host::add_header(Map::Response, edit.name, &edit.value)
            };
            if let Err(error) = sent {
                host::log(Level::Warn, format_args!("cannot send {}: {error}", edit.name));
            }
        }
        let Some(keeping) = instance.assets.keeping(request) else { return };
        let now = Timestamp::from_nanos(host::now_ns());
        let Some(draft) = keeping.draft(&answer.edited(&edits), now) else { return };
        match draft.is_wanted(&mut SharedShelf, now) {
            Ok(true) => self.collect(instance, draft, is_whole),
            Ok(false) => {}
            Err(_) => not_kept(instance),
        }
    }

    /// The key of the kept response to this request; `None` if nothing is kept.
    pub fn key(&self) -> Option<AnswerKey> {
        self.request.as_ref()?.key
    }

    /// Drops the rules: the response will be the filter's own.
    pub fn forget(&mut self) {
        self.request = None;
    }

    /// Returns the header edits for a response to a call by the filter, and stores the response if it may be kept.
    pub fn call_response(
        &mut self,
        instance: &Instance,
        status: u16,
        lines: &[(&[u8], &[u8])],
        body: &[u8],
    ) -> Vec<Edit> {
        let Some(request) = self.request.take() else { return Vec::new() };
        let length = body.len().to_string();
        let measured = [(b"content-length".as_slice(), length.as_bytes())];
        let answer = Answer::new(status, lines.iter().copied().chain(measured));
        let edits = instance.assets.edits(&request, &answer);
        let now = Timestamp::from_nanos(host::now_ns());
        let draft = instance.assets.keeping(&request).and_then(|keeping| keeping.draft(&answer.edited(&edits), now));
        if let Some(draft) = draft
            && draft.is_wanted(&mut SharedShelf, now) == Ok(true)
        {
            self.collect(instance, draft, false);
            self.add(instance, true, &|collecting| collecting.push(body));
        }
        edits
    }

    /// Whether a response is being collected.
    pub fn is_collecting(&self) -> bool {
        self.collecting.is_some()
    }

    /// Collects the next chunk of the response's body. The client gets the chunk in any case.
    pub fn body(&mut self, instance: &Instance, size: usize, is_last: bool) {
        if self.is_collecting() {
            self.collect_piece(instance, size, is_last);
        }
    }

    #[inline(never)]
    fn collect_piece(&mut self, instance: &Instance, size: usize, is_last: bool) {
        self.add(instance, is_last, &|collecting| {
            size == 0
                || (collecting.has_room(size) && host::body_piece(size).is_ok_and(|piece| collecting.push(&piece)))
        });
    }

    /// Ends the stream. An incomplete response is not kept.
    pub fn end(&mut self, instance: &Instance) {
        if self.is_collecting() && self.stop(instance).is_some() {
            not_kept(instance);
        }
    }

    fn collect(&mut self, instance: &Instance, draft: Draft, is_whole: bool) {
        let key = draft.key();
        {
            let Work { collected, last_collected, counters, .. } = &mut *instance.work.borrow_mut();
            // Only one stream of this VM collects a response: a thousand requests for it at once would otherwise hold
            // it a thousand times.
            if collected.iter().any(|(_, other)| other.key() == key) {
                return;
            }
            let Some(collecting) = draft.collect(instance.kept.max_object) else {
                return counters.add(Total::NotKept, 1);
            };
            // The oldest makes room: otherwise 64 responses that never end would stop all keeping.
            if collected.len() >= MAX_COLLECTED {
                collected.remove(0);
                counters.add(Total::NotKept, 1);
            }
            *last_collected = last_collected.wrapping_add(1);
            collected.push((*last_collected, collecting));
            self.collecting = Some(*last_collected);
        }
        if is_whole {
            self.keep(instance);
        }
    }

    /// Adds to the response that is being collected, if it has not had to make room, and keeps it when it is complete.
    fn add(&mut self, instance: &Instance, is_last: bool, add: &dyn Fn(&mut Collecting) -> bool) {
        let added = {
            let collected = &mut instance.work.borrow_mut().collected;
            let found = collected.iter_mut().find(|(number, _)| Some(*number) == self.collecting);
            let Some((_, collecting)) = found else { return };
            add(collecting)
        };
        if !added {
            self.end(instance);
        } else if is_last {
            self.keep(instance);
        }
    }

    fn stop(&mut self, instance: &Instance) -> Option<Collecting> {
        let number = self.collecting.take()?;
        let collected = &mut instance.work.borrow_mut().collected;
        let at = collected.iter().position(|(other, _)| *other == number)?;
        Some(collected.remove(at).1)
    }

    fn keep(&mut self, instance: &Instance) {
        let Some(collected) = self.stop(instance).and_then(|it| it.finish(instance.engine.seed())) else {
            return not_kept(instance);
        };
        let now = Timestamp::from_nanos(host::now_ns());
        let counters = &mut instance.work.borrow_mut().counters;
        match collected.keep(&mut SharedShelf, now, instance.kept.max_bytes) {
            Ok(Kept::Stored { evicted }) => {
                counters.add(Total::Kept, 1);
                counters.add(Total::KeptEvictions, u64::from(evicted));
            }
            // Another worker has just kept the same response.
            Ok(Kept::Busy) => {}
            Ok(Kept::NoRoom) | Err(_) => counters.add(Total::NotKept, 1),
        }
    }
}

fn not_kept(instance: &Instance) {
    instance.work.borrow_mut().counters.add(Total::NotKept, 1);
}

/// The responses that a VM collects at one time. Bounded, so that a slow upstream does not fill its memory.
const MAX_COLLECTED: usize = 64;
