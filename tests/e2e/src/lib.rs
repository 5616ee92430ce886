//! Support for the end-to-end tests: everything around the server under test.
//!
//! The tests run the real binary as an operator would, and look at it only from outside: its
//! sockets, its exit status, its log, its event records and its metrics. This library holds what
//! they share:
//!
//! | module | one responsibility |
//! |---|---|
//! | [`wait`] | wait for a condition, with a deadline |
//! | [`ports`] | addresses nobody else uses |
//! | [`config`] | write a configuration file |
//! | [`process`] | start, signal, kill and reap a server |
//! | [`message`] | messages that prove on arrival that they are whole |
//! | [`injector`] | SMTP clients: one by hand, many as load |
//! | [`sink`] | a scriptable receiver that records what it took |
//! | [`account`] | what was promised against what arrived |
//! | [`events`] | read the event log |
//! | [`metrics`] | read `/metrics` and `/health` |
//! | [`cgroup`] | a bound on the memory of a process |
//! | [`netns`] | network namespaces of our own |
//! | [`dns`] | a real name server with a zone of ours |
//! | [`trace`] | count the durable writes of a process, as the kernel sees them |
//! | [`queue_files`] | what a kill has left of the queue's files |
//! | [`peers`] | other mail programs, and skipping loudly without them |
//!
//! None of it uses the server's own protocol code, so a mistake made on both sides of that code
//! cannot hide here. Plain blocking sockets and threads are all it needs.

pub mod account;
pub mod authority;
pub mod cgroup;
pub mod config;
pub mod dns;
pub mod events;
pub mod injector;
pub mod message;
pub mod metrics;
pub mod netns;
pub mod peers;
pub mod ports;
pub mod process;
pub mod queue_files;
pub mod sink;
pub mod tls;
pub mod tls_sink;
pub mod trace;
pub mod tunnel;
pub mod wait;
