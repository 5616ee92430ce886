//! Listeners: several may share an address, and each call goes to one of them.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::Rc,
    task::{Poll, Waker},
};

use ringpost::runtime::{Closer, Listener, Watch};

use super::{
    Inner,
    stream::{Connection, SimStream},
};

/// Connections that wait to be accepted; more are refused.
const WAITING_MAX: usize = 4096;

/// Makes the watch of an accepted stream.
type MakeWatch = Box<dyn Fn() -> Rc<Watch>>;

/// What has been connected to a listener.
pub(super) struct Backlog {
    waiting: RefCell<VecDeque<(u64, SimStream)>>,
    accepter: RefCell<Option<Waker>>,
    is_closed: Cell<bool>,
    make_watch: MakeWatch,
}

/// A bound socket that yields connections.
pub struct SimListener {
    net: Rc<Inner>,
    address: SocketAddr,
    backlog: Rc<Backlog>,
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimListener").field("address", &self.address).finish_non_exhaustive()
    }
}

impl SimListener {
    pub(super) fn bind(net: &Rc<Inner>, mut address: SocketAddr, make_watch: MakeWatch) -> Self {
        if address.port() == 0 {
            address.set_port(net.next_port());
        }
        let backlog = Rc::new(Backlog {
            waiting: RefCell::default(),
            accepter: RefCell::default(),
            is_closed: Cell::new(false),
            make_watch,
        });
        net.listeners.borrow_mut().entry(address).or_default().push(Rc::clone(&backlog));
        Self { net: Rc::clone(net), address, backlog }
    }
}

impl Listener for SimListener {
    type Stream = SimStream;

    async fn accept(&mut self) -> io::Result<SimStream> {
        poll_fn(|context| {
            if self.backlog.is_closed.get() {
                return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
            }
            let mut waiting = self.backlog.waiting.borrow_mut();
            let now = self.net.clock.nanos();
            let next = waiting.front().map(|(arrives, _)| *arrives);
            if next.is_some_and(|arrives| arrives <= now)
                && let Some((_, stream)) = waiting.pop_front()
            {
                return Poll::Ready(Ok(stream));
            }
            drop(waiting);
            *self.backlog.accepter.borrow_mut() = Some(context.waker().clone());
            if let Some(next) = next {
                self.net.clock.wake_at(next, context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn closer(&self) -> Closer {
        let (net, address, backlog) =
            (Rc::clone(&self.net), self.address, Rc::clone(&self.backlog));
        Closer::new(move || close(&net, address, &backlog))
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        close(&self.net, self.address, &self.backlog);
    }
}

fn close(net: &Inner, address: SocketAddr, backlog: &Rc<Backlog>) {
    backlog.is_closed.set(true);
    let mut listeners = net.listeners.borrow_mut();
    if let Some(others) = listeners.get_mut(&address) {
        others.retain(|other| !Rc::ptr_eq(other, backlog));
        if others.is_empty() {
            listeners.remove(&address);
        }
    }
    drop(listeners);
    // What was not handed out is reset.
    for (_, stream) in backlog.waiting.take() {
        stream.reset();
    }
    if let Some(accepter) = backlog.accepter.take() {
        accepter.wake();
    }
}

/// One of those that listen at an address; `None` if nobody does, or it can take no more.
pub(super) fn draw(net: &Inner, address: SocketAddr) -> Option<Rc<Backlog>> {
    let listeners = net.listeners.borrow();
    let listening = listeners.get(&address)?;
    let backlog = listening.get(net.draw(|random| random.index(listening.len())))?;
    (backlog.waiting.borrow().len() < WAITING_MAX).then(|| Rc::clone(backlog))
}

impl Backlog {
    /// Puts the called side of a connection in line, to arrive at a time.
    pub(super) fn put(&self, net: &Rc<Inner>, connection: &Rc<Connection>, arrives: u64) {
        let stream = SimStream::called(net, connection, (self.make_watch)());
        let mut waiting = self.waiting.borrow_mut();
        let at = waiting.partition_point(|(other, _)| *other <= arrives);
        waiting.insert(at, (arrives, stream));
        drop(waiting);
        if let Some(accepter) = self.accepter.borrow().clone() {
            net.clock.wake_at(arrives, accepter);
        }
    }
}
