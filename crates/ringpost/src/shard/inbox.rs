//! What the rest of the process tells a shard, which looks at it at its tick.
//!
//! Orders of the process, to stop and to decide by another configuration, always arrive: they have a place
//! of their own, in which a later one replaces an earlier one. Requests, which clients and operators can
//! cause at any rate, wait in a queue with an end, and are refused when that is full.

use std::{
    fmt, mem,
    sync::{Arc, Mutex, PoisonError},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use thiserror::Error;

use crate::{config::ConfigSnapshot, control::AdminRequest};

/// Requests that may wait for a shard's next tick.
const REQUESTS_MAX: usize = 64;

/// What a shard is ordered to do.
#[derive(Debug, Clone, Default)]
#[expect(clippy::exhaustive_structs, reason = "what there is to order")]
pub struct ShardOrders {
    /// To decide by this configuration from now on.
    pub reload: Option<Arc<ConfigSnapshot>>,
    /// To take nothing new, finish what is begun, and end.
    pub stop: bool,
}

/// Why a request does not reach a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestRefusal {
    /// So many of them wait for it that nobody knows when it looks at them.
    #[error("it has too many requests to see to, and has not taken this one")]
    Full,
    /// It has ended.
    #[error("it has ended")]
    Ended,
}

/// How a shard is told something, from any thread. Clones lead to the same shard.
#[derive(Clone)]
pub struct ShardHandle {
    orders: Arc<Mutex<ShardOrders>>,
    requests: Sender<AdminRequest>,
}

/// Where a shard finds what it is told.
pub struct ShardInbox {
    orders: Arc<Mutex<ShardOrders>>,
    requests: Receiver<AdminRequest>,
}

/// Makes an inbox, and what leads to it.
pub fn shard_inbox() -> (ShardHandle, ShardInbox) {
    let orders = Arc::<Mutex<ShardOrders>>::default();
    let (sender, requests) = bounded(REQUESTS_MAX);
    (ShardHandle { orders: Arc::clone(&orders), requests: sender }, ShardInbox { orders, requests })
}

impl ShardHandle {
    /// Has the shard decide by another configuration. One that it has not looked at yet is forgotten.
    pub fn reload(&self, config: Arc<ConfigSnapshot>) {
        self.order(|orders| orders.reload = Some(config));
    }

    /// Has the shard stop.
    pub fn stop(&self) {
        self.order(|orders| orders.stop = true);
    }

    fn order(&self, change: impl FnOnce(&mut ShardOrders)) {
        change(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Asks the shard something. Who asks learns from the end of its channel for the answer, too, that the
    /// shard has ended.
    ///
    /// # Errors
    ///
    /// The request is dropped: 64 of them wait already, or there is no shard any more.
    pub fn ask(&self, request: AdminRequest) -> Result<(), RequestRefusal> {
        self.requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => RequestRefusal::Full,
            TrySendError::Disconnected(_) => RequestRefusal::Ended,
        })
    }
}

impl ShardInbox {
    /// Takes what has been ordered since this was called last.
    pub fn take_orders(&self) -> ShardOrders {
        mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the next request, if one waits.
    pub fn poll_request(&self) -> Option<AdminRequest> {
        self.requests.try_recv().ok()
    }

    /// Waits for the next request; `None` when nobody can ask any more.
    pub fn wait_for_request(&self) -> Option<AdminRequest> {
        self.requests.recv().ok()
    }
}

impl fmt::Debug for ShardHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardHandle")
            .field("requests", &self.requests.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ShardInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardInbox").field("requests", &self.requests.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::config::{SystemFacts, parse};

    fn request() -> AdminRequest {
        AdminRequest::Summary(oneshot::channel().0)
    }

    fn config() -> Arc<ConfigSnapshot> {
        let facts = SystemFacts {
            hostname: "mail.example.org".into(),
            cores: vec![0],
            name_servers: vec!["192.0.2.53:53".parse().unwrap()],
            memory: None,
        };
        Arc::new(parse("[listener.main]\naddresses = [\"127.0.0.1:25\"]\n", &facts).unwrap())
    }

    #[test]
    fn orders_arrive_however_many_requests_wait() {
        let (handle, inbox) = shard_inbox();
        for _ in 0..REQUESTS_MAX {
            handle.ask(request()).unwrap();
        }
        assert_eq!(handle.ask(request()), Err(RequestRefusal::Full));
        let (first, last) = (config(), config());
        handle.reload(first);
        handle.clone().reload(Arc::clone(&last));
        handle.stop();
        let orders = inbox.take_orders();
        assert!(orders.stop && orders.reload.is_some_and(|config| Arc::ptr_eq(&config, &last)));
        let orders = inbox.take_orders();
        assert!(!orders.stop && orders.reload.is_none(), "each is given once");
        // The end of the queue is no end of the requests.
        for _ in 0..REQUESTS_MAX {
            assert!(inbox.poll_request().is_some());
        }
        assert!(inbox.poll_request().is_none());
        handle.ask(request()).unwrap();
        drop(inbox);
        assert_eq!(handle.ask(request()), Err(RequestRefusal::Ended));
        handle.stop();
    }
}
