// SPDX-License-Identifier: MIT OR Apache-2.0
//! Providers: from files and memory to buses.

mod image;
mod memory;

pub use image::{ImageProvider, LABEL_AREA, find_labels};
pub use memory::{memory, ram};

/// Where QEMU puts its first nvdimm, and so where a region begins of which nothing else is known.
pub const QEMU_START: u64 = 4 << 30;
