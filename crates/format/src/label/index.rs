// SPDX-License-Identifier: MIT OR Apache-2.0
//! Index blocks: which slots hold labels, and which of the two blocks is the newer one.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{AreaLayout, Version};
use crate::text::ascii;
use crate::{Invalid, fletcher64_without};

/// First bytes of an index block.
pub const SIGNATURE: [u8; 16] = *b"NAMESPACE_INDEX\0";
/// Bytes of an index block before its bitmap.
pub const HEADER_LEN: usize = 72;

/// The fixed part of an index block, as it stands on media.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Raw {
    signature: [u8; 16],
    flags: [u8; 3],
    label_shift: u8,
    seq: U32,
    myoff: U64,
    mysize: U64,
    otheroff: U64,
    labeloff: U64,
    nslot: U32,
    major: U16,
    minor: U16,
    checksum: U64,
}

const CHECKSUM: usize = offset_of!(Raw, checksum);
const _: () = assert!(size_of::<Raw>() == HEADER_LEN && CHECKSUM == 64);
const _: () = assert!(offset_of!(Raw, seq) == 20 && offset_of!(Raw, nslot) == 56);

/// The fixed part of an index block, unchecked: to be shown, or to find an area by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexHeader {
    /// [`SIGNATURE`] in an index block.
    pub signature: [u8; 16],
    /// Bytes of a label, as the block says.
    pub label_len: u64,
    /// Sequence number; only its low two bits count.
    pub seq: u32,
    /// Where this block lies in its area.
    pub myoff: u64,
    /// Bytes of this block.
    pub mysize: u64,
    /// Where the other block lies.
    pub otheroff: u64,
    /// Where the slots begin.
    pub labeloff: u64,
    /// Slots.
    pub nslot: u32,
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
}

impl IndexHeader {
    /// Reads the header at the start of `bytes`; none if they are too few.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<IndexHeader> {
        let (raw, _) = Raw::read_from_prefix(bytes).ok()?;
        Some(IndexHeader {
            signature: raw.signature,
            label_len: label_len(&raw),
            seq: raw.seq.get(),
            myoff: raw.myoff.get(),
            mysize: raw.mysize.get(),
            otheroff: raw.otheroff.get(),
            labeloff: raw.labeloff.get(),
            nslot: raw.nslot.get(),
            major: raw.major.get(),
            minor: raw.minor.get(),
        })
    }
}

/// The size byte counts from 1.2 on, as Linux compares versions; before that it is always 128 bytes.
fn label_len(raw: &Raw) -> u64 {
    let version = u32::from(raw.major.get()).saturating_mul(100).saturating_add(raw.minor.get().into());
    if version < 102 {
        return 128;
    }
    128u64.checked_shl(u32::from(raw.label_shift)).unwrap_or(u64::MAX)
}

/// A valid index block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    layout: AreaLayout,
    number: usize,
    seq: u32,
    nslot: u32,
    flags: [u8; 3],
    major: u16,
    minor: u16,
    /// The bitmap, and behind it whatever fills the block. A set bit is a free slot.
    free: Vec<u8>,
}

impl Index {
    /// The index block of a new area: every slot free. Bits past the last slot are set up to a multiple of 64, as
    /// ndctl leaves them.
    #[must_use]
    pub fn fresh(layout: AreaLayout, number: usize, seq: u32) -> Index {
        let set = usize::try_from(layout.slots.div_ceil(64).saturating_mul(8)).unwrap_or(usize::MAX);
        let len = bitmap_len(&layout);
        let mut free = alloc::vec![0xff; set.min(len)];
        free.resize(len, 0);
        Index {
            layout,
            number,
            seq,
            nslot: layout.slots,
            flags: [0; 3],
            major: 1,
            minor: layout.version.minor(),
            free,
        }
    }

    /// Checks index block `number` of an area. `bytes` are the block's, [`AreaLayout::index_len`] of them.
    ///
    /// The rules are Linux's to the letter (`__nd_label_validate`): neither the major version nor the flags matter,
    /// and a block may count fewer slots than fit.
    pub fn parse(bytes: &[u8], layout: &AreaLayout, number: usize) -> Result<Index, Invalid> {
        let name = if number == 0 { "label index block 0" } else { "label index block 1" };
        let bad = |field, offset, found: alloc::string::String, accepted: alloc::string::String| {
            Err(Invalid::new(name, field, offset, found, accepted))
        };
        let Ok((raw, free)) = Raw::read_from_prefix(bytes) else {
            return bad("size", 0, bytes.len().to_string(), layout.index_len.to_string());
        };
        if u64::try_from(bytes.len()) != Ok(layout.index_len) {
            return bad("size", 0, bytes.len().to_string(), layout.index_len.to_string());
        }
        if raw.signature != SIGNATURE {
            return bad("sig", 0, ascii(&raw.signature), ascii(&SIGNATURE));
        }
        let (found, wanted) = (label_len(&raw), u64::from(layout.version.label_len()));
        if found != wanted {
            return bad("labelsize", 19, format!("{found} bytes"), format!("{wanted} bytes"));
        }
        let (stored, sum) = (raw.checksum.get(), fletcher64_without(bytes, CHECKSUM));
        if stored != sum {
            return bad("checksum", 64, format!("{stored:#018x}"), format!("{sum:#018x}"));
        }
        let seq = raw.seq.get() & 3;
        if seq == 0 {
            return bad("seq", 20, raw.seq.get().to_string(), "1 to 3 in the low two bits".to_string());
        }
        let other = if number == 0 { 1 } else { 0 };
        for (field, offset, found, wanted) in [
            ("myoff", 24, raw.myoff.get(), layout.index(number)),
            ("otheroff", 40, raw.otheroff.get(), layout.index(other)),
            ("labeloff", 48, raw.labeloff.get(), layout.labeloff()),
        ] {
            if found != wanted {
                return bad(field, offset, found.to_string(), wanted.to_string());
            }
        }
        let mysize = raw.mysize.get();
        if !(72..=layout.index_len).contains(&mysize) {
            return bad("mysize", 32, mysize.to_string(), format!("72 to {}", layout.index_len));
        }
        let nslot = raw.nslot.get();
        if nslot > layout.slots {
            return bad("nslot", 56, nslot.to_string(), format!("at most {}", layout.slots));
        }
        Ok(Index {
            layout: *layout,
            number,
            seq,
            nslot,
            flags: raw.flags,
            major: raw.major.get(),
            minor: raw.minor.get(),
            free: free.to_vec(),
        })
    }

    /// The block that takes this one's place: its bitmap, the other number, the next sequence number.
    #[must_use]
    pub fn successor(&self) -> Index {
        let number = if self.number == 0 { 1 } else { 0 };
        Index { number, seq: next_seq(self.seq), ..self.clone() }
    }

    /// The bytes on media, checksum included.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let other = if self.number == 0 { 1 } else { 0 };
        let raw = Raw {
            signature: SIGNATURE,
            flags: self.flags,
            label_shift: match self.layout.version {
                Version::V1_1 => 0,
                Version::V1_2 => 1,
            },
            seq: self.seq.into(),
            myoff: self.layout.index(self.number).into(),
            mysize: self.layout.index_len.into(),
            otheroff: self.layout.index(other).into(),
            labeloff: self.layout.labeloff().into(),
            nslot: self.nslot.into(),
            major: self.major.into(),
            minor: self.minor.into(),
            checksum: U64::ZERO,
        };
        let mut bytes = Vec::from(raw.as_bytes());
        bytes.extend_from_slice(&self.free);
        let sum = fletcher64_without(&bytes, CHECKSUM);
        if let Some(field) = bytes.get_mut(CHECKSUM..HEADER_LEN) {
            field.copy_from_slice(&sum.to_le_bytes());
        }
        bytes
    }

    /// 0 or 1: which of the two blocks this is.
    #[must_use]
    pub const fn number(&self) -> usize {
        self.number
    }

    /// Sequence number, 1 to 3.
    #[must_use]
    pub const fn seq(&self) -> u32 {
        self.seq
    }

    /// Slots that it counts. Labels past them do not exist, even where there is room.
    #[must_use]
    pub const fn nslot(&self) -> u32 {
        self.nslot
    }

    /// The geometry of its area.
    #[must_use]
    pub const fn layout(&self) -> &AreaLayout {
        &self.layout
    }

    /// Whether a slot may be written. A slot that does not exist may not.
    #[must_use]
    pub fn is_free(&self, slot: u32) -> bool {
        slot < self.nslot
            && bit(slot).is_some_and(|(i, mask)| self.free.get(i).is_some_and(|b| b & mask != 0))
    }

    /// The free slots, from the lowest on.
    pub fn free(&self) -> impl Iterator<Item = u32> {
        (0..self.nslot).filter(|slot| self.is_free(*slot))
    }

    /// The slots in use, from the lowest on.
    pub fn used(&self) -> impl Iterator<Item = u32> {
        (0..self.nslot).filter(|slot| !self.is_free(*slot))
    }

    /// Marks a slot as free or in use. A slot that does not exist is left alone.
    pub fn mark(&mut self, slot: u32, free: bool) {
        if slot >= self.nslot {
            return;
        }
        if let Some((byte, mask)) = bit(slot).and_then(|(i, mask)| Some((self.free.get_mut(i)?, mask))) {
            *byte = if free { *byte | mask } else { *byte & !mask };
        }
    }
}

/// Where a slot's bit is: the byte, and the mask in it.
fn bit(slot: u32) -> Option<(usize, u8)> {
    Some((usize::try_from(slot / 8).ok()?, 1u8.checked_shl(slot % 8)?))
}

/// Bytes of an index block behind its header.
fn bitmap_len(layout: &AreaLayout) -> usize {
    usize::try_from(layout.index_len).unwrap_or(usize::MAX).saturating_sub(HEADER_LEN)
}

/// The sequence number after `seq`: 1, 2, 3, 1 ...
#[must_use]
pub const fn next_seq(seq: u32) -> u32 {
    match seq & 3 {
        1 => 2,
        2 => 3,
        _ => 1,
    }
}

/// Which index block counts: the valid one; of two, the one whose number comes after the other's. On a tie, which no
/// update leaves behind, it is block 1, as in Linux.
#[must_use]
pub fn select(first: Option<&Index>, second: Option<&Index>) -> Option<usize> {
    match (first, second) {
        (None, None) => None,
        (Some(_), None) => Some(0),
        (None, Some(_)) => Some(1),
        (Some(a), Some(b)) if a.seq == b.seq || next_seq(a.seq) == b.seq => Some(1),
        (Some(_), Some(_)) => Some(0),
    }
}
