//! Name servers of the simulated world.
