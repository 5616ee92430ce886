//! What operators ask of a shard, answered at its tick.

use std::rc::Rc;

use super::Shard;
use crate::{
    control::{AdminRequest, admin::ShardQueue},
    runtime::{Containment, Runtime},
};

impl<R: Runtime> Shard<R> {
    /// Answers a request. Who asked may have gone, and then nobody hears it.
    pub(super) fn answer(self: &Rc<Self>, request: AdminRequest) {
        match request {
            AdminRequest::Summary(reply) => drop(reply.send(self.summary())),
            AdminRequest::Purge(request) => {
                self.runtime.spawn(Containment::Process, Rc::clone(self).purge(request));
            }
            AdminRequest::Flush(request) => {
                self.runtime.spawn(Containment::Process, Rc::clone(self).flush(request));
            }
        }
    }

    fn summary(&self) -> ShardQueue {
        let queue = self.queue.borrow();
        let stats = queue.stats();
        ShardQueue {
            messages: stats.messages,
            recipients: stats.recipients,
            segments: stats.segments,
            bytes: stats.disk_bytes,
            bytes_max: queue.config().disk_size_max,
            live_bytes: stats.live_bytes,
        }
    }
}
