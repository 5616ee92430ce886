//! What every runtime promises the drivers, tried on the real kernel.
//!
//! A machine without `io_uring` cannot run these, and cannot run Ringpost either: they fail there.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may be blunt")]

mod contract;

use std::{
    future::Future,
    pin::pin,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use contract::Place;
use futures_lite::future;
use ringpost::runtime::{Containment, Datagram, ExecutorOptions, Runtime};
use ringpost_queue::storage::Storage;

const SOON: Duration = Duration::from_secs(10);

/// All tests for one backend.
macro_rules! test_backend {
    ($backend:ident, $runtime:ty) => {
        mod $backend {
            use super::*;

            /// Runs `test` on an executor of its own and gives back what it returns.
            fn on_executor<T, F>(test: impl FnOnce($runtime) -> F + Send + 'static) -> T
            where
                T: Send + 'static,
                F: Future<Output = T> + 'static,
            {
                let (sender, receiver) = mpsc::channel();
                let options = ExecutorOptions { cpu: None, name: "test".into(), batch: false };
                let executor = ringpost::runtime::$backend::start(&options, |runtime| async move {
                    sender.send(test(runtime).await).unwrap();
                })
                .unwrap();
                let result = receiver.recv_timeout(Duration::from_mins(1)).unwrap();
                executor.join().unwrap();
                result
            }

            /// Keeps one promise on an executor of its own.
            fn keep<F: Future<Output = ()> + 'static>(
                promise: impl FnOnce($runtime, Place) -> F + Send + 'static,
            ) {
                // Not in /tmp, which may be a file system without direct I/O.
                let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
                let place = Place {
                    address: "127.0.0.1".parse().unwrap(),
                    other: "127.0.0.9".parse().unwrap(),
                    directory: directory.path().to_owned(),
                };
                on_executor(move |runtime| promise(runtime, place));
            }

            test_runtime!(keep);

            #[test]
            fn a_panic_ends_its_session_and_nothing_else() {
                let contained = on_executor(|runtime: $runtime| async move {
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
            fn what_another_thread_does_wakes_a_task_at_once() {
                let (ask, asked) = mpsc::channel::<tokio::sync::oneshot::Sender<()>>();
                thread::spawn(move || {
                    for answer in asked {
                        answer.send(()).unwrap();
                    }
                });
                // Woken by the next scan for deadlines instead, each would take a quarter of a second.
                on_executor(move |_: $runtime| async move {
                    for _ in 0..2000 {
                        let (answer, answered) = tokio::sync::oneshot::channel();
                        ask.send(answer).unwrap();
                        answered.await.unwrap();
                    }
                });
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
                let mut ports = on_executor(move |runtime: $runtime| async move {
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
            fn what_was_begun_before_a_turn_is_done_while_the_core_computes() {
                let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
                let path = directory.path().to_owned();
                on_executor(move |runtime: $runtime| async move {
                    let storage = runtime.storage(&path);
                    let file = storage.create("a", 8192).await.unwrap();
                    let mut writing = pin!(storage.write(&file, 0, vec![7; 4096]));
                    let done = future::poll_once(writing.as_mut()).await;
                    assert!(done.is_none(), "nothing waits for the kernel within a poll");
                    runtime.turn().await;
                    // From here on this core does nothing but look, and leaves the library no turn.
                    let deadline = Instant::now() + SOON;
                    while std::fs::read(path.join("a")).unwrap()[0] != 7 {
                        assert!(Instant::now() < deadline, "the write was held back");
                    }
                    assert_eq!(writing.await.0.unwrap(), 4096);
                });
            }
        }
    };
}

test_backend!(glommio, ringpost::runtime::glommio::GlommioRuntime);
test_backend!(uring, ringpost::runtime::uring::UringRuntime);
