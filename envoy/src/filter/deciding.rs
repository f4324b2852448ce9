//! The decision on a request: it waits if the decision says so, and is forwarded or refused.

use super::responding::pass_on;
use super::{Filter, Next, WaitsFor, now};
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
    /// Decides again, now that more is known of the shared limits that the request waits for, and acts on the decision.
    /// The asks that it makes are not sent yet: other requests that wait may need the same.
    pub fn decide_again(&mut self, since: Timestamp) {
        self.waits_for = WaitsFor::Nothing;
        let instance = Rc::clone(&self.instance);
        let work = &mut *instance.work.borrow_mut();
        self.plan_again(&instance, work);
        work.plan.resume(since);
        self.resume_as_decided(&instance, work);
    }

    /// Handles the rate-limit service's answer for this request, and acts on it.
    pub fn service_answered(&mut self, outcome: ServiceOutcome, additions: Additions) {
        (self.service_answer, self.waits_for) = (Some(Box::new((outcome, additions))), WaitsFor::Nothing);
        let instance = Rc::clone(&self.instance);
        let work = &mut *instance.work.borrow_mut();
        self.plan_again(&instance, work);
        self.resume_as_decided(&instance, work);
        authority::send(&instance, work, now());
    }

    /// Decides on a request that has waited, and resumes it if it is admitted.
    fn resume_as_decided(&mut self, instance: &Rc<Instance>, work: &mut Work) {
        let now = now();
        self.began = work.monitor.as_ref().map(|_| now);
        if let Next::Continue = self.decide(instance, work, now)
            && let Err(error) = host::resume_request()
        {
            host::log(host::Level::Error, format_args!("cannot resume a request: {error}"));
        }
    }

    /// Plans again for a request that has waited.
    fn plan_again(&mut self, instance: &Instance, work: &mut Work) {
        // Load shedding has already let it pass.
        work.plan.set_pressure(Pressure::default(), Draw::default());
        instance.engine.plan(&Facts, &mut work.plan);
        if let Some(answer) = &self.service_answer {
            work.plan.set_service_outcome(answer.0.clone());
        }
    }

    /// Decides on the planned request.
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
            self.prepare_fields(instance, work);
            let goes_on = self.admit(instance, work, now);
            return if goes_on { Next::Continue } else { Next::Pause };
        }
        self.act(instance, work, decision, now)
    }

    /// Acts on a decision other than plain admission. Kept out of line: requests seldom come here, and the code that
    /// all requests run through stays together in memory.
    #[inline(never)]
    fn act(&mut self, instance: &Rc<Instance>, work: &mut Work, decision: Decision, now: Timestamp) -> Next {
        if let Some(refusal) = decision.observed {
            // Below the default log level: there is a line for each request that would be refused.
            host::log(host::Level::Debug, format_args!("observed: {}", refusal.details(&instance.engine)));
        }
        if decision.awaits.is_some() {
            // Waiting here is not part of the service's response time.
            self.began = None;
            self.waits_for = WaitsFor::Grant;
            instance.engine.await_grant(&work.plan, self.id, &mut work.leases);
            work.alarm.set(work.next_due(now), false, now);
            return Next::Pause;
        }
        if decision.consults {
            return self.ask_service(instance, work, now);
        }
        if decision.delay.is_some() {
            // Waiting here is not part of the service's response time.
            self.began = None;
            if let Some(limit) = waiting::enter(instance, work, self.id, now) {
                self.waits_for = WaitsFor::Turn(limit);
                return Next::Pause;
            }
            return if self.forward(instance, work, now) { Next::Continue } else { Next::Pause };
        }
        self.prepare_fields(instance, work);
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
                if let Some(answer) = &self.service_answer {
                    answer.1.apply_body(&refusal, &instance.engine, &mut reply);
                }
                self.reply(&reply);
                Next::Pause
            }
        }
    }

    /// Asks the rate-limit service about the planned request. If that is impossible, decides without it.
    fn ask_service(&mut self, instance: &Rc<Instance>, work: &mut Work, now: Timestamp) -> Next {
        if rls::ask(&instance.engine, work, &Facts, self.id, now) {
            self.waits_for = WaitsFor::Service;
            // Waiting here is not part of the service's response time.
            self.began = None;
            return Next::Pause;
        }
        // With an answer set, the next decision does not ask again.
        self.service_answer = Some(Box::new((ServiceOutcome::Failed, Additions::default())));
        self.plan_again(instance, work);
        self.decide(instance, work, now)
    }

    /// Forwards an admitted request. Returns `false` if it was answered instead.
    fn admit(&mut self, instance: &Instance, work: &mut Work, now: Timestamp) -> bool {
        self.ticket = work.plan.ticket().map(Box::new);
        if let (Some(ticket), false) = (&mut self.ticket, self.is_whole) {
            ticket.leave_untimed();
        }
        self.forward(instance, work, now)
    }

    /// Continues after a wait, or refuses the request.
    pub fn finish_wait(&mut self, instance: &Instance, work: &mut Work, refusal: Option<&Refusal>) {
        self.waits_for = WaitsFor::Nothing;
        self.prepare_fields(instance, work);
        if let Some(refusal) = refusal {
            self.reply(&refusal.reply(&instance.engine, &Facts));
            return;
        }
        let goes_on = self.admit(instance, work, now());
        // What the request holds may have expired while it waited.
        self.renew_in(work);
        if goes_on {
            self.began = work.monitor.as_ref().map(|_| now());
        }
        if goes_on && let Err(error) = host::resume_request() {
            host::log(host::Level::Error, format_args!("cannot resume a request: {error}"));
        }
    }

    /// Chooses the upstream, if the policy has a route for the request. Returns `false` if the request was answered
    /// instead.
    pub(super) fn forward(&mut self, instance: &Instance, work: &mut Work, now: Timestamp) -> bool {
        if let Some(answer) = &mut self.service_answer {
            pass_on(Map::Request, &mut answer.1.request_headers);
        }
        if !instance.assets.is_empty() {
            self.serving.request(instance, self.is_whole);
        }
        let Some(route) = self.route else {
            // A client must not choose the upstream, whatever Envoy's routes read. Checking costs less than removing,
            // which would make Envoy select the route again.
            if host::may_have_header(Map::Request, UPSTREAM_HEADER) {
                let _ = host::remove_header(Map::Request, UPSTREAM_HEADER);
            }
            return true;
        };
        self.forward_along(route, instance, work, now)
    }

    /// Forwards along a route, see [`Self::forward`].
    #[inline(never)]
    fn forward_along(&mut self, route: usize, instance: &Instance, work: &mut Work, now: Timestamp) -> bool {
        let step = self.chain.begin(instance.engine.policy(), work, (route, self.is_whole), now);
        if !matches!(step, Step::Send { .. }) {
            // No upstream is called, so this says nothing about the service's health.
            self.began = None;
            return !self.conclude(instance, work, step);
        }
        if !self.chain.awaits_answer() {
            self.add_served_by(instance, work);
        }
        true
    }

    /// Prepares the response fields for the plan's limits.
    fn prepare_fields(&mut self, instance: &Instance, work: &mut Work) {
        if !instance.engine.tells_limits() {
            return;
        }
        let mut fields = work.spare.pop().unwrap_or_default();
        fields.push_limits(&instance.engine, &work.plan);
        self.fields = Some(fields);
    }
}
