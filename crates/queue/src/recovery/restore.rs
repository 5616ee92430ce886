//! Reading the newest checkpoint that is whole.

use std::io;

use super::replay::Replay;
use crate::checkpoint::{
    BLOCK_HEADER_SIZE, Begin, CHECKPOINT_FILES, CheckpointHeader, block_size, read_block,
};
use crate::frame::{BLOCK_SIZE, Lsn};
use crate::segment::{LogIdentity, is_readable};
use crate::storage::Storage;

/// Octets read at once; a block that is longer is held in memory whole.
const READ_SIZE: usize = 1 << 20;

/// A checkpoint that was read.
pub(crate) struct Restored {
    pub(crate) replay: Replay,
    pub(crate) header: CheckpointHeader,
    /// The file it was in, by its place in [`CHECKPOINT_FILES`].
    pub(crate) slot: usize,
}

/// What was found of checkpoints.
#[derive(Default)]
pub(crate) struct Restore {
    pub(crate) newest: Option<Restored>,
    /// Files that are damaged.
    pub(crate) damaged: u64,
    /// The highest number that any header has.
    pub(crate) number_max: u64,
    /// Octets of each file.
    pub(crate) file_sizes: [u64; CHECKPOINT_FILES.len()],
}

impl Restored {
    pub(crate) fn begin(&self) -> Begin {
        self.header.begin
    }

    pub(crate) fn end(&self) -> Lsn {
        self.header.end
    }
}

/// Reads the newest checkpoint that is whole, if there is one. A damaged one is no reason not to open
/// a log: all that it says is in the log as well.
pub(crate) async fn restore<S: Storage>(storage: &S, identity: LogIdentity) -> io::Result<Restore> {
    let sizes = storage.list().await?;
    let mut restore = Restore::default();
    let mut headers = Vec::new();
    for (slot, name) in CHECKPOINT_FILES.into_iter().enumerate() {
        let Some((_, size)) = sizes.iter().find(|(file, _)| file == name) else { continue };
        if let Some(known) = restore.file_sizes.get_mut(slot) {
            *known = *size;
        }
        let header = read_header(storage, name, *size).await?;
        match header {
            Some(Ok(header)) if header.identity == identity && is_readable(header.version) => {
                restore.number_max = restore.number_max.max(header.number);
                headers.push((header, slot, *size));
            }
            Some(_) => restore.damaged += 1,
            None => {}
        }
    }
    headers.sort_by_key(|(header, ..)| std::cmp::Reverse(header.number));
    for (header, slot, size) in headers {
        if restore.newest.is_some() {
            break;
        }
        match read_blocks(storage, CHECKPOINT_FILES[slot], size, &header).await? {
            Some(replay) => restore.newest = Some(Restored { replay, header, slot }),
            None => restore.damaged += 1,
        }
    }
    Ok(restore)
}

/// The header of a file; `None` if it is blank, `Some(Err)` if it is damaged.
pub(super) async fn read_header<S: Storage>(
    storage: &S,
    name: &str,
    size: u64,
) -> io::Result<Option<Result<CheckpointHeader, ()>>> {
    if size < BLOCK_SIZE {
        return Ok(None);
    }
    let file = storage.open(name).await?;
    let block = storage.read(&file, 0, BLOCK_SIZE as usize).await?;
    if block.iter().all(|octet| *octet == 0) {
        return Ok(None);
    }
    Ok(Some(CheckpointHeader::decode(&block).ok_or(())))
}

/// Reads the blocks behind a header; `None` if they are not what was written.
pub(super) async fn read_blocks<S: Storage>(
    storage: &S,
    name: &str,
    size: u64,
    header: &CheckpointHeader,
) -> io::Result<Option<Replay>> {
    let end = BLOCK_SIZE.saturating_add(header.blocks_len);
    if end > size {
        return Ok(None);
    }
    let file = storage.open(name).await?;
    let mut replay = Replay::default();
    let mut hosts = std::mem::take(&mut replay.index.hosts);
    let mut window: Vec<u8> = Vec::new();
    let (mut at, mut next, mut messages) = (0, BLOCK_SIZE, 0);
    loop {
        // What is left of the window, and whole blocks behind it.
        let block = window.get(at..).unwrap_or_default();
        let wanted = match block.get(..BLOCK_HEADER_SIZE).map(block_size) {
            Some(Some(size)) => size,
            _ => BLOCK_SIZE,
        };
        if (block.len() as u64) < wanted {
            if block.is_empty() && next == end {
                break;
            }
            if wanted > end - next + block.len() as u64 {
                return Ok(None);
            }
            window.drain(..at);
            at = 0;
            let len = (READ_SIZE as u64).min(end - next) as usize;
            let read = storage.read(&file, next, len).await?;
            if read.is_empty() {
                return Ok(None);
            }
            next += read.len() as u64;
            window.extend_from_slice(&read);
            continue;
        }
        let mut is_sound = true;
        let block = block.get(..wanted as usize).unwrap_or_default();
        let read = read_block(header.number, block, &mut hosts, |item| {
            messages += u64::from(matches!(item, crate::checkpoint::Item::Message { .. }));
            is_sound &= replay.restore(item);
        });
        if read.is_err() || !is_sound {
            return Ok(None);
        }
        at += wanted as usize;
    }
    replay.index.hosts = hosts;
    Ok((messages == header.messages).then_some(replay))
}
