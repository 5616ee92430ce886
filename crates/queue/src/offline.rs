//! Working on a queue that no server runs: one thing after the other, on any storage.

use std::io;

use crate::checkpoint::CHECKPOINT_FILES;
use crate::frame::BLOCK_SIZE;
use crate::message::StoredMessage;
use crate::queue::Queue;
use crate::read::{ReadPlan, assemble};
use crate::segment::{SegmentSequence, SegmentTask, run_task};
use crate::storage::Storage;

/// Does all that a queue asks for, until everything appended is durable.
///
/// # Errors
///
/// The first failure of the storage; and after it, for as long as something appended is not durable.
///
/// # Cancel safety
///
/// Not to be dropped before it is done, unless the queue is dropped as well.
pub async fn drain<S: Storage>(queue: &mut Queue, storage: &S) -> io::Result<()> {
    let mut file: Option<(SegmentSequence, S::File)> = None;
    loop {
        if let Some(task) = queue.poll_segment() {
            let done = run_task(storage, &task).await;
            let failed = done.as_ref().err().map(io::Error::kind);
            queue.handle_segment(task, failed.map_or(Ok(()), |kind| Err(kind.into())));
            let born = match task {
                SegmentTask::Create { sequence, .. } => Some(sequence),
                SegmentTask::Recycle { new, .. } => Some(new),
                SegmentTask::Remove { .. } => None,
            };
            if let (Some(opened), Some(sequence)) = (done?, born)
                && file.is_none()
            {
                file = Some((sequence, opened));
            }
            continue;
        }
        let Some(write) = queue.poll_write() else {
            // Nothing more can be done. After an earlier failure that does not mean that all is done.
            let is_done = queue.poison().is_none() && queue.stats().pending_bytes == 0;
            return if is_done { Ok(()) } else { Err(io::Error::other("the queue has failed")) };
        };
        let opened = match file.take().filter(|(sequence, _)| *sequence == write.segment) {
            Some((_, opened)) => opened,
            None => storage.open(&write.segment.file_name()).await?,
        };
        let len = write.bytes.len();
        let (written, bytes) = storage.write(&opened, write.offset, write.bytes).await;
        let failure = match &written {
            Ok(written) if *written == len => None,
            Ok(_) => Some(io::ErrorKind::WriteZero.into()),
            Err(error) => Some(io::Error::new(error.kind(), error.to_string())),
        };
        queue.handle_write(written, bytes);
        if let Some(failure) = failure {
            return Err(failure);
        }
        file = Some((write.segment, opened));
    }
}

/// Reads records back, and keeps the file of the last one open.
#[derive(Debug)]
pub struct Reader<'s, S: Storage> {
    storage: &'s S,
    open: Option<(SegmentSequence, S::File)>,
}

impl<'s, S: Storage> Reader<'s, S> {
    /// A reader of the segments of a storage.
    pub fn new(storage: &'s S) -> Self {
        Self { storage, open: None }
    }

    /// Reads what a plan says; fewer octets only where the file ends.
    ///
    /// # Errors
    ///
    /// That of the storage.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub async fn read(&mut self, plan: &ReadPlan) -> io::Result<Vec<u8>> {
        let file = match &self.open {
            Some((sequence, file)) if *sequence == plan.segment => file.clone(),
            _ => {
                let file = self.storage.open(&plan.segment.file_name()).await?;
                self.open = Some((plan.segment, file.clone()));
                file
            }
        };
        self.storage.read(&file, plan.offset, plan.len).await
    }

    /// Reads a message of `size` octets; `Ok(Err(_))` says what is damaged.
    ///
    /// # Errors
    ///
    /// That of the storage.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub async fn message(
        &mut self,
        plans: &[ReadPlan],
        size: u64,
    ) -> io::Result<Result<StoredMessage, crate::Corruption>> {
        let mut parts = Vec::with_capacity(plans.len());
        for plan in plans {
            parts.push(self.read(plan).await?);
        }
        Ok(assemble(plans, parts, size))
    }
}

/// A storage that is only looked at, and looks as bad as it is: what cannot be read is read as zeros.
///
/// Removing files and syncing names is said to work, and does nothing; all else that would change
/// something fails.
#[derive(Debug, Clone)]
pub struct ReadOnly<'s, S> {
    storage: &'s S,
    has_checkpoints: bool,
}

impl<'s, S: Storage> ReadOnly<'s, S> {
    /// Looks at everything.
    pub fn new(storage: &'s S) -> Self {
        Self { storage, has_checkpoints: true }
    }

    /// Looks away from the checkpoints.
    pub fn without_checkpoints(storage: &'s S) -> Self {
        Self { storage, has_checkpoints: false }
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the queue is only looked at")
}

impl<S: Storage> Storage for ReadOnly<'_, S> {
    type File = S::File;

    async fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = self.storage.list().await?;
        files
            .retain(|(name, _)| self.has_checkpoints || !CHECKPOINT_FILES.contains(&name.as_str()));
        Ok(files)
    }

    async fn create(&self, _: &str, _: u64) -> io::Result<S::File> {
        Err(refused())
    }

    async fn open(&self, name: &str) -> io::Result<S::File> {
        self.storage.open(name).await
    }

    async fn write(&self, _: &S::File, _: u64, bytes: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        (Err(refused()), bytes)
    }

    async fn read(&self, file: &S::File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let whole = self.storage.read(file, offset, len).await;
        if whole.is_ok() {
            return whole;
        }
        // A bad sector: what is around it can still be read.
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            let piece = (BLOCK_SIZE - at % BLOCK_SIZE).min((len - bytes.len()) as u64) as usize;
            match self.storage.read(file, at, piece).await {
                Ok(read) if read.is_empty() => break,
                Ok(read) => bytes.extend_from_slice(&read),
                Err(_) => bytes.resize(bytes.len() + piece, 0),
            }
        }
        Ok(bytes)
    }

    async fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(refused())
    }

    async fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    async fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;
    use ringpost_protocol::envelope::{BodyType, Envelope};
    use ringpost_protocol::path::{ForwardPath, ReversePath};

    use super::*;
    use crate::storage::memory::{Faults, MemoryStorage};
    use crate::{LogIdentity, NewMessage, QueueConfig, Redeemed, ShardId};

    #[test]
    fn after_a_failure_nothing_is_ever_said_to_be_done() {
        let config = QueueConfig {
            segment_size: 64 << 10,
            batch_size_max: 8 << 10,
            chunk_size: 4 << 10,
            ..QueueConfig::default()
        };
        let identity = LogIdentity { log_id: 7, shard: ShardId(0) };
        let envelope = Envelope::new(
            ReversePath::Null,
            vec![ForwardPath::parse("<a@b.test>").unwrap()],
            BodyType::SevenBit,
        );
        let run = |faults: Faults| {
            let storage = MemoryStorage::new();
            storage.set_faults(faults);
            let mut queue = Queue::create(config.clone(), identity).unwrap();
            let id = queue.next_id();
            let message = NewMessage {
                id,
                received_unix_ms: 1,
                expiry_unix_ms: 2,
                due_unix_ms: 1,
                envelope: &envelope,
                content: b"x",
                size: 1,
            };
            let ticket = queue.append_message(message, crate::events::EventRecords::NONE).unwrap();
            let first = block_on(drain(&mut queue, &storage)).is_ok();
            let second = block_on(drain(&mut queue, &storage)).is_ok();
            (first, second, matches!(queue.redeem(ticket), Redeemed::Durable(_)))
        };
        assert_eq!(run(Faults::default()), (true, true, true));
        for number in 1..6 {
            for faults in [
                Faults { fail_write: Some(number), ..Faults::default() },
                Faults { fail_sync: Some(number), ..Faults::default() },
                Faults { short_write: Some((number, 100)), ..Faults::default() },
            ] {
                let (first, second, durable) = run(faults);
                assert!(durable || !(first || second), "{faults:?}");
            }
        }
        assert_eq!(
            run(Faults { capacity: Some(9000), ..Faults::default() }),
            (false, false, false)
        );
    }
}
