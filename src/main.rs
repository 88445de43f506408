//! The `kintsugi` binary: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    kintsugi::cli::main()
}
