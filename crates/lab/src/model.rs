// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a lab file says, validated as far as it can be without its files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use nvstack_format::Dpa;
use nvstack_media::{Error, Kind, Result};

use crate::identity::Identity;
use crate::text::Position;
use crate::{build, plan};

/// Bytes of the largest lab file that is read. One that describes a thousand DIMMs has fewer.
const FILE_MAX: u64 = 1 << 20;

/// What `flags` of a DIMM may hold: the words of Linux `nfit/flags`, of which `not_armed` makes its regions read-only.
pub const FLAGS: &[&str] =
    &["save_fail", "restore_fail", "flush_fail", "not_armed", "smart_event", "map_fail", "smart_notify"];

/// A validated lab description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lab {
    /// The lab file, for messages; files in it are relative to its folder.
    pub path: PathBuf,
    /// Buses, in their order.
    pub buses: Vec<Bus>,
}

/// A bus (Linux `ndbusN`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bus {
    /// Name of what provides it.
    pub provider: String,
    /// Its DIMMs, in their order.
    pub dimms: Vec<Dimm>,
    /// Its regions, in their order.
    pub regions: Vec<Region>,
    /// Where it is described.
    pub at: Position,
}

/// Where bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// In a file, and how large it must be if that is told.
    File(PathBuf, Option<u64>),
    /// In memory of this process; bytes.
    Memory(u64),
}

impl Backing {
    /// Bytes, as far as the description tells.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        match self {
            Backing::File(_, size) => *size,
            Backing::Memory(size) => Some(*size),
        }
    }
}

/// A DIMM (Linux `nmemN`): persistent memory, and behind it a label area if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dimm {
    /// Where its bytes are.
    pub backing: Backing,
    /// Bytes of the label area, at the end; 0 for none. If not told it is found by its index block.
    pub label_size: Option<u64>,
    /// Who it is. None for a RAM range with labels (Linux `ramdax`), which no NFIT describes.
    pub identity: Option<Identity>,
    /// Some of [`FLAGS`].
    pub flags: Vec<&'static str>,
    /// Where it is described.
    pub at: Position,
}

impl Dimm {
    /// Bytes of persistent memory, as far as the description tells.
    #[must_use]
    pub fn pmem_size(&self) -> Option<u64> {
        match self.backing {
            Backing::Memory(size) => size.checked_sub(self.label_size.unwrap_or(0)),
            Backing::File(_, size) => {
                size.zip(self.label_size).and_then(|(all, label)| all.checked_sub(label))
            }
        }
    }
}

/// A region (Linux `regionN`): a range of physical addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// What it consists of.
    pub source: Source,
    /// Physical address of its first byte; if not told, the next that is free from 4 GiB on.
    pub start: Option<u64>,
    /// How it behaves.
    pub options: Options,
    /// Where it is described.
    pub at: Position,
}

/// What a region consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// DIMMs of its bus.
    Set {
        /// The DIMMs' parts, as they are listed.
        members: Vec<Member>,
        /// How they make one range.
        interleaving: Interleaving,
    },
    /// A range without DIMM or labels.
    Range(Backing),
}

/// How several DIMMs make one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interleaving {
    /// In turn, in lines of so many bytes.
    Lines(u64),
    /// One after the other, as a QEMU guest has them that is shown a set through replaced ACPI tables.
    Concat,
}

/// A DIMM's part of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Number of the DIMM in its bus, from 0.
    pub dimm: usize,
    /// Where the part begins in its persistent memory.
    pub offset: Dpa,
    /// Bytes; if not told, all that follows.
    pub size: Option<u64>,
    /// Its turn in the set, from 0.
    pub position: u32,
    /// The NFIT's region offset, which goes into the set's cookie. If not told: in lines, as many lines as DIMMs come
    /// before; else the bytes that come before.
    pub region_offset: Option<u64>,
    /// Where it is described.
    pub at: Position,
}

/// How a region behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Persistent or volatile.
    pub kind: RegionKind,
    /// Whether it is read-only at first (Linux `read_only`).
    pub read_only: bool,
    /// Alignment of its namespaces; if not told Linux's: 16 MiB, or a page in a smaller region, times the number of DIMMs if
    /// that does not divide it.
    pub align: Option<u64>,
    /// Persistence domain; if not told what the files give.
    pub persistence: Option<Persistence>,
    /// NUMA node, -1 for none.
    pub numa_node: i32,
    /// NUMA node of its memory when it is used as such, -1 for none.
    pub target_node: i32,
    /// The NFIT's number of the range, from 1.
    pub range_index: u16,
}

/// What a region is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// Persistent memory (Linux `nd_pmem`).
    Pmem,
    /// Volatile memory (Linux `nd_volatile`).
    Volatile,
}

/// What a store must reach to persist (Linux `persistence_domain`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// The CPU's caches: a platform with enough energy to write them back.
    CpuCache,
    /// The memory controller.
    MemoryController,
    /// Not told; the attribute is hidden.
    Unknown,
}

impl Lab {
    /// Reads a description. `path` is the lab file's: messages name it, and files are relative to its folder.
    ///
    /// No file is touched: that those named in it exist and are large enough is found by [`Lab::open`].
    ///
    /// Every error is [`Kind::Invalid`] and names line and column as `path:line:column`.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Lab> {
        let lab = build::lab(text, path.as_ref())?;
        // What is known without the files must make sense without them.
        let known = lab.buses.iter().map(plan::Sizes::told).collect::<Vec<_>>();
        for planned in plan::plan(&lab, &known).into_iter().flatten() {
            planned?;
        }
        Ok(lab)
    }

    /// Reads the description in a file, as [`Lab::parse`].
    pub fn load(path: impl AsRef<Path>) -> Result<Lab> {
        const OPERATION: &str = "read lab";
        let path = path.as_ref();
        let failed = |e| Error::os(OPERATION, e).path(path);
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(FILE_MAX.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_MAX {
            return Err(Error::new(Kind::Invalid, OPERATION)
                .path(path)
                .found("a longer file")
                .accepted(format_args!("{FILE_MAX} bytes of TOML at most")));
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            Error::new(Kind::Invalid, OPERATION).path(path).accepted("TOML, which is UTF-8").because(e)
        })?;
        Lab::parse(&text, path)
    }
}
