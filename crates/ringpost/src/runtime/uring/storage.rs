//! Log segments: direct I/O, where each write is durable when it returns, by threads beside the executor.
//!
//! Segments are opened with `O_DIRECT | O_DSYNC`: one operation writes a batch and makes it durable,
//! and its own result says whether it did, so no later sync can hide its failure. Only while a
//! segment is born, zeros are written without `O_DSYNC` and synced once.
//!
//! Nothing of it goes through the ring: there the kernel begins a direct write within the system call
//! that hands it over, and may wait in it for the file system's journal, for as long as the disk takes,
//! and all mail of the core with it. For the same reason no read changes the time of access
//! (`O_NOATIME`).

use std::{
    cell::RefCell,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use ringpost_queue::storage::Storage;

use super::{
    super::direct::{KEPT_BUFFER_SIZE, ZERO_BLOCK_SIZE, aligned, read_unaligned, write_aligned},
    threads::Threads,
};

/// A directory of segments.
#[derive(Debug, Clone)]
pub struct UringStorage {
    directory: PathBuf,
    threads: Rc<Threads>,
    /// The last batch as direct I/O needs it: its memory is used for the next.
    buffer: Rc<RefCell<Vec<u8>>>,
}

impl UringStorage {
    pub(super) fn new(directory: &Path, threads: &Rc<Threads>) -> Self {
        let directory = directory.to_owned();
        Self { directory, threads: Rc::clone(threads), buffer: Rc::default() }
    }
}

impl Storage for UringStorage {
    type File = Arc<File>;

    async fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let directory = self.directory.clone();
        self.threads
            .other(move || {
                let mut files = Vec::new();
                for entry in fs::read_dir(&directory)? {
                    let entry = entry?;
                    let metadata = entry.metadata()?;
                    if let (true, Some(name)) = (metadata.is_file(), entry.file_name().to_str()) {
                        files.push((name.to_owned(), metadata.len()));
                    }
                }
                Ok(files)
            })
            .await
    }

    async fn create(&self, name: &str, size: u64) -> io::Result<Self::File> {
        let (directory, path) = (self.directory.clone(), self.directory.join(name));
        self.threads
            .other(move || {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create_new(true).mode(0o600);
                let file = open_with(&path, &options, libc::O_DIRECT)?;
                write_zeros(&file, size)?;
                drop(file);
                File::open(directory)?.sync_all()?;
                open_segment(&path)
            })
            .await
    }

    async fn open(&self, name: &str) -> io::Result<Self::File> {
        let path = self.directory.join(name);
        self.threads.other(move || open_segment(&path)).await
    }

    async fn write(
        &self,
        file: &Self::File,
        offset: u64,
        bytes: Vec<u8>,
    ) -> (io::Result<usize>, Vec<u8>) {
        let file = Arc::clone(file);
        let mut buffer = self.buffer.take();
        let write = move || (write_aligned(&file, offset, &bytes, &mut buffer), bytes, buffer);
        let Some((written, bytes, buffer)) = self.threads.write(write).await else {
            return (Err(threads_gone()), Vec::new());
        };
        if buffer.len() <= KEPT_BUFFER_SIZE {
            self.buffer.replace(buffer);
        }
        (written, bytes)
    }

    async fn read(&self, file: &Self::File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let file = Arc::clone(file);
        self.threads.other(move || read_unaligned(&file, offset, len)).await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.directory.join(from), self.directory.join(to));
        self.threads.other(move || fs::rename(from, to)).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.directory.join(name);
        self.threads.other(move || fs::remove_file(path)).await
    }

    async fn sync_directory(&self) -> io::Result<()> {
        let directory = self.directory.clone();
        self.threads.other(move || File::open(directory)?.sync_all()).await
    }
}

/// What a caller hears whose work was taken by a thread that is gone.
pub(super) fn threads_gone() -> io::Error {
    io::Error::other("a thread for files has ended")
}

/// Opens a file; an error names it, and says what a refusal of direct I/O means.
fn open_with(path: &Path, options: &OpenOptions, flags: libc::c_int) -> io::Result<File> {
    options.clone().custom_flags(flags).open(path).map_err(|error| {
        let text = match error.raw_os_error() {
            Some(libc::EINVAL) => "the file system does not support direct I/O".to_owned(),
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("{}: {text}", path.display()))
    })
}

fn open_segment(path: &Path) -> io::Result<Arc<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let flags = libc::O_DIRECT | libc::O_DSYNC;
    let opened = match open_with(path, &options, flags | libc::O_NOATIME) {
        // Only the owner may, and whoever may do anything.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_with(path, &options, flags)
        }
        opened => opened,
    };
    opened.map(Arc::new)
}

fn write_zeros(file: &File, size: u64) -> io::Result<()> {
    let mut buffer = Vec::new();
    let zeros = aligned(&mut buffer, ZERO_BLOCK_SIZE);
    let mut offset = 0;
    while offset < size {
        let len = zeros.len().min(usize::try_from(size - offset).unwrap_or(usize::MAX));
        match file.write_at(&zeros[..len], offset) {
            Ok(written) if written == len => offset += len as u64,
            Ok(_) => return Err(io::ErrorKind::StorageFull.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.sync_data()
}
