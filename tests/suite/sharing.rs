//! Limits that many Envoys share: real Envoys with the shipped filter, a real Redis, and faults between them.

mod breaking;
mod counting;
mod faults;
mod hosts;
mod in_flight;
mod proxy;
mod stage;
mod waiting;
