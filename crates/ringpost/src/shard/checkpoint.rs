//! Checkpoints of the index beside the mail, so that a restart has little to read.

use std::rc::Rc;

use ringpost_queue::checkpoint::write_piece;

use super::Shard;
use crate::runtime::Runtime;

/// Writes what the queue asks for, one piece at a time, for as long as the process lives.
pub(super) async fn run<R: Runtime>(shard: Rc<Shard<R>>) {
    loop {
        shard.checkpoint_work.wait().await;
        let mut file = None;
        loop {
            let piece = shard.queue.borrow_mut().poll_checkpoint();
            let Some(piece) = piece else { break };
            let began = shard.runtime.now();
            let written = write_piece(&shard.storage, &mut file, piece).await;
            if let Err(error) = &written {
                tracing::warn!(shard = shard.number, %error, "a checkpoint cannot be written");
            }
            shard.queue.borrow_mut().handle_checkpoint(written);
            if !shard.is_draining() {
                // At most half of the disk's time: commits wait for the other half.
                shard.runtime.sleep(shard.runtime.now() - began).await;
            }
        }
    }
}
