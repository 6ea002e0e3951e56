// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where everything lies, once sizes are known: as soon as the description is read if it tells them, else when its files
//! are open.

use nvstack_format::Dpa;
use nvstack_media::{Error, Result};

use crate::build::PAGE;
use crate::model::{Backing, Bus, Interleaving, Lab, Member, Region, Source};
use crate::text::{Position, refuse};

/// Where QEMU places the first NVDIMM of a machine that has less memory below.
const FIRST: u64 = 4 << 30;
/// What a range begins at a multiple of, if its start is not told: Linux's default alignment of regions.
const STEP: u64 = 16 << 20;
/// x86 has so many physical addresses at most.
const PHYSICAL_END: u64 = 1 << 52;

/// A DIMM's part of a region (Linux `mappingN`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Number of the DIMM in its bus.
    pub dimm: usize,
    /// Where the part begins in the DIMM.
    pub dpa: Dpa,
    /// Bytes.
    pub size: u64,
    /// Its turn in the set.
    pub position: u32,
    /// The NFIT's region offset.
    pub region_offset: u64,
}

/// A region with all that was not told filled in.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) align: u64,
    /// In the order of their positions.
    pub(crate) mappings: Vec<Mapping>,
}

/// What is known of the sizes of a bus.
pub(crate) struct Sizes {
    /// Persistent memory of each DIMM.
    pub(crate) dimms: Vec<Option<u64>>,
    /// Each region that is a range without DIMM.
    pub(crate) ranges: Vec<Option<u64>>,
}

impl Sizes {
    /// What the description alone tells.
    pub(crate) fn told(bus: &Bus) -> Sizes {
        let range = |region: &Region| match &region.source {
            Source::Range(backing) => Backing::size(backing),
            Source::Set { .. } => None,
        };
        Sizes {
            dimms: bus.dimms.iter().map(crate::model::Dimm::pmem_size).collect(),
            ranges: bus.regions.iter().map(range).collect(),
        }
    }
}

/// A range that is taken, and by what.
struct Taken {
    start: u64,
    end: u64,
    at: Position,
}

/// Every region of every bus. None where a size is unknown that it depends on.
pub(crate) fn plan(lab: &Lab, sizes: &[Sizes]) -> Vec<Vec<Result<Option<Planned>>>> {
    let mut shapes: Vec<Vec<Result<Option<Planned>>>> = lab
        .buses
        .iter()
        .zip(sizes)
        .map(|(bus, sizes)| {
            let mut taken: Vec<(usize, Taken)> = Vec::new();
            let ranges = sizes.ranges.iter().copied();
            bus.regions
                .iter()
                .zip(ranges)
                .map(|(region, range)| shape(lab, region, &sizes.dimms, range, &mut taken))
                .collect()
        })
        .collect();

    // Those whose start is told come first, wherever they stand, so that the others find what is free.
    let mut taken: Vec<Taken> = Vec::new();
    for told in [true, false] {
        for (bus, shapes) in lab.buses.iter().zip(&mut shapes) {
            let regions = bus.regions.iter().zip(shapes);
            for (region, shape) in regions.filter(|(region, _)| region.start.is_some() == told) {
                let placed = match shape {
                    Ok(Some(planned)) => place(lab, region, planned, &mut taken),
                    _ => Ok(()),
                };
                if let Err(e) = placed {
                    *shape = Err(e);
                }
            }
        }
    }
    shapes
}

fn refuse_region(lab: &Lab, at: Position) -> Error {
    refuse(&lab.path, at, "lay out the region")
}

/// Gives a region its physical addresses.
fn place(lab: &Lab, region: &Region, planned: &mut Planned, taken: &mut Vec<Taken>) -> Result<()> {
    let start = region.start.unwrap_or_else(|| {
        let free = taken.iter().map(|taken| taken.end).max().unwrap_or(0).max(FIRST);
        free.checked_next_multiple_of(STEP).unwrap_or(u64::MAX)
    });
    let Some(end) = start.checked_add(planned.size).filter(|end| *end <= PHYSICAL_END) else {
        return Err(refuse_region(lab, region.at)
            .found(format_args!("{} bytes from {start:#x} on", planned.size))
            .accepted(format_args!("physical addresses below {PHYSICAL_END:#x}")));
    };
    if let Some(other) = taken.iter().find(|taken| taken.start < end && start < taken.end) {
        return Err(refuse_region(lab, region.at)
            .found(format_args!("physical addresses {start:#x} to {end:#x}"))
            .accepted(format_args!(
                "none of {:#x} to {:#x}, which the region of line {} has",
                other.start, other.end, other.at.line
            )));
    }
    planned.start = start;
    taken.push(Taken { start, end, at: region.at });
    Ok(())
}

/// What a region consists of, without its place.
fn shape(
    lab: &Lab,
    region: &Region,
    dimms: &[Option<u64>],
    range: Option<u64>,
    taken: &mut Vec<(usize, Taken)>,
) -> Result<Option<Planned>> {
    let (size, mappings) = match &region.source {
        Source::Range(_) => match range {
            Some(size) => (size, Vec::new()),
            None => return Ok(None),
        },
        Source::Set { members, interleaving } => {
            match mappings(lab, region, members, *interleaving, dimms, taken)? {
                Some(found) => found,
                None => return Ok(None),
            }
        }
    };
    let count = u64::try_from(mappings.len()).unwrap_or(1).max(1);
    let align = alignment(lab, region, size, count)?;
    Ok(Some(Planned { start: 0, size, align, mappings }))
}

/// Linux's rule for the attribute `align` of a region.
fn alignment(lab: &Lab, region: &Region, size: u64, count: u64) -> Result<u64> {
    let Some(align) = region.options.align else {
        let align = if size < STEP { PAGE } else { STEP };
        let divides = align.checked_rem(count) == Some(0);
        return Ok(if divides { align } else { align.saturating_mul(count) });
    };
    let each = align.checked_div(count).unwrap_or(0);
    if align.checked_rem(count) == Some(0) && each.is_power_of_two() && each >= PAGE && align <= size {
        return Ok(align);
    }
    Err(refuse_region(lab, region.at).found(format_args!("align {align}")).accepted(format_args!(
        "for each of {count} DIMMs a power of two from {PAGE} on, all together at most {size}"
    )))
}

type Mapped = (u64, Vec<Mapping>);

fn mappings(
    lab: &Lab,
    region: &Region,
    members: &[Member],
    interleaving: Interleaving,
    dimms: &[Option<u64>],
    taken: &mut Vec<(usize, Taken)>,
) -> Result<Option<Mapped>> {
    let mut ordered: Vec<&Member> = members.iter().collect();
    ordered.sort_by_key(|member| member.position);
    let mut sizes = Vec::new();
    for member in &ordered {
        let whole = dimms.get(member.dimm).copied().flatten();
        if let Some(size) = part(lab, member, whole)? {
            claim(lab, member, size, taken)?;
            sizes.push(size);
        }
    }
    if let Some((size, at)) = sizes.first().zip(ordered.first().map(|member| member.at)) {
        let odd = ordered.iter().zip(&sizes).find(|(_, other)| *other != size);
        if let Some((member, other)) = odd.filter(|_| sizes.len() == ordered.len()) {
            return Err(refuse_region(lab, member.at)
                .found(format_args!("a member of {other} bytes"))
                .accepted(format_args!("{size} bytes as on line {}: members of one size", at.line)));
        }
        if let Interleaving::Lines(lines) = interleaving
            && ordered.len() > 1
            && size.checked_rem(lines) != Some(0)
        {
            return Err(refuse_region(lab, region.at)
                .found(format_args!("members of {size} bytes"))
                .accepted(format_args!("a multiple of their lines of {lines} bytes")));
        }
    }
    if sizes.len() != ordered.len() {
        return Ok(None);
    }
    let (mut before, mut found) = (0u64, Vec::<Mapping>::new());
    for (member, size) in ordered.iter().zip(sizes) {
        let region_offset = member.region_offset.unwrap_or(match interleaving {
            Interleaving::Lines(lines) => lines.saturating_mul(u64::from(member.position)),
            Interleaving::Concat => before,
        });
        // Linux counts positions in the order of the offsets.
        if let Some(last) = found.last().filter(|last| region_offset <= last.region_offset) {
            return Err(refuse_region(lab, member.at)
                .found(format_args!("region-offset {region_offset} at position {}", member.position))
                .accepted(format_args!("more than {}, that of the position before", last.region_offset)));
        }
        before = before.saturating_add(size);
        let (dimm, dpa, position) = (member.dimm, member.offset, member.position);
        found.push(Mapping { dimm, dpa, size, position, region_offset });
    }
    Ok(Some((before, found)))
}

/// Bytes of a member, which must lie in its DIMM as far as that is known.
fn part(lab: &Lab, member: &Member, whole: Option<u64>) -> Result<Option<u64>> {
    let offset = member.offset.0;
    let Some(size) = member.size.or_else(|| whole?.checked_sub(offset)) else {
        return match whole {
            Some(whole) => Err(outside(lab, member, "nothing", whole)),
            None => Ok(None),
        };
    };
    match whole {
        Some(whole) if size == 0 || offset.checked_add(size).is_none_or(|end| end > whole) => {
            Err(outside(lab, member, &format!("{size} bytes"), whole))
        }
        _ => Ok(Some(size)),
    }
}

fn outside(lab: &Lab, member: &Member, what: &str, whole: u64) -> Error {
    let Member { dimm, offset, at, .. } = member;
    refuse_region(lab, *at)
        .found(format_args!("{what} from {offset} on of DIMM {dimm}"))
        .accepted(format_args!("a part of its {whole} bytes of persistent memory"))
}

/// No byte of a DIMM is part of two regions.
fn claim(lab: &Lab, member: &Member, size: u64, taken: &mut Vec<(usize, Taken)>) -> Result<()> {
    let (start, end) = (member.offset.0, member.offset.0.saturating_add(size));
    let of_dimm = taken.iter().filter(|(dimm, _)| *dimm == member.dimm);
    if let Some((_, other)) = of_dimm.clone().find(|(_, taken)| taken.start < end && start < taken.end) {
        return Err(refuse_region(lab, member.at)
            .found(format_args!("bytes {start} to {end} of DIMM {}", member.dimm))
            .accepted(format_args!(
                "none of {} to {}, which line {} has",
                other.start, other.end, other.at.line
            )));
    }
    taken.push((member.dimm, Taken { start, end, at: member.at }));
    Ok(())
}
