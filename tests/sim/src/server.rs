//! The real server on a simulated host: started, crashed, restarted, told things.
