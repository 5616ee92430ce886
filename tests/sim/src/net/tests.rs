//! What the network does to connections and datagrams. That its streams keep the promises of a runtime
//! is tried with those of the real one, in `tests/sim/tests/contract.rs`.

use std::{cell::RefCell, rc::Rc};

use futures_lite::Future;
use ringpost::runtime::{Datagram as _, Listener as _, Read, Runtime as _, Stream as _};

use super::*;
use crate::{executor::Group, runtime::SimRuntime, world::World};

const SERVER: &str = "10.0.0.1";
const SOON: Duration = Duration::from_secs(10);

struct Pair {
    world: World,
    server: SimRuntime,
    client: SimRuntime,
}

impl Pair {
    fn new(seed: u64, link: Link) -> Self {
        let world = World::new(seed);
        world.net().set_link(SERVER.parse().unwrap(), link);
        let server = world.host(&[SERVER.parse().unwrap()]);
        let client = world.host(&["10.0.0.2".parse().unwrap()]);
        Self { world, server, client }
    }

    fn address() -> SocketAddr {
        format!("{SERVER}:25").parse().unwrap()
    }

    /// Runs something to its end.
    fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let given = Rc::clone(&result);
        self.world.executor().spawn(Group::WORLD, async move {
            let value = future.await;
            *given.borrow_mut() = Some(value);
        });
        self.world.run_for(Duration::from_hours(1), || result.borrow().is_some());
        result.take().unwrap()
    }

    /// A connection, both ends.
    fn connected(&self) -> (SimStream, SimStream) {
        let (server, client) = (self.server.clone(), self.client.clone());
        self.run(async move {
            let mut listener = server.listen(Self::address()).unwrap();
            let stream = client.connect(Self::address(), None, SOON).await.unwrap();
            (stream, listener.accept().await.unwrap())
        })
    }
}

/// Reads to the end; what came, and whether it ended well.
async fn read_all(stream: &mut SimStream) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let mut block = [0; 700];
    loop {
        match stream.read(&mut block).await {
            Ok(Read::Data(count)) => all.extend_from_slice(&block[..count]),
            Ok(Read::End) => return (all, true),
            Ok(_) => {}
            Err(_) => return (all, false),
        }
    }
}

#[test]
fn octets_arrive_late_in_pieces_and_in_order() {
    let (low, high) = (Duration::from_millis(20), Duration::from_millis(80));
    let link = Link { latency: (low, high), split_percent: 90, ..Link::default() };
    let pair = Pair::new(1, link);
    let (mut client, mut server) = pair.connected();
    let began = pair.world.clock().now();
    let sent: Vec<u8> = (0..20_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = sent.clone();
    let (received, reads) = pair.run(async move {
        for part in sent.chunks(3000) {
            client.write_all(part).await.unwrap();
        }
        drop(client);
        let mut reads = 0;
        let mut all = Vec::new();
        let mut block = [0; 4096];
        while let Read::Data(count) = server.read(&mut block).await.unwrap() {
            all.extend_from_slice(&block[..count]);
            reads += 1;
        }
        (all, reads)
    });
    assert!(received == expected && reads > 20, "{reads}");
    assert!(pair.world.clock().now() - began >= low);
}

#[test]
fn a_writer_waits_for_its_reader() {
    let pair = Pair::new(2, Link { buffer_size: 1000, ..Link::default() });
    let (mut client, mut server) = pair.connected();
    let written = Rc::new(Cell::new(false));
    let done = Rc::clone(&written);
    pair.world.executor().spawn(Group::WORLD, async move {
        client.write_all(&[7; 1500]).await.unwrap();
        done.set(true);
    });
    pair.world.run_for(SOON, || false);
    assert!(!written.get());
    let (all, is_whole) = pair.run(async move { read_all(&mut server).await });
    assert_eq!((all, is_whole, written.get()), (vec![7; 1500], true, true));
}

#[test]
fn who_closes_with_something_unread_resets_and_who_writes_to_nobody_is_reset() {
    let pair = Pair::new(3, Link::default());
    let (mut client, server) = pair.connected();
    let clock = pair.world.clock().clone();
    let (first, second) = pair.run(async move {
        client.write_all(b"unread").await.unwrap();
        clock.sleep(Duration::from_millis(10)).await;
        drop(server);
        clock.sleep(Duration::from_millis(10)).await;
        (client.read(&mut [0; 9]).await, client.write_all(b"more").await)
    });
    assert_eq!(first.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(second.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    let (mut client, server) = pair.connected();
    let clock = pair.world.clock().clone();
    let (end, write, read) = pair.run(async move {
        drop(server);
        let end = client.read(&mut [0; 9]).await.unwrap();
        let write = client.write_all(b"into the void").await;
        clock.sleep(Duration::from_millis(10)).await;
        (end, write, client.read(&mut [0; 9]).await)
    });
    assert_eq!((end, write.is_ok()), (Read::End, true));
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn one_side_may_end_and_still_listen() {
    let pair = Pair::new(4, Link::default());
    let (mut client, mut server) = pair.connected();
    let (question, answer) = pair.run(async move {
        client.write_all(b"question").await.unwrap();
        client.shut_down_write().await.unwrap();
        let (question, _) = read_all(&mut server).await;
        server.write_all(b"answer").await.unwrap();
        drop(server);
        (question, read_all(&mut client).await.0)
    });
    assert_eq!((question, answer), (b"question".to_vec(), b"answer".to_vec()));
}

#[test]
fn the_network_may_reset_a_connection_or_hold_it_up() {
    let pair = Pair::new(5, Link { reset_ppm: 1_000_000, ..Link::default() });
    let (mut client, mut server) = pair.connected();
    let (write, read) =
        pair.run(async move { (client.write_all(b"x").await, server.read(&mut [0; 9]).await) });
    assert!(write.is_err() && read.is_err());
    assert_eq!(pair.world.net().stats().resets, 1);

    let stall = Duration::from_secs(70);
    let pair = Pair::new(6, Link { stall_ppm: 1_000_000, stall, ..Link::default() });
    let (mut client, mut server) = pair.connected();
    pair.run(async move {
        client.write_all(b"x").await.unwrap();
        server.read(&mut [0; 9]).await.unwrap()
    });
    assert!(pair.world.clock().elapsed() >= stall);
}

#[test]
fn nobody_there_refuses_and_who_is_down_says_nothing() {
    let pair = Pair::new(7, Link::default());
    let kind = |client: SimRuntime| async move {
        client.connect(Pair::address(), None, SOON).await.unwrap_err().kind()
    };
    assert_eq!(pair.run(kind(pair.client.clone())), io::ErrorKind::ConnectionRefused);
    let before = pair.world.clock().now();
    pair.world.net().set_down(SERVER.parse().unwrap(), true);
    assert_eq!(pair.run(kind(pair.client.clone())), io::ErrorKind::TimedOut);
    assert!(pair.world.clock().now() - before >= SOON);
}

#[test]
fn a_machine_without_power_says_nothing_until_it_is_back() {
    let pair = Pair::new(8, Link::default());
    let (mut client, server) = pair.connected();
    pair.world.net().cut_power(SERVER.parse().unwrap());
    drop(server);
    let before = pair.world.clock().now();
    let read = pair.run(async move { client.read(&mut [0; 9]).await });
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(pair.world.clock().now() - before >= Duration::from_secs(1));
    assert_eq!(pair.world.net().open_connections(SERVER.parse().unwrap()), 0);
}

/// Sends a hundred datagrams and gives those that arrive.
fn datagrams(link: Link) -> Vec<u8> {
    let pair = Pair::new(9, link);
    let (server, client) = (pair.server.clone(), pair.client.clone());
    let (seen, clock) = (Rc::new(RefCell::new(Vec::new())), pair.world.clock().clone());
    let all = Rc::clone(&seen);
    let socket = server.bind_datagram_at(Pair::address()).unwrap();
    pair.world.executor().spawn(Group::WORLD, async move {
        let mut block = [0; 9];
        while let Ok((1, _)) = socket.receive(&mut block).await {
            all.borrow_mut().push(block[0]);
        }
    });
    pair.run(async move {
        let socket = client.bind_datagram(Pair::address()).unwrap();
        for number in 0..100 {
            socket.send_to(&[number], Pair::address()).await.unwrap();
            clock.sleep(Duration::from_millis(1)).await;
        }
        clock.sleep(SOON).await;
    });
    seen.take()
}

#[test]
fn datagrams_are_lost_doubled_or_overtaken_as_asked() {
    let whole: Vec<u8> = (0..100).collect();
    assert_eq!(datagrams(Link::default()), whole);
    let lost = datagrams(Link { loss_percent: 30, ..Link::default() });
    assert!((50..90).contains(&lost.len()), "{}", lost.len());
    let doubled = datagrams(Link { duplicate_percent: 50, ..Link::default() });
    assert!((120..180).contains(&doubled.len()), "{}", doubled.len());
    let stall = Duration::from_secs(1);
    let mut late = datagrams(Link { late_percent: 30, stall, ..Link::default() });
    assert_ne!(late, whole);
    late.sort_unstable();
    assert_eq!(late, whole);
}
