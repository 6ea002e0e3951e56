// SPDX-License-Identifier: MIT OR Apache-2.0
//! Info block of fsdax and devdax namespaces: where the data starts, and where the page map is kept (Linux
//! `nd_pfn_sb`). It has no specification but Linux. And what we keep in the place of that page map.

mod descriptor;
mod geometry;
mod info;

pub use descriptor::{Change, DESCRIPTOR_LEN, Descriptor, PageFlags, PageId, Stored};
pub use geometry::{COMPAT, Geometry, PAGE, Place, RESERVE};
pub use info::{ALIGNMENTS, INFO_LEN, INFO_OFFSET, Info, Kind, Mode, Rejected};
