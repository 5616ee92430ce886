//! Memory for direct I/O.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Where memory for direct I/O has to begin, and offsets and lengths too: no device asks for more.
pub(super) const ALIGNMENT: usize = 4096;

/// How much memory is kept for the next batch.
pub(super) const KEPT_BUFFER_SIZE: usize = 1024 * 1024;

/// How much of a new segment is zeroed in one write.
pub(super) const ZERO_BLOCK_SIZE: usize = 256 * 1024;

/// The part of `buffer`, which grows as it has to, that is `len` octets long and begins where direct I/O
/// wants it.
pub(super) fn aligned(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    let size = len + ALIGNMENT;
    if buffer.len() < size {
        buffer.reserve_exact(size - buffer.len());
        buffer.resize(size, 0);
    }
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    &mut buffer[start..][..len]
}

/// Writes `bytes` in one operation, through memory as direct I/O wants it.
pub(super) fn write_aligned(
    file: &File,
    offset: u64,
    bytes: &[u8],
    buffer: &mut Vec<u8>,
) -> io::Result<usize> {
    let aligned = aligned(buffer, bytes.len());
    aligned.copy_from_slice(bytes);
    loop {
        match file.write_at(aligned, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            written => return written,
        }
    }
}

/// Reads up to `len` octets from `offset`, fewer at the end of the file only.
pub(super) fn read_unaligned(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let start = offset - offset % ALIGNMENT as u64;
    let lead = usize::try_from(offset - start).unwrap_or(usize::MAX);
    let mut buffer = Vec::new();
    let block = aligned(&mut buffer, (lead + len).next_multiple_of(ALIGNMENT));
    let mut read = 0;
    while read < block.len() {
        match file.read_at(&mut block[read..], start + read as u64) {
            // A read that does not come to the end of a block has come to the end of the file.
            Ok(count) => {
                read += count;
                if count % ALIGNMENT != 0 || count == 0 {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(block.get(lead..read.min(lead + len)).unwrap_or_default().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_begins_where_it_has_to_and_is_used_again() {
        let mut buffer = Vec::new();
        for len in [1, 4096, 10_000, 3] {
            let block = aligned(&mut buffer, len);
            assert_eq!((block.len(), block.as_ptr().addr() % ALIGNMENT), (len, 0));
        }
        assert_eq!(buffer.len(), 10_000 + ALIGNMENT);
    }
}
