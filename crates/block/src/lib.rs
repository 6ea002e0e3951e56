// SPDX-License-Identifier: MIT OR Apache-2.0
//! The block device operation table.
//!
//! A device offers block I/O and geometry. Byte access (`rw_bytes`) and page I/O (`rw_page`) are operations of their own,
//! each of which a device offers or does not.
#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)]

mod adapter;
mod bytes;
mod cache;
mod device;
mod gate;
mod linear;
mod page;
mod partition;
mod readonly;
mod sync;

pub use adapter::BytesMedium;
pub use bytes::{ByteAccess, ByteFlags, Bytes, rw_bytes};
pub use cache::PageCache;
pub use device::{BlockDevice, Extent, ExtentFlags, Geometry, WriteFlags, in_range, not_offered, sectors_of};
pub use gate::{Gate, GatedMedia};
pub use linear::Linear;
pub use nvstack_format::{Lba, MediaOffset};
pub use nvstack_media::{Error, Kind, Result};
pub use page::{Direction, PAGE_SIZE, Page, PageAccess, PageState, rw_page_by_sectors};
pub use partition::{Partition, PartitionInfo, PartitionKind, partitions};
pub use readonly::ReadOnlyMedium;
