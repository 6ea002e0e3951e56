// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a namespace will be, before anything is stored: where its space comes from, and what of it is left for use.

use nvstack_format::btt::{ArenaLayout, LbaSize, Version, split};
use nvstack_format::label::{HEADER_LEN, IndexHeader, SIGNATURE};
use nvstack_format::pfn::{self, Geometry, Place};
use nvstack_media::{Error, Kind, Result};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::json::{Object, Style};
use crate::model::{ClaimKind, MapLocation, Namespace, Region};

/// What a namespace is made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Plain persistent memory.
    Raw,
    /// Sector-atomic: a Block Translation Table.
    Sector,
    /// A block device whose files can be mapped.
    Fsdax,
    /// A character device that can be mapped.
    Devdax,
}

impl Mode {
    /// The mode of that name: `raw`, `sector` or `safe`, `fsdax` or `memory`, `devdax` or `dax`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Mode> {
        Some(match crate::filter::mode_name(text)? {
            "sector" => Mode::Sector,
            "fsdax" => Mode::Fsdax,
            "devdax" => Mode::Devdax,
            _ => Mode::Raw,
        })
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Raw => "raw",
            Mode::Sector => "sector",
            Mode::Fsdax => "fsdax",
            Mode::Devdax => "devdax",
        }
    }

    /// What must stand on the namespace.
    #[must_use]
    pub const fn claim(self) -> Option<ClaimKind> {
        match self {
            Mode::Raw => None,
            Mode::Sector => Some(ClaimKind::Btt),
            Mode::Fsdax => Some(ClaimKind::Pfn),
            Mode::Devdax => Some(ClaimKind::Dax),
        }
    }

    /// Whether it is mapped, so that alignment and a page map matter.
    #[must_use]
    pub const fn mapped(self) -> bool {
        matches!(self, Mode::Fsdax | Mode::Devdax)
    }
}

/// A namespace to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its region.
    pub region: String,
    /// Its own name; with labels to be made for the region the one that it then has.
    pub namespace: String,
    /// What it is made into.
    pub mode: Mode,
    /// Where the page map goes, if there is one.
    pub map: Option<MapLocation>,
    /// The uuid of its label; none without labels.
    pub uuid: Option<Uuid>,
    /// Its name in the label.
    pub name: String,
    /// Bytes that it takes of the region.
    pub size: u64,
    /// Sector size.
    pub sector_size: u64,
    /// Alignment of fsdax and devdax.
    pub align: Option<u64>,
    /// Whether labels are made for the DIMMs first.
    pub autolabel: bool,
    /// Where its space comes from, and what becomes of it. None where the tree does not tell where things lie.
    pub space: Option<Space>,
}

/// Where the space of a namespace comes from, and what becomes of it. All in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// From the start of the region.
    pub offset: u64,
    /// What each DIMM gives: its name, from which address on, how much.
    pub extents: Vec<(String, u64, u64)>,
    /// What stays free behind it only because sizes are multiples of the region's alignment.
    pub unallocatable: u64,
    /// What holds no data because data must begin and end aligned.
    pub alignment_loss: u64,
    /// What info blocks and reserved bytes before them take.
    pub info: u64,
    /// What maps and logs take.
    pub tables: u64,
    /// What spare blocks take, and what is added to sectors that the medium cannot hold as they are.
    pub spare: u64,
    /// What is left for data.
    pub usable: u64,
}

impl Plan {
    /// As JSON.
    #[must_use]
    pub fn json(&self, style: Style) -> Value {
        let mut o = Object::new();
        let mut add = |key: &str, value: Value| {
            o.insert(key.into(), value);
        };
        add("region", self.region.clone().into());
        add("dev", self.namespace.clone().into());
        add("mode", self.mode.name().into());
        if let Some(map) = self.map {
            add("map", map.map().into());
        }
        if let Some(uuid) = self.uuid {
            add("raw_uuid", uuid.to_string().into());
        }
        if !self.name.is_empty() {
            add("name", self.name.clone().into());
        }
        if self.mode != Mode::Devdax {
            add("sector_size", self.sector_size.into());
        }
        if let Some(align) = self.align {
            add("align", align.into());
        }
        if self.autolabel {
            add("init_labels", true.into());
        }
        add("raw_size", style.size(self.size));
        let Some(space) = &self.space else { return Value::Object(o) };
        add("offset", style.hex(space.offset));
        let extent = |(dimm, dpa, size): &(String, u64, u64)| json!({ "dimm": dimm, "dpa": style.hex(*dpa), "size": style.size(*size) });
        add("extents", space.extents.iter().map(extent).collect());
        add("unallocatable", style.size(space.unallocatable));
        add("alignment_loss", style.size(space.alignment_loss));
        add("info", style.size(space.info));
        add("tables", style.size(space.tables));
        add("spare", style.size(space.spare));
        add("size", style.size(space.usable));
        Value::Object(o)
    }
}

/// What is free of a region, as (offset, length), from the start on. The namespace that is to be made anew counts as free.
pub(crate) fn free(region: &Region<'_>, without: Option<&str>) -> Option<Vec<(u64, u64)>> {
    let start = region.resource()?;
    let mut taken = Vec::new();
    for n in region.namespaces().iter().filter(|n| n.size() > 0 && Some(n.name()) != without) {
        let from = n.resource()?.checked_sub(start)?;
        taken.push((from, from.checked_add(n.size())?));
    }
    taken.sort_unstable();
    taken.push((region.size(), region.size()));
    let mut free = Vec::new();
    let mut at = 0;
    for (from, to) in taken {
        if from > at {
            free.push((at, from.saturating_sub(at)));
        }
        at = to.max(at);
    }
    Some(free)
}

/// `value` down to a multiple of `align`.
pub(crate) fn round_down(value: u64, align: u64) -> u64 {
    value.saturating_sub(value.checked_rem(align).unwrap_or(0))
}

/// Where the space of a planned namespace would come from, and what becomes of it. One that is made anew stays where it
/// is, if it fits there.
pub(crate) fn space(
    region: &Region<'_>,
    plan: &Plan,
    anew: Option<&Namespace<'_>>,
    labelled: bool,
) -> Result<Option<Space>> {
    let Some(gaps) = free(region, anew.map(|n| n.name())) else { return Ok(None) };
    let own = anew
        .filter(|n| n.labelled())
        .and_then(Namespace::resource)
        .zip(region.resource())
        .and_then(|(at, start)| at.checked_sub(start));
    let in_place = own.and_then(|at| {
        let (from, len) = gaps.iter().rev().find(|(from, _)| *from <= at)?;
        let len = from.saturating_add(*len).checked_sub(at)?;
        (len >= plan.size).then_some((at, len))
    });
    let gap = if labelled {
        in_place.or_else(|| gaps.into_iter().find(|(_, len)| *len >= plan.size))
    } else {
        // Without labels a namespace is the region.
        Some((0, plan.size))
    };
    let Some((offset, len)) = gap else { return Ok(None) };
    let ways = region.ways();
    let each = |bytes: u64| bytes.checked_div(ways).unwrap_or(bytes);
    let extents = region
        .mappings()
        .into_iter()
        .map(|m| (m.dimm, m.offset.saturating_add(each(offset)), each(plan.size)));
    let mut space = Space {
        offset,
        extents: extents.collect(),
        unallocatable: if labelled { len.saturating_sub(round_down(len, region.align_or_page())) } else { 0 },
        alignment_loss: 0,
        info: 0,
        tables: 0,
        spare: 0,
        usable: plan.size,
    };
    match (plan.mode, plan.map) {
        (Mode::Raw, _) => {}
        (Mode::Sector, _) => {
            let version = if plan.autolabel { Version::V2_0 } else { btt_version(region, labelled) };
            spend_on_btt(&mut space, plan, version)?;
        }
        (Mode::Fsdax | Mode::Devdax, map) => {
            let start = region.resource().map(|r| r.saturating_add(offset));
            spend_on_map(&mut space, plan, start, map.unwrap_or(MapLocation::Device))?;
        }
    }
    Ok(Some(space))
}

/// The BTT that Linux makes here: 2.0 where labels can name it.
pub(crate) fn btt_version(region: &Region<'_>, labelled: bool) -> Version {
    let old = |dimm: &str| {
        let mut header = [0; HEADER_LEN];
        let read = region.sys().label_read(dimm, 0, &mut header);
        let header = IndexHeader::decode(&header).filter(|h| h.signature == SIGNATURE);
        read.is_ok() && header.is_some_and(|h| h.minor < 2)
    };
    if !labelled || region.mappings().iter().any(|m| old(&m.dimm)) { Version::V1_1 } else { Version::V2_0 }
}

fn impossible(plan: &Plan, finding: nvstack_format::Invalid) -> Error {
    Error::new(Kind::Invalid, format!("plan {} for {} mode", plan.namespace, plan.mode.name()))
        .because(finding)
}

fn spend_on_btt(space: &mut Space, plan: &Plan, version: Version) -> Result<()> {
    let raw = plan.size.saturating_sub(version.start());
    let sector = u32::try_from(plan.sector_size).map_err(|_| sector_size_refusal(plan.sector_size))?;
    let lbasize = LbaSize::new(sector).map_err(|f| impossible(plan, f))?;
    let (mut usable, mut tables, mut spare, mut info) = (0u64, 0u64, 0u64, version.start());
    let mut blocks = 0u64;
    for span in split(raw) {
        let layout =
            ArenaLayout::compute(span.size, lbasize, span.nextoff).map_err(|f| impossible(plan, f))?;
        let data = u64::from(layout.external_nlba).saturating_mul(lbasize.data().into());
        usable = usable.saturating_add(data);
        blocks = blocks.saturating_add(layout.data_bytes());
        spare = spare.saturating_add(layout.data_bytes().saturating_sub(data));
        tables = tables.saturating_add(layout.map_len()).saturating_add(layout.flog_len());
        info = info.saturating_add(8192);
    }
    space.usable = usable;
    space.spare = spare;
    space.tables = tables;
    space.info = info;
    space.alignment_loss = plan.size.saturating_sub(blocks).saturating_sub(tables).saturating_sub(info);
    Ok(())
}

fn spend_on_map(space: &mut Space, plan: &Plan, start: Option<u64>, map: MapLocation) -> Result<()> {
    let mode = match map {
        MapLocation::Memory => pfn::Mode::Ram,
        MapLocation::Device => pfn::Mode::Pmem,
    };
    let align = u32::try_from(plan.align.unwrap_or(pfn::COMPAT)).unwrap_or(u32::MAX);
    let geometry =
        Geometry::compute(Place { start, size: plan.size }, mode, align).map_err(|f| impossible(plan, f))?;
    space.usable = geometry.data_len(plan.size);
    space.info = pfn::RESERVE;
    if map == MapLocation::Device {
        let pages = plan.size.saturating_sub(pfn::RESERVE).div_euclid(4096);
        space.tables = pages.saturating_mul(64);
    }
    let spent = space.usable.saturating_add(space.info).saturating_add(space.tables);
    space.alignment_loss = plan.size.saturating_sub(spent);
    Ok(())
}

/// The refusal of a sector size that no BTT has.
pub(crate) fn sector_size_refusal(size: u64) -> Error {
    let all: Vec<String> = LbaSize::ALL.iter().map(|s| s.external().to_string()).collect();
    not_one_of("sector size", size, &all.join(" "))
}

/// `sector size 16384 is not one of 512 4096`.
pub(crate) fn not_one_of(what: &str, found: u64, accepted: &str) -> Error {
    Error::new(Kind::Invalid, format!("{what} {found} is not one of {accepted}"))
}
