// SPDX-License-Identifier: MIT OR Apache-2.0
//! GUIDs on media, and what they say of a namespace.
//!
//! A GUID is a [`Uuid`] here, as its text form reads. On media its first three groups are little-endian (UEFI
//! `EFI_GUID`), other than the uuids of namespaces, BTT and PFN, which stand in the order of their text.

use core::fmt;

use uuid::Uuid;

use crate::btt::Version;
use crate::pfn;

/// Persistent memory: the type of an NFIT range, and of labels in it (ACPI "SPA Range Structure").
pub const PERSISTENT_MEMORY: Uuid = Uuid::from_u128(0x66f0d379_b4f3_4074_ac43_0d3318b78cdb);
/// Abstraction of a namespace with a BTT 1.1 at 4096.
pub const BTT: Uuid = Uuid::from_u128(0x8aed63a2_29a2_4c66_8b12_f05d15d3922a);
/// Abstraction of a namespace with a BTT 2.0 at 0 (UEFI "BTT").
pub const BTT2: Uuid = Uuid::from_u128(0x18633bfc_1735_4217_8ac9_17239282d3f8);
/// Abstraction of a namespace with an fsdax info block.
pub const PFN: Uuid = Uuid::from_u128(0x266400ba_fb9f_4677_bcb0_968f11d0d225);
/// Abstraction of a namespace with a devdax info block.
pub const DAX: Uuid = Uuid::from_u128(0x97a86d9c_3cdd_4eda_986f_5068b4f80088);

/// The GUID whose bytes on media these are.
#[must_use]
pub const fn from_media(bytes: [u8; 16]) -> Uuid {
    Uuid::from_bytes_le(bytes)
}

/// The bytes of a GUID on media.
#[must_use]
pub const fn to_media(guid: Uuid) -> [u8; 16] {
    guid.to_bytes_le()
}

/// What may stack on a namespace, as its label's abstraction GUID tells (Linux `holder_class`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClaimClass {
    /// No GUID, as in every 1.1 label: BTT 1.1, fsdax and devdax are looked for.
    None,
    /// BTT 1.1 alone.
    Btt,
    /// BTT 2.0 alone.
    Btt2,
    /// fsdax alone.
    Pfn,
    /// devdax alone.
    Dax,
    /// Somebody else's: nothing of ours may stack on it, and a label update keeps the GUID.
    Unknown(Uuid),
}

impl ClaimClass {
    /// The class that an abstraction GUID names.
    #[must_use]
    pub fn from_guid(guid: Uuid) -> ClaimClass {
        match guid {
            nil if nil.is_nil() => ClaimClass::None,
            BTT => ClaimClass::Btt,
            BTT2 => ClaimClass::Btt2,
            PFN => ClaimClass::Pfn,
            DAX => ClaimClass::Dax,
            other => ClaimClass::Unknown(other),
        }
    }

    /// The abstraction GUID that names the class.
    #[must_use]
    pub const fn guid(self) -> Uuid {
        match self {
            ClaimClass::None => Uuid::nil(),
            ClaimClass::Btt => BTT,
            ClaimClass::Btt2 => BTT2,
            ClaimClass::Pfn => PFN,
            ClaimClass::Dax => DAX,
            ClaimClass::Unknown(guid) => guid,
        }
    }

    /// The BTT version that a namespace of this class can hold.
    #[must_use]
    pub const fn btt(self) -> Option<Version> {
        match self {
            ClaimClass::None | ClaimClass::Btt => Some(Version::V1_1),
            ClaimClass::Btt2 => Some(Version::V2_0),
            ClaimClass::Pfn | ClaimClass::Dax | ClaimClass::Unknown(_) => None,
        }
    }

    /// Whether a namespace of this class can hold that info block.
    #[must_use]
    pub const fn holds(self, kind: pfn::Kind) -> bool {
        match self {
            ClaimClass::None => true,
            ClaimClass::Pfn => matches!(kind, pfn::Kind::Fsdax),
            ClaimClass::Dax => matches!(kind, pfn::Kind::Devdax),
            ClaimClass::Btt | ClaimClass::Btt2 | ClaimClass::Unknown(_) => false,
        }
    }
}

impl fmt::Display for ClaimClass {
    /// As Linux prints `holder_class`: nothing for no class.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClaimClass::None => "",
            ClaimClass::Btt | ClaimClass::Btt2 => "btt",
            ClaimClass::Pfn => "pfn",
            ClaimClass::Dax => "dax",
            ClaimClass::Unknown(_) => "<unknown>",
        })
    }
}
