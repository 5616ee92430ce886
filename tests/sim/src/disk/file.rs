//! Files: what is live, what is durable, and the writes between the two.

use std::rc::Rc;

use crate::random::Random;

/// Octets that are shared or not, as a whole.
const BLOCK_SIZE: usize = 4096;

type Block = Rc<[u8; BLOCK_SIZE]>;

/// The octets of a file; blocks that were never written take no memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    blocks: Vec<Option<Block>>,
    len: usize,
}

/// A file.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// What a read gives.
    pub(super) live: Content,
    /// What a power cut leaves, without what is pending.
    pub(super) durable: Content,
    /// Writes that are not durable, or may be.
    pub(super) pending: Vec<Write>,
}

/// A write that is not durable.
#[derive(Debug)]
pub(super) struct Write {
    /// Its place among the writes of the disk.
    pub(super) order: u64,
    pub(super) offset: usize,
    pub(super) octets: Vec<u8>,
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Makes it at least so long, with zeros, if `grows`.
    pub(super) fn grow(&mut self, len: usize, grows: bool) {
        if grows && len > self.len {
            self.len = len;
            self.blocks.resize(len.div_ceil(BLOCK_SIZE), None);
        }
    }

    pub(super) fn write(&mut self, offset: usize, octets: &[u8]) {
        if octets.is_empty() {
            return;
        }
        self.grow(offset + octets.len(), true);
        let mut rest = octets;
        let mut at = offset;
        while !rest.is_empty() {
            let within = at % BLOCK_SIZE;
            let (part, behind) = rest.split_at(rest.len().min(BLOCK_SIZE - within));
            let block =
                self.blocks[at / BLOCK_SIZE].get_or_insert_with(|| Rc::new([0; BLOCK_SIZE]));
            Rc::make_mut(block)[within..within + part.len()].copy_from_slice(part);
            at += part.len();
            rest = behind;
        }
    }

    /// Up to `len` octets from `offset`; fewer only at the end.
    pub(super) fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        let start = offset.min(self.len);
        let end = start.saturating_add(len).min(self.len);
        let mut octets = Vec::with_capacity(end - start);
        let mut at = start;
        while at < end {
            let within = at % BLOCK_SIZE;
            let count = (BLOCK_SIZE - within).min(end - at);
            match &self.blocks[at / BLOCK_SIZE] {
                Some(block) => octets.extend_from_slice(&block[within..within + count]),
                None => octets.resize(octets.len() + count, 0),
            }
            at += count;
        }
        octets
    }
}

impl Node {
    /// A file of which everything is durable.
    pub(super) fn new(content: Content) -> Self {
        Self { live: content.clone(), durable: content, pending: Vec::new() }
    }

    /// Writes and syncs at once.
    pub(super) fn write_through(&mut self, offset: usize, octets: &[u8]) {
        self.live.write(offset, octets);
        self.durable.write(offset, octets);
    }

    /// Begins a write: from now on it can be read, and a power cut may leave any part of it.
    pub(super) fn begin_write(&mut self, order: u64, offset: usize, octets: &[u8]) {
        self.live.write(offset, octets);
        self.pending.push(Write { order, offset, octets: octets.to_vec() });
    }

    /// Ends a write: it is durable, and what was written there before and is pending still does not
    /// matter any more.
    pub(super) fn end_write(&mut self, order: u64) {
        let Some(at) = self.pending.iter().position(|write| write.order == order) else { return };
        let write = self.pending.remove(at);
        self.durable.write(write.offset, &write.octets);
        let (start, end) = (write.offset, write.offset + write.octets.len());
        let is_covered = |other: &Write| {
            other.order < order && other.offset < end && start < other.offset + other.octets.len()
        };
        if !self.pending.iter().any(is_covered) {
            return;
        }
        for other in std::mem::take(&mut self.pending) {
            if !is_covered(&other) {
                self.pending.push(other);
                continue;
            }
            // What lies before and behind it is left.
            let before = start.saturating_sub(other.offset);
            let behind = end.saturating_sub(other.offset).min(other.octets.len());
            for (from, to) in [(0, before), (behind, other.octets.len())] {
                if from < to {
                    let (offset, octets) = (other.offset + from, other.octets[from..to].to_vec());
                    self.pending.push(Write { order: other.order, offset, octets });
                }
            }
        }
    }

    /// Flips a bit of a block that was written; its offset.
    pub(super) fn flip(&mut self, random: &mut Random) -> Option<usize> {
        let blocks = self.durable.blocks.iter().enumerate();
        let written: Vec<usize> =
            blocks.filter_map(|(at, block)| block.as_ref().map(|_| at)).collect();
        let at = *random.pick(&written)?;
        let offset = at * BLOCK_SIZE + random.index(BLOCK_SIZE);
        let bit = 1 << random.below(8);
        for content in [&mut self.live, &mut self.durable] {
            if let Some(Some(block)) = content.blocks.get_mut(at) {
                Rc::make_mut(block)[offset % BLOCK_SIZE] ^= bit;
            }
        }
        Some(offset)
    }
}
