// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the connections to an export meet at: the standard library's locks and atomics. The model checker (package
//! `nvstack-loom`) compiles `exports` with a module of its own in the place of this one.

pub(crate) use std::sync::{Mutex, RwLock, atomic};
