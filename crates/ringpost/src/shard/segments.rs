//! Log segments beside the mail: made ahead of need, recycled, and emptied when they pin the log.

use std::{io, rc::Rc};

use ringpost_queue::{
    ReadPlan,
    segment::{SegmentTask, run_task},
    storage::Storage,
};

use super::Shard;
use crate::runtime::Runtime;

/// Does what the queue asks for, one thing at a time, for as long as the process lives.
pub(super) async fn run<R: Runtime>(shard: Rc<Shard<R>>) {
    loop {
        shard.segment_work.wait().await;
        loop {
            let task = shard.queue.borrow_mut().poll_segment();
            if let Some(task) = task {
                shard.run_segment_task(task).await;
                shard.segment_done.set();
                continue;
            }
            if shard.with_queue_lazily(ringpost_queue::Queue::remove_purged) {
                shard.runtime.turn().await;
                continue;
            }
            let plan = shard.queue.borrow_mut().poll_rewrite();
            let Some(plan) = plan else { break };
            shard.rewrite(plan).await;
        }
    }
}

impl<R: Runtime> Shard<R> {
    async fn run_segment_task(&self, task: SegmentTask) {
        if let SegmentTask::Recycle { old, .. } | SegmentTask::Remove { sequence: old } = task {
            self.segments.borrow_mut().remove(&old);
        }
        let result = match run_task(&self.storage, &task).await {
            Ok(file) => {
                if let (
                    Some(file),
                    SegmentTask::Create { sequence: new, .. } | SegmentTask::Recycle { new, .. },
                ) = (file, task)
                {
                    self.segments.borrow_mut().insert(new, file);
                }
                Ok(())
            }
            Err(error) => {
                tracing::error!(shard = self.number, ?task, %error, "cannot prepare a log segment");
                Err(error)
            }
        };
        let given_up = self.with_queue(|queue| {
            queue.handle_segment(task, result);
            queue.stats().event_records_given_up_total
        });
        self.tell_given_up(given_up);
    }

    async fn rewrite(&self, plan: ReadPlan) {
        let read = self.read(&plan).await;
        let rewritten = self.with_queue(|queue| queue.handle_rewrite(&plan, read));
        if let Err(error) = rewritten {
            tracing::error!(shard = self.number, %error, "a stored message is damaged");
        }
    }

    /// Reads one record of the log.
    pub(super) async fn read(&self, plan: &ReadPlan) -> io::Result<Vec<u8>> {
        let known = self.segments.borrow().get(&plan.segment).cloned();
        let file = if let Some(file) = known {
            file
        } else {
            let file = self.storage.open(&plan.segment.file_name()).await?;
            // Kept only while the log still has the segment under this number.
            if self.queue.borrow().is_current(plan) {
                self.segments.borrow_mut().insert(plan.segment, file.clone());
            }
            file
        };
        self.storage.read(&file, plan.offset, plan.len).await
    }
}
