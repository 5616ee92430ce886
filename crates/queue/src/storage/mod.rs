//! The seam to the file system: one directory of flat files.
//!
//! Implemented by the server over its runtime, and by [`memory`] for tests and simulation.

use std::io;

pub mod memory;

/// The directory of one shard.
///
/// Single-threaded: no future has to be `Send`. Each operation is complete when its future is; a
/// future that is dropped early leaves open whether, and how far, it has happened.
#[expect(async_fn_in_trait, reason = "every shard is one thread, Send is not wanted")]
pub trait Storage {
    /// An open file. A clone is the same file.
    type File: Clone;

    /// The names and sizes in octets of all files, in any order.
    async fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Makes a new file of `size` zeros, really written, and opens it.
    ///
    /// When it returns, the zeros and the name are durable: the file and its directory have been
    /// synced.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if there is such a file, which is left alone then. After any other error
    /// there may be a file of any size with that name.
    async fn create(&self, name: &str, size: u64) -> io::Result<Self::File>;

    /// Opens a file for reading and writing.
    async fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Writes `bytes` at `offset`, and syncs; gives `bytes` back for reuse.
    ///
    /// `offset` and the length are multiples of [`BLOCK_SIZE`](crate::frame::BLOCK_SIZE). A result
    /// of `Ok(n)` promises that the first `n` bytes are durable: the sync must have begun after the
    /// write was done, and have succeeded. Neither is ever retried: after a failed sync the next one
    /// may succeed although the data is gone.
    async fn write(
        &self,
        file: &Self::File,
        offset: u64,
        bytes: Vec<u8>,
    ) -> (io::Result<usize>, Vec<u8>);

    /// Reads up to `len` bytes from `offset`; fewer only at the end of the file.
    async fn read(&self, file: &Self::File, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Renames a file. Durable only after [`Storage::sync_directory`].
    async fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable only after [`Storage::sync_directory`].
    async fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names in the directory durable.
    async fn sync_directory(&self) -> io::Result<()>;
}
