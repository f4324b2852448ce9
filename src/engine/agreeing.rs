//! Breakers that instances share: see [`crate::breaker::global`].

use super::Engine;
use crate::authority::Instance;
use crate::fallback::Upstreams;

impl Engine {
    /// Makes the policy's shared breakers ask their authority. Call it after [`Engine::set_shared_secret`], on hosts
    /// that have an authority. `instance` must be a random number, the same for all workers that publish their breakers
    /// in one place, and drawn again whenever that place starts empty.
    pub fn share_breakers(&self, upstreams: &mut Upstreams, instance: Instance) {
        upstreams.agree_by(self.shared_seed, instance);
    }
}
