// SPDX-License-Identifier: MIT OR Apache-2.0
//! Info block of fsdax and devdax namespaces: where the data starts, and where the page map is kept (Linux
//! `nd_pfn_sb`). It has no specification but Linux.

mod geometry;
mod info;

pub use geometry::{COMPAT, Geometry, PAGE, Place, RESERVE};
pub use info::{ALIGNMENTS, INFO_LEN, INFO_OFFSET, Info, Kind, Mode, Rejected};
