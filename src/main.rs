//! The `kintsugi` binary: arguments in, exit code out.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Matrices of tens of megabytes come and go all the time. The C library returns each to the operating system, which
/// clears its pages again for the next; this allocator keeps them for a while.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    kintsugi::cli::main()
}
