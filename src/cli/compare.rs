//! `kintsugi compare`: the main job.

use super::dry_run;
use super::forward_args::CompareArgs;
use super::screen::Screen;
use super::show::show_finished;
use crate::error::Result;
use crate::run;

pub(super) fn run(mut args: CompareArgs, screen: &Screen) -> Result<()> {
    let caller = screen.caller(&mut args.request.output)?;
    args.run_file.announce();
    if args.dry_run {
        return dry_run::show(&run::forecast(&args.request, &caller)?, screen);
    }
    show_finished(&run::compare(&args.request, &caller)?, screen)
}
