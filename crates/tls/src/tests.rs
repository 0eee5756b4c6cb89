//! Tests of several files together.

mod fuzz;
mod targets;
