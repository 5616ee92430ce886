//! The simulated runtime keeps the promises of the real one: the same tests, on virtual time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may be blunt")]

#[path = "../../../crates/ringpost/tests/contract/mod.rs"]
mod contract;

use std::{cell::Cell, future::Future, net::IpAddr, rc::Rc, time::Duration};

use contract::Place;
use ringpost::runtime::{Containment, Runtime};
use ringpost_sim::{net::Link, runtime::SimRuntime, world::World};

/// Keeps one promise in worlds of several seeds, on good networks and on slow ones.
fn keep<F: Future<Output = ()> + 'static>(promise: impl Fn(SimRuntime, Place) -> F) {
    for seed in 0..20 {
        let world = World::new(seed);
        if seed % 2 == 1 {
            let latency = (Duration::ZERO, Duration::from_millis(20));
            world.net().set_default_link(Link { latency, ..Link::default() });
        }
        let addresses: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "127.0.0.9".parse().unwrap()];
        let host = world.host(&addresses);
        let [address, other] = addresses;
        let place = Place { address, other, directory: "/queue".into() };
        let is_kept = Rc::new(Cell::new(false));
        let (kept, test) = (Rc::clone(&is_kept), promise(host.clone(), place));
        host.spawn(Containment::Session, async move {
            test.await;
            kept.set(true);
        });
        world.run_for(Duration::from_mins(5), || is_kept.get());
        assert!(is_kept.get(), "seed {seed}: {:?}", world.violations());
    }
}

test_runtime!(keep);
