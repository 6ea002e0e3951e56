// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is done to a namespace.

use std::fmt;
use std::io::IoSlice;
use std::str::FromStr;

use nvstack_block::{BlockDevice, Lba, Linear, WriteFlags};
use nvstack_format::pfn::{Geometry, INFO_OFFSET};
use nvstack_media::{Error, Kind as ErrorKind, Media, MediaOffset, Result};
use nvstack_pfn_sim::{
    CreateOptions, Descriptor, Info, Kind, Mode, OpenOptions, PageFlags, Pages, Place, Probe, create, probe,
};
use nvstack_sim::{Image, Model, SimMedium};
use uuid::Uuid;

/// Bytes of the namespace. Its data begin at 2 MiB.
const SIZE: u64 = 4 << 20;
/// Where it lies.
pub(crate) const PLACE: Place = Place { start: Some(0), size: SIZE };
/// Its uuid.
pub(crate) const PARENT: Uuid = Uuid::from_u128(9);
/// The uuid of what it held before.
pub(crate) const OLD: Uuid = Uuid::from_u128(1);
/// The uuid of what is laid out.
pub(crate) const NEW: Uuid = Uuid::from_u128(0x7777_0000_0000_0000_7777);

/// What the namespace held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Before {
    /// Nothing.
    Blank,
    /// Bytes of somebody else, where the info block and the first descriptors go.
    Junk,
    /// A whole one of this namespace, with descriptors that are set.
    Whole,
    /// A whole one of another namespace, which was here.
    Foreign,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deed {
    /// One is laid out.
    Create(Kind, Mode),
    /// Its info block alone is written, past the engine, as a raw device takes it.
    Block(Kind),
    /// Descriptors are set, several times over.
    Descriptors,
}

/// What is done, over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// What was there before.
    pub before: Before,
    /// What is done.
    pub deed: Deed,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = match self.before {
            Before::Blank => "blank",
            Before::Junk => "junk",
            Before::Whole => "whole",
            Before::Foreign => "foreign",
        };
        let kind = |kind: &Kind| if *kind == Kind::Fsdax { "fsdax" } else { "devdax" };
        match &self.deed {
            Deed::Create(of, Mode::Pmem) => write!(f, "{}-dev/{before}", kind(of)),
            Deed::Create(of, Mode::Ram) => write!(f, "{}-mem/{before}", kind(of)),
            Deed::Block(of) => write!(f, "{}-block/{before}", kind(of)),
            Deed::Descriptors => write!(f, "descriptors/{before}"),
        }
    }
}

impl FromStr for Workload {
    type Err = Error;

    fn from_str(text: &str) -> Result<Workload> {
        all().into_iter().find(|workload| workload.to_string() == text).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "read workload")
                .found(format_args!("{text:?}"))
                .accepted("DEED/BEFORE, as in fsdax-dev/whole or descriptors/blank")
        })
    }
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Workload> {
    let mut found = Vec::new();
    for before in [Before::Blank, Before::Whole, Before::Foreign, Before::Junk] {
        for deed in [
            Deed::Create(Kind::Fsdax, Mode::Pmem),
            Deed::Create(Kind::Devdax, Mode::Pmem),
            Deed::Create(Kind::Fsdax, Mode::Ram),
            Deed::Block(Kind::Fsdax),
            Deed::Block(Kind::Devdax),
        ] {
            found.push(Workload { before, deed });
        }
    }
    for before in [Before::Blank, Before::Whole, Before::Junk] {
        found.push(Workload { before, deed: Deed::Descriptors });
    }
    found
}

/// The pages whose descriptors are set, and to what: one number each, 0 for never.
pub(crate) const SETS: [(u64, u64); 6] = [(0, 1), (1, 2), (0, 3), (0, 4), (1, 5), (0, 6)];

/// The descriptor of a number; its generation is counted by the engine.
pub(crate) fn descriptor(number: u64) -> Descriptor {
    let flags = if number.is_multiple_of(2) { PageFlags::LOST } else { PageFlags::empty() };
    Descriptor { flags, references: number as u32, owner: number << 32 | number, generation: 0 }
}

fn options(kind: Kind, uuid: Uuid, parent: Uuid, mode: Mode) -> CreateOptions {
    CreateOptions { kind, uuid, parent, mode, align: 4096, place: PLACE, overwrite: true }
}

/// Attaches to the namespace in a medium.
pub(crate) fn open(medium: SimMedium, kind: Kind, read_only: bool) -> Result<Pages<SimMedium>> {
    Pages::open(medium, OpenOptions { read_only, ..OpenOptions::new("explored", kind, PARENT, PLACE) })
}

impl Workload {
    /// What the namespace holds at first.
    pub(crate) fn start(&self) -> Result<Image> {
        let medium = SimMedium::memory(Image::zeros(SIZE), Model::X86);
        let junk = |at: u64, len: usize| medium.store(MediaOffset(at), &vec![0xa5; len]);
        match self.before {
            Before::Blank => {}
            Before::Junk => {
                junk(INFO_OFFSET, 64)?;
                junk(INFO_OFFSET + 4088, 8)?;
                junk(INFO_OFFSET + 4096, 128)?;
            }
            Before::Whole => {
                create(&medium, &options(Kind::Fsdax, OLD, PARENT, Mode::Pmem))?;
                let pages = open(medium.clone(), Kind::Fsdax, false)?;
                pages.set_descriptor(0, descriptor(7))?;
                pages.set_descriptor(1, descriptor(8))?;
            }
            Before::Foreign => {
                create(&medium, &options(Kind::Fsdax, NEW, Uuid::from_u128(8), Mode::Pmem))?;
            }
        }
        if self.deed == Deed::Descriptors && self.before != Before::Whole {
            create(&medium, &options(Kind::Fsdax, OLD, PARENT, Mode::Pmem))?;
            if self.before == Before::Junk {
                junk(INFO_OFFSET + 4096, 128)?;
            }
        }
        Ok(medium.image())
    }

    /// Changes that are answered one after the other.
    pub(crate) const fn steps(&self) -> usize {
        match self.deed {
            Deed::Descriptors => SETS.len(),
            _ => 1,
        }
    }

    /// Does one of them.
    pub(crate) fn run(&self, medium: &SimMedium, step: usize) -> Result<()> {
        match self.deed {
            Deed::Create(kind, mode) => create(medium, &options(kind, NEW, PARENT, mode)).map(drop),
            Deed::Block(_) => {
                let device = Linear::new("explored", medium.clone(), 512, false)?;
                let bytes = self.block().map(|info| info.encode().to_vec()).unwrap_or_default();
                device.write(Lba(INFO_OFFSET / 512), &[IoSlice::new(&bytes)], WriteFlags::FUA)
            }
            Deed::Descriptors => {
                let Some((page, number)) = SETS.get(step) else {
                    return Err(Error::new(ErrorKind::Invalid, "set descriptor"));
                };
                open(medium.clone(), Kind::Fsdax, false)?.set_descriptor(*page, descriptor(*number))
            }
        }
    }

    /// What another process does after one was killed in a change: goes on with it, and with what was to follow; or
    /// opens what it finds. `answer` is called after each.
    pub(crate) fn survive(&self, medium: &SimMedium, step: usize, answer: &mut dyn FnMut()) -> Result<()> {
        let kind = match self.deed {
            Deed::Create(kind, _) | Deed::Block(kind) => kind,
            Deed::Descriptors => {
                for step in step..self.steps() {
                    self.run(medium, step)?;
                    answer();
                }
                return Ok(());
            }
        };
        if let Probe::Found(info) = probe(medium, kind, PARENT, PLACE)?
            && info.uuid == NEW
        {
            // What is open stays there.
            open(medium.clone(), kind, false)?;
            answer();
        }
        Ok(())
    }

    /// The info block that is written.
    pub(crate) fn block(&self) -> Option<Info> {
        let (kind, mode) = match self.deed {
            Deed::Create(kind, mode) => (kind, mode),
            Deed::Block(kind) => (kind, Mode::Pmem),
            Deed::Descriptors => return None,
        };
        let geometry = Geometry::compute(PLACE, mode, 4096).ok()?;
        Some(Info::new(kind, NEW, PARENT, mode, geometry))
    }
}
