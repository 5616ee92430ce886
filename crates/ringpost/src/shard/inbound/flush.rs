//! ETRN: what a client has tried now.

use ringpost_delivery::FlushScope;
use ringpost_protocol::etrn::Node;
use ringpost_session::server::FlushOutcome;

use super::Inbound;
use crate::runtime::Runtime;

impl<R: Runtime> Inbound<R> {
    /// Has all shards try what the session has asked for, and tells it.
    pub(super) async fn flush_queue(&mut self) {
        let scope = match self.session.flush_node() {
            Some(Node::Host(host)) => FlushScope::Host(host.clone()),
            Some(Node::Subdomains(domain)) => FlushScope::Subdomains(domain.clone()),
            // The session lets no others pass.
            _ => {
                return self
                    .session
                    .handle_flush(self.shard.runtime.now(), FlushOutcome::Unavailable);
            }
        };
        let outcome = self.shard.flush_everywhere(&scope).await;
        let client = self.session.peer().ip;
        let listener = self.listener.name();
        tracing::info!(%client, listener, ?scope, ?outcome, "a client has mail tried now");
        self.listener.metrics().flushes.increment(1);
        self.session.handle_flush(self.shard.runtime.now(), outcome);
    }
}
