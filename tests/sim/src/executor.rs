//! The single-threaded executor: the next task is drawn among those that are ready.
