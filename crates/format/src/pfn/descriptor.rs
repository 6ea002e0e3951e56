// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is kept of each page of a namespace of map "dev", where Linux keeps its `struct page`s.
//!
//! It is ours alone. Linux writes its own over it whenever it attaches, and takes no notice of what it finds; so a
//! descriptor proves itself, by a mark and a check over what it says and whose it is, and anything else is unknown.
//!
//! A descriptor holds two versions of its contents, and a word that names the current one. The other one is written
//! and made durable first, the word after it: eight aligned bytes, which no power cut tears.

use core::mem::{offset_of, size_of};

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::fletcher64;

/// Bytes of a descriptor: as many as Linux has room for, of a `struct page`.
pub const DESCRIPTOR_LEN: usize = 64;

/// The low half of a word that names a version. Not zero, so that zeros are no such word.
const MARK: u16 = 0x4450;

bitflags::bitflags! {
    /// The state of a page. Bits without a name are kept as they are.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct PageFlags: u32 {
        /// Bytes of it were found lost, and it was not written as a whole or healed since (Linux `PG_hwpoison`).
        const LOST = 1;
        const _ = !0;
    }
}

/// What is kept of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// Its state.
    pub flags: PageFlags,
    /// How often its owner holds it. It lasts, unlike the holds of a process.
    pub references: u32,
    /// Whose it is; 0 is nobody's. The meaning is the owner's.
    pub owner: u64,
    /// How often the descriptor was set. Told, and counted on by whoever sets it.
    pub generation: u64,
}

/// Whose descriptor it is: the same bytes are none of another page or another namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageId {
    /// The namespace, by the uuid of its info block.
    pub namespace: Uuid,
    /// The page, counted from the start of the data.
    pub pfn: u64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Version {
    flags: U32,
    references: U32,
    owner: U64,
    generation: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Raw {
    /// Mark, sequence number and check. The lowest bit of the number tells the current version.
    current: U64,
    versions: [Version; 2],
    /// Zeros.
    reserved: [u8; 8],
}

const VERSION_LEN: usize = size_of::<Version>();
const _: () = assert!(size_of::<Raw>() == DESCRIPTOR_LEN && VERSION_LEN == 24);
const _: () = assert!(offset_of!(Raw, versions) == 8 && offset_of!(Raw, reserved) == 56);

/// What the bytes of a descriptor say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It was initialised, and never set.
    Fresh,
    /// It was set.
    Set {
        /// What it says.
        descriptor: Descriptor,
        /// Number of the version.
        sequence: u16,
    },
    /// It is none of ours: most likely Linux's own.
    Unknown,
}

/// How to set a descriptor: first the version, until it is durable, then the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where the version goes, in bytes from the start of the descriptor.
    pub at: u64,
    /// The version.
    pub version: [u8; VERSION_LEN],
    /// The word that makes it the current one, at the start of the descriptor.
    pub word: u64,
}

impl Stored {
    /// Reads a descriptor.
    #[must_use]
    pub fn parse(bytes: &[u8; DESCRIPTOR_LEN], id: PageId) -> Stored {
        let raw: &Raw = zerocopy::transmute_ref!(bytes);
        let [first, second] = &raw.versions;
        let word = raw.current.get();
        if word == 0 {
            // The first version to be set is the second one; a power cut may leave any part of it.
            let zero = |bytes: &[u8]| bytes.iter().all(|b| *b == 0);
            let fresh = zero(first.as_bytes()) && zero(&raw.reserved);
            return if fresh { Stored::Fresh } else { Stored::Unknown };
        }
        let [m0, m1, s0, s1, ..] = word.to_le_bytes();
        let sequence = u16::from_le_bytes([s0, s1]);
        let version = if sequence & 1 == 0 { first } else { second };
        if u16::from_le_bytes([m0, m1]) != MARK || word != self::word(sequence, version, id) {
            return Stored::Unknown;
        }
        let descriptor = Descriptor {
            flags: PageFlags::from_bits_retain(version.flags.get()),
            references: version.references.get(),
            owner: version.owner.get(),
            generation: version.generation.get(),
        };
        Stored::Set { descriptor, sequence }
    }

    /// How to put `descriptor` in its place, which leaves the current version alone.
    #[must_use]
    pub fn change(self, descriptor: Descriptor, id: PageId) -> Change {
        let sequence = match self {
            Stored::Set { sequence, .. } => sequence.wrapping_add(1),
            Stored::Fresh | Stored::Unknown => 1,
        };
        let version = Version {
            flags: descriptor.flags.bits().into(),
            references: descriptor.references.into(),
            owner: descriptor.owner.into(),
            generation: descriptor.generation.into(),
        };
        let word = word(sequence, &version, id);
        Change { at: if sequence & 1 == 0 { 8 } else { 32 }, version: zerocopy::transmute!(version), word }
    }
}

/// What the check is over.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct Said {
    mark: U16,
    sequence: U16,
    pfn: U64,
    namespace: [u8; 16],
    version: Version,
}

fn word(sequence: u16, version: &Version, id: PageId) -> u64 {
    let said = Said {
        mark: MARK.into(),
        sequence: sequence.into(),
        pfn: id.pfn.into(),
        namespace: id.namespace.into_bytes(),
        version: *version,
    };
    let sum = fletcher64(said.as_bytes());
    let check = (sum >> 32) ^ (sum & u64::from(u32::MAX));
    (check << 32) | (u64::from(sequence) << 16) | u64::from(MARK)
}
