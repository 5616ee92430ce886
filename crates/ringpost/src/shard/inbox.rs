//! What the rest of the process tells a shard, which looks at it at its tick.
//!
//! What shards say to each other about limits always arrives, too: a newer message about a limit replaces an
//! older one that was not read, so there is no more of it than there are limits.
//!
//! Orders of the process, to stop and to decide by another configuration, always arrive: they have a place
//! of their own, in which a later one replaces an earlier one. Requests, which clients and operators can
//! cause at any rate, wait in a queue with an end, and are refused when that is full.

use std::{
    collections::BTreeMap,
    fmt, mem,
    sync::{Arc, Mutex, PoisonError},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ringpost_delivery::{LeaseMessage, LimitKey, ShardNumber};
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

/// What shards have said about limits, by sender and topic.
type LeaseMail = BTreeMap<(ShardNumber, (bool, LimitKey)), LeaseMessage>;

/// How a shard is told something, from any thread. Clones lead to the same shard.
#[derive(Clone)]
pub struct ShardHandle {
    orders: Arc<Mutex<ShardOrders>>,
    requests: Sender<AdminRequest>,
    leases: Arc<Mutex<LeaseMail>>,
}

/// Where a shard finds what it is told.
pub struct ShardInbox {
    orders: Arc<Mutex<ShardOrders>>,
    requests: Receiver<AdminRequest>,
    leases: Arc<Mutex<LeaseMail>>,
}

/// Makes an inbox, and what leads to it.
pub fn shard_inbox() -> (ShardHandle, ShardInbox) {
    let orders = Arc::<Mutex<ShardOrders>>::default();
    let leases = Arc::<Mutex<LeaseMail>>::default();
    let (sender, requests) = bounded(REQUESTS_MAX);
    let handle =
        ShardHandle { orders: Arc::clone(&orders), requests: sender, leases: Arc::clone(&leases) };
    (handle, ShardInbox { orders, requests, leases })
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

    /// Tells the shard what another one says about a limit, in place of what that one has said about it before.
    pub fn tell(&self, from: ShardNumber, message: LeaseMessage) {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.insert((from, message.topic()), message);
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

    /// Takes what other shards have said about limits since this was called last, and who has said it.
    pub fn take_lease_messages(&self) -> impl Iterator<Item = (ShardNumber, LeaseMessage)> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut *leases).into_iter().map(|((from, _), message)| (from, message))
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
    use ringpost_delivery::{SlotDemand, SlotGrant};
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
    fn what_is_said_about_a_limit_replaces_what_the_same_shard_said_before() {
        let (handle, inbox) = shard_inbox();
        let demand = |key: &str, wanted| {
            LeaseMessage::Demand(SlotDemand {
                key: LimitKey::site(key),
                epoch: 1,
                wanted,
                wished: wanted,
                returned: 0,
                is_last: false,
            })
        };
        let grant = |granted| {
            LeaseMessage::Grant(SlotGrant {
                key: LimitKey::site("a"),
                epoch: 1,
                granted,
                keep: u32::MAX,
                is_pressed: false,
            })
        };
        for wanted in 1..1000 {
            handle.tell(1, demand("a", wanted));
            handle.tell(1, demand("b", wanted));
            handle.tell(2, demand("a", wanted));
            handle.tell(1, grant(wanted));
        }
        let taken: Vec<_> = inbox.take_lease_messages().collect();
        let last =
            [(1, demand("a", 999)), (1, demand("b", 999)), (1, grant(999)), (2, demand("a", 999))];
        assert_eq!(taken, last);
        assert_eq!(inbox.take_lease_messages().count(), 0, "each is given once");
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
