// SPDX-License-Identifier: MIT OR Apache-2.0
//! Byte access: `rw_bytes` as an operation of a block device.

use std::sync::Arc;

use nvstack_media::{Kind, Media, Result, check_range};

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
    /// [`ByteFlags::ATOMIC`] forbids it. No bytes at all succeed anywhere.
    fn rw_bytes(&self, at: MediaOffset, bytes: Bytes<'_>, flags: ByteFlags) -> Result<()>;

    /// The same bytes as `media` knows them (store, flush, drain), so that an engine loses nothing by stacking: on
    /// a mapping it is the mapping, on a device of another kind an adapter.
    fn media(&self) -> Arc<dyn Media>;
}

/// `rw_bytes` over a medium, for devices that have one (Linux `nsio_rw_bytes`).
///
/// A write is durable when this returns [`Ok`] or [`Kind::Poison`](crate::Kind::Poison). 4 or 8 bytes at a multiple of
/// their number move in one piece, which is what an engine's words ask for. Cost of a write: a streamed copy and a drain,
/// so an engine that stores much takes [`ByteAccess::media`] instead.
///
/// With [`ByteFlags::ATOMIC`] no lost unit is healed; the one exception is a medium's last unit where it is a single byte.
pub fn rw_bytes<M: Media + ?Sized>(
    media: &M,
    at: MediaOffset,
    bytes: Bytes<'_>,
    flags: ByteFlags,
) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    check_range(media.len(), "rw_bytes", at, wide(bytes.len())).map_err(|e| e.path(media.name()))?;
    match bytes {
        Bytes::Read(into) => match read_word(media, at, into) {
            Some(done) => done,
            None => media.read(at, into),
        },
        Bytes::Write(from) => {
            if flags.contains(ByteFlags::ATOMIC) && media.is_poisoned(at, wide(from.len())) {
                return durable(stream_unhealed(media, at, from), || media.drain());
            }
            if let Some(done) = write_word(media, at, from) {
                return durable(done, || media.persist(at, wide(from.len())));
            }
            durable(media.stream(at, from), || media.drain())
        }
    }
}

/// Makes bytes durable that were stored, over lost ones or not, and tells of the worse failure.
fn durable(stored: Result<()>, persist: impl FnOnce() -> Result<()>) -> Result<()> {
    if stored.as_ref().is_err_and(|e| e.kind() != Kind::Poison) {
        return stored;
    }
    persist()?;
    stored
}

/// Stores without healing: a store heals the units that it covers whole, and pieces of half a unit cover none. A medium
/// may end in a short unit, so its last byte goes by itself.
fn stream_unhealed<M: Media + ?Sized>(media: &M, at: MediaOffset, from: &[u8]) -> Result<()> {
    let reaches_end = at.plus(wide(from.len())).0 == media.len();
    let (rest, last) = match from.split_last_chunk::<1>() {
        Some((rest, last)) if reaches_end => (rest, last.as_slice()),
        _ => (from, [].as_slice()),
    };
    let mut at = at;
    let mut outcome = Ok(());
    for piece in rest.chunks(256).chain([last]).filter(|piece| !piece.is_empty()) {
        match media.stream(at, piece) {
            Err(e) if e.kind() == Kind::Poison => outcome = outcome.and(Err(e)),
            other => other?,
        }
        at = at.plus(wide(piece.len()));
    }
    outcome
}

/// Reads an aligned word in one piece; `None` if this is no such word.
fn read_word<M: Media + ?Sized>(media: &M, at: MediaOffset, into: &mut [u8]) -> Option<Result<()>> {
    if let Ok(word) = <&mut [u8; 8]>::try_from(&mut *into) {
        let loaded = at.0.is_multiple_of(8).then(|| media.load_u64(at))?;
        return if_aligned(loaded.map(|value| *word = value.to_le_bytes()));
    }
    let word = <&mut [u8; 4]>::try_from(into).ok()?;
    let loaded = at.0.is_multiple_of(4).then(|| media.load_u32(at))?;
    if_aligned(loaded.map(|value| *word = value.to_le_bytes()))
}

/// Stores an aligned word in one piece; `None` if this is no such word.
fn write_word<M: Media + ?Sized>(media: &M, at: MediaOffset, from: &[u8]) -> Option<Result<()>> {
    if let Ok(word) = <[u8; 8]>::try_from(from) {
        let store = || media.store_u64(at, u64::from_le_bytes(word));
        return if_aligned(at.0.is_multiple_of(8).then(store)?);
    }
    let word = <[u8; 4]>::try_from(from).ok()?;
    let store = || media.store_u32(at, u32::from_le_bytes(word));
    if_aligned(at.0.is_multiple_of(4).then(store)?)
}

/// A part that begins at an odd place has no aligned words, which it says before anything is moved.
fn if_aligned(moved: Result<()>) -> Option<Result<()>> {
    match moved {
        Err(e) if e.kind() == Kind::Invalid => None,
        other => Some(other),
    }
}

/// A length in memory as one on the medium.
pub(crate) fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
