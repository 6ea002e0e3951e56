// SPDX-License-Identifier: MIT OR Apache-2.0
//! A medium that records stores and cuts the power.
//!
//! [`SimMedium`] is a [`nvstack_media::Media`] in plain memory, so the engines run on it as they are. It remembers each store
//! until it is surely durable; [`SimMedium::cuts`] gives every image that a power cut could leave at that moment, under
//! one of four [`Model`]s of what persists when.
//!
//! * `Image` is bytes in pages that are shared until they are changed, with a hash that follows each change.
//! * `pending` holds the stores that are not durable, and makes images of them.
//! * `medium` is the medium itself: a [`Hook`] is asked before each operation, which is where a scheduler takes over and
//!   where faults are injected.
#![forbid(unsafe_code)]
// Sizes here are those of simulated media, which fit memory, and x86_64 is all that there is.
#![allow(clippy::cast_possible_truncation)]

mod image;
mod medium;
mod model;
mod pending;

pub use image::Image;
pub use medium::{Event, Hook, Operation, SimMedium};
pub use model::Model;
pub use pending::{Cuts, Lost};

/// Spreads the bits of a word (the finaliser of SplitMix64).
#[must_use]
pub const fn mix(word: u64) -> u64 {
    let z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
