//! A merge checked against its certificate: whether its files are those that were compared ([`check_merge`]), and whether a new
//! measurement proves the same ([`check_measurement`]). Runs nothing: the measurement is handed in as its report.

mod check;
mod digests;
mod measurement;
mod merge;

pub use check::{Check, Outcome, outcome, render};
pub use measurement::check_measurement;
pub use merge::check_merge;
