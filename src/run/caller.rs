//! The program that a run works for: it is shown progress, and it may stop the run.

use super::error::RunError;
use crate::eval::{Observer, Quiet};
use crate::hub;

/// What a run asks of its caller. By default nothing is shown and nothing stops the run.
pub trait Caller {
    /// Receives the progress of an evaluation.
    fn evaluation(&self) -> Box<dyn Observer + '_> {
        Box::new(Quiet)
    }

    /// Receives the progress of a download.
    fn download(&self) -> Box<dyn hub::Progress + '_> {
        Box::new(())
    }

    /// From now on results are kept slice by slice, so that a signal may stop the run after one.
    ///
    /// # Errors
    /// Signals cannot be received.
    fn watch_signals(&self) -> Result<(), RunError> {
        Ok(())
    }

    /// The signal that asks the run to stop after this slice.
    fn received_signal(&self) -> Option<i32> {
        None
    }

    /// The command line that repeats the run, for the report; empty if there is none.
    fn command_line(&self) -> Vec<String> {
        Vec::new()
    }

    /// Which of several processes on this machine this one is, counted from 0; they divide its GPUs.
    fn local_rank(&self) -> Option<usize> {
        None
    }
}

/// A caller that is shown nothing: the library's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Caller for Silent {}
