// SPDX-License-Identifier: MIT OR Apache-2.0
//! fsdax and devdax namespaces: a data area that is used as memory, and a descriptor for each page of it.
//!
//! An info block says where the data lie (Linux `nd_pfn_sb`; it has no specification but Linux). Between the two Linux
//! keeps its `struct page`s, if the namespace is of map "dev"; we keep descriptors of our own there.
//!
//! * [`create`] lays a namespace out, [`probe`] looks for one, [`Pages::open`] attaches to one.
//! * [`Pages::map`] gives a range of the data as a medium, [`Pages::disk`] the data of an fsdax as a block device.
//! * [`Pages::descriptor`] tells what is recorded of a page. A read that meets lost bytes marks their page
//!   ([`PageFlags::LOST`]), a write that replaces or heals them takes the mark away.
#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects))]

mod create;
mod data;
mod disk;
mod mutants;
mod open;
mod pins;
mod probe;
mod table;

/// What the power-cut explorer reaches, and nobody else: what can be left out of the protocol.
#[cfg(feature = "mutants")]
#[doc(hidden)]
pub mod sim {
    pub use crate::mutants::{Mutant, leave_out};
}

pub use create::{CreateOptions, create};
pub use data::Mapped;
pub use disk::Disk;
pub use nvstack_format::pfn::{Descriptor, Geometry, Info, Kind, Mode, PageFlags, Place};
pub use open::{OpenOptions, Pages};
pub use pins::Pinned;
pub use probe::{Probe, probe};
pub use table::Recorded;
