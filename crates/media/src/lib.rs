// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes that persist.
//!
//! The only room with `unsafe`. Two laws hold here: no reference to shared media is ever formed, and media is
//! touched only by copies and by aligned 4- and 8-byte atomics.
#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects))]
#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_sign_loss))]

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!(
    "nvstack runs on x86_64 Linux only: its access to persistent memory is written for that CPU and kernel."
);

mod anon;
#[allow(unsafe_code)]
mod arch;
mod dirty;
mod error;
#[allow(unsafe_code)]
mod fault;
mod interleave;
mod lock;
mod mapping;
mod medium;
mod part;
mod poison;
mod sync;
#[allow(unsafe_code)]
mod window;

pub use anon::Anon;
pub use error::{Error, Kind, Result};
pub use interleave::{Concat, Interleave, Joined, Layout, Sequence, Stripes};
pub use lock::{LockMode, lock};
pub use mapping::{Access, Mapping};
pub use medium::{Domain, Extent, Media, check_range};
pub use nvstack_format::MediaOffset;
pub use part::Part;
pub use poison::Poison;
