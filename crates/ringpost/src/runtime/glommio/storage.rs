//! Log segments: direct I/O, where each write is durable when it returns.
//!
//! Segments are opened with `O_DIRECT | O_DSYNC`: one operation writes a batch and makes it durable,
//! and its own result says whether it did, so no later sync can hide its failure. Only while a
//! segment is born, zeros are written without `O_DSYNC` and synced once.
//!
//! A batch is written by a thread beside the executor. Through the ring the kernel begins a write
//! within the system call that hands it over, and there it also notes the time of the change: that
//! waits for the file system's journal, for as long as the disk takes, and all mail of the core with
//! it. For the same reason no read changes the time of access (`O_NOATIME`).

use std::{
    cell::RefCell,
    fs::File,
    io,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use glommio::{
    GlommioError,
    io::{Directory, DmaFile, OpenOptions},
};
use ringpost_queue::storage::Storage;

use super::{
    super::{
        direct::{KEPT_BUFFER_SIZE, ZERO_BLOCK_SIZE, write_aligned},
        os,
    },
    io_error,
};

/// A segment that is open.
#[derive(Debug)]
pub struct SegmentFile {
    /// Reads.
    file: DmaFile,
    /// Writes, from another thread.
    writer: Arc<File>,
}

/// A directory of segments.
#[derive(Debug, Clone)]
pub struct GlommioStorage {
    directory: PathBuf,
    /// The last batch as direct I/O needs it: its memory is used for the next.
    buffer: Rc<RefCell<Vec<u8>>>,
}

impl GlommioStorage {
    pub(super) fn open(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), buffer: Rc::default() }
    }

    async fn open_with(&self, name: &str, options: &OpenOptions) -> io::Result<DmaFile> {
        let path = self.directory.join(name);
        options.dma_open(&path).await.map_err(|error| self.explain(name, error))
    }

    async fn open_segment(&self, name: &str, flags: libc::c_int) -> io::Result<SegmentFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags);
        let file = self.open_with(name, &options).await?;
        let writer = Arc::new(os::duplicate(&file)?);
        Ok(SegmentFile { file, writer })
    }

    /// Names the file, and what a refusal of direct I/O means.
    fn explain(&self, name: &str, error: GlommioError<()>) -> io::Error {
        let error = io_error(error);
        let path = self.directory.join(name);
        if error.raw_os_error() == Some(libc::EINVAL) {
            return io::Error::new(
                error.kind(),
                format!("{}: the file system does not support direct I/O", path.display()),
            );
        }
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    }

    async fn write_zeros(file: &DmaFile, size: u64) -> io::Result<()> {
        let mut offset = 0;
        while offset < size {
            let len = ZERO_BLOCK_SIZE.min(usize::try_from(size - offset).unwrap_or(usize::MAX));
            let mut buffer = file.alloc_dma_buffer(len);
            buffer.as_bytes_mut().fill(0);
            let written = file.write_at(buffer, offset).await.map_err(io_error)?;
            if written != len {
                return Err(io::ErrorKind::StorageFull.into());
            }
            offset += len as u64;
        }
        file.fdatasync().await.map_err(io_error)
    }
}

impl Storage for GlommioStorage {
    type File = Rc<SegmentFile>;

    async fn list(&self) -> io::Result<Vec<(String, u64)>> {
        // Blocks, but only once, before the log is open.
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Some(name)) = (metadata.is_file(), entry.file_name().to_str()) {
                files.push((name.to_owned(), metadata.len()));
            }
        }
        Ok(files)
    }

    async fn create(&self, name: &str, size: u64) -> io::Result<Self::File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = self.open_with(name, &options).await?;
        let zeroed = Self::write_zeros(&file, size).await;
        file.close().await.map_err(io_error)?;
        zeroed?;
        self.sync_directory().await?;
        self.open(name).await
    }

    async fn open(&self, name: &str) -> io::Result<Self::File> {
        let flags = libc::O_DSYNC;
        let opened = match self.open_segment(name, flags | libc::O_NOATIME).await {
            // Only the owner may, and whoever may do anything.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.open_segment(name, flags).await
            }
            opened => opened,
        };
        opened.map(Rc::new)
    }

    async fn write(
        &self,
        file: &Self::File,
        offset: u64,
        bytes: Vec<u8>,
    ) -> (io::Result<usize>, Vec<u8>) {
        let writer = Arc::clone(&file.writer);
        let mut buffer = self.buffer.take();
        let write = move || (write_aligned(&writer, offset, &bytes, &mut buffer), bytes, buffer);
        let (written, bytes, buffer) = glommio::executor().spawn_blocking(write).await;
        if buffer.len() <= KEPT_BUFFER_SIZE {
            self.buffer.replace(buffer);
        }
        (written, bytes)
    }

    async fn read(&self, file: &Self::File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        // Aligned here: the library's own unaligned read makes up octets behind the end of the file.
        let file = &file.file;
        let start = file.align_down(offset);
        let lead = usize::try_from(offset - start).unwrap_or(usize::MAX);
        let size = usize::try_from(file.align_up((lead + len) as u64)).unwrap_or(usize::MAX);
        let bytes = file.read_at_aligned(start, size).await.map_err(io_error)?;
        let end = bytes.len().min(lead + len);
        Ok(bytes.get(lead..end).unwrap_or_default().to_vec())
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.directory.join(from), self.directory.join(to));
        glommio::io::rename(&from, &to).await.map_err(io_error)
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        glommio::io::remove(self.directory.join(name)).await.map_err(io_error)
    }

    async fn sync_directory(&self) -> io::Result<()> {
        let directory = Directory::open(&self.directory).await.map_err(io_error)?;
        let synced = directory.sync().await.map_err(io_error);
        directory.close().await.map_err(io_error)?;
        synced
    }
}
