//! A request is decided on, waits where the decision says so, and goes on or is refused.

use super::responding::pass_on;
use super::{Filter, Next, now};
use crate::chain::UPSTREAM_HEADER;
use crate::facts::Facts;
use crate::host::{self, Map};
use crate::instance::{Instance, Work};
use crate::{authority, rls, waiting};
use std::rc::Rc;
use tidegate::decision::{Decision, Refusal};
use tidegate::fallback::Step;
use tidegate::rls::{Additions, ServiceOutcome};
use tidegate::shed::Pressure;
use tidegate::units::{Draw, Timestamp};

impl Filter {
    /// Decides again, now that more is known of the limits that the request waits for, and acts on it. What is to be asked then
    /// is not sent yet: others who wait may need as much.
    pub fn decide_again(&mut self, since: Timestamp) {
        self.awaits_grant = false;
        let instance = Rc::clone(&self.instance);
        let work = &mut *instance.work.borrow_mut();
        self.plan_again(&instance, work);
        work.plan.resume(since);
        self.go_on_as_decided(&instance, work);
    }

    /// Takes in what the rate-limit service says of the request that waits for it, and acts on it.
    pub fn heard(&mut self, heard: ServiceOutcome, words: Additions) {
        (self.said, self.consults) = (Some(Box::new((heard, words))), false);
        let instance = Rc::clone(&self.instance);
        let work = &mut *instance.work.borrow_mut();
        self.plan_again(&instance, work);
        self.go_on_as_decided(&instance, work);
        authority::send(&instance, work, now());
    }

    /// Decides on a request that has waited, and lets it go if it is admitted.
    fn go_on_as_decided(&mut self, instance: &Rc<Instance>, work: &mut Work) {
        let now = now();
        self.began = work.monitor.as_ref().map(|_| now);
        if let Next::Continue = self.decide(instance, work, now)
            && let Err(error) = host::resume_request()
        {
            host::log(host::Level::Error, format_args!("cannot resume a request: {error}"));
        }
    }

    /// Plans again for a request that has been heard of since.
    fn plan_again(&mut self, instance: &Instance, work: &mut Work) {
        // It was let in when it came.
        work.plan.press(Pressure::default(), Draw::default());
        instance.engine.plan(&Facts, &mut work.plan);
        if let Some(said) = &self.said {
            work.plan.hear(said.0.clone());
        }
    }

    /// Decides on the request of the plan.
    pub(super) fn decide(&mut self, instance: &Rc<Instance>, work: &mut Work, now: Timestamp) -> Next {
        if work.plan.may_wait() {
            instance.engine.offer(&mut work.plan, &work.room, now);
        }
        let decision = instance.engine.decide(
            &mut work.plan,
            &mut work.store,
            &mut work.local,
            &mut work.leases,
            &mut work.counters,
            now,
        );
        if decision.is_plain() {
            self.tell(instance, work);
            let goes_on = self.admit(instance, work, now);
            return if goes_on { Next::Continue } else { Next::Pause };
        }
        self.act(instance, work, decision, now)
    }

    /// Does what a decision says that is not just to go on. Apart, since requests seldom come here: what all of them run through
    /// stands together in the machine's code, too.
    #[inline(never)]
    fn act(&mut self, instance: &Rc<Instance>, work: &mut Work, decision: Decision, now: Timestamp) -> Next {
        if let Some(refusal) = decision.observed {
            // Not at a level that is on by default: there is one for each request that would be refused.
            host::log(host::Level::Debug, format_args!("observed: {}", refusal.details(&instance.engine)));
        }
        if decision.awaits.is_some() {
            // What it waits here is not the service's doing.
            self.began = None;
            self.awaits_grant = true;
            instance.engine.await_grant(&work.plan, self.id, &mut work.leases);
            work.alarm.set(work.next_due(now), false, now);
            return Next::Pause;
        }
        if decision.consults {
            return self.consult(instance, work, now);
        }
        if decision.delay.is_some() {
            // What it waits here is not the service's doing.
            self.began = None;
            self.waits_at = waiting::enter(instance, work, self.id, now);
            let goes_on = self.waits_at.is_none() && self.forward(instance, work, now);
            return if goes_on { Next::Continue } else { Next::Pause };
        }
        self.tell(instance, work);
        match decision.refusal {
            None => {
                if self.admit(instance, work, now) {
                    Next::Continue
                } else {
                    Next::Pause
                }
            }
            Some(refusal) => {
                self.began = None;
                let mut reply = refusal.reply(&instance.engine, &Facts);
                if let Some(said) = &self.said {
                    said.1.apply_body(&refusal, &instance.engine, &mut reply);
                }
                self.reply(&reply);
                Next::Pause
            }
        }
    }

    /// Asks the rate-limit service about the request of the plan; where that cannot be, decides without it.
    fn consult(&mut self, instance: &Rc<Instance>, work: &mut Work, now: Timestamp) -> Next {
        self.consults = rls::ask(&instance.engine, work, &Facts, self.id, now);
        if self.consults {
            // What it waits here is not the service's doing.
            self.began = None;
            return Next::Pause;
        }
        // Heard of now, it is not asked about again.
        self.said = Some(Box::new((ServiceOutcome::Failed, Additions::default())));
        self.plan_again(instance, work);
        self.decide(instance, work, now)
    }

    /// Sends an admitted request on its way. `false` when it was answered instead.
    fn admit(&mut self, instance: &Instance, work: &mut Work, now: Timestamp) -> bool {
        self.ticket = work.plan.ticket().map(Box::new);
        if let (Some(ticket), false) = (&mut self.ticket, self.is_whole) {
            ticket.leave_untimed();
        }
        self.forward(instance, work, now)
    }

    /// Goes on after a wait, or is refused.
    pub fn go_on(&mut self, instance: &Instance, work: &mut Work, refusal: Option<&Refusal>) {
        self.waits_at = None;
        self.tell(instance, work);
        if let Some(refusal) = refusal {
            self.reply(&refusal.reply(&instance.engine, &Facts));
            return;
        }
        let goes_on = self.admit(instance, work, now());
        // What it holds may have expired while it waited.
        self.renew_in(work);
        if goes_on {
            self.began = work.monitor.as_ref().map(|_| now());
        }
        if goes_on && let Err(error) = host::resume_request() {
            host::log(host::Level::Error, format_args!("cannot resume a request: {error}"));
        }
    }

    /// Chooses the upstream, where the policy does. `false` when the request was answered instead.
    pub(super) fn forward(&mut self, instance: &Instance, work: &mut Work, now: Timestamp) -> bool {
        if let Some(said) = &mut self.said {
            pass_on(Map::Request, &mut said.1.request_headers);
        }
        if !instance.assets.is_empty() {
            self.serving.request(instance, self.is_whole);
        }
        let Some(route) = self.route else {
            // Whatever Envoy's routes read: a client does not choose the upstream. To look costs less than to remove, for
            // which Envoy would choose the route anew.
            if host::may_have_header(Map::Request, UPSTREAM_HEADER) {
                let _ = host::remove_header(Map::Request, UPSTREAM_HEADER);
            }
            return true;
        };
        self.forward_along(route, instance, work, now)
    }

    /// Goes along a route, see [`Self::forward`].
    #[inline(never)]
    fn forward_along(&mut self, route: usize, instance: &Instance, work: &mut Work, now: Timestamp) -> bool {
        let step = self.chain.begin(instance.engine.policy(), work, (route, self.is_whole), now);
        if !matches!(step, Step::Send { .. }) {
            // No upstream was asked: this tells nothing of how it is.
            self.began = None;
            return !self.conclude(instance, work, step);
        }
        if !self.chain.awaits_answer() {
            self.sign(instance, work);
        }
        true
    }

    /// Keeps what the answer says of the plan's limits.
    fn tell(&mut self, instance: &Instance, work: &mut Work) {
        let mut fields = work.spare.pop().unwrap_or_default();
        fields.tell(&instance.engine, &work.plan);
        self.fields = Some(fields);
    }
}
