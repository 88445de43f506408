//! The command line as the caller of a run: bars, signals, launchers.

use super::screen::Screen;
use super::{interrupt, launcher};
use crate::error::Result;
use crate::eval::Observer;
use crate::hub;
use crate::report::RunShard;
use crate::run::{Caller, OutputOptions, RunError};

pub(super) struct Process<'a> {
    screen: &'a Screen,
    local_rank: Option<usize>,
}

impl Screen {
    /// The caller of a run. If no run shard is given, a launcher's variables in the environment choose it.
    pub(super) fn caller(&self, output: &mut OutputOptions) -> Result<Process<'_>> {
        let mut local_rank = None;
        if output.shard.is_none()
            && let Some(place) = launcher::place(&|name| std::env::var(name).ok())?
        {
            let RunShard { index, count } = place.shard;
            tracing::info!("shard {index}/{count}, from {}; --shard 1/1 evaluates everything here", place.source);
            (output.shard, local_rank) = (Some(place.shard), place.local_rank);
        }
        Ok(Process { screen: self, local_rank })
    }
}

impl<'a> Process<'a> {
    /// A process that no launcher has started.
    pub(super) fn alone(screen: &'a Screen) -> Self {
        Self { screen, local_rank: None }
    }
}

impl Caller for Process<'_> {
    fn evaluation(&self) -> Box<dyn Observer + '_> {
        Box::new(self.screen.bar())
    }

    fn download(&self) -> Box<dyn hub::Progress + '_> {
        Box::new(self.screen.download_bar())
    }

    fn watch_signals(&self) -> Result<(), RunError> {
        Ok(interrupt::listen()?)
    }

    fn received_signal(&self) -> Option<i32> {
        interrupt::received()
    }

    fn command_line(&self) -> Vec<String> {
        self.screen.command_line().to_vec()
    }

    fn local_rank(&self) -> Option<usize> {
        self.local_rank
    }
}
