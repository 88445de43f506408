//! `kintsugi eval`: one model alone.

use super::forward_args::EvalArgs;
use super::screen::Screen;
use super::show::show_finished;
use crate::error::Result;
use crate::run::{self, Request};

pub(super) fn run(args: EvalArgs, screen: &Screen) -> Result<()> {
    let EvalArgs { model, task, mut output, resources, reading, run_file } = args;
    let caller = screen.caller(&mut output)?;
    run_file.announce();
    let request = Request { checkpoint: model, task, output, resources, reading, ..Request::default() };
    show_finished(&run::evaluate(&request, &caller)?, screen)
}
