//! The queue directory: made once, locked while in use, never guessed at.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use ringpost_queue::{
    ShardId,
    layout::{LOCK_FILE, META_FILE, META_FILE_NEW, QueueMeta, shard_directory},
};

use crate::{
    config::ConfigSnapshot,
    queue_tools::{swap, sync_directory},
};

/// The queue directory of this process, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct QueueDirectory {
    path: PathBuf,
    meta: QueueMeta,
    _lock: File,
}

impl QueueDirectory {
    /// Opens the directory of the configuration, or makes it.
    ///
    /// # Errors
    ///
    /// When it cannot be used, or another process uses it; nothing in it is changed then.
    pub(crate) fn open(config: &ConfigSnapshot) -> anyhow::Result<Self> {
        let path = config.config().queue.directory.clone();
        let named = |what: &str| format!("{what} the queue directory {}", path.display());
        make_directory(&path).with_context(|| named("cannot make"))?;
        let lock = lock(&path)?;
        let meta = match fs::read(path.join(META_FILE)) {
            Ok(bytes) => QueueMeta::decode(&bytes).with_context(|| named("cannot open"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(&path, config.shards()).with_context(|| named("cannot write to"))?
            }
            Err(error) => return Err(error).with_context(|| named("cannot read")),
        };
        if let Some(wanted) = config.config().queue.shards
            && wanted != meta.shards
        {
            tracing::warn!(
                "queue.shards is {wanted}, but the queue directory was made with {}: {} it is",
                meta.shards,
                meta.shards
            );
        }
        for shard in 0..meta.shards {
            if swap::finish(&path, ShardId(shard)).with_context(|| named("cannot open"))? {
                tracing::warn!(shard, "a repair was interrupted: it is complete now");
            }
            make_directory(&path.join(shard_directory(ShardId(shard))))
                .with_context(|| named("cannot write to"))?;
        }
        sync_directory(&path).with_context(|| named("cannot sync"))?;
        probe(&path).with_context(|| named("cannot write to"))?;
        Ok(Self { path, meta, _lock: lock })
    }

    /// Opens a directory that is there, and changes nothing but its lock.
    ///
    /// # Errors
    ///
    /// When there is no queue, or another process uses it.
    pub(crate) fn open_existing(path: &Path) -> anyhow::Result<Self> {
        let named = |what: &str| format!("{what} the queue directory {}", path.display());
        let bytes = fs::read(path.join(META_FILE)).with_context(|| named("cannot open"))?;
        let lock = lock(path)?;
        let meta = QueueMeta::decode(&bytes).with_context(|| named("cannot open"))?;
        Ok(Self { path: path.to_owned(), meta, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn meta(&self) -> &QueueMeta {
        &self.meta
    }

    pub(super) fn shard(&self, shard: ShardId) -> PathBuf {
        self.path.join(shard_directory(shard))
    }
}

/// Makes a directory, and those above it that are missing; their names are durable then.
///
/// Without that, a power cut could take away the whole queue, however well its files are synced.
fn make_directory(path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|above| !above.exists()).count();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for made in path.ancestors().take(missing) {
        sync_parent(made)?;
    }
    // An earlier start may have made it and then been cut off. When we may not even look at the
    // directory above, it was made by somebody else.
    match sync_parent(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_directory)
}

fn lock(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path.join(LOCK_FILE))
        .with_context(|| format!("cannot write to the queue directory {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("the queue directory {} is in use by another process", path.display())
        }
        Err(TryLockError::Error(error)) => Err(error)
            .with_context(|| format!("cannot lock the queue directory {}", path.display())),
    }
}

/// Writes the `meta` file of a new queue: whole and durable, or not there.
fn create(path: &Path, shards: u16) -> anyhow::Result<QueueMeta> {
    // Shards without a meta file are a queue that lost it, not a new one.
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with("shard-") {
            bail!("it has shards but no {META_FILE} file; it is not taken for a new one");
        }
    }
    let mut log_id = [0; 8];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut log_id)?;
    let meta = QueueMeta { shards, log_id: u64::from_ne_bytes(log_id) };
    let new = path.join(META_FILE_NEW);
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(&meta.encode())?;
    file.sync_all()?;
    fs::rename(&new, path.join(META_FILE))?;
    sync_directory(path)?;
    Ok(meta)
}

/// Writes and removes a file: a directory may be there and not be writable.
fn probe(path: &Path) -> io::Result<()> {
    let file = path.join("probe");
    fs::write(&file, b"ringpost")?;
    fs::remove_file(&file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, SystemFacts};

    fn snapshot(directory: &Path) -> ConfigSnapshot {
        let facts = SystemFacts {
            hostname: "mail.example.org".into(),
            cores: vec![0, 1],
            name_servers: vec!["127.0.0.1:53".parse().unwrap()],
            memory: None,
        };
        let text = format!(
            "[listener.a]\naddresses = [\"127.0.0.1:2525\"]\n[queue]\ndirectory = {directory:?}\n"
        );
        config::parse(&text, &facts).unwrap()
    }

    #[test]
    fn a_directory_is_made_once_and_kept() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("queue");
        let first = *QueueDirectory::open(&snapshot(&path)).unwrap().meta();
        assert_eq!(first.shards, 2);
        assert_eq!(*QueueDirectory::open(&snapshot(&path)).unwrap().meta(), first);
    }

    #[test]
    fn directories_above_it_are_made_too() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b/queue");
        drop(QueueDirectory::open(&snapshot(&path)).unwrap());
        assert!(path.join(META_FILE).exists());
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let held = QueueDirectory::open(&snapshot(temporary.path())).unwrap();
        let error = QueueDirectory::open(&snapshot(temporary.path())).unwrap_err();
        assert!(error.to_string().contains("in use by another process"), "{error:#}");
        drop(held);
        QueueDirectory::open(&snapshot(temporary.path())).unwrap();
    }

    #[test]
    fn shards_without_meta_are_not_taken_for_new() {
        let temporary = tempfile::tempdir().unwrap();
        drop(QueueDirectory::open(&snapshot(temporary.path())).unwrap());
        fs::remove_file(temporary.path().join(META_FILE)).unwrap();
        let error = QueueDirectory::open(&snapshot(temporary.path())).unwrap_err();
        assert!(format!("{error:#}").contains("no meta file"), "{error:#}");
    }

    #[test]
    fn damaged_meta_is_an_error() {
        let temporary = tempfile::tempdir().unwrap();
        fs::write(temporary.path().join(META_FILE), b"ringpost queue\nformat 1\n").unwrap();
        QueueDirectory::open(&snapshot(temporary.path())).unwrap_err();
    }
}
