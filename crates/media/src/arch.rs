// SPDX-License-Identifier: MIT OR Apache-2.0
//! What depends on the CPU: the routines that touch media, and where a faulting one goes on.

mod x86_64;

#[cfg(test)]
pub(crate) use x86_64::variants;
pub(crate) use x86_64::{LINE, Loaded, Routines, landing_pad, routines, store_fence};
