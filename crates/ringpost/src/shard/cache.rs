//! Messages kept in memory between acceptance and the first delivery attempt.
//!
//! On the happy path a body is written to the log once and never read back: it goes out from
//! here. The cache is bounded in bytes; a message that does not fit is read from the log when
//! its turn comes. Nothing depends on a message being here.

use std::{collections::HashMap, rc::Rc};

use ringpost_protocol::envelope::Envelope;
use ringpost_queue::MessageId;

/// A message as a delivery needs it.
#[derive(Debug)]
pub(crate) struct CachedMessage {
    /// Who it is from and for.
    pub(crate) envelope: Envelope,
    /// The content in order, not dot-stuffed.
    pub(crate) content: Vec<Vec<u8>>,
}

impl CachedMessage {
    /// Bytes of content.
    pub(crate) fn content_size(&self) -> u64 {
        self.content.iter().map(|part| part.len() as u64).sum()
    }

    fn memory_size(&self) -> usize {
        self.content.iter().map(Vec::capacity).sum::<usize>() + OVERHEAD
    }
}

/// What an entry costs beside its content, roughly.
const OVERHEAD: usize = 512;

/// The messages in memory on one shard.
#[derive(Debug)]
pub(crate) struct ContentCache {
    messages: HashMap<MessageId, Rc<CachedMessage>>,
    memory_size: usize,
    memory_size_max: usize,
}

impl ContentCache {
    pub(crate) fn new(memory_size_max: usize) -> Self {
        Self { messages: HashMap::new(), memory_size: 0, memory_size_max }
    }

    pub(crate) fn set_memory_size_max(&mut self, memory_size_max: usize) {
        self.memory_size_max = memory_size_max;
    }

    /// Keeps a message if it fits; mail that is already here is closer to its delivery.
    pub(crate) fn insert(&mut self, id: MessageId, message: CachedMessage) {
        let size = message.memory_size();
        if self.memory_size + size > self.memory_size_max {
            return;
        }
        if let Some(replaced) = self.messages.insert(id, Rc::new(message)) {
            self.memory_size -= replaced.memory_size();
        }
        self.memory_size += size;
    }

    pub(crate) fn get(&self, id: MessageId) -> Option<Rc<CachedMessage>> {
        self.messages.get(&id).map(Rc::clone)
    }

    /// Lets go of a message that is settled, or that will not be tried again soon.
    pub(crate) fn remove(&mut self, id: MessageId) {
        if let Some(message) = self.messages.remove(&id) {
            self.memory_size -= message.memory_size();
        }
    }

    /// Bytes held, content and overhead.
    pub(crate) fn memory_size(&self) -> usize {
        self.memory_size
    }
}
