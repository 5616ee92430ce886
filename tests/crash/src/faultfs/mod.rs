//! A file system in memory that fails as it is told to, and forgets what was not synced.
//!
//! It is mounted through FUSE by the test process itself, and driven from there: [`FaultFs::fault`]
//! switches faults on, [`FaultFs::cut`] takes the power away, [`FaultFs::mount_again`] brings the
//! machine back. Between the two every request is answered with EIO, and the handles of the old mount
//! are never served again.
//!
//! The test process must not touch the mounted files itself while a fault is on: a thread that waits
//! for an answer which only its own process can give cannot even be killed. It looks at the image
//! instead, and leaves the mount to other processes.

mod cut;
mod fault;
pub mod image;
mod serve;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fuser::{BackgroundSession, Config, MountOption, Session};
use ringpost_e2e::{peers, wait};

pub use cut::Survival;
pub use fault::{Effect, Fault, Operation};
pub use fuser::Errno;
pub use image::{Image, SECTOR};

use crate::rng::Rng;
use serve::Server;

/// How many requests of each kind have come so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes.
    pub writes: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Syncs of directories.
    pub directory_syncs: u64,
    /// How many requests a fault has struck.
    pub struck: u64,
}

impl Counts {
    fn note(&mut self, operation: Operation) {
        match operation {
            Operation::Write => self.writes += 1,
            Operation::Sync => self.syncs += 1,
            Operation::SyncDirectory => self.directory_syncs += 1,
            Operation::Read | Operation::Change | Operation::Look => {}
        }
    }
}

/// What a cut did.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Changes that were not durable.
    pub pending: usize,
    /// How many of them survived, at least in part.
    pub survived: usize,
}

type Parked = Box<dyn FnOnce(Errno) + Send>;

struct State {
    image: Image,
    faults: Vec<Fault>,
    counts: Counts,
    /// The mount that is served.
    epoch: u64,
    /// No request is served: the power is away.
    is_cut: bool,
    parked: Vec<Parked>,
    /// For what survives a cut.
    rng: Rng,
    last_cut: Option<Cut>,
}

impl State {
    /// Cuts the power. Whoever hangs stays parked.
    fn cut(&mut self, survival: Survival) {
        self.is_cut = true;
        let (pending, survived) = self.image.cut(survival, &mut self.rng);
        self.last_cut = Some(Cut { pending, survived });
    }

    fn is_fenced(&self, epoch: u64) -> bool {
        self.is_cut || epoch != self.epoch
    }
}

struct Shared {
    state: Mutex<State>,
    /// Somebody hangs, or the power is gone.
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mounted fault file system. Dropping it unmounts it.
pub struct FaultFs {
    mountpoint: PathBuf,
    shared: Arc<Shared>,
    session: Option<BackgroundSession>,
}

impl std::fmt::Debug for FaultFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultFs").field("mountpoint", &self.mountpoint).finish_non_exhaustive()
    }
}

impl FaultFs {
    /// Why it cannot be mounted here, if so.
    pub fn missing() -> Option<&'static str> {
        if !peers::is_root() {
            return Some("the fault file system needs root");
        }
        if !Path::new("/dev/fuse").exists() {
            return Some("there is no FUSE here (/dev/fuse)");
        }
        None
    }

    /// Mounts an empty one for files of `capacity` octets together.
    ///
    /// # Errors
    ///
    /// Fails when the kernel does not let us.
    pub fn mount(mountpoint: &Path, capacity: u64) -> Result<Self> {
        fs::create_dir_all(mountpoint)?;
        let state = State {
            image: Image::new(capacity),
            faults: Vec::new(),
            counts: Counts::default(),
            epoch: 0,
            is_cut: false,
            parked: Vec::new(),
            rng: Rng::new(0),
            last_cut: None,
        };
        let mut this = Self {
            mountpoint: mountpoint.to_owned(),
            shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }),
            session: None,
        };
        this.serve()?;
        Ok(this)
    }

    fn serve(&mut self) -> Result<()> {
        let epoch = {
            let mut state = self.shared.lock();
            state.epoch += 1;
            state.is_cut = false;
            state.epoch
        };
        let server = Server { shared: Arc::clone(&self.shared), epoch };
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("ringpost-faults".to_owned()),
            MountOption::NoAtime,
            MountOption::DefaultPermissions,
        ];
        let session = Session::new(server, &self.mountpoint, &config)
            .and_then(Session::spawn)
            .with_context(|| format!("cannot mount on {}", self.mountpoint.display()))?;
        self.session = Some(session);
        Ok(())
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// Switches a fault on.
    pub fn fault(&self, fault: Fault) {
        self.shared.lock().faults.push(fault);
    }

    /// Switches all faults off, and answers what hangs with an error.
    pub fn clear_faults(&self) {
        let parked = {
            let mut state = self.shared.lock();
            state.faults.clear();
            std::mem::take(&mut state.parked)
        };
        refuse(parked);
    }

    /// What has been asked so far.
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }

    /// Waits until a request hangs.
    ///
    /// # Errors
    ///
    /// Fails when none does in time.
    pub fn wait_hanging(&self, deadline: Duration) -> Result<()> {
        self.wait("a request to hang", deadline, |state| !state.parked.is_empty())
    }

    fn wait(
        &self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&State) -> bool,
    ) -> Result<()> {
        let (_state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), deadline, |state| !condition(state))
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(!timeout.timed_out(), "waited {deadline:?} in vain for {what}");
        Ok(())
    }

    /// Seeds the choice of what survives a cut.
    pub fn seed(&self, seed: u64) {
        self.shared.lock().rng = Rng::new(seed);
    }

    /// Cuts the power: what was not synced is gone, but for what `survival` leaves, and every
    /// request is answered with EIO from now on.
    pub fn cut(&self, survival: Survival) -> Cut {
        let (cut, parked) = {
            let mut state = self.shared.lock();
            if !state.is_cut {
                state.cut(survival);
            }
            (state.last_cut, std::mem::take(&mut state.parked))
        };
        refuse(parked);
        cut.unwrap_or(Cut { pending: 0, survived: 0 })
    }

    /// Cuts the power at the `nth` operation from now on: right after a write has come, right
    /// before a sync is done.
    pub fn cut_at(&self, operation: Operation, nth: u64, survival: Survival) {
        self.fault(Fault::nth(operation, nth, Effect::Cut(survival)));
    }

    /// Waits for the cut that [`FaultFs::cut_at`] has prepared; if it does not come, cuts now.
    pub fn wait_cut(&self, deadline: Duration, survival: Survival) -> Cut {
        drop(self.wait("a cut", deadline, |state| state.is_cut));
        self.cut(survival)
    }

    /// Brings the machine back: the file system is unmounted, which works only when nobody has a
    /// file of it open, and mounted again with what has survived. Faults are off.
    ///
    /// # Errors
    ///
    /// Fails when somebody still uses it after a minute.
    pub fn mount_again(&mut self) -> Result<()> {
        self.clear_faults();
        self.unmount()?;
        self.serve()
    }

    fn unmount(&mut self) -> Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        unmount(&self.mountpoint)?;
        session.join().context("the fault file system has ended badly")
    }

    /// A copy of everything in it.
    pub fn snapshot(&self) -> Image {
        self.shared.lock().image.clone()
    }

    /// Replaces everything in it. Nobody may have it in use.
    ///
    /// # Errors
    ///
    /// Fails when somebody has.
    pub fn restore(&mut self, image: Image) -> Result<()> {
        self.shared.lock().is_cut = true;
        self.shared.lock().image = image;
        self.mount_again()
    }

    /// Does something with what is in it, past the kernel.
    pub fn with_image<T>(&self, act: impl FnOnce(&mut Image) -> T) -> T {
        act(&mut self.shared.lock().image)
    }

    /// Makes a file of `size` zeros, durable.
    ///
    /// # Errors
    ///
    /// Fails when there is one, or no room.
    pub fn make_file(&self, name: &str, size: u64) -> Result<()> {
        self.with_image(|image| {
            let node = image.make(image::ROOT, name.as_ref(), false)?;
            image.set_size(node, size)?;
            image.sync_all();
            Ok(())
        })
        .map_err(|errno: Errno| anyhow::anyhow!("cannot make {name}: {errno:?}"))
    }

    /// Changes the octets of a file where they are kept: a fault of the medium.
    ///
    /// # Errors
    ///
    /// Fails when there is no such file.
    pub fn damage(&self, path: &str, change: &mut dyn FnMut(&mut Vec<u8>)) -> Result<()> {
        self.with_image(|image| {
            let files = image.files();
            let (_, node) = files
                .iter()
                .find(|(known, _)| known == path)
                .with_context(|| format!("there is no {path}"))?;
            image.damage(*node, change).map_err(|errno| anyhow::anyhow!("{path}: {errno:?}"))
        })
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        // Whoever still waits gets an error, so that it can end and the mount be left.
        {
            let mut state = self.shared.lock();
            state.is_cut = true;
            let parked = std::mem::take(&mut state.parked);
            drop(state);
            refuse(parked);
        }
        if let Err(error) = self.unmount() {
            peers::tell(&format!("{}: {error:#}", self.mountpoint.display()));
        }
    }
}

fn refuse(parked: Vec<Parked>) {
    for reply in parked {
        reply(Errno::EIO);
    }
}

/// Unmounts, once nobody has a file open there. Never lazily: a mount that lives on could still
/// write after the power has come back.
///
/// # Errors
///
/// Fails when somebody still uses it after a minute.
pub fn unmount(mountpoint: &Path) -> Result<()> {
    let mut last = String::new();
    let unmounted = wait::wait_until("an unused mount", wait::SOON, || {
        let output = Command::new("umount").arg(mountpoint).output()?;
        last = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() && !last.contains("busy") {
            bail!("umount {}: {last}", mountpoint.display());
        }
        Ok(output.status.success())
    });
    unmounted.with_context(|| format!("umount {}: {last}", mountpoint.display()))?;
    ensure!(!is_mounted(mountpoint)?, "{} is mounted twice", mountpoint.display());
    Ok(())
}

/// Whether something is mounted just there.
fn is_mounted(mountpoint: &Path) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let wanted = mountpoint.to_string_lossy();
    Ok(mounts.lines().any(|line| line.split(' ').nth(1) == Some(&*wanted)))
}
