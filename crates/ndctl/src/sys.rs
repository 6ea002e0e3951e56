// SPDX-License-Identifier: MIT OR Apache-2.0
//! The attribute tree, as verbs see it.

use nvstack_media::{Error, Kind, Result};

/// The attribute tree as Linux's sysfs has it, and the device nodes that stand beside it.
///
/// Paths are relative to `/sys` and follow symbolic links: `bus/nd/devices/region0/size`. Text is as sysfs has it, with
/// its last newline.
pub trait Sys {
    /// The text of an attribute. An attribute that has no meaning yet fails with an error whose errno is ENXIO, one that
    /// is not there with [`Kind::NotFound`].
    fn read(&self, path: &str) -> Result<String>;

    /// Stores into an attribute, once. The effect has happened when it returns.
    fn write(&self, path: &str, text: &str) -> Result<()>;

    /// The names in a directory, those of links too.
    fn list(&self, path: &str) -> Result<Vec<String>>;

    /// Where a symbolic link leads: the target's own path, without links in it. [`Kind::NotFound`] if there is none.
    fn link(&self, path: &str) -> Result<String>;

    /// Reads bytes of a block device by its name: `pmem0` is `/dev/pmem0`.
    fn read_dev(&self, dev: &str, at: u64, into: &mut [u8]) -> Result<()>;

    /// Writes bytes of a block device, durably.
    fn write_dev(&self, dev: &str, at: u64, from: &[u8]) -> Result<()>;

    /// Bytes of a DIMM's label area (`GET_CONFIG_SIZE`).
    fn label_size(&self, dimm: &str) -> Result<u64>;

    /// Reads bytes of a DIMM's label area (`GET_CONFIG_DATA`).
    fn label_read(&self, dimm: &str, at: u64, into: &mut [u8]) -> Result<()>;

    /// Writes bytes of a DIMM's label area, durably (`SET_CONFIG_DATA`). [`Kind::Busy`] while a region uses the DIMM.
    fn label_write(&self, dimm: &str, at: u64, from: &[u8]) -> Result<()>;

    /// Marks bytes of a region as lost; `at` counts from the region's start.
    fn inject_error(&self, region: &str, at: u64, len: u64) -> Result<()>;

    /// Heals bytes of a region; `at` counts from the region's start.
    fn clear_error(&self, region: &str, at: u64, len: u64) -> Result<()>;

    /// Whether somebody has the block device open or mounted, so that it must not go away (`open` with `O_EXCL`).
    ///
    /// [`Kind::Busy`] if so. A tree that keeps no account of this says that nobody has.
    fn idle_dev(&self, dev: &str) -> Result<()> {
        let _ = dev;
        Ok(())
    }
}

/// The error of a tree that has no such path.
#[must_use]
pub fn no_entry(path: &str) -> Error {
    Error::new(Kind::NotFound, "look for attribute").path(format!("/sys/{path}"))
}
