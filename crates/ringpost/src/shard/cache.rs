//! Messages kept in memory between acceptance and the first delivery attempt.
//!
//! On the happy path a body is written to the log once and never read back: it goes out from
//! here. The cache is bounded in bytes, and the oldest messages make room for the newest: what has not
//! gone out by then waits for something, and is read from the log when its turn comes. Nothing depends
//! on a message being here.

use std::{collections::BTreeMap, rc::Rc};

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
        let content: usize = self.content.iter().map(Vec::capacity).sum();
        let recipients = self.envelope.forward_paths.len() * RECIPIENT_SIZE;
        content + recipients + self.envelope.dsn.memory_size() + OVERHEAD
    }
}

/// What an entry costs beside its content and its recipients, roughly.
const OVERHEAD: usize = 512;

/// What a recipient costs at most: a path of 256 octets (RFC 5321 §4.5.3.1.3), and its places.
const RECIPIENT_SIZE: usize = 384;

/// The messages in memory on one shard.
#[derive(Debug)]
pub(crate) struct ContentCache {
    /// In the order of their ids, which is that of their receipt.
    messages: BTreeMap<MessageId, Rc<CachedMessage>>,
    memory_size: usize,
    memory_size_max: usize,
}

impl ContentCache {
    pub(crate) fn new(memory_size_max: usize) -> Self {
        Self { messages: BTreeMap::new(), memory_size: 0, memory_size_max }
    }

    pub(crate) fn set_memory_size_max(&mut self, memory_size_max: usize) {
        self.memory_size_max = memory_size_max;
    }

    /// Keeps a message, in the place of the oldest ones if need be.
    pub(crate) fn insert(&mut self, id: MessageId, message: CachedMessage) {
        let size = message.memory_size();
        if size > self.memory_size_max {
            return;
        }
        if let Some(replaced) = self.messages.insert(id, Rc::new(message)) {
            self.memory_size -= replaced.memory_size();
        }
        self.memory_size += size;
        while self.memory_size > self.memory_size_max
            && let Some((_, oldest)) = self.messages.pop_first()
        {
            self.memory_size -= oldest.memory_size();
        }
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

#[cfg(test)]
mod tests {
    use ringpost_protocol::{
        envelope::BodyType,
        path::{ForwardPath, ReversePath},
    };

    use super::*;

    fn message(size: usize) -> CachedMessage {
        let path = ForwardPath::parse("<a@b.test>").unwrap();
        let envelope = Envelope::new(ReversePath::Null, vec![path], BodyType::SevenBit);
        CachedMessage { envelope, content: vec![vec![0; size]] }
    }

    #[test]
    fn the_oldest_make_room_for_the_newest() {
        let of_one = 1000 + RECIPIENT_SIZE + OVERHEAD;
        let mut cache = ContentCache::new(4 * of_one);
        for number in 0..10 {
            cache.insert(MessageId::from_u64(number), message(1000));
        }
        let kept: Vec<_> =
            (0..10).filter(|number| cache.get(MessageId::from_u64(*number)).is_some()).collect();
        assert_eq!((kept, cache.memory_size()), (vec![6, 7, 8, 9], 4 * of_one));
        // One that fits nowhere drives nobody out.
        cache.insert(MessageId::from_u64(10), message(10_000));
        assert_eq!(cache.memory_size(), 4 * of_one);
        cache.insert(MessageId::from_u64(9), message(10));
        cache.remove(MessageId::from_u64(8));
        assert_eq!(cache.memory_size(), 3 * of_one - 990);
        for number in 0..10 {
            cache.remove(MessageId::from_u64(number));
        }
        assert_eq!(cache.memory_size(), 0);
    }
}
