#![no_main]
//! Fuzzes `entry_points::megatron`.
#[path = "../harness.rs"]
mod harness;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::entry_points::megatron(bytes));
