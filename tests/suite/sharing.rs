//! Limits that many Envoys share: real Envoys with the filter as shipped, a real Redis, and what goes wrong between them.

mod breaking;
mod counting;
mod faults;
mod hosts;
mod in_flight;
mod proxy;
mod stage;
mod waiting;
