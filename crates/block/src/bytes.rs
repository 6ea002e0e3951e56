// SPDX-License-Identifier: MIT OR Apache-2.0
//! Byte access: `rw_bytes` as an operation of a block device.

use std::sync::Arc;

use nvstack_media::{Media, Result};

use crate::MediaOffset;

bitflags::bitflags! {
    /// How bytes are to be moved.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ByteFlags: u8 {
        /// The caller may not sleep (Linux `NVDIMM_IO_ATOMIC`): poison under a write is not cleared, which can take a
        /// command to the DIMM. The bytes are copied all the same, and the result is [`Kind::Poison`](crate::Kind::Poison).
        const ATOMIC = 1;
    }
}

/// Which way bytes go, and whose they are.
#[derive(Debug)]
pub enum Bytes<'a> {
    /// Out of the device.
    Read(&'a mut [u8]),
    /// Into the device; durable when the call returns, wherever the device can make it so.
    Write(&'a [u8]),
}

impl Bytes<'_> {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Bytes::Read(into) => into.len(),
            Bytes::Write(from) => from.len(),
        }
    }

    /// Whether there are none: nothing is done then, and it succeeds.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Byte access to a device: what a driver stacks on. A device offers it or does not
/// ([`BlockDevice::bytes`](crate::BlockDevice::bytes)).
pub trait ByteAccess: Send + Sync {
    /// Bytes that the device has.
    fn size(&self) -> u64;

    /// Moves bytes at any offset, in any number (Linux `nsio_rw_bytes`).
    ///
    /// [`Kind::OutOfRange`](crate::Kind::OutOfRange) if they do not all lie inside: then nothing is moved.
    /// [`Kind::Poison`](crate::Kind::Poison) for a read that touches a lost byte, and for a write that leaves one behind:
    /// its bytes are stored, and units of 512 bytes that it covers whole are healed, unless
    /// [`ByteFlags::ATOMIC`] forbids it.
    fn rw_bytes(&self, at: MediaOffset, bytes: Bytes<'_>, flags: ByteFlags) -> Result<()>;

    /// The same bytes as `media` knows them (store, flush, drain), so that an engine loses nothing by stacking: on
    /// a mapping it is the mapping, on a device of another kind an adapter.
    fn media(&self) -> Arc<dyn Media>;
}
