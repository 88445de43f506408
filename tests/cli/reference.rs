//! `docs/cli.md` is the help of every command, as clap has it.

use std::fmt::Write;
use std::path::Path;

use clap::CommandFactory;

fn reference() -> String {
    let mut text = String::from(
        "# The command line\n\nThe help of every command, as the program prints it (`KINTSUGI_BLESS=1 cargo test --test \
         cli reference` writes this page).\nData goes to stdout, everything else to stderr. Exit codes: 0 done and within \
         the gate, 1 a gate failed or a merge is not as certified, 2 could not finish, 3 a gate is undecided.\n",
    );
    let mut command = kintsugi::cli::Cli::command().term_width(100);
    command.build();
    writeln!(text, "\n## kintsugi\n\n```text\n{}\n```", command.render_help().to_string().trim_end()).unwrap();
    for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
        let help = sub.clone().term_width(100).render_help().to_string();
        let lines: Vec<_> = help.lines().map(str::trim_end).collect();
        writeln!(text, "\n## kintsugi {}\n\n```text\n{}\n```", sub.get_name(), lines.join("\n").trim_end()).unwrap();
    }
    text
}

/// `KINTSUGI_BLESS=1 cargo test --test cli reference` rewrites the page.
#[test]
fn the_page_is_in_step_with_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let reference = reference();
    if std::env::var_os("KINTSUGI_BLESS").is_some_and(|value| value == "1") {
        fs_err::write(&path, &reference).unwrap();
    }
    let committed = fs_err::read_to_string(&path).unwrap();
    assert!(committed == reference, "docs/cli.md is out of step: run with KINTSUGI_BLESS=1");
}

#[test]
fn every_command_has_examples_that_it_understands() {
    let mut command = kintsugi::cli::Cli::command();
    command.build();
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples: Vec<_> = help.lines().filter_map(|line| line.strip_prefix("  kintsugi ")).collect();
        assert!(!examples.is_empty(), "{} has no example", sub.get_name());
        for example in examples {
            let words = example.split(" > ").next().unwrap().split(" | ").next().unwrap();
            let words: Vec<_> = std::iter::once("kintsugi").chain(words.split_whitespace()).collect();
            assert_eq!(words[1], sub.get_name(), "{example}");
            // A run file gives what is missing.
            if !words.contains(&"--config") {
                assert!(command.clone().try_get_matches_from(&words).is_ok(), "{example}");
            }
        }
    }
}
