//! What every runtime promises the drivers, whatever is below it: the real kernel, or a simulated one.
//!
//! Each function is a test over one runtime that plays both ends.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io::{ErrorKind, IoSlice},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use ringpost::runtime::{Containment, Listener, Read, Runtime, Stream};
use ringpost_queue::storage::Storage;

const SOON: Duration = Duration::from_secs(10);

/// Where a runtime is tried.
pub(crate) struct Place {
    /// An address of the host.
    pub(crate) address: IpAddr,
    /// Another one.
    pub(crate) other: IpAddr,
    /// A directory.
    pub(crate) directory: PathBuf,
}

impl Place {
    fn any_port(&self) -> SocketAddr {
        SocketAddr::new(self.address, 0)
    }
}

/// Runs `other` beside `this`, until `this` has ended.
fn beside<R: Runtime>(runtime: &R, other: impl Future<Output = ()> + 'static) {
    runtime.spawn(Containment::Session, other);
}

/// A connection, both ends.
async fn connected<R: Runtime>(runtime: &R, place: &Place) -> (R::Stream, R::Stream) {
    let mut listener = runtime.listen(place.any_port()).unwrap();
    let address = listener.local_address().unwrap();
    let accepted = Rc::new(RefCell::new(None));
    let given = Rc::clone(&accepted);
    beside(runtime, async move {
        let stream = listener.accept().await.unwrap();
        *given.borrow_mut() = Some(stream);
    });
    let ours = runtime.connect(address, None, SOON).await.unwrap();
    until(runtime, || accepted.borrow().is_some()).await;
    let theirs = accepted.take().unwrap();
    (ours, theirs)
}

async fn until<R: Runtime>(runtime: &R, mut is_so: impl FnMut() -> bool) {
    let deadline = runtime.now() + Duration::from_mins(1);
    while !is_so() {
        assert!(runtime.now() < deadline, "it does not come");
        runtime.sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) async fn a_sleep_takes_its_time<R: Runtime>(runtime: R, _: Place) {
    let began = runtime.now();
    runtime.sleep(Duration::from_millis(30)).await;
    assert!(runtime.now() - began >= Duration::from_millis(30));
}

pub(crate) async fn a_read_ends_by_data_by_its_deadline_or_by_the_end<R: Runtime>(
    runtime: R,
    place: Place,
) {
    let (mut ours, mut theirs) = connected(&runtime, &place).await;
    theirs.write_all(b"hello").await.unwrap();
    let mut block = [0; 64];
    assert_eq!(ours.read(&mut block).await.unwrap(), Read::Data(5));
    ours.watch().set_deadline(Some(runtime.now()));
    assert_eq!(ours.read(&mut block).await.unwrap(), Read::TimedOut);
    // A deadline that has passed says so until it is set anew; what is there is read all the same.
    assert_eq!(ours.read(&mut block).await.unwrap(), Read::TimedOut);
    theirs.write_all(b"more").await.unwrap();
    runtime.sleep(Duration::from_millis(50)).await;
    assert_eq!(ours.read(&mut block).await.unwrap(), Read::Data(4));
    ours.watch().set_deadline(None);
    drop(theirs);
    assert_eq!(ours.read(&mut block).await.unwrap(), Read::End);
}

pub(crate) async fn a_notification_interrupts_one_read<R: Runtime>(runtime: R, place: Place) {
    let (mut ours, mut theirs) = connected(&runtime, &place).await;
    let (watch, later) = (Rc::clone(ours.watch()), runtime.clone());
    beside(&runtime, async move {
        later.sleep(Duration::from_millis(5)).await;
        watch.notify();
    });
    let mut block = [0; 64];
    assert_eq!(ours.read(&mut block).await.unwrap(), Read::Notified);
    // One that comes while nobody reads is kept, and comes before what there is to read.
    ours.watch().notify();
    theirs.write_all(b"x").await.unwrap();
    runtime.sleep(Duration::from_millis(50)).await;
    assert_eq!(ours.read(&mut block).await.unwrap(), Read::Notified);
    assert_eq!(ours.read(&mut block).await.unwrap(), Read::Data(1));
    runtime.notify_streams();
    assert_eq!(ours.read(&mut block).await.unwrap(), Read::Notified);
    assert_eq!(theirs.read(&mut block).await.unwrap(), Read::Notified);
}

pub(crate) async fn a_read_that_is_dropped_takes_nothing<R: Runtime>(runtime: R, place: Place) {
    let (mut ours, mut theirs) = connected(&runtime, &place).await;
    let mut block = [0; 64];
    {
        let read = std::pin::pin!(ours.read(&mut block));
        assert!(futures_lite::future::poll_once(read).await.is_none());
    }
    theirs.write_all(b"whole").await.unwrap();
    let mut all = Vec::new();
    while all.len() < 5 {
        let Read::Data(count) = ours.read(&mut block).await.unwrap() else { panic!("{all:?}") };
        all.extend_from_slice(&block[..count]);
    }
    assert_eq!(all, b"whole");
}

pub(crate) async fn a_connection_is_not_taken_for_one_that_was_closed<R: Runtime>(
    runtime: R,
    place: Place,
) {
    let mut block = [0; 64];
    let (mut kept, mut other) = connected(&runtime, &place).await;
    for _ in 0..200 {
        // Waited for and closed at once; the next one is likely to get the same descriptor.
        let (mut ours, theirs) = connected(&runtime, &place).await;
        {
            let read = std::pin::pin!(ours.read(&mut block));
            assert!(futures_lite::future::poll_once(read).await.is_none());
        }
        drop((ours, theirs));
        let (mut ours, mut theirs) = connected(&runtime, &place).await;
        theirs.write_all(b"for this one").await.unwrap();
        assert_eq!(ours.read(&mut block).await.unwrap(), Read::Data(12));
        theirs.shut_down_write().await.unwrap();
        assert_eq!(ours.read(&mut block).await.unwrap(), Read::End);
    }
    other.write_all(b"still here").await.unwrap();
    assert_eq!(kept.read(&mut block).await.unwrap(), Read::Data(10));
}

pub(crate) async fn a_closed_connection_is_closed_for_the_other_end<R: Runtime>(
    runtime: R,
    place: Place,
) {
    let (mut ours, mut theirs) = connected(&runtime, &place).await;
    let mut block = [0; 64];
    {
        let read = std::pin::pin!(ours.read(&mut block));
        assert!(futures_lite::future::poll_once(read).await.is_none());
    }
    // The kernel has been asked to watch it by now.
    runtime.sleep(Duration::from_millis(5)).await;
    drop(ours);
    theirs.watch().set_deadline(Some(runtime.now() + SOON));
    assert_eq!(theirs.read(&mut block).await.unwrap(), Read::End);
}

pub(crate) async fn a_connection_is_closed_though_something_arrives_at_that_moment<R: Runtime>(
    runtime: R,
    place: Place,
) {
    let (mut ours, mut theirs) = connected(&runtime, &place).await;
    let mut block = [0; 64];
    {
        let read = std::pin::pin!(ours.read(&mut block));
        assert!(futures_lite::future::poll_once(read).await.is_none());
    }
    runtime.sleep(Duration::from_millis(5)).await;
    // What watches it has seen this, and has not told anybody yet.
    theirs.write_all(b"x").await.unwrap();
    drop(ours);
    theirs.watch().set_deadline(Some(runtime.now() + SOON));
    match theirs.read(&mut block).await {
        Ok(Read::End) => {}
        // It was closed with something unread.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        read => panic!("{read:?}"),
    }
}

pub(crate) async fn a_write_that_nobody_reads_ends_at_its_deadline<R: Runtime>(
    runtime: R,
    place: Place,
) {
    let (mut ours, _theirs) = connected(&runtime, &place).await;
    ours.watch().set_deadline(Some(runtime.now() + Duration::from_millis(100)));
    let block = vec![b'x'; 1 << 20];
    let error = loop {
        if let Err(error) = ours.write_all(&block).await {
            break error.kind();
        }
    };
    assert_eq!(error, ErrorKind::TimedOut);
}

pub(crate) async fn parts_are_written_in_order_and_whole<R: Runtime>(runtime: R, place: Place) {
    let (mut ours, mut theirs) = connected(&runtime, &place).await;
    let first: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = [&first[..], b"", b"\r\n.\r\n"].concat();
    beside(&runtime, async move {
        let mut parts = [&first[..], b"", b"\r\n.\r\n"].map(IoSlice::new);
        ours.write_all_vectored(&mut parts).await.unwrap();
        ours.shut_down_write().await.unwrap();
        // The other direction is open still.
        assert_eq!(ours.read(&mut [0; 9]).await.unwrap(), Read::Data(2));
    });
    let mut received = Vec::new();
    let mut block = vec![0; 65_536];
    while let Read::Data(count) = theirs.read(&mut block).await.unwrap() {
        received.extend_from_slice(&block[..count]);
    }
    assert!(received == expected, "{} octets", received.len());
    theirs.write_all(b"ok").await.unwrap();
    runtime.sleep(Duration::from_millis(50)).await;
}

pub(crate) async fn a_port_without_a_listener_refuses<R: Runtime>(runtime: R, place: Place) {
    // Reserved and given back: nobody listens there.
    let address = runtime.listen(place.any_port()).unwrap().local_address().unwrap();
    let error = runtime.connect(address, None, SOON).await.err().map(|error| error.kind());
    assert_eq!(error, Some(ErrorKind::ConnectionRefused));
}

pub(crate) async fn a_connection_comes_from_the_address_it_is_told_to<R: Runtime>(
    runtime: R,
    place: Place,
) {
    let mut listener = runtime.listen(place.any_port()).unwrap();
    let address = listener.local_address().unwrap();
    let stream = runtime.connect(address, Some(place.other), SOON).await.unwrap();
    assert_eq!(stream.peer_address().unwrap(), address);
    let accepted = listener.accept().await.unwrap();
    assert_eq!(accepted.peer_address().unwrap().ip(), place.other);
}

pub(crate) async fn listeners_share_an_address_and_each_gets_connections<R: Runtime>(
    runtime: R,
    place: Place,
) {
    let first = runtime.listen(place.any_port()).unwrap();
    let address = first.local_address().unwrap();
    let second = runtime.listen(address).unwrap();
    let counts = Rc::new([Cell::new(0), Cell::new(0)]);
    for (number, mut listener) in [first, second].into_iter().enumerate() {
        let counts = Rc::clone(&counts);
        beside(&runtime, async move {
            loop {
                drop(listener.accept().await.unwrap());
                counts[number].set(counts[number].get() + 1);
            }
        });
    }
    for _ in 0..64 {
        drop(runtime.connect(address, None, SOON).await.unwrap());
    }
    until(&runtime, || counts[0].get() + counts[1].get() == 64).await;
    assert!(counts.iter().all(|count| count.get() > 0), "{counts:?}");
}

pub(crate) async fn a_closed_listener_wakes_its_accept_and_leaves_the_address_to_the_others<
    R: Runtime,
>(
    runtime: R,
    place: Place,
) {
    let mut first = runtime.listen(place.any_port()).unwrap();
    let address = first.local_address().unwrap();
    let mut second = runtime.listen(address).unwrap();
    let closer = first.closer();
    let ended = Rc::new(Cell::new(0));
    let failures = Rc::clone(&ended);
    beside(&runtime, async move {
        // The one that waits, and one that is made afterwards.
        for _ in 0..2 {
            assert!(first.accept().await.is_err());
            failures.set(failures.get() + 1);
        }
    });
    // The accept has begun to wait.
    runtime.sleep(Duration::from_millis(20)).await;
    assert_eq!(ended.get(), 0);
    closer.close();
    until(&runtime, || ended.get() == 2).await;
    for _ in 0..64 {
        let stream = runtime.connect(address, None, SOON).await.unwrap();
        drop(second.accept().await.unwrap());
        drop(stream);
    }
}

pub(crate) async fn files_are_zeroed_written_read_renamed_and_removed<R: Runtime>(
    runtime: R,
    place: Place,
) {
    let storage = runtime.storage(&place.directory);
    let file = storage.create("a", 1 << 20).await.unwrap();
    let again = storage.create("a", 1 << 20).await;
    assert_eq!(again.err().unwrap().kind(), ErrorKind::AlreadyExists);
    let block: Vec<u8> = (0..8192_u32).map(|n| (n % 251) as u8).collect();
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
}

/// Makes a test of each promise, with the function that runs it.
#[macro_export]
macro_rules! test_runtime {
    ($run:ident: $($promise:ident)*) => {
        $(#[test]
        fn $promise() {
            $run(contract::$promise);
        })*
    };
    ($run:ident) => {
        $crate::test_runtime! { $run:
            a_sleep_takes_its_time
            a_read_ends_by_data_by_its_deadline_or_by_the_end
            a_notification_interrupts_one_read
            a_read_that_is_dropped_takes_nothing
            a_connection_is_not_taken_for_one_that_was_closed
            a_closed_connection_is_closed_for_the_other_end
            a_connection_is_closed_though_something_arrives_at_that_moment
            a_write_that_nobody_reads_ends_at_its_deadline
            parts_are_written_in_order_and_whole
            a_port_without_a_listener_refuses
            a_connection_comes_from_the_address_it_is_told_to
            listeners_share_an_address_and_each_gets_connections
            a_closed_listener_wakes_its_accept_and_leaves_the_address_to_the_others
            files_are_zeroed_written_read_renamed_and_removed
        }
    };
}
