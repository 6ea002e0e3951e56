// SPDX-License-Identifier: MIT OR Apache-2.0
//! The block device operation table.
//!
//! A device offers block I/O and geometry; byte access and page I/O are operations of their own, which a device
//! offers or does not (they join this table with the device model).
#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)]

mod device;
mod linear;

pub use device::{BlockDevice, Extent, ExtentFlags, Geometry, WriteFlags, in_range, sectors_of};
pub use linear::Linear;
pub use nvstack_format::Lba;
pub use nvstack_media::{Error, Kind, Result};
