//! What every fuzz target has: the entry points, and a heap that ends at [`HEAP_BYTES`]. A reader that asks for more dies,
//! and libFuzzer records the input; its own `-malloc_limit_mb` works only beside a sanitizer.

#[allow(dead_code, reason = "a target uses one of them")]
#[path = "entry_points.rs"]
pub mod entry_points;

use std::alloc::System;

use cap::Cap;

/// The most that all live allocations together may take: the largest input is some kilobytes.
const HEAP_BYTES: usize = 256 << 20;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, HEAP_BYTES);
