//! What the disk of the server says is queued, as the next start would read it.

use futures_lite::future::block_on;
use ringpost_protocol::envelope::Envelope;
use ringpost_queue::{
    Inspection, MessageId, Queue, RecipientEntry, RecipientState, Recovered, inspect,
    offline::Reader, recover, storage::memory::Survival,
};

use super::Server;
use crate::disk::SimStorage;

/// The queue of a shard, read from an image of its disk.
#[derive(Debug)]
pub struct Look {
    /// The recovered index.
    pub queue: Queue,
    /// What recovery has found.
    pub recovered: Recovered,
    /// The image that it was read from.
    pub storage: SimStorage,
}

/// A message of a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedMessage {
    /// Its id.
    pub id: MessageId,
    /// Who it is from and for.
    pub envelope: Envelope,
    /// The content, as it is stored.
    pub content: Vec<u8>,
    /// How its recipients stand, in the order of the forward-paths.
    pub recipients: Vec<RecipientState>,
}

impl Server {
    /// Reads the log of a shard as the next start would after such a crash now. Changes nothing.
    ///
    /// # Errors
    ///
    /// What recovery says of a log that it does not open.
    pub fn look(&self, shard: u16, survival: Survival) -> Result<Look, String> {
        self.look_at(shard, self.disk().image(&self.directory(shard), survival))
    }

    /// Reads the log of a shard from an image of its disk.
    ///
    /// # Errors
    ///
    /// What recovery says of a log that it does not open.
    pub fn look_at(&self, shard: u16, storage: SimStorage) -> Result<Look, String> {
        let config = self.read(&self.config()).map_err(|error| format!("{error:#}"))?;
        let recovering = recover(&storage, config.queue_config(), self.identity(shard));
        let (queue, recovered) =
            block_on(recovering).map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
        Ok(Look { queue, recovered, storage })
    }

    /// Reads the log of a shard from end to end as it is now, as `ringpost queue check` does. To be called
    /// while the server is down. Changes nothing.
    ///
    /// # Errors
    ///
    /// Why it cannot be read.
    pub fn inspect(&self, shard: u16) -> Result<Inspection, String> {
        let storage = self.disk().image(&self.directory(shard), Survival::ProcessOnly);
        let config = self.read(&self.config()).map_err(|error| format!("{error:#}"))?;
        let config = config.queue_config();
        let inspecting = inspect(&storage, &config, self.identity(shard));
        block_on(inspecting).map_err(|error| format!("{:#}", anyhow::Error::new(error)))
    }
}

impl Look {
    /// Ids of all queued messages, in order.
    pub fn ids(&self) -> Vec<MessageId> {
        self.queue.messages_from(MessageId::from_u64(0)).map(|message| message.id).collect()
    }

    /// All queued messages, with envelopes and content.
    ///
    /// # Errors
    ///
    /// Which one cannot be read, and why.
    pub fn messages(&self) -> Result<Vec<QueuedMessage>, String> {
        self.ids().into_iter().map(|id| self.message(id)).collect()
    }

    /// One message.
    ///
    /// # Errors
    ///
    /// Why it cannot be read.
    pub fn message(&self, id: MessageId) -> Result<QueuedMessage, String> {
        let missing = || format!("message {id} is not in the queue");
        let view = self.queue.message(id).ok_or_else(missing)?;
        let plans = self.queue.plan_read(id).ok_or_else(missing)?;
        let mut reader = Reader::new(&self.storage);
        let stored = block_on(reader.message(&plans, view.size))
            .map_err(|error| format!("message {id} cannot be read: {error}"))?
            .map_err(|error| format!("message {id} is damaged: {error}"))?;
        let recipients = view.recipients.iter().map(RecipientEntry::state).collect();
        Ok(QueuedMessage {
            id,
            envelope: stored.envelope,
            content: stored.content.concat(),
            recipients,
        })
    }
}
