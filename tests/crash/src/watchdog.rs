//! Says where everybody waits when a bench takes far too long.
//!
//! What hangs with a disk hangs in the kernel, where no deadline of ours reaches it: the run is ended
//! from outside sooner or later, and this is what there is to find the cause by.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use ringpost_e2e::peers;

/// No test takes as long, but for those with more cuts than usual.
const PATIENCE: Duration = Duration::from_mins(8);

/// Speaks once, unless it is dropped first.
#[derive(Debug)]
pub struct Watchdog {
    _end: Sender<()>,
}

impl Watchdog {
    /// Begins to watch.
    pub fn new() -> Self {
        Self::with_patience(PATIENCE, |text| peers::tell(&text))
    }

    fn with_patience(patience: Duration, tell: impl FnOnce(String) + Send + 'static) -> Self {
        let (end, ended) = mpsc::channel();
        thread::spawn(move || {
            if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                tell(format!("after {patience:?} these wait:\n{}", waiting()));
            }
        });
        Self { _end: end }
    }
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::new()
    }
}

/// The threads of this process and of its children, and all that cannot be interrupted, with where
/// they are in the kernel.
fn waiting() -> String {
    let mut text = String::new();
    let own = process::id();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let threads = fs::read_dir(entry.path().join("task"));
        for thread in threads.into_iter().flatten().flatten() {
            let read = |file| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
            let status = read("stat");
            // The name, in brackets, may hold anything.
            let mut words = status.rsplit(") ").next().unwrap_or_default().split(' ');
            let (state, parent) = (words.next(), words.next().and_then(|it| it.parse().ok()));
            if state == Some("D") || id == own || parent == Some(own) {
                let program = read("cmdline").replace('\0', " ");
                let stack: Vec<_> = read("stack").lines().take(12).map(str::to_owned).collect();
                let thread = Path::new(&thread.file_name()).display().to_string();
                let _ = writeln!(
                    text,
                    "{id}/{thread} {} {} {program}\n  {}",
                    read("comm").trim(),
                    state.unwrap_or_default(),
                    stack.join("\n  ")
                );
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_who_waits_once_and_only_when_it_takes_too_long() {
        let (told, hears) = mpsc::channel();
        let tell = |told: Sender<String>| move |text: String| told.send(text).unwrap();
        let dog = Watchdog::with_patience(Duration::from_millis(1), tell(told.clone()));
        let text = hears.recv_timeout(ringpost_e2e::wait::SOON).unwrap();
        assert!(text.contains(&format!("{}/", process::id())), "{text}");
        drop(dog);
        drop(Watchdog::with_patience(Duration::from_hours(1), tell(told)));
        // The last sender is gone, without a word.
        assert!(hears.recv_timeout(ringpost_e2e::wait::SOON).is_err());
    }
}
