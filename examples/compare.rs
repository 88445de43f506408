//! Compares two merges of a checkpoint with its unmerged model and prints the report as Markdown:
//!
//! ```sh
//! cargo run --release --example compare -- evals/demo/checkpoint evals/demo/task.yml evals/demo/tokenizer.json
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the command line")]

use kintsugi::{Comparison, Error, ErrorKind};

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let (Some(checkpoint), Some(task), Some(tokenizer)) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("usage: compare CHECKPOINT TASK TOKENIZER");
        std::process::exit(2);
    };
    let comparison = Comparison::of(checkpoint).task(task).tokenizer(tokenizer).strategies(["mean", "fold"]).limit(50);
    match comparison.run() {
        Ok(report) => print!("{}", kintsugi::report::render_markdown(&report)),
        Err(error) if error.kind() == ErrorKind::Checkpoint => eprintln!("the checkpoint cannot be read: {error}"),
        Err(error) => return Err(error),
    }
    Ok(())
}
