//! What must hold before a mail server can keep its word: looked at once, said plainly.

use anyhow::{Context, bail};

use crate::{
    config::ConfigSnapshot,
    runtime::os::{self, Resource},
};

/// Locked memory below which a ring cannot be made.
const LOCKED_MEMORY_MIN: u64 = 512 * 1024;

/// Descriptors that each core needs for itself, before any connection.
const DESCRIPTORS_PER_CORE: u64 = 64;

/// Descriptors of the process for everything else.
const DESCRIPTORS_BASE: u64 = 64;

/// Descriptors below which a busy server will refuse connections.
const DESCRIPTORS_ADVISED: u64 = 4096;

/// Looks at limits and at `io_uring`, raises what may be raised, and says what is wrong.
///
/// Returns how many inbound connections each core may have, whatever the configuration says: half of
/// the descriptors are kept for deliveries and for the log.
pub(super) fn machine(config: &ConfigSnapshot) -> anyhow::Result<usize> {
    os::ignore_file_size_signal();
    if let Some(reason) = os::io_uring_disabled() {
        bail!("{reason}. Ringpost needs io_uring: set it to 0 (sysctl kernel.io_uring_disabled=0)");
    }
    let memory = Resource::LockedMemory.limit().context("cannot read the memlock limit")?;
    let memory = Resource::LockedMemory.raise_to_hard().unwrap_or(memory);
    if memory.soft < LOCKED_MEMORY_MIN {
        bail!(
            "the limit on locked memory (memlock) is {} bytes, io_uring needs {LOCKED_MEMORY_MIN}: \
             raise it (systemd: LimitMEMLOCK=64M, shell: ulimit -l 65536)",
            memory.soft
        );
    }
    let files = Resource::OpenFiles.limit().context("cannot read the limit on open files")?;
    let files = Resource::OpenFiles.raise_to_hard().unwrap_or(files);
    let needed = DESCRIPTORS_BASE + DESCRIPTORS_PER_CORE * config.cores().len() as u64;
    if files.soft < needed {
        bail!(
            "the limit on open files (nofile) is {}, at least {needed} are needed for {} core(s): \
             raise it (systemd: LimitNOFILE=1048576, shell: ulimit -n 65536)",
            files.soft,
            config.cores().len()
        );
    }
    if files.soft < DESCRIPTORS_ADVISED {
        tracing::warn!(
            "the limit on open files (nofile) is {}: connections are refused when it is reached",
            files.soft
        );
    }
    let cores = config.cores().len().max(1) as u64;
    let share = usize::try_from(files.soft / 2 / cores).unwrap_or(usize::MAX).max(1);
    let wanted: usize = config
        .config()
        .listener
        .values()
        .map(|listener| listener.connections_per_core_max)
        .fold(0, usize::saturating_add);
    if wanted > share {
        tracing::warn!(
            "the listeners may have {wanted} connections a core, but the limit on open files \
             (nofile) allows {share}: more are refused"
        );
    }
    Ok(share)
}

/// The keys that a running server cannot change, of those that differ.
pub(super) fn restart_keys(old: &ConfigSnapshot, new: &ConfigSnapshot) -> Vec<&'static str> {
    let (old_file, new_file) = (old.config(), new.config());
    let addresses = |config: &ConfigSnapshot| -> Vec<_> {
        let listeners = config.config().listener.iter();
        listeners.map(|(name, section)| (name.clone(), section.addresses.clone())).collect()
    };
    let queue = |config: &ConfigSnapshot| {
        let queue = config.config().queue.clone();
        (queue.directory, queue.shards, queue.segment_size, queue.size_max)
    };
    let changed = [
        ("server.cores", old.cores() != new.cores()),
        ("server.scheduling", old_file.server.scheduling != new_file.server.scheduling),
        ("server.runtime", old_file.server.runtime != new_file.server.runtime),
        ("listener addresses", addresses(old) != addresses(new)),
        ("queue.directory, shards, segment_size or size_max", queue(old) != queue(new)),
        ("control.listen", old_file.control.listen != new_file.control.listen),
        (
            "auth.password_queue_max",
            old_file.auth.password_queue_max != new_file.auth.password_queue_max,
        ),
        ("events.path", old_file.events != new_file.events),
        ("log", old_file.log != new_file.log),
    ];
    changed.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
