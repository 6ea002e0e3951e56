// SPDX-License-Identifier: MIT OR Apache-2.0
//! What threads meet at: the standard library's locks, atomics, threads and clock, and the gates of devices.
//!
//! The model checker (package `nvstack-stack-shuttle`) compiles the other files of this crate with a module of its own in the
//! place of this one. So no feature and no `cfg` decides what this crate is built with.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, RwLock, atomic};
pub(crate) use std::thread;
pub(crate) use std::time::Instant;

pub(crate) use nvstack_block::Gate;
