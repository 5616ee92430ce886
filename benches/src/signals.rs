//! TERM and INT as messages to the main thread.

use std::sync::mpsc::Sender;
use std::thread;

use anyhow::Context as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Sends what `wake` makes on each TERM or INT from now on.
pub(crate) fn forward<T: Send + 'static>(
    to: Sender<T>,
    wake: impl Fn() -> T + Send + 'static,
) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot handle signals")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                if to.send(wake()).is_err() {
                    break;
                }
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}
