//! Roles while the daemon runs: which policy is in force, and how another one takes its place.
//!
//! A decision takes the policy of its moment as a whole, so that it is never made by half of one and half of another. What
//! depends on roles beside decisions (how long owners may be silent, who is told, probes of namespaces) follows after each
//! exchange.

mod changed;
pub mod in_force;
pub mod probes;
pub mod reload;
