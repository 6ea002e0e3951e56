// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lab with its files open.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use nvstack_format::label::{AREA_MIN, AreaLayout, SIGNATURE, Version};
use nvstack_format::{Cookies, cookies};
use nvstack_label::{WINDOW, find_area};
use nvstack_media::{
    Access, Anon, Concat, Domain, Error, Interleave, Kind, Mapping as FileMapping, Media, MediaOffset, Part,
    Result,
};

use crate::build::PAGE;
use crate::identity::Identity;
use crate::model::{
    Backing, Bus, Dimm, Interleaving, Lab, Member, Options, Persistence, Region, RegionKind, Source,
};
use crate::plan::{Mapping, Planned, Sizes, plan};
use crate::text::{Position, refuse};

/// The cookie of a region that no NFIT describes (Linux `ramdax`).
const RAM_COOKIE: u64 = 0xcafe_beef_cafe_beef;

/// A lab with its files open and locked: as long as any of its media lives, so does the lock of its file.
#[derive(Debug)]
pub struct OpenLab {
    /// Buses, in their order.
    pub buses: Vec<OpenBus>,
}

/// A bus.
#[derive(Debug)]
pub struct OpenBus {
    /// Name of what provides it.
    pub provider: String,
    /// Its DIMMs, in their order. Those that are absent keep their place.
    pub dimms: Vec<OpenDimm>,
    /// Its regions, in their order.
    pub regions: Vec<OpenRegion>,
}

/// A DIMM.
#[derive(Debug)]
pub struct OpenDimm {
    /// What a person would call it: its file.
    pub name: String,
    /// Who it is; None for a RAM range with labels.
    pub identity: Option<Identity>,
    /// Words of Linux `nfit/flags`.
    pub flags: Vec<&'static str>,
    /// Its bytes, or why it is absent: [`Kind::NotFound`] for a missing file, [`Kind::Busy`] with who holds it,
    /// [`Kind::Invalid`] for one of another size, and so on.
    pub parts: Result<Parts>,
    /// Where the lab file describes it.
    pub at: Position,
}

/// The two parts of a DIMM.
#[derive(Clone)]
pub struct Parts {
    /// Persistent memory.
    pub pmem: Arc<dyn Media>,
    /// The label area, blank or damaged perhaps; None for a DIMM without.
    pub labels: Option<Arc<dyn Media>>,
}

/// A region.
#[derive(Debug)]
pub struct OpenRegion {
    /// Its range, or why there is none: a DIMM of it is absent, or files are of other sizes than it needs.
    pub body: Result<RegionBody>,
    /// What labels of it must carry; None for a range without DIMM, and where nothing tells a region offset.
    pub cookies: Option<Cookies>,
    /// Persistent or volatile.
    pub kind: RegionKind,
    /// Whether it is read-only at first. The media are as writable as the lab was opened.
    pub read_only: bool,
    /// NUMA node, -1 for none.
    pub numa_node: i32,
    /// NUMA node of its memory when it is used as such, -1 for none.
    pub target_node: i32,
    /// The NFIT's number of the range.
    pub range_index: u16,
    /// Where the lab file describes it.
    pub at: Position,
}

/// The range of a region.
#[derive(Clone)]
pub struct RegionBody {
    /// Its bytes.
    pub media: Arc<dyn Media>,
    /// Physical address of the first.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// The DIMMs' parts, in the order of their positions; none for a range without DIMM.
    pub mappings: Vec<Mapping>,
    /// Alignment of namespaces.
    pub align: u64,
    /// Persistence domain, as the lab file tells or the files give: `cpu_cache` only where a flush of the cache is all
    /// that a store needs.
    pub persistence: Persistence,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.labels.as_ref().map_or(0, |labels| labels.len());
        write!(f, "Parts({} bytes, {labels} of labels)", self.pmem.len())
    }
}

impl fmt::Debug for RegionBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, size, mappings, .. } = self;
        write!(f, "RegionBody({size} bytes from {start:#x} on, {mappings:?})")
    }
}

/// A DIMM or a range, open.
struct Opened {
    whole: Whole,
    label_size: u64,
}

/// All bytes of a file or of a piece of memory.
enum Whole {
    File(Arc<FileMapping>),
    Memory(Arc<Anon>),
}

impl Whole {
    fn len(&self) -> u64 {
        match self {
            Whole::File(media) => media.len(),
            Whole::Memory(media) => media.len(),
        }
    }

    /// A part of it. The type behind the pointer is the plainest, since every access goes through it.
    fn part(&self, at: u64, len: u64) -> Result<Arc<dyn Media>> {
        let at = MediaOffset(at);
        Ok(match self {
            Whole::File(media) => Arc::new(Part::new(Arc::clone(media), at, len)?),
            Whole::Memory(media) => Arc::new(Part::new(Arc::clone(media), at, len)?),
        })
    }
}

impl Opened {
    fn pmem_size(&self) -> u64 {
        self.whole.len().saturating_sub(self.label_size)
    }

    fn parts(&self) -> Result<Parts> {
        let size = self.pmem_size();
        let labels = (self.label_size > 0).then(|| self.whole.part(size, self.label_size)).transpose()?;
        Ok(Parts { pmem: self.whole.part(0, size)?, labels })
    }
}

impl Lab {
    /// Opens every file under a lock that ends with its media: exclusive for [`Access::ReadWrite`], else shared. Changes
    /// no byte.
    ///
    /// Fails as a whole only if one file is named twice, be it by two paths ([`Kind::Invalid`], with line and column).
    /// Anything else concerns a DIMM or a region, and stands there: healthy neighbours stay up. That DIMMs were swapped
    /// no file tells; the cookies in their labels do.
    pub fn open(&self, access: Access) -> Result<OpenLab> {
        self.refuse_shared_files()?;
        let opened: Vec<Wholes> = self.buses.iter().map(|bus| open_bus(bus, access)).collect();
        let sizes: Vec<Sizes> = self.buses.iter().zip(&opened).map(|(bus, of)| of.sizes(bus)).collect();
        let plans = plan(self, &sizes);
        let buses = self.buses.iter().zip(opened).zip(plans);
        Ok(OpenLab { buses: buses.map(|((bus, opened), plans)| assemble(bus, opened, plans)).collect() })
    }

    /// Two mappings of one file, each with poison, a label area and a lock of its own, would ruin each other.
    fn refuse_shared_files(&self) -> Result<()> {
        let mut seen: BTreeMap<(u64, u64), (Position, &Path)> = BTreeMap::new();
        for (backing, at) in self.buses.iter().flat_map(backings) {
            let Backing::File(path, _) = backing else { continue };
            // One that is missing is a matter of its DIMM.
            let Ok(found) = fs::metadata(path) else { continue };
            let identity = match found.file_type().is_block_device() {
                // The device, whichever node names it.
                true => (u64::MAX, found.rdev()),
                false => (found.dev(), found.ino()),
            };
            if let Some((other, name)) = seen.insert(identity, (at, path)) {
                return Err(refuse(&self.path, at, "open lab")
                    .found(format_args!(
                        "{}, which is the file of line {} ({})",
                        path.display(),
                        other.line,
                        name.display()
                    ))
                    .accepted("each file once"));
            }
        }
        Ok(())
    }
}

/// Everything on a bus that has bytes, in any order.
fn backings(bus: &Bus) -> impl Iterator<Item = (&Backing, Position)> {
    let ranges = bus.regions.iter().filter_map(|region| match &region.source {
        Source::Range(backing) => Some((backing, region.at)),
        Source::Set { .. } => None,
    });
    bus.dimms.iter().map(|dimm| (&dimm.backing, dimm.at)).chain(ranges)
}

/// What a bus has open: for each DIMM, and for each region that is a range of its own.
struct Wholes {
    dimms: Vec<Result<Opened>>,
    ranges: Vec<Option<Result<Opened>>>,
}

impl Wholes {
    fn sizes(&self, bus: &Bus) -> Sizes {
        let told = Sizes::told(bus);
        let dimms = self.dimms.iter().zip(told.dimms);
        let ranges = self.ranges.iter().zip(told.ranges);
        Sizes {
            dimms: dimms.map(|(open, told)| open.as_ref().map(Opened::pmem_size).ok().or(told)).collect(),
            ranges: ranges
                .map(|(open, told)| open.as_ref()?.as_ref().map(Opened::pmem_size).ok().or(told))
                .collect(),
        }
    }
}

fn open_bus(bus: &Bus, access: Access) -> Wholes {
    let dimm = |dimm: &Dimm| open_backing(&dimm.backing, dimm.label_size, access);
    let range = |region: &Region| match &region.source {
        Source::Range(backing) => Some(open_backing(backing, Some(0), access)),
        Source::Set { .. } => None,
    };
    Wholes { dimms: bus.dimms.iter().map(dimm).collect(), ranges: bus.regions.iter().map(range).collect() }
}

fn open_backing(backing: &Backing, label_size: Option<u64>, access: Access) -> Result<Opened> {
    const OPERATION: &str = "open DIMM";
    let (path, wanted) = match backing {
        Backing::Memory(size) => {
            let whole = Whole::Memory(Arc::new(Anon::new(*size)?));
            return Ok(Opened { whole, label_size: label_size.unwrap_or(0) });
        }
        Backing::File(path, wanted) => (path, wanted),
    };
    let file = Arc::new(FileMapping::open_locked(path, access)?);
    let refuse = || Error::new(Kind::Invalid, OPERATION).path(path);
    let size = file.len();
    if let Some(wanted) = wanted.filter(|wanted| *wanted != size) {
        return Err(refuse().found(format_args!("{size} bytes")).accepted(format_args!("{wanted}")));
    }
    if size.checked_rem(PAGE) != Some(0) {
        return Err(refuse()
            .found(format_args!("{size} bytes"))
            .accepted(format_args!("a multiple of {PAGE}")));
    }
    let label_size = match label_size {
        Some(label_size) => label_size,
        None => find_labels(&file)?,
    };
    if label_size >= size || label_size.checked_rem(PAGE) != Some(0) {
        return Err(refuse()
            .found(format_args!("a label area of {label_size} bytes"))
            .accepted(format_args!("a multiple of {PAGE} below the file's {size}")));
    }
    Ok(Opened { whole: Whole::File(file), label_size })
}

/// Bytes of the label area at the end of a file: by a valid index block, or by the signature of a damaged one where areas
/// usually begin, a power of two from the end. Taken for persistent memory, what is left of it would be lost.
fn find_labels(file: &FileMapping) -> Result<u64> {
    if let Some(size) = find_area(file)? {
        return Ok(size);
    }
    let sizes = (0..)
        .map_while(|shift| AREA_MIN.checked_shl(shift))
        .take_while(|size| *size <= WINDOW && *size < file.len());
    for size in sizes.filter(|size| size.checked_rem(PAGE) == Some(0)) {
        let start = MediaOffset(file.len().saturating_sub(size));
        let second = Version::ALL.into_iter().filter_map(|v| AreaLayout::compute(size, v).ok());
        for at in std::iter::once(0).chain(second.map(|layout| layout.index(1))) {
            let mut found = [0; SIGNATURE.len()];
            file.read(start.plus(at), &mut found)?;
            if found == SIGNATURE {
                return Ok(size);
            }
        }
    }
    Ok(0)
}

fn assemble(bus: &Bus, opened: Wholes, plans: Vec<Result<Option<Planned>>>) -> OpenBus {
    let regions = bus.regions.iter().zip(&opened.ranges).zip(plans);
    let regions = regions
        .map(|((region, range), planned)| {
            let planned = planned.map(|planned| {
                planned.map(|planned| (body(bus, region, range.as_ref(), &opened, &planned), planned))
            });
            let (body, planned) = match planned {
                Ok(Some((body, planned))) => (body, Some(planned)),
                // A size is unknown only where something is absent.
                Ok(None) => (Err(absence(bus, region, range.as_ref(), &opened)), None),
                Err(e) => (Err(e), None),
            };
            let Options { kind, read_only, numa_node, target_node, range_index, .. } = region.options;
            let (cookies, at) = (cookies_of(bus, region, planned.as_ref()), region.at);
            OpenRegion { body, cookies, kind, read_only, numa_node, target_node, range_index, at }
        })
        .collect();
    let dimms = bus.dimms.iter().zip(opened.dimms);
    let dimms = dimms
        .map(|(dimm, open)| OpenDimm {
            name: name(&dimm.backing),
            identity: dimm.identity.clone(),
            flags: dimm.flags.clone(),
            parts: open.and_then(|open| open.parts()),
            at: dimm.at,
        })
        .collect();
    OpenBus { provider: bus.provider.clone(), dimms, regions }
}

fn name(backing: &Backing) -> String {
    match backing {
        Backing::File(path, _) => path.display().to_string(),
        Backing::Memory(size) => format!("memory of {size} bytes"),
    }
}

/// Why a region is not there, if something that it needs is not.
fn missing(bus: &Bus, region: &Region, range: Option<&Result<Opened>>, opened: &Wholes) -> Option<Error> {
    const OPERATION: &str = "assemble region";
    match &region.source {
        Source::Range(backing) => {
            let e = range?.as_ref().err()?;
            Some(Error::new(e.kind(), OPERATION).path(name(backing)).because(e.to_string()))
        }
        Source::Set { members, .. } => members.iter().find_map(|Member { dimm, .. }| {
            let e = opened.dimms.get(*dimm)?.as_ref().err()?;
            let error = Error::new(e.kind(), OPERATION)
                .path(bus.dimms.get(*dimm).map(|dimm| name(&dimm.backing)).unwrap_or_default())
                .found(format_args!("DIMM {dimm} absent"))
                .accepted("every DIMM of the set");
            Some(error.because(e.to_string()))
        }),
    }
}

fn absence(bus: &Bus, region: &Region, range: Option<&Result<Opened>>, opened: &Wholes) -> Error {
    missing(bus, region, range, opened)
        .unwrap_or_else(|| Error::new(Kind::Invalid, "assemble region").found("a size that is not known"))
}

fn body(
    bus: &Bus,
    region: &Region,
    range: Option<&Result<Opened>>,
    opened: &Wholes,
    planned: &Planned,
) -> Result<RegionBody> {
    if let Some(e) = missing(bus, region, range, opened) {
        return Err(e);
    }
    let media = match (&region.source, range) {
        (Source::Set { interleaving, .. }, _) => set(&planned.mappings, *interleaving, opened)?,
        (Source::Range(_), Some(Ok(open))) => open.whole.part(0, open.pmem_size())?,
        (Source::Range(_), _) => return Err(absence(bus, region, range, opened)),
    };
    let given = match media.domain() {
        Domain::Cache => Persistence::CpuCache,
        Domain::PageCache | Domain::Memory => Persistence::Unknown,
    };
    Ok(RegionBody {
        media,
        start: planned.start,
        size: planned.size,
        mappings: planned.mappings.clone(),
        align: planned.align,
        persistence: region.options.persistence.unwrap_or(given),
    })
}

/// The bytes of a set. Members that are all files, or all memory, are reached without a detour.
fn set(mappings: &[Mapping], interleaving: Interleaving, opened: &Wholes) -> Result<Arc<dyn Media>> {
    let (mut files, mut memories, mut mixed) = (Vec::new(), Vec::new(), Vec::<Arc<dyn Media>>::new());
    for Mapping { dimm, dpa, size, .. } in mappings {
        let Some(Ok(Opened { whole, .. })) = opened.dimms.get(*dimm) else { continue };
        match whole {
            Whole::File(media) => files.push(Part::new(Arc::clone(media), MediaOffset(dpa.0), *size)?),
            Whole::Memory(media) => memories.push(Part::new(Arc::clone(media), MediaOffset(dpa.0), *size)?),
        }
        mixed.push(whole.part(dpa.0, *size)?);
    }
    match mappings.len() {
        count if count == files.len() => join(files, interleaving),
        count if count == memories.len() => join(memories, interleaving),
        _ => join(mixed, interleaving),
    }
}

fn join<M: Media + 'static>(mut members: Vec<M>, interleaving: Interleaving) -> Result<Arc<dyn Media>> {
    Ok(match (members.len(), interleaving) {
        (1, _) => match members.pop() {
            Some(member) => Arc::new(member),
            None => Arc::new(Concat::new(members)?),
        },
        (_, Interleaving::Lines(lines)) => Arc::new(Interleave::new(members, lines)?),
        (_, Interleaving::Concat) => Arc::new(Concat::new(members)?),
    })
}

/// The cookies of a region, from its plan or, if there is none, from what the description tells.
fn cookies_of(bus: &Bus, region: &Region, planned: Option<&Planned>) -> Option<Cookies> {
    let Source::Set { members, interleaving } = &region.source else { return None };
    let told = |member: &Member| {
        let lines = match interleaving {
            Interleaving::Lines(lines) => Some(lines.saturating_mul(u64::from(member.position))),
            Interleaving::Concat => None,
        };
        member.region_offset.or(lines).map(|offset| (member.dimm, offset))
    };
    let offsets: Option<Vec<(usize, u64)>> = match planned {
        Some(planned) => Some(planned.mappings.iter().map(|m| (m.dimm, m.region_offset)).collect()),
        None => members.iter().map(told).collect(),
    };
    let dimms = offsets?;
    let dimms = dimms.iter().map(|(dimm, offset)| Some((bus.dimms.get(*dimm)?, *offset)));
    let dimms: Vec<(&Dimm, u64)> = dimms.collect::<Option<_>>()?;
    let identities = dimms.iter().map(|(dimm, offset)| Some(dimm.identity.as_ref()?.set_member(*offset)));
    match identities.collect::<Option<Vec<_>>>() {
        Some(members) => Some(cookies(&members)),
        // No NFIT, no identity: a constant.
        None => Some(Cookies { v1_1: RAM_COOKIE, v1_2: RAM_COOKIE, alternative: RAM_COOKIE }),
    }
}
