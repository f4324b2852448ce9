//! Breakers that many instances share: see [`crate::breaker::global`].

use super::Engine;
use crate::authority::Instance;
use crate::fallback::Upstreams;

impl Engine {
    /// Has those breakers of the policy that many instances share ask their authority. To be called where there is one, after
    /// [`Engine::share_by`]. `instance` has to be a random number, the same for all workers that publish their breakers at one
    /// place, and drawn anew whenever that place begins empty.
    pub fn agree(&self, upstreams: &mut Upstreams, instance: Instance) {
        upstreams.agree_by(self.shared_seed, instance);
    }
}
