//! Datagrams: lost, late, twice, or as they should be.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    task::{Poll, Waker},
};

use ringpost::runtime::Datagram;

use super::{Inner, nanos};

/// Datagrams that wait for a reader; more are lost, as in a socket's buffer.
const WAITING_MAX: usize = 256;

/// What has been sent to an address.
#[derive(Default)]
pub(super) struct Mailbox {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// When it arrives, from whom, and what. In the order of arrival.
    waiting: VecDeque<(u64, SocketAddr, Rc<[u8]>)>,
    reader: Option<Waker>,
}

/// A socket for datagrams.
pub struct SimDatagram {
    net: Rc<Inner>,
    address: SocketAddr,
    mailbox: Rc<Mailbox>,
}

impl fmt::Debug for SimDatagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDatagram").field("address", &self.address).finish_non_exhaustive()
    }
}

impl SimDatagram {
    pub(super) fn bind(net: &Rc<Inner>, ip: IpAddr, port: Option<u16>) -> io::Result<Self> {
        let mailbox = Rc::<Mailbox>::default();
        let mut mailboxes = net.mailboxes.borrow_mut();
        let address = loop {
            let address = SocketAddr::new(ip, port.unwrap_or_else(|| net.next_port()));
            if !mailboxes.contains_key(&address) {
                break address;
            }
            if port.is_some() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
        };
        mailboxes.insert(address, Rc::clone(&mailbox));
        drop(mailboxes);
        Ok(Self { net: Rc::clone(net), address, mailbox })
    }

    /// The address that it is bound to.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SimDatagram {
    fn drop(&mut self) {
        let mut mailboxes = self.net.mailboxes.borrow_mut();
        // After a power cut another may have the address already.
        if mailboxes.get(&self.address).is_some_and(|at| Rc::ptr_eq(at, &self.mailbox)) {
            mailboxes.remove(&self.address);
        }
    }
}

impl Datagram for SimDatagram {
    async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        let net = &self.net;
        net.count(|stats| stats.datagrams += 1);
        net.trace.note_octets(bytes);
        let link = net.link(to.ip(), self.address.ip());
        let mailbox = net.mailboxes.borrow().get(&to).map(Rc::clone);
        let is_lost = net.draw(|random| random.percent(link.loss_percent));
        let Some(mailbox) = mailbox.filter(|_| !is_lost && !net.is_down(to.ip())) else {
            net.count(|stats| stats.datagrams_lost += 1);
            return Ok(());
        };
        let copies = if net.draw(|random| random.percent(link.duplicate_percent)) { 2 } else { 1 };
        let bytes: Rc<[u8]> = bytes.into();
        for _ in 0..copies {
            let mut arrives = net.clock.nanos() + net.latency(&link);
            if net.draw(|random| random.percent(link.late_percent)) {
                arrives += net.draw(|random| random.below(nanos(link.stall).max(1)));
            }
            mailbox.deliver(net, arrives, self.address, Rc::clone(&bytes));
        }
        Ok(())
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        poll_fn(|context| {
            let now = self.net.clock.nanos();
            let mut state = self.mailbox.state.borrow_mut();
            match state.waiting.front() {
                Some((arrives, ..)) if *arrives <= now => {}
                first => {
                    let next = first.map(|(arrives, ..)| *arrives);
                    state.reader = Some(context.waker().clone());
                    drop(state);
                    if let Some(next) = next {
                        self.net.clock.wake_at(next, context.waker().clone());
                    }
                    return Poll::Pending;
                }
            }
            let Some((_, from, bytes)) = state.waiting.pop_front() else { return Poll::Pending };
            let len = bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&bytes[..len]);
            Poll::Ready(Ok((len, from)))
        })
        .await
    }
}

impl Mailbox {
    fn deliver(&self, net: &Inner, arrives: u64, from: SocketAddr, bytes: Rc<[u8]>) {
        let mut state = self.state.borrow_mut();
        if state.waiting.len() >= WAITING_MAX {
            return net.count(|stats| stats.datagrams_lost += 1);
        }
        let at = state.waiting.partition_point(|(other, ..)| *other <= arrives);
        state.waiting.insert(at, (arrives, from, bytes));
        let reader = state.reader.clone();
        drop(state);
        if let Some(reader) = reader {
            net.clock.wake_at(arrives, reader);
        }
    }
}
