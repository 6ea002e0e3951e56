// SPDX-License-Identifier: MIT OR Apache-2.0
//! Labels: what a DIMM holds of a namespace.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::mem::{offset_of, size_of};

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Version;
use crate::guid::{self, ClaimClass};
use crate::{Dpa, Invalid, fletcher64_without};

const NAME: &str = "label";

/// What both versions have.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Raw1 {
    uuid: [u8; 16],
    name: [u8; 64],
    flags: U32,
    nlabel: U16,
    position: U16,
    isetcookie: U64,
    lbasize: U64,
    dpa: U64,
    rawsize: U64,
    slot: U32,
    /// Log2 of the alignment from 1.2 on, unused before.
    align: u8,
    reserved: [u8; 3],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Raw2 {
    common: Raw1,
    type_guid: [u8; 16],
    abstraction_guid: [u8; 16],
    reserved: [u8; 88],
    checksum: U64,
}

const CHECKSUM: usize = offset_of!(Raw2, checksum);
const _: () = assert!(size_of::<Raw1>() == 128 && size_of::<Raw2>() == 256 && CHECKSUM == 248);
const _: () = assert!(offset_of!(Raw1, flags) == 80 && offset_of!(Raw1, slot) == 120);

bitflags::bitflags! {
    /// Flags of a label. Linux ignores all of them when it reads; unknown ones are kept here.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Flags: u32 {
        /// Not to be written.
        const READ_ONLY = 1;
        /// Of this DIMM alone, for block windows that no longer exist.
        const LOCAL = 2;
        /// Historic.
        const BTT = 4;
        /// An update over several DIMMs had begun and not ended.
        const UPDATING = 8;
    }
}

/// The name of a namespace: at most 64 bytes on media, without NUL.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name([u8; 64]);

impl Name {
    /// A name to be stored. At most 63 bytes: 64 leave no NUL behind them, and Linux then prints past the end.
    pub fn new(text: &str) -> Result<Name, Invalid> {
        let mut name = [0; 64];
        match name.get_mut(..text.len()) {
            Some(start) if text.len() < 64 && !text.contains('\0') => start.copy_from_slice(text.as_bytes()),
            _ => {
                return Err(Invalid::new(
                    NAME,
                    "name",
                    16,
                    format!("{} bytes: {}", text.len(), text.escape_default()),
                    "at most 63 bytes, none of them NUL",
                ));
            }
        }
        Ok(Name(name))
    }

    /// The bytes before the first NUL; all 64 if there is none.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|b| *b == 0).next().unwrap_or(&self.0)
    }
}

impl fmt::Display for Name {
    /// Bytes that are not UTF-8 show as replacement characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(self.as_bytes()))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// A label's fields, as they stand on media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Of the namespace; the same on every DIMM of a set.
    pub uuid: Uuid,
    /// Of the namespace.
    pub name: Name,
    /// Flags.
    pub flags: Flags,
    /// DIMMs that hold a part of the namespace.
    pub nlabel: u16,
    /// This DIMM's place among them, from 0.
    pub position: u16,
    /// The interleave set that it was made in.
    pub isetcookie: u64,
    /// Sector size of the raw namespace; 0 where it does not apply.
    pub lbasize: u64,
    /// Where the part lies in this DIMM.
    pub dpa: Dpa,
    /// Bytes of the part.
    pub rawsize: u64,
    /// The slot that it was written to. A label in another slot is a stray copy.
    pub slot: u32,
    /// 1.2: log2 of an alignment; Linux writes 0.
    pub align: u8,
    /// 1.2: type of the memory, [`guid::PERSISTENT_MEMORY`]; nil in 1.1.
    pub type_guid: Uuid,
    /// 1.2: what may stack on the namespace, see [`Label::claim`]; nil in 1.1.
    pub abstraction: Uuid,
}

impl Label {
    /// Reads a label without judging it; none if the bytes are too few.
    #[must_use]
    pub fn decode(bytes: &[u8], version: Version) -> Option<Label> {
        let (raw, guids) = match version {
            Version::V1_1 => (Raw1::read_from_prefix(bytes).ok()?.0, [Uuid::nil(); 2]),
            Version::V1_2 => {
                let raw = Raw2::read_from_prefix(bytes).ok()?.0;
                (raw.common, [raw.type_guid, raw.abstraction_guid].map(guid::from_media))
            }
        };
        let [type_guid, abstraction] = guids;
        Some(Label {
            uuid: Uuid::from_bytes(raw.uuid),
            name: Name(raw.name),
            flags: Flags::from_bits_retain(raw.flags.get()),
            nlabel: raw.nlabel.get(),
            position: raw.position.get(),
            isetcookie: raw.isetcookie.get(),
            lbasize: raw.lbasize.get(),
            dpa: Dpa(raw.dpa.get()),
            rawsize: raw.rawsize.get(),
            slot: raw.slot.get(),
            align: if version == Version::V1_1 { 0 } else { raw.align },
            type_guid,
            abstraction,
        })
    }

    /// Reads the label of a slot, if it is one: it must name its slot and, from 1.2 on, carry its checksum. Linux
    /// drops any other without a word.
    pub fn parse(bytes: &[u8], version: Version, slot: u32) -> Result<Label, Invalid> {
        let len = usize::try_from(version.label_len()).ok();
        let exact = len.and_then(|len| bytes.get(..len));
        let Some((bytes, label)) = exact.and_then(|bytes| Some((bytes, Label::decode(bytes, version)?)))
        else {
            return Err(Invalid::new(NAME, "size", 0, bytes.len(), version.label_len()));
        };
        if label.slot != slot {
            return Err(Invalid::new(NAME, "slot", 120, label.slot, slot));
        }
        if version == Version::V1_2 {
            let sum = fletcher64_without(bytes, CHECKSUM);
            let stored =
                bytes.get(CHECKSUM..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
            if stored != sum {
                return Err(Invalid::new(
                    NAME,
                    "checksum",
                    248,
                    format!("{stored:#018x}"),
                    format!("{sum:#018x}"),
                ));
            }
        }
        Ok(label)
    }

    /// Whether the fields can mean a part of a namespace, as far as the label alone can tell. Linux gives up the whole
    /// region for most of these; who reads many labels should give up the one.
    pub fn check(&self, version: Version) -> Result<(), Invalid> {
        let bad = |field, offset, found: String, accepted: String| {
            Err(Invalid::new(NAME, field, offset, found, accepted))
        };
        if self.uuid.is_nil() {
            return bad("uuid", 0, self.uuid.to_string(), "not all zero".to_string());
        }
        if self.nlabel == 0 {
            return bad("nlabel", 84, "0".to_string(), "at least 1".to_string());
        }
        if self.position >= self.nlabel {
            return bad(
                "position",
                86,
                self.position.to_string(),
                format!("less than nlabel, {}", self.nlabel),
            );
        }
        if self.rawsize == 0 || self.dpa.0.checked_add(self.rawsize).is_none() {
            let found = format!("{} from dpa {}", self.rawsize, self.dpa);
            return bad("rawsize", 112, found, "at least 1, and an end below 2^64".to_string());
        }
        if version == Version::V1_2 && self.type_guid != guid::PERSISTENT_MEMORY {
            return bad("type_guid", 128, self.type_guid.to_string(), guid::PERSISTENT_MEMORY.to_string());
        }
        Ok(())
    }

    /// What may stack on the namespace.
    #[must_use]
    pub fn claim(&self) -> ClaimClass {
        ClaimClass::from_guid(self.abstraction)
    }

    /// The first byte past the part. Saturates; see [`Label::check`].
    #[must_use]
    pub const fn end(&self) -> Dpa {
        Dpa(self.dpa.0.saturating_add(self.rawsize))
    }

    /// The bytes on media, checksum included. A 1.1 label has no room for `align` and the GUIDs.
    #[must_use]
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let common = Raw1 {
            uuid: self.uuid.into_bytes(),
            name: self.name.0,
            flags: self.flags.bits().into(),
            nlabel: self.nlabel.into(),
            position: self.position.into(),
            isetcookie: self.isetcookie.into(),
            lbasize: self.lbasize.into(),
            dpa: self.dpa.0.into(),
            rawsize: self.rawsize.into(),
            slot: self.slot.into(),
            align: if version == Version::V1_1 { 0 } else { self.align },
            reserved: [0; 3],
        };
        if version == Version::V1_1 {
            return common.as_bytes().to_vec();
        }
        let mut raw = Raw2 {
            common,
            type_guid: guid::to_media(self.type_guid),
            abstraction_guid: guid::to_media(self.abstraction),
            reserved: [0; 88],
            checksum: U64::ZERO,
        };
        raw.checksum = fletcher64_without(raw.as_bytes(), CHECKSUM).into();
        raw.as_bytes().to_vec()
    }
}
