// SPDX-License-Identifier: MIT OR Apache-2.0
//! Info blocks for namespaces, or as templates.

use nvstack_format::btt::{self, ARENA_MIN, ArenaLayout, FlogRecord, LbaSize, Version, fresh_flog, split};
use nvstack_format::pfn::{self, Geometry, Place};
use nvstack_media::{Error, Kind, MediaOffset, Result};
use uuid::Uuid;

use super::check_disabled;
use crate::control::with_raw;
use crate::create::random_uuid;
use crate::enable::named_namespaces;
use crate::filter::Filter;
use crate::model::{MapLocation, Namespace, settle};
use crate::plan::{Mode, btt_version, sector_size_refusal};
use crate::report::{Outcome, Reporter, counted};
use crate::sys::Sys;

/// Bytes that are zeroed at once.
const CHUNK: u64 = 1 << 20;
/// What to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteInfoblock {
    /// `-m`: sector, fsdax or devdax; fsdax if not given. `ndctl` knows no sector mode here.
    pub mode: Option<Mode>,
    /// `-M`: where the page map goes; the device if not given.
    pub map: Option<MapLocation>,
    /// `-s`: bytes of the namespace; its size if not given. Must be given for a template.
    pub size: Option<u64>,
    /// `-a`: alignment; 2 MiB if not given.
    pub align: Option<u64>,
    /// `-l`: bytes of a sector in sector mode; 4096 if not given.
    pub sector_size: Option<u64>,
    /// `-u`: the block's own uuid; random if not given.
    pub uuid: Option<Uuid>,
    /// `-p`: the uuid of the namespace; its own if not given, nil for a template.
    pub parent: Option<Uuid>,
    /// `-O`: physical address at which the namespace begins; its own if not given, 0 for a template.
    pub offset: Option<u64>,
}

fn planned<T>(finding: Result<T, nvstack_format::Invalid>) -> Result<T> {
    finding.map_err(|f| Error::invalid(Kind::Invalid, "make info block", MediaOffset(0), f))
}

impl WriteInfoblock {
    fn mode(&self) -> Result<Mode> {
        let mode = self.mode.unwrap_or(Mode::Fsdax);
        let wrong = |what: &'static str, accepted: &'static str| {
            Err(Error::new(Kind::Invalid, what)
                .found(format_args!("{} mode", mode.name()))
                .accepted(accepted))
        };
        match mode {
            Mode::Raw => wrong("make info block", "sector, fsdax or devdax"),
            Mode::Sector if self.map.is_some() => wrong("map", "fsdax or devdax"),
            Mode::Sector if self.align.is_some() => wrong("align", "fsdax or devdax"),
            Mode::Fsdax | Mode::Devdax if self.sector_size.is_some() => wrong("sector size", "sector"),
            _ => Ok(mode),
        }
    }

    fn uuid(&self) -> Result<Uuid> {
        self.uuid.map_or_else(random_uuid, Ok)
    }

    fn lbasize(&self) -> Result<LbaSize> {
        let size = self.sector_size.unwrap_or(4096);
        u32::try_from(size).ok().and_then(|s| LbaSize::new(s).ok()).ok_or_else(|| sector_size_refusal(size))
    }

    /// The info block of an fsdax or devdax namespace.
    fn pages(&self, mode: Mode, place: Place, parent: Uuid) -> Result<[u8; pfn::INFO_LEN]> {
        let kind = if mode == Mode::Devdax { pfn::Kind::Devdax } else { pfn::Kind::Fsdax };
        let map = match self.map {
            Some(MapLocation::Memory) => pfn::Mode::Ram,
            Some(MapLocation::Device) | None => pfn::Mode::Pmem,
        };
        let align = self.align.unwrap_or(pfn::COMPAT);
        let align = u32::try_from(align).map_err(|_| {
            Error::new(Kind::Invalid, "align of info block").found(align).accepted("at most 2 GiB")
        })?;
        let geometry = planned(Geometry::compute(place, map, align))?;
        Ok(pfn::Info::new(kind, self.uuid()?, parent, map, geometry).encode())
    }
}

/// `write-infoblock -c` and `-o`: the first 8 KiB of a namespace that does not exist.
///
/// [`Kind::Invalid`] without a size. In sector mode it is the head of a BTT 1.1, which is none without the rest.
pub fn infoblock_template(o: &WriteInfoblock, reporter: &mut dyn Reporter) -> Result<Outcome> {
    let mode = o.mode()?;
    let Some(size) = o.size else {
        return Err(Error::new(Kind::Invalid, "make info block").found("no size").accepted("--size"));
    };
    let parent = o.parent.unwrap_or_default();
    let block = if mode == Mode::Sector {
        let span = split(size.saturating_sub(Version::V1_1.start())).next();
        let span = span.ok_or_else(|| too_small(size, Version::V1_1))?;
        let layout = planned(ArenaLayout::compute(span.size, o.lbasize()?, span.nextoff))?;
        btt::Info { uuid: o.uuid()?, parent, flags: 0, version: Version::V1_1, layout }.encode()
    } else {
        o.pages(mode, Place { start: o.offset, size }, parent)?
    };
    let mut head = vec![0; btt::INFO_LEN];
    head.extend(block);
    reporter.count(&format_args!("wrote {}", counted(1, "infoblock")));
    Ok(Outcome { bytes: Some(head), count: 1, ..Outcome::default() })
}

/// `write-infoblock NAMESPACE`: makes a disabled namespace one of another mode, without enabling it.
///
/// Where it has a label the label is told what to look for (`holder_class`), as `create-namespace` does, so that Linux
/// finds it. In sector mode a whole BTT is laid out: maps and logs first, info blocks last. What the namespace held at the
/// places of info blocks, maps and logs is lost.
pub fn write_infoblock(
    sys: &dyn Sys,
    namespace: &str,
    filter: &Filter,
    o: &WriteInfoblock,
    reporter: &mut dyn Reporter,
) -> Result<Outcome> {
    settle(sys);
    let mode = o.mode()?;
    let mut outcome = Outcome::default();
    for n in named_namespaces(sys, &[namespace.to_owned()], filter)? {
        match write_one(&n, mode, o) {
            Ok(()) => outcome.count = outcome.count.saturating_add(1),
            Err(e) => outcome.fail(reporter, &e),
        }
    }
    reporter.count(&format_args!("wrote {}", counted(outcome.count, "infoblock")));
    Ok(outcome)
}

fn too_small(size: u64, version: Version) -> Error {
    Error::new(Kind::Invalid, "make BTT")
        .found(format_args!("{size} bytes"))
        .accepted(format_args!("{} or more", ARENA_MIN.saturating_add(version.start())))
}

/// What is written.
enum What {
    /// A BTT that begins with this arena.
    Btt(btt::Info),
    /// One block.
    Pages(Box<[u8; pfn::INFO_LEN]>),
}

fn write_one(n: &Namespace<'_>, mode: Mode, o: &WriteInfoblock) -> Result<()> {
    check_disabled(n)?;
    let size = o.size.unwrap_or_else(|| n.size());
    if size > n.size() {
        return Err(Error::new(Kind::Invalid, format!("write info block of {}", n.name()))
            .found(format_args!("size {size}"))
            .accepted(format_args!("at most {}", n.size())));
    }
    let label = n.uuid().filter(|_| n.labelled());
    let parent = o.parent.or(label).unwrap_or_default();
    // All that can be refused is refused before anything is stored.
    let what = if mode == Mode::Sector {
        let version = btt_version(n.region(), n.labelled());
        let span =
            split(size.saturating_sub(version.start())).next().ok_or_else(|| too_small(size, version))?;
        let layout = planned(ArenaLayout::compute(span.size, o.lbasize()?, span.nextoff))?;
        What::Btt(btt::Info { uuid: o.uuid()?, parent, flags: 0, version, layout })
    } else {
        let start = o.offset.or_else(|| n.resource());
        What::Pages(Box::new(o.pages(mode, Place { start, size }, parent)?))
    };
    if n.labelled() {
        n.store("holder_class", mode.claim().map_or("", |k| k.word()))?;
    }
    with_raw(n, |dev| match what {
        What::Btt(info) => lay_out_btt(n, dev, size, &info),
        What::Pages(block) => n.sys().write_dev(dev, pfn::INFO_OFFSET, &*block),
    })
}

/// A whole BTT. The old info block goes first and the new ones come last, the highest arena's first, each backup before
/// its primary: a cut leaves no BTT, or a whole one.
fn lay_out_btt(n: &Namespace<'_>, dev: &str, size: u64, info: &btt::Info) -> Result<()> {
    let sys = n.sys();
    let start = info.version.start();
    sys.write_dev(dev, start, &[0; btt::INFO_LEN])?;
    let mut arenas = Vec::new();
    for span in split(size.saturating_sub(start)) {
        let layout = planned(ArenaLayout::compute(span.size, info.layout.lbasize, span.nextoff))?;
        let base = start.saturating_add(span.offset);
        zero(sys, dev, base.saturating_add(layout.mapoff), layout.map_len())?;
        let flog: Vec<u8> = (0..layout.nfree)
            .flat_map(|lane| fresh_flog(&layout, lane))
            .flat_map(FlogRecord::halves)
            .flat_map(u64::to_le_bytes)
            .collect();
        sys.write_dev(dev, base.saturating_add(layout.logoff), &flog)?;
        arenas.push((base, layout));
    }
    for (base, layout) in arenas.into_iter().rev() {
        let block = btt::Info { layout, ..info.clone() }.encode();
        sys.write_dev(dev, base.saturating_add(layout.info2off), &block)?;
        sys.write_dev(dev, base, &block)?;
    }
    Ok(())
}

fn zero(sys: &dyn Sys, dev: &str, mut at: u64, len: u64) -> Result<()> {
    let end = at.saturating_add(len);
    while at < end {
        let step = end.saturating_sub(at).min(CHUNK);
        sys.write_dev(dev, at, &vec![0; usize::try_from(step).unwrap_or(0)])?;
        at = at.saturating_add(step);
    }
    Ok(())
}
