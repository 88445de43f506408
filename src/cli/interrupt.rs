//! SIGINT and SIGTERM while results are being kept: the first asks to stop after the slice at hand, the second stops at
//! once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

/// The signal that came first; 0 until one comes.
static RECEIVED: AtomicI32 = AtomicI32::new(0);

static LISTENING: OnceLock<()> = OnceLock::new();

/// Listens from now on until the process ends.
pub(super) fn listen() -> std::io::Result<()> {
    if LISTENING.set(()).is_err() {
        return Ok(());
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if RECEIVED.swap(signal, Ordering::Relaxed) != 0 {
                low_level::exit(128 + signal);
            }
            tracing::warn!("stopping after this slice; a second signal stops at once and loses it");
        }
    })?;
    Ok(())
}

/// The signal that came, if one did.
pub(super) fn received() -> Option<i32> {
    Some(RECEIVED.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
}
