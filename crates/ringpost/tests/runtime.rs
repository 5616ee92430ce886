//! What every runtime backend promises the drivers, tried on the real kernel.
//!
//! A machine without `io_uring` cannot run these, and cannot run Ringpost either: they fail there.

#![expect(clippy::unwrap_used, reason = "a test may be blunt")]

use std::{
    future::Future,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    pin::pin,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use futures_lite::future;
use ringpost::runtime::{
    Containment, Datagram, Listener, Read, Runtime, Stream,
    glommio::{ExecutorOptions, GlommioRuntime, start},
};
use ringpost_queue::storage::Storage;

/// Runs `test` on an executor of its own and gives back what it returns.
fn on_executor<T, F>(test: impl FnOnce(GlommioRuntime) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let (sender, receiver) = mpsc::channel();
    let options = ExecutorOptions { cpu: None, name: "test".into(), batch: false };
    let executor = start(&options, |runtime| async move {
        sender.send(test(runtime).await).unwrap();
    })
    .unwrap();
    let result = receiver.recv_timeout(Duration::from_mins(1)).unwrap();
    executor.join().unwrap();
    result
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A peer in the standard library: accepts one connection and hands it to `serve`.
fn peer(serve: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(any_port()).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || serve(listener.accept().unwrap().0));
    address
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_panic_ends_its_session_and_nothing_else() {
    let contained = on_executor(|runtime| async move {
        runtime.spawn(Containment::Session, async { panic!("a bug in a session") });
        while runtime.panics_contained() == 0 {
            runtime.sleep(Duration::from_millis(1)).await;
        }
        // The executor still runs other tasks.
        let (sender, receiver) = mpsc::channel();
        runtime.spawn(Containment::Session, async move { sender.send(()).unwrap() });
        while receiver.try_recv().is_err() {
            runtime.sleep(Duration::from_millis(1)).await;
        }
        runtime.panics_contained()
    });
    assert_eq!(contained, 1);
}

#[test]
fn a_read_ends_by_data_by_the_end_or_by_its_deadline() {
    let (go, gone) = mpsc::channel::<()>();
    let address = peer(move |mut stream| {
        stream.write_all(b"hello").unwrap();
        // Silent until the other side has seen its deadline pass.
        gone.recv().unwrap();
    });
    let reads = on_executor(move |runtime| async move {
        let mut stream = runtime.connect(address, None, SOON).await.unwrap();
        let mut block = [0; 64];
        let first = stream.read(&mut block).await.unwrap();
        stream.watch().set_deadline(Some(runtime.now()));
        let second = stream.read(&mut block).await.unwrap();
        stream.watch().set_deadline(None);
        go.send(()).unwrap();
        (first, second, stream.read(&mut block).await.unwrap())
    });
    assert_eq!(reads, (Read::Data(5), Read::TimedOut, Read::End));
}

#[test]
fn a_notification_interrupts_a_read_that_waits() {
    let (go, gone) = mpsc::channel::<()>();
    let address = peer(move |_stream| gone.recv().unwrap());
    let read = on_executor(move |runtime| async move {
        let mut stream = runtime.connect(address, None, SOON).await.unwrap();
        let watch = std::rc::Rc::clone(stream.watch());
        let later = runtime.clone();
        runtime.spawn(Containment::Session, async move {
            later.sleep(Duration::from_millis(5)).await;
            watch.notify();
        });
        let read = stream.read(&mut [0; 64]).await.unwrap();
        go.send(()).unwrap();
        read
    });
    assert_eq!(read, Read::Notified);
}

#[test]
fn a_write_that_nobody_reads_ends_at_its_deadline() {
    let (go, gone) = mpsc::channel::<()>();
    let address = peer(move |_stream| gone.recv().unwrap());
    let error = on_executor(move |runtime| async move {
        let mut stream = runtime.connect(address, None, SOON).await.unwrap();
        stream.watch().set_deadline(Some(runtime.now() + Duration::from_millis(100)));
        let block = vec![b'x'; 1 << 20];
        let error = loop {
            if let Err(error) = stream.write_all(&block).await {
                break error.kind();
            }
        };
        go.send(()).unwrap();
        error
    });
    assert_eq!(error, ErrorKind::TimedOut);
}

#[test]
fn parts_are_written_in_order_and_whole() {
    let (sent, received) = mpsc::channel();
    let address = peer(move |mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        sent.send(bytes).unwrap();
    });
    let first: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    let expected = [&first[..], b"", b"\r\n.\r\n"].concat();
    on_executor(move |runtime| async move {
        let mut stream = runtime.connect(address, None, SOON).await.unwrap();
        let mut parts = [&first[..], b"", b"\r\n.\r\n"].map(std::io::IoSlice::new);
        stream.write_all_vectored(&mut parts).await.unwrap();
        stream.shut_down_write().await.unwrap();
    });
    assert!(received.recv_timeout(SOON).unwrap() == expected);
}

#[test]
fn a_port_without_a_listener_refuses() {
    // Reserved and given back: nobody listens there.
    let address = TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
    let error = on_executor(move |runtime| async move {
        runtime.connect(address, None, SOON).await.err().map(|error| error.kind())
    });
    assert_eq!(error, Some(ErrorKind::ConnectionRefused));
}

#[test]
fn a_connection_comes_from_the_address_it_is_told_to() {
    let (sent, received) = mpsc::channel();
    let address = peer(move |stream| sent.send(stream.peer_addr().unwrap().ip()).unwrap());
    on_executor(move |runtime| async move {
        let source = Some("127.0.0.9".parse().unwrap());
        drop(runtime.connect(address, source, SOON).await.unwrap());
    });
    assert_eq!(received.recv_timeout(SOON).unwrap().to_string(), "127.0.0.9");
}

#[test]
fn cores_share_an_address_and_each_gets_connections() {
    let accepted = on_executor(|runtime| async move {
        let mut first = runtime.listen(any_port()).unwrap();
        let address = first.local_address().unwrap();
        let mut second = runtime.listen(address).unwrap();
        let clients = thread::spawn(move || {
            (0..64).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>()
        });
        let counts = std::rc::Rc::new(std::cell::Cell::new((0, 0)));
        let of_second = std::rc::Rc::clone(&counts);
        runtime.spawn(Containment::Session, async move {
            loop {
                drop(second.accept().await.unwrap());
                of_second.set((of_second.get().0, of_second.get().1 + 1));
            }
        });
        let of_first = std::rc::Rc::clone(&counts);
        runtime.spawn(Containment::Session, async move {
            loop {
                drop(first.accept().await.unwrap());
                of_first.set((of_first.get().0 + 1, of_first.get().1));
            }
        });
        while counts.get().0 + counts.get().1 < 64 {
            runtime.sleep(Duration::from_millis(1)).await;
        }
        drop(clients.join().unwrap());
        counts.get()
    });
    assert!(accepted.0 > 0 && accepted.1 > 0, "{accepted:?}");
}

#[test]
fn a_closed_listener_wakes_its_accept_and_leaves_the_address_to_the_others() {
    let accepted = on_executor(|runtime| async move {
        let mut first = runtime.listen(any_port()).unwrap();
        let address = first.local_address().unwrap();
        let mut second = runtime.listen(address).unwrap();
        let closer = first.closer();
        let ended = std::rc::Rc::new(std::cell::Cell::new(0));
        let failures = std::rc::Rc::clone(&ended);
        runtime.spawn(Containment::Session, async move {
            // The one that waits, and one that is made afterwards.
            for _ in 0..2 {
                first.accept().await.unwrap_err();
                failures.set(failures.get() + 1);
            }
        });
        // The accept has begun to wait.
        runtime.sleep(Duration::from_millis(20)).await;
        assert_eq!(ended.get(), 0);
        closer.close();
        while ended.get() < 2 {
            runtime.sleep(Duration::from_millis(1)).await;
        }
        let clients = thread::spawn(move || {
            (0..64).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>()
        });
        for _ in 0..64 {
            drop(second.accept().await.unwrap());
        }
        clients.join().unwrap().len()
    });
    assert_eq!(accepted, 64);
}

#[test]
fn datagrams_come_back_and_no_two_sockets_share_a_port() {
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || {
        let mut block = [0; 64];
        for _ in 0..64 {
            let (len, from) = server.recv_from(&mut block).unwrap();
            server.send_to(&block[..len], from).unwrap();
            // The port that it came from, for the other side to compare.
            server.send_to(&from.port().to_be_bytes(), from).unwrap();
        }
    });
    let mut ports = on_executor(move |runtime| async move {
        let mut ports = Vec::new();
        let mut sockets = Vec::new();
        for n in 0..64_u8 {
            let socket = runtime.bind_datagram(address).unwrap();
            socket.send_to(&[n], address).await.unwrap();
            let mut block = [0; 64];
            assert_eq!(socket.receive(&mut block).await.unwrap(), (1, address));
            assert_eq!(block[0], n);
            socket.receive(&mut block).await.unwrap();
            ports.push(u16::from_be_bytes([block[0], block[1]]));
            sockets.push(socket);
        }
        ports
    });
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 64);
}

#[test]
fn files_are_zeroed_written_read_renamed_and_removed() {
    // Not in /tmp, which may be a file system without direct I/O.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().to_owned();
    on_executor(move |runtime| async move {
        let storage = runtime.storage(&path);
        let file = storage.create("a", 1 << 20).await.unwrap();
        let again = storage.create("a", 1 << 20).await;
        assert_eq!(again.err().unwrap().kind(), ErrorKind::AlreadyExists);
        let block: Vec<u8> = (0..8192_u32).map(|n| n as u8).collect();
        let (written, buffer) = storage.write(&file, 4096, block.clone()).await;
        assert_eq!((written.unwrap(), &buffer), (8192, &block));
        // Reads need not be aligned; what was not written is zero.
        let read = storage.read(&file, 4000, 200).await.unwrap();
        assert_eq!(read, [&[0; 96][..], &block[..104]].concat());
        assert_eq!(storage.read(&file, (1 << 20) - 10, 100).await.unwrap(), [0; 10]);
        assert_eq!(storage.list().await.unwrap(), [("a".to_owned(), 1 << 20)]);
        storage.rename("a", "b").await.unwrap();
        storage.sync_directory().await.unwrap();
        let file = storage.open("b").await.unwrap();
        assert_eq!(storage.read(&file, 4096, 8192).await.unwrap(), block);
        assert_eq!(storage.open("a").await.err().unwrap().kind(), ErrorKind::NotFound);
        storage.remove("b").await.unwrap();
        assert!(storage.list().await.unwrap().is_empty());
    });
}

#[test]
fn what_was_begun_before_a_flush_is_done_while_the_core_computes() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().to_owned();
    on_executor(move |runtime| async move {
        let storage = runtime.storage(&path);
        let file = storage.create("a", 8192).await.unwrap();
        let mut writing = pin!(storage.write(&file, 0, vec![7; 4096]));
        let done = future::poll_once(writing.as_mut()).await;
        assert!(done.is_none(), "nothing waits for the kernel within a poll");
        runtime.flush().await;
        // From here on this core does nothing but look, and leaves the library no turn.
        let deadline = Instant::now() + SOON;
        while std::fs::read(path.join("a")).unwrap()[0] != 7 {
            assert!(Instant::now() < deadline, "the write was held back");
        }
        assert_eq!(writing.await.0.unwrap(), 4096);
    });
}
