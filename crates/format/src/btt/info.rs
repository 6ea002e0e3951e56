// SPDX-License-Identifier: MIT OR Apache-2.0
//! The info block: 4096 bytes at the head of each arena, and a copy at its end.

use alloc::format;
use alloc::string::ToString;
use core::fmt;
use core::mem::{offset_of, size_of};

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use super::layout::{BLOCKS_MAX, FLOG_GROUP, INFO, MAP_ENTRY, NFREE_MAX, PAGE};
use super::{ARENA_MAX, ARENA_MIN, ArenaLayout, LANES, LbaSize};
use crate::text::ascii;
use crate::{Invalid, fletcher64_without};

/// Bytes of an info block.
pub const INFO_LEN: usize = 4096;
/// First bytes of an info block.
pub const SIGNATURE: [u8; 16] = *b"BTT_ARENA_INFO\0\0";

const NAME: &str = "BTT info block";
const ERROR: u32 = 1;

/// Which BTT a namespace can hold; it follows from the namespace's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// Without labels, with 1.1 labels, or with a 1.2 label that names no abstraction or the first BTT one.
    V1_1,
    /// With a 1.2 label that names the second BTT abstraction, 18633bfc-...
    V2_0,
}

impl Version {
    /// Where the first arena starts, in bytes from the start of the namespace. 1.1 leaves room for a partition table.
    #[must_use]
    pub const fn start(self) -> u64 {
        match self {
            Version::V1_1 => 4096,
            Version::V2_0 => 0,
        }
    }

    /// The major number on media.
    #[must_use]
    pub const fn major(self) -> u16 {
        match self {
            Version::V1_1 => 1,
            Version::V2_0 => 2,
        }
    }

    /// The minor number on media.
    #[must_use]
    pub const fn minor(self) -> u16 {
        match self {
            Version::V1_1 => 1,
            Version::V2_0 => 0,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

/// The info block as it stands on media.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Raw {
    signature: [u8; 16],
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    flags: U32,
    version_major: U16,
    version_minor: U16,
    external_lbasize: U32,
    external_nlba: U32,
    internal_lbasize: U32,
    internal_nlba: U32,
    nfree: U32,
    infosize: U32,
    nextoff: U64,
    dataoff: U64,
    mapoff: U64,
    logoff: U64,
    info2off: U64,
    padding: [u8; 3968],
    checksum: U64,
}

const CHECKSUM: usize = offset_of!(Raw, checksum);
const _: () = assert!(size_of::<Raw>() == INFO_LEN && CHECKSUM == 4088);
const _: () = assert!(offset_of!(Raw, flags) == 48 && offset_of!(Raw, infosize) == 76);
const _: () = assert!(offset_of!(Raw, nextoff) == 80 && offset_of!(Raw, info2off) == 112);

/// A valid info block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The BTT's own uuid, the same in all its arenas; the one that `ndctl list` shows.
    pub uuid: Uuid,
    /// The uuid of the namespace that it was made in; nil without labels.
    pub parent: Uuid,
    /// Bit 0: the arena had an error and must not be written. Unknown bits are kept.
    pub flags: u32,
    /// Version.
    pub version: Version,
    /// Geometry.
    pub layout: ArenaLayout,
}

/// Why an info block is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// There is no BTT of the wanted version that belongs to this namespace. Linux then leaves the namespace raw.
    NotBtt(Invalid),
    /// It is a BTT of this namespace, with fields that cannot be.
    Corrupt(Invalid),
}

impl Rejected {
    /// The finding.
    #[must_use]
    pub const fn invalid(&self) -> &Invalid {
        match self {
            Rejected::NotBtt(invalid) | Rejected::Corrupt(invalid) => invalid,
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.invalid().fmt(f)
    }
}

impl core::error::Error for Rejected {}

impl Info {
    /// Whether the arena had an error and must not be written (`IB_FLAG_ERROR`).
    #[must_use]
    pub const fn error(&self) -> bool {
        self.flags & ERROR != 0
    }

    /// Checks an info block against the namespace it was read from.
    ///
    /// `version` is the one that this namespace can hold, `parent` its uuid (nil without labels), `room` the bytes from
    /// this info block to the end of the namespace. A nil parent on media belongs to any namespace, as in Linux.
    /// Non-zero padding and unknown flags are accepted under a good checksum, as in Linux; geometry, which Linux
    /// believes, is checked whole.
    pub fn parse(raw: &[u8; INFO_LEN], version: Version, parent: Uuid, room: u64) -> Result<Info, Rejected> {
        let sum = fletcher64_without(raw, CHECKSUM);
        let raw: &Raw = zerocopy::transmute_ref!(raw);
        let info_parent = Uuid::from_bytes(raw.parent_uuid);
        ours(raw, sum, version, parent, info_parent).map_err(Rejected::NotBtt)?;
        let layout = layout(raw, room).map_err(Rejected::Corrupt)?;
        Ok(Info {
            uuid: Uuid::from_bytes(raw.uuid),
            parent: info_parent,
            flags: raw.flags.get(),
            version,
            layout,
        })
    }

    /// The bytes on media, checksum included.
    #[must_use]
    pub fn encode(&self) -> [u8; INFO_LEN] {
        let layout = &self.layout;
        let mut raw = Raw {
            signature: SIGNATURE,
            uuid: self.uuid.into_bytes(),
            parent_uuid: self.parent.into_bytes(),
            flags: self.flags.into(),
            version_major: self.version.major().into(),
            version_minor: self.version.minor().into(),
            external_lbasize: layout.lbasize.external().into(),
            external_nlba: layout.external_nlba.into(),
            internal_lbasize: layout.lbasize.internal().into(),
            internal_nlba: layout.internal_nlba.into(),
            nfree: layout.nfree.into(),
            infosize: U32::new(4096),
            nextoff: layout.nextoff.into(),
            dataoff: layout.dataoff.into(),
            mapoff: layout.mapoff.into(),
            logoff: layout.logoff.into(),
            info2off: layout.info2off.into(),
            padding: [0; 3968],
            checksum: U64::ZERO,
        };
        raw.checksum = fletcher64_without(raw.as_bytes(), CHECKSUM).into();
        transmute!(raw)
    }
}

/// Whether it is a BTT that belongs to this namespace.
fn ours(raw: &Raw, sum: u64, version: Version, parent: Uuid, info_parent: Uuid) -> Result<(), Invalid> {
    if raw.signature != SIGNATURE {
        return Err(Invalid::new(NAME, "signature", 0, ascii(&raw.signature), ascii(&SIGNATURE)));
    }
    let stored = raw.checksum.get();
    if stored != sum {
        return Err(Invalid::new(NAME, "checksum", 4088, format!("{stored:#018x}"), format!("{sum:#018x}")));
    }
    let (major, minor) = (raw.version_major.get(), raw.version_minor.get());
    if (major, minor) != (version.major(), version.minor()) {
        return Err(Invalid::new(NAME, "version", 52, format!("{major}.{minor}"), version));
    }
    if !info_parent.is_nil() && info_parent != parent {
        let accepted = if parent.is_nil() { parent.to_string() } else { format!("{parent}, or all zero") };
        return Err(Invalid::new(NAME, "parent_uuid", 32, info_parent, accepted));
    }
    Ok(())
}

/// The geometry, each field checked against the others and against the room there is.
fn layout(raw: &Raw, room: u64) -> Result<ArenaLayout, Invalid> {
    let bad = |field, offset: usize, found: u64, accepted: alloc::string::String| {
        // An offset in the structure always fits.
        Err(Invalid::new(NAME, field, u64::try_from(offset).unwrap_or(u64::MAX), found, accepted))
    };
    macro_rules! check {
        ($field:ident, $found:expr, $ok:expr, $($accepted:tt)+) => {
            if !$ok {
                return bad(stringify!($field), offset_of!(Raw, $field), u64::from($found), format!($($accepted)+));
            }
        };
    }

    let lbasize = LbaSize::new(raw.external_lbasize.get())?;
    let internal = lbasize.internal();
    let found = raw.internal_lbasize.get();
    check!(internal_lbasize, found, found == internal, "{internal}");
    let nfree = raw.nfree.get();
    check!(nfree, nfree, (LANES..=NFREE_MAX).contains(&nfree), "{LANES} to {NFREE_MAX}");
    let infosize = raw.infosize.get();
    check!(infosize, infosize, u64::from(infosize) == INFO, "{INFO}");
    let external_nlba = raw.external_nlba.get();
    check!(external_nlba, external_nlba, external_nlba > 0, "at least 1");
    let internal_nlba = raw.internal_nlba.get();
    let wanted = u64::from(external_nlba).saturating_add(u64::from(nfree));
    check!(
        internal_nlba,
        internal_nlba,
        u64::from(internal_nlba) == wanted && wanted <= BLOCKS_MAX,
        "external_nlba + nfree = {wanted}, at most {BLOCKS_MAX}"
    );

    let nextoff = raw.nextoff.get();
    let next_max = room.saturating_sub(ARENA_MIN).min(ARENA_MAX);
    check!(
        nextoff,
        nextoff,
        nextoff == 0 || nextoff.is_multiple_of(PAGE) && (ARENA_MIN..=next_max).contains(&nextoff),
        "0, or a multiple of {PAGE} from {ARENA_MIN} to {next_max}: the next arena must lie in the namespace"
    );
    let end = if nextoff == 0 { room.min(ARENA_MAX) } else { nextoff };

    // From the end of the arena to its head: each region must hold what its count says before the next one starts.
    let info2off = raw.info2off.get();
    let info2_max = end.saturating_sub(INFO);
    check!(
        info2off,
        info2off,
        info2off.is_multiple_of(PAGE) && (ARENA_MIN.saturating_sub(INFO)..=info2_max).contains(&info2off),
        "a multiple of {PAGE} from {} to {info2_max}",
        ARENA_MIN.saturating_sub(INFO)
    );
    let logoff = raw.logoff.get();
    let log_max = info2off.saturating_sub(u64::from(nfree).saturating_mul(FLOG_GROUP));
    check!(logoff, logoff, within(logoff, log_max), "a multiple of {PAGE} from {INFO} to {log_max}");
    let mapoff = raw.mapoff.get();
    let map_max = logoff.saturating_sub(u64::from(external_nlba).saturating_mul(MAP_ENTRY));
    check!(mapoff, mapoff, within(mapoff, map_max), "a multiple of {PAGE} from {INFO} to {map_max}");
    let dataoff = raw.dataoff.get();
    let data_max = mapoff.saturating_sub(u64::from(internal_nlba).saturating_mul(u64::from(internal)));
    check!(dataoff, dataoff, within(dataoff, data_max), "a multiple of {PAGE} from {INFO} to {data_max}");

    Ok(ArenaLayout {
        size: if nextoff == 0 { info2off.saturating_add(INFO) } else { nextoff },
        lbasize,
        external_nlba,
        internal_nlba,
        nfree,
        nextoff,
        dataoff,
        mapoff,
        logoff,
        info2off,
    })
}

/// Whether a region may start here. With too much before it, `max` is 0 and nothing fits.
fn within(offset: u64, max: u64) -> bool {
    offset.is_multiple_of(PAGE) && (INFO..=max).contains(&offset)
}
