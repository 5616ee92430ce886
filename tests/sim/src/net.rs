//! The network: connections and datagrams with latency, loss and failures.
