//! An admitted request: its upstreams, and its client's response.

use std::rc::Rc;

use tidegate::assets;
use tidegate::decision::{Cause, Refusal, Reply};
use tidegate::fallback::{Context, Ended, Step as Next, forwarding};
use tidegate::policy::CallEnd;
use tidegate::request::{RequestFacts, ResponseFacts};
use tidegate::stale::record::Record;
use tidegate::stale::serve::{Why, serve};
use tidegate::stale::shelf;

use super::super::document::{ECHOED_FIELDS, Fails};
use super::super::seen::answer_of;
use super::facts::Answer;
use super::{Flight, Host, Partial, draw};

impl<'s> Host<'s> {
    pub(super) fn admit(&mut self, mut flight: Flight<'s>) {
        flight.ticket = self.plan.ticket();
        if let Some(ticket) = &mut flight.ticket
            && flight.request.step.body.is_some()
        {
            ticket.leave_untimed();
        }
        flight.began = Some(self.now);
        flight.asset = self.assets.plan(&flight.request, flight.request.step.body.is_none());
        let Some(route) = flight.route else { return self.ask(flight, "origin") };
        let engine = Rc::clone(&self.engine);
        let policy = engine.policy();
        let method = flight.request.method();
        let method = flight.request.step.body.is_none().then_some(&*method);
        let draw = draw(flight.request.step);
        let mut context = Context { ledgers: &mut self.breakers, draw, now: self.now };
        let (progress, next) = self.upstreams.begin(policy, route, method, true, &mut context);
        flight.progress = Some(progress);
        match next {
            Next::Send { upstream, .. } => {
                let cluster = self.cluster(upstream);
                self.ask(flight, &cluster);
            }
            next => {
                flight.began = None;
                let last = self.last(next, &mut flight);
                self.conclude(flight, &last, None);
            }
        }
    }

    /// What happens after the last upstream. A stale response that was not kept is skipped.
    fn last(&mut self, next: Next<'_>, flight: &mut Flight<'s>) -> Last {
        let is_stale = matches!(next, Next::Stale(_));
        if is_stale && self.kept_for(flight).is_some() {
            return Last::Stale;
        }
        let next = match &mut flight.progress {
            Some(progress) if is_stale => self.upstreams.last(self.engine.policy(), progress),
            _ => next,
        };
        match next {
            Next::Static(fixed) => Last::Static(fixed.status, fixed.lines.clone(), fixed.body.clone()),
            Next::Unavailable { retry_after } => {
                Last::Refused(Refusal { limit: None, window: None, cause: Cause::Unavailable, retry_after })
            }
            _ => Last::Deliver,
        }
    }

    fn cluster(&self, upstream: usize) -> String {
        self.engine.policy().upstreams()[upstream].cluster().expect("scenarios name clusters").to_owned()
    }

    fn ask(&mut self, mut flight: Flight<'s>, cluster: &str) {
        if cluster != "nowhere" {
            flight.seen.seen.asked.push(cluster.to_owned());
        }
        // At `nowhere` no server listens, so no response can be held back.
        if flight.request.step.holds.is_some() && cluster != "nowhere" {
            flight.held_by = Some(cluster.to_owned());
            self.flights.push(flight);
        } else {
            self.answer(flight, cluster);
        }
    }

    /// The upstream sends the responses that it has held back.
    pub(super) fn end(&mut self, name: &str) {
        let of_name = |flight: &Flight<'_>| flight.request.step.holds.as_deref() == Some(name);
        while let Some(at) = self.flights.iter().position(|flight| flight.held_by.is_some() && of_name(flight)) {
            let mut flight = self.flights.remove(at);
            let cluster = flight.held_by.take().expect("it was looked for");
            self.answer(flight, &cluster);
        }
    }

    fn answer(&mut self, mut flight: Flight<'s>, cluster: &str) {
        let mut does = answer_of(cluster, &self.does);
        if does.echoes {
            let asset = flight.asset.as_ref().and_then(|asset| asset.target.as_deref());
            does.body = Some(String::from_utf8_lossy(asset.unwrap_or(flight.request.target.as_bytes())).into_owned());
        }
        if does.tells {
            let asset = flight.asset.as_ref().and_then(|asset| asset.target.as_deref());
            let target = String::from_utf8_lossy(asset.unwrap_or(flight.request.target.as_bytes())).into_owned();
            let line = format!("{} {target}", String::from_utf8_lossy(&flight.request.method()));
            let request = &flight.request;
            let told = ECHOED_FIELDS
                .iter()
                .filter_map(|name| Some(format!("\n{name}: {}", String::from_utf8_lossy(&request.header(name)?))));
            does.body = Some(std::iter::once(line).chain(told).collect());
        }
        let end = match does.fails {
            _ if cluster == "nowhere" => CallEnd::NotConnected,
            None => CallEnd::Answered(does.status),
            Some(Fails::Reset) => CallEnd::Reset,
            Some(Fails::Timeout) => CallEnd::TimedOut,
        };
        let says = does.headers.get("retry-after").filter(|_| matches!(does.status, 429 | 503));
        let made = does.headers.get("date").map(String::as_bytes);
        let retry_after = says.and_then(|value| forwarding::retry_after(value.as_bytes(), made, self.now));
        if matches!(end, CallEnd::Answered(_)) {
            flight.failure = Some(does.clone());
        }
        let engine = Rc::clone(&self.engine);
        let mut next = Next::Deliver;
        if let Some(progress) = &mut flight.progress {
            let draw = draw(flight.request.step);
            let mut context = Context { ledgers: &mut self.breakers, draw, now: self.now };
            next = self.upstreams.ended(engine.policy(), progress, Ended { retry_after, ..end.into() }, &mut context);
        }
        if let Next::Send { upstream, .. } = next {
            let cluster = self.cluster(upstream);
            return self.ask(flight, &cluster);
        }
        let last = self.last(next, &mut flight);
        // If the last upstream gave no response, an earlier one's failure is more informative.
        let failure = flight.failure.take().unwrap_or(does);
        let answer = Answer { status: failure.fails.is_none().then_some(failure.status), does: &failure };
        self.conclude(flight, &last, Some(&answer));
    }

    /// Settles the client's response.
    fn conclude(&mut self, mut flight: Flight<'s>, last: &Last, answer: Option<&Answer<'_>>) {
        if matches!(last, Last::Stale) {
            self.upstreams.kept(flight.progress.as_mut().expect("what was kept is for requests on a way"));
        }
        let policy = self.engine.policy();
        if let Some(progress) = flight.progress.as_ref().filter(|_| policy.sends_x_tidegate()) {
            flight.fields.push(("x-tidegate".to_owned(), self.upstreams.describe(policy, progress, self.now)));
        }
        match last {
            Last::Refused(refusal) => {
                self.learn(&mut flight, &Answer { status: Some(503), does: &answer_of("nowhere", &self.does) });
                let reply = refusal.reply(&self.engine, &flight.request);
                self.reply(flight, &reply);
            }
            Last::Static(status, lines, body) => {
                self.learn(&mut flight, &Answer { status: Some(*status), does: &answer_of("nowhere", &self.does) });
                flight.seen.seen.reason = Some("tidegate_static".to_owned());
                self.send(flight, *status, lines.clone(), body);
            }
            Last::Stale => {
                let bytes = self.kept_for(&flight).expect("it was there");
                let key = flight.asset.as_ref().and_then(|asset| asset.key).expect("what is kept has a key");
                let record = Record::decode(&bytes, self.engine.seed(), key).expect("it was read before");
                let why = flight.progress.as_ref().expect("it is on a way").why();
                let served = serve(&record, &flight.request, why, self.now).expect("it was served before");
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let lines = served.lines.iter().map(|(name, value)| (text(name), text(value))).collect();
                let (status, body) = (served.status, text(served.body));
                self.learn(&mut flight, &Answer { status: Some(status), does: &answer_of("nowhere", &self.does) });
                flight.seen.seen.reason = Some("tidegate_stale".to_owned());
                self.send(flight, status, lines, &body);
            }
            Last::Deliver => self.deliver(flight, answer.expect("there is an answer to deliver")),
        }
    }

    fn deliver(&mut self, mut flight: Flight<'s>, answer: &Answer<'_>) {
        self.learn(&mut flight, answer);
        let does = answer.does;
        let mut lines: Vec<(String, String)> = does.headers.clone().into_iter().collect();
        if let Some(request) = flight.asset.take() {
            let body = does.body.as_deref().unwrap_or_default();
            let measured = [("content-length".to_owned(), body.len().to_string())];
            let all: Vec<(String, String)> = lines.iter().cloned().chain(measured).collect();
            let bytes = all.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            let answer = assets::Answer::new(does.status, bytes);
            let edits = self.assets.edits(&request, &answer);
            let draft = self.assets.keeping(&request).and_then(|it| it.draft(&answer.edited(&edits), self.now));
            if let Some(draft) = draft
                && draft.is_wanted(&mut self.kept, self.now) == Ok(true)
                && let Some(mut collecting) = draft.collect(self.kept_bytes.0)
                && collecting.push(body.as_bytes())
                && let Some(collected) = collecting.finish(self.engine.seed())
            {
                collected.keep(&mut self.kept, self.now, self.kept_bytes.1).expect("memory does not fail");
            }
            for edit in &edits {
                lines.retain(|(name, _)| !edit.replaces || name != edit.name);
                lines.push((edit.name.to_owned(), String::from_utf8_lossy(edit.value.as_ref()).into_owned()));
            }
        }
        self.send(flight, does.status, lines, does.body.as_deref().unwrap_or_default());
    }

    fn kept_for(&mut self, flight: &Flight<'_>) -> Option<Vec<u8>> {
        let key = flight.asset.as_ref()?.key?;
        let bytes = shelf::find(&mut self.kept, key).ok()??;
        let record = Record::decode(&bytes, self.engine.seed(), key)?;
        serve(&record, &flight.request, Why::NotAsked, self.now)?;
        Some(bytes)
    }

    fn learn(&mut self, flight: &mut Flight<'_>, answer: &dyn ResponseFacts) {
        let Self { engine, store, local, counters, now, .. } = self;
        if let Some(ticket) = &mut flight.ticket {
            engine.observe(ticket, answer, store, local, counters, *now);
        }
        if let (Some(began), Some(monitor)) = (flight.began.take(), &mut self.monitor) {
            monitor.answered(answer, Some(began), self.now);
        }
    }

    pub(super) fn refuse(&mut self, flight: Flight<'s>, refusal: &Refusal) {
        let reply = refusal.reply(&self.engine, &flight.request);
        self.reply(flight, &reply);
    }

    pub(super) fn reply(&mut self, mut flight: Flight<'s>, reply: &Reply) {
        let mut lines = vec![("cache-control".to_owned(), "no-store".to_owned())];
        let trailers = reply.trailers_only();
        let (status, body) = if trailers.is_some() { (200, "") } else { (reply.status, reply.body.as_str()) };
        match trailers {
            Some(trailers) => lines.extend(trailers.map(|(name, value)| (name.to_owned(), value))),
            None if body.is_empty() => {}
            None => lines.push(("content-type".to_owned(), reply.content_type.clone().into_owned())),
        }
        lines.extend(reply.retry_after_secs.map(|secs| ("retry-after".to_owned(), secs.to_string())));
        flight.seen.seen.reason = Some(reply.details.clone());
        self.send(flight, status, lines, body);
    }

    /// Sends the response to the client and ends the request.
    fn send(&mut self, mut flight: Flight<'s>, status: u16, mut lines: Vec<(String, String)>, body: &str) {
        for (name, value) in flight.fields.drain(..) {
            lines.retain(|(other, _)| !name.starts_with("x-") || *other != name);
            lines.push((name, value));
        }
        let Partial { number, is_last, mut seen, .. } = flight.seen;
        seen.status = status;
        seen.body = if *flight.request.method() == *b"HEAD" { String::new() } else { body.to_owned() };
        seen.keep(lines.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        if let Some(ticket) = flight.ticket {
            let Self { engine, store, local, leases, counters, now, .. } = self;
            engine.release(ticket, store, local, leases, counters, *now);
        }
        if is_last {
            self.report.step(number, &self.does, &seen);
        } else {
            self.report.early(number, &seen);
        }
    }
}

/// What a route ends in.
enum Last {
    Deliver,
    Stale,
    Static(u16, Vec<(String, String)>, String),
    Refused(Refusal),
}
