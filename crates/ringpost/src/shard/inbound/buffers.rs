//! What a session keeps in memory: bytes read, and content that is not in the log yet.

/// Read buffer of a session that waits for commands.
pub(super) const COMMAND_BLOCK_SIZE: usize = 4096;

/// Read buffer while content of usual size comes in.
const CONTENT_BLOCK_SIZE: usize = 16 * 1024;

/// Read buffer while large content comes in.
const LARGE_BLOCK_SIZE: usize = 128 * 1024;

/// The buffers of one session: a few KiB between messages, more while content comes in.
pub(super) struct Buffers {
    /// Bytes read and not yet taken by the session.
    pub(super) input: Input,
    /// Decoded content that is not in the log yet.
    pub(super) content: Vec<u8>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self { input: Input::new(COMMAND_BLOCK_SIZE), content: Vec::new() }
    }

    /// Makes room for content of the size that was declared, 0 for none.
    pub(super) fn expect_content(&mut self, declared_size: u64) {
        let is_large = declared_size > LARGE_BLOCK_SIZE as u64;
        self.input.resize(if is_large { LARGE_BLOCK_SIZE } else { CONTENT_BLOCK_SIZE });
        self.content.clear();
        self.content.reserve(CONTENT_BLOCK_SIZE / 2);
    }

    /// Gives back what only content needs; bytes that the session has not taken are kept.
    pub(super) fn expect_commands(&mut self) {
        if self.content.capacity() > 0 {
            self.content = Vec::new();
        }
        self.input.resize(COMMAND_BLOCK_SIZE);
    }
}

/// Bytes read and not yet taken by the session.
pub(super) struct Input {
    block: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    fn new(size: usize) -> Self {
        Self { block: vec![0; size], start: 0, end: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.block.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Where the next read goes; what is left moves to the front to make room.
    pub(super) fn space(&mut self) -> &mut [u8] {
        self.move_to_front();
        self.block.get_mut(self.end..).unwrap_or_default()
    }

    pub(super) fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// Drops what is left; the whole block, for reading what nobody will look at.
    pub(super) fn scratch(&mut self) -> &mut [u8] {
        (self.start, self.end) = (0, 0);
        &mut self.block
    }

    /// Gives the block another size, or as near to it as what is in it allows.
    fn resize(&mut self, size: usize) {
        if size == self.block.len() {
            return;
        }
        self.move_to_front();
        self.block.resize(size.max(self.end), 0);
        self.block.shrink_to_fit();
    }

    fn move_to_front(&mut self) {
        if self.start > 0 {
            self.block.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &mut Input, bytes: &[u8]) {
        input.space()[..bytes.len()].copy_from_slice(bytes);
        input.filled(bytes.len());
    }

    fn held(buffers: &Buffers) -> usize {
        buffers.input.block.capacity() + buffers.content.capacity()
    }

    #[test]
    fn large_content_leaves_nothing_behind() {
        let mut buffers = Buffers::new();
        let idle = held(&buffers);
        assert!(idle < 2 * COMMAND_BLOCK_SIZE, "{idle}");
        buffers.expect_content(10 << 20);
        buffers.content.reserve(LARGE_BLOCK_SIZE);
        assert!(held(&buffers) >= 2 * LARGE_BLOCK_SIZE);
        buffers.expect_commands();
        assert_eq!(held(&buffers), idle);
    }

    /// Commands behind the final dot keep the large block until they are taken, not longer.
    #[test]
    fn commands_behind_large_content_do_not_hold_its_block() {
        let mut buffers = Buffers::new();
        let idle = held(&buffers);
        buffers.expect_content(10 << 20);
        read(&mut buffers.input, &vec![b'c'; LARGE_BLOCK_SIZE]);
        buffers.input.consume(1000);
        buffers.expect_commands();
        assert_eq!(buffers.input.bytes(), vec![b'c'; LARGE_BLOCK_SIZE - 1000]);
        buffers.input.consume(LARGE_BLOCK_SIZE - 1010);
        buffers.expect_commands();
        assert_eq!((buffers.input.bytes(), held(&buffers)), (&[b'c'; 10][..], idle));
        assert_eq!(buffers.input.space().len(), COMMAND_BLOCK_SIZE - 10);
    }

    #[test]
    fn the_block_is_as_large_as_content_is_said_to_be() {
        let mut buffers = Buffers::new();
        for (declared, size) in [
            (0, CONTENT_BLOCK_SIZE),
            (LARGE_BLOCK_SIZE as u64, CONTENT_BLOCK_SIZE),
            (LARGE_BLOCK_SIZE as u64 + 1, LARGE_BLOCK_SIZE),
            (u64::MAX, LARGE_BLOCK_SIZE),
        ] {
            buffers.expect_content(declared);
            assert_eq!(buffers.input.space().len(), size, "{declared}");
        }
    }

    #[test]
    fn what_is_left_moves_to_the_front() {
        let mut input = Input::new(8);
        read(&mut input, b"abcdefgh");
        assert!(input.space().is_empty());
        input.consume(5);
        read(&mut input, b"ijkl");
        assert_eq!((input.bytes(), input.is_empty()), (&b"fghijkl"[..], false));
        input.consume(7);
        assert_eq!((input.space().len(), input.is_empty()), (8, true));
        read(&mut input, b"m");
        assert_eq!(input.scratch().len(), 8);
        assert!(input.is_empty());
    }
}
