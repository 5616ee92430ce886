//! The whole server in a deterministic simulator.
//!
//! The shards, sessions, queue and delivery engine of the product run as they are, in one thread and
//! on virtual time, in a world that is made from one seed: the network, the disks, the name servers,
//! the remote hosts and the clients. The seams are `Runtime` and the queue's `Storage`; the product
//! has no hook for this.
//!
//! [`world::World`] holds the parts: [`executor`], [`time`], [`net`], [`random`], and the list of
//! violations. A [`runtime::SimRuntime`] is one host of it, with addresses and a [`disk`]; what lives in
//! the world is asynchronous code over a `Runtime`, spawned there. [`server::Server`] is the real server
//! on such a host. [`scenario`] makes a world from a seed, and runs it.
//!
//! One seed is one run: nothing here may ask the real clock, a thread, the environment or a hasher
//! with a seed of its own.

pub mod checks;
pub mod disk;
pub mod dns;
pub mod executor;
pub mod injector;
pub mod ledger;
pub mod net;
pub mod random;
pub mod records;
pub mod remote;
pub mod runtime;
pub mod scenario;
pub mod server;
pub mod time;
pub mod tls;
pub mod wire;
pub mod world;
