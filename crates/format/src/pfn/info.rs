// SPDX-License-Identifier: MIT OR Apache-2.0
//! The info block itself: 4096 bytes, 4096 bytes into the namespace.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::mem::{offset_of, size_of};

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use super::{COMPAT, Geometry, PAGE, Place, RESERVE};
use crate::text::ascii;
use crate::{Invalid, fletcher64_without};

/// Bytes of an info block.
pub const INFO_LEN: usize = 4096;
/// Where it lies, in bytes from the start of the namespace.
pub const INFO_OFFSET: u64 = 4096;

const NAME: &str = "PFN info block";
const PAGE_STRUCT: u16 = 64;
/// Alignments that a machine of this kind can map at: a page, 2 MiB, 1 GiB (Linux `supported_alignments`).
pub const ALIGNMENTS: [u32; 3] = [4096, 1 << 21, 1 << 30];

/// What the namespace is, told by the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A block device whose file systems can map the memory.
    Fsdax,
    /// A character device that is mapped as a whole.
    Devdax,
}

impl Kind {
    /// First bytes of the info block.
    #[must_use]
    pub const fn signature(self) -> [u8; 16] {
        match self {
            Kind::Fsdax => *b"NVDIMM_PFN_INFO\0",
            Kind::Devdax => *b"NVDIMM_DAX_INFO\0",
        }
    }
}

/// Where Linux keeps the page map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// In the machine's memory ("mem").
    Ram,
    /// In the namespace, between the info block and the data ("dev").
    Pmem,
}

impl Mode {
    const fn number(self) -> u32 {
        match self {
            Mode::Ram => 1,
            Mode::Pmem => 2,
        }
    }
}

impl fmt::Display for Mode {
    /// As ndctl's `map`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Ram => "mem",
            Mode::Pmem => "dev",
        })
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Raw {
    signature: [u8; 16],
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    flags: U32,
    version_major: U16,
    version_minor: U16,
    dataoff: U64,
    npfns: U64,
    mode: U32,
    start_pad: U32,
    end_trunc: U32,
    align: U32,
    page_size: U32,
    page_struct_size: U16,
    padding: [u8; 3994],
    checksum: U64,
}

const CHECKSUM: usize = offset_of!(Raw, checksum);
const _: () = assert!(size_of::<Raw>() == INFO_LEN && CHECKSUM == 4088);
const _: () = assert!(offset_of!(Raw, dataoff) == 56 && offset_of!(Raw, page_struct_size) == 92);

/// A valid info block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// What the namespace is.
    pub kind: Kind,
    /// Its own uuid; the one that `ndctl list` shows.
    pub uuid: Uuid,
    /// The uuid of the namespace that it was made in; nil without labels.
    pub parent: Uuid,
    /// Linux writes 0 and does not look.
    pub flags: u32,
    /// Major and minor version. Any is accepted; what an older minor did not have reads as its default.
    pub version: (u16, u16),
    /// Where the page map is.
    pub mode: Mode,
    /// Where the data is. `npfns` is what the medium says, which Linux does not believe.
    pub geometry: Geometry,
    /// Bytes of a page where it was made.
    pub page_size: u32,
    /// Bytes of a page map entry that there is room for.
    pub page_struct_size: u16,
}

/// Why an info block is not used, told apart as Linux does (`nd_pfn_validate`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// There is none of this kind that belongs to this namespace (`ENODEV`): another may be looked for, or made.
    NotPfn(Invalid),
    /// It belongs here and cannot be honoured on this machine or in this place (`EOPNOTSUPP`): the namespace stays
    /// unused rather than raw.
    Unsupported(Invalid),
    /// It belongs here, with fields that cannot be (`ENXIO`).
    Corrupt(Invalid),
}

impl Rejected {
    /// The finding.
    #[must_use]
    pub const fn invalid(&self) -> &Invalid {
        match self {
            Rejected::NotPfn(invalid) | Rejected::Unsupported(invalid) | Rejected::Corrupt(invalid) => {
                invalid
            }
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
    /// The info block of a new namespace, version 1.4.
    #[must_use]
    pub const fn new(kind: Kind, uuid: Uuid, parent: Uuid, mode: Mode, geometry: Geometry) -> Info {
        Info {
            kind,
            uuid,
            parent,
            flags: 0,
            version: (1, 4),
            mode,
            geometry,
            page_size: 4096,
            page_struct_size: PAGE_STRUCT,
        }
    }

    /// Checks an info block against the namespace it was read from, in Linux's order.
    ///
    /// `parent` is the namespace's uuid, nil without labels; other than with BTT, a nil parent on media belongs to
    /// none but such a namespace. Where the start of the namespace is unknown, what depends on it is not checked.
    pub fn parse(raw: &[u8; INFO_LEN], kind: Kind, parent: Uuid, place: Place) -> Result<Info, Rejected> {
        let sum = fletcher64_without(raw, CHECKSUM);
        let raw: &Raw = zerocopy::transmute_ref!(raw);
        ours(raw, sum, kind, parent).map_err(Rejected::NotPfn)?;
        let mode = match raw.mode.get() {
            1 => Mode::Ram,
            2 => Mode::Pmem,
            other => {
                return Err(Rejected::Corrupt(Invalid::new(NAME, "mode", 72, other, "1 (mem) or 2 (dev)")));
            }
        };
        let info = Info {
            kind,
            uuid: Uuid::from_bytes(raw.uuid),
            parent,
            flags: raw.flags.get(),
            version: (raw.version_major.get(), raw.version_minor.get()),
            mode,
            geometry: geometry(raw),
            page_size: if raw.version_minor.get() < 4 { 4096 } else { raw.page_size.get() },
            page_struct_size: if raw.version_minor.get() < 4 {
                PAGE_STRUCT
            } else {
                raw.page_struct_size.get()
            },
        };
        info.usable(place).map_err(Rejected::Unsupported)?;
        if info.geometry.dataoff < RESERVE {
            let found = info.geometry.dataoff;
            let accepted = format!("{RESERVE} at least: the info block itself lies before");
            return Err(Rejected::Corrupt(Invalid::new(NAME, "dataoff", 56, found, accepted)));
        }
        Ok(info)
    }

    /// The bytes on media, checksum included.
    #[must_use]
    pub fn encode(&self) -> [u8; INFO_LEN] {
        let mut raw = Raw {
            signature: self.kind.signature(),
            uuid: self.uuid.into_bytes(),
            parent_uuid: self.parent.into_bytes(),
            flags: self.flags.into(),
            version_major: self.version.0.into(),
            version_minor: self.version.1.into(),
            dataoff: self.geometry.dataoff.into(),
            npfns: self.geometry.npfns.into(),
            mode: self.mode.number().into(),
            start_pad: self.geometry.start_pad.into(),
            end_trunc: self.geometry.end_trunc.into(),
            align: self.geometry.align.into(),
            page_size: self.page_size.into(),
            page_struct_size: self.page_struct_size.into(),
            padding: [0; 3994],
            checksum: U64::ZERO,
        };
        raw.checksum = fletcher64_without(raw.as_bytes(), CHECKSUM).into();
        transmute!(raw)
    }

    /// Whether the geometry fits the place and this kind of machine: pages of 4096 bytes, maps at 2 MiB.
    fn usable(&self, place: Place) -> Result<(), Invalid> {
        let bad = |field, offset, found: u64, accepted: String| {
            Err(Invalid::new(NAME, field, offset, found, accepted))
        };
        let Geometry { dataoff, start_pad, end_trunc, align, .. } = self.geometry;
        if self.mode == Mode::Pmem {
            if u64::from(self.page_size) != PAGE {
                return bad("page_size", 88, self.page_size.into(), PAGE.to_string());
            }
            if self.page_struct_size < PAGE_STRUCT {
                return bad(
                    "page_struct_size",
                    92,
                    self.page_struct_size.into(),
                    format!("at least {PAGE_STRUCT}"),
                );
            }
        }
        let supported = match self.kind {
            Kind::Fsdax => align.is_power_of_two() && u64::from(align) >= PAGE,
            Kind::Devdax => ALIGNMENTS.contains(&align),
        };
        if !supported {
            return bad("align", 84, align.into(), "4096, 2097152 or 1073741824".to_string());
        }
        let size = place.size;
        if u64::from(align) > size {
            return bad("align", 84, align.into(), format!("at most the namespace's {size} bytes"));
        }
        let unused = u64::from(start_pad).saturating_add(end_trunc.into());
        let data_max = size.saturating_sub(unused);
        if dataoff >= data_max || !dataoff.is_multiple_of(PAGE) {
            return bad("dataoff", 56, dataoff, format!("a multiple of {PAGE} below {data_max}"));
        }
        // Namespaces begin on pages, so this is wrong wherever one lies. Linux finds it by the addresses below.
        if !u64::from(start_pad).is_multiple_of(PAGE) {
            return bad("start_pad", 76, start_pad.into(), format!("a multiple of {PAGE}"));
        }
        let Some(start) = place.start else { return Ok(()) };
        let end = start.saturating_add(size).saturating_sub(end_trunc.into());
        let start = start.saturating_add(start_pad.into());
        for (field, offset, found, address, align) in [
            ("dataoff", 56, dataoff, start.saturating_add(dataoff), u64::from(align)),
            ("start_pad", 76, start_pad.into(), start, COMPAT),
            ("end_trunc", 80, end_trunc.into(), end, COMPAT),
        ] {
            if !address.is_multiple_of(align) {
                return bad(
                    field,
                    offset,
                    found,
                    format!("what makes address {address:#x} a multiple of {align}"),
                );
            }
        }
        Ok(())
    }
}

/// Whether it is an info block of this kind that belongs to this namespace.
fn ours(raw: &Raw, sum: u64, kind: Kind, parent: Uuid) -> Result<(), Invalid> {
    if raw.signature != kind.signature() {
        return Err(Invalid::new(NAME, "signature", 0, ascii(&raw.signature), ascii(&kind.signature())));
    }
    let stored = raw.checksum.get();
    if stored != sum {
        return Err(Invalid::new(NAME, "checksum", 4088, format!("{stored:#018x}"), format!("{sum:#018x}")));
    }
    let found = Uuid::from_bytes(raw.parent_uuid);
    if found != parent {
        return Err(Invalid::new(NAME, "parent_uuid", 32, found, parent));
    }
    Ok(())
}

/// The geometry, with the defaults of what this minor version did not have.
fn geometry(raw: &Raw) -> Geometry {
    let minor = raw.version_minor.get();
    let dataoff = raw.dataoff.get();
    let pads = if minor < 1 { [0, 0] } else { [raw.start_pad.get(), raw.end_trunc.get()] };
    let align = match raw.align.get() {
        align if minor >= 2 && align != 0 => align,
        // The largest power of two up to the offset; Linux takes that, and the offset is checked against it.
        _ => dataoff.checked_ilog2().and_then(|log| 1u32.checked_shl(log)).unwrap_or(0),
    };
    let [start_pad, end_trunc] = pads;
    Geometry { dataoff, npfns: raw.npfns.get(), start_pad, end_trunc, align }
}
