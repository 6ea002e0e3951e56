// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Block Translation Table: sector-atomic writes over anything that keeps bytes.
//!
//! A sector is never overwritten in place. A write goes to a free block; a record in the *flog* says which sector, which
//! block it had and which it gets; then the *map* entry of the sector is switched. A power cut at any store leaves the
//! old sector or the new one (UEFI, "Block Translation Table (BTT) Layout"; Linux `nd_btt`).
//!
//! * [`create`] lays a BTT out, [`probe`] looks for one, [`Btt::open`] attaches to one and recovers it.
//! * `order` holds the write orders, and nothing else does: Linux's four persistence points for media where a store
//!   persists by itself, and the three of a group commit for plain files.
//! * `recover` decides what a power cut left; `audit` proves the tables consistent before the first write.
#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects))]

mod arena;
mod audit;
mod create;
mod device;
mod group;
mod lanes;
mod mutants;
mod open;
mod order;
mod recover;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod sim;
mod step;
mod sync;
mod ticker;
mod tracking;

pub use create::{CreateOptions, create};
pub use open::{Btt, Cache, OpenOptions, Probe, probe};
pub use ticker::Ticker;
