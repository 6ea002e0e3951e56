// SPDX-License-Identifier: MIT OR Apache-2.0
//! TOML to the description, with what each table must hold.

use std::path::{Path, PathBuf};

use nvstack_format::Dpa;
use nvstack_format::label::AREA_MAX;
use nvstack_media::Result;
use toml::de::DeTable;

use crate::identity::{Identity, Manufacturing};
use crate::keys;
use crate::model::{
    Backing, Bus, Dimm, FLAGS, Interleaving, Lab, Member, Options, Persistence, Region, RegionKind, Source,
};
use crate::read::{Item, Table};
use crate::text::{At, Text};

/// Bytes of a page: what sizes are multiples of.
pub(crate) const PAGE: u64 = 4096;
/// Bytes of the label area of a RAM range (Linux `ramdax`).
const RAM_LABELS: u64 = 128 << 10;
/// Lines of an interleave set, if not told.
const LINE: u64 = 256;
/// As many DIMMs Linux takes in one region (`ND_MAX_MAPPINGS`).
const MEMBERS_MAX: usize = 32;
/// NUMA nodes that Linux can number at most.
const NODE_MAX: u64 = 1023;

pub(crate) fn lab(text: &str, path: &Path) -> Result<Lab> {
    let text = Text::new(path, text);
    let parsed = DeTable::parse(text.text).map_err(|e| {
        let span = e.span().unwrap_or_default();
        let error = text.refuse(text.position(span.start), "read TOML");
        let error = if span.is_empty() { error } else { error.found(text.excerpt(span)) };
        error.because(e.message().lines().collect::<Vec<_>>().join("; "))
    })?;
    let top = Table::new(&text, "lab", keys::TOP, parsed.get_ref(), 0..0)?;
    if let Some(version) = top.number::<u64>("version", u64::MAX)?.filter(|version| version.value != 1) {
        return Err(top.refuse(version.at).found(format_args!("version {}", version.value)).accepted("1"));
    }
    let buses = top.tables("bus", "[[bus]]", keys::BUS)?;
    if buses.is_empty() {
        return Err(top.refuse(top.at).found("no bus").accepted("[[bus]], once or more"));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let buses = buses.iter().map(|table| bus(table, folder)).collect::<Result<Vec<_>>>()?;
    Ok(Lab { path: path.to_path_buf(), buses })
}

fn bus(table: &Table<'_>, folder: &Path) -> Result<Bus> {
    let dimm_tables = table.tables("dimm", "[[bus.dimm]]", keys::DIMM)?;
    let region_tables = table.tables("region", "[[bus.region]]", keys::REGION)?;
    let range_tables = table.tables("range", "[[bus.range]]", keys::RANGE)?;
    let ram_tables = table.tables("ram", "[[bus.ram]]", keys::RAM)?;
    let default = match (dimm_tables.is_empty(), range_tables.is_empty(), ram_tables.is_empty()) {
        (true, true, true) => {
            return Err(table
                .refuse(table.at)
                .found("a bus with nothing on it")
                .accepted("[[bus.dimm]], [[bus.range]] or [[bus.ram]]"));
        }
        (true, true, false) => "ramdax",
        (true, false, true) => "e820",
        (false, _, true) => "ACPI.NFIT",
        // The driver that makes such DIMMs has a bus for nothing else.
        (_, _, false) => {
            return Err(table
                .refuse(table.place_of("ram"))
                .found("[[bus.ram]] beside DIMMs or ranges")
                .accepted("it on a bus of its own"));
        }
    };
    let provider = table.string("provider")?.map_or(default, |provider| provider.value).to_owned();
    if let Some(odd) = provider.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(table
            .refuse(table.place_of("provider"))
            .found(format_args!("{odd:?} in the provider's name"))
            .accepted("letters, digits and signs, without a blank"));
    }

    let mut dimms: Vec<Dimm> = Vec::new();
    for (index, one) in dimm_tables.iter().enumerate() {
        let dimm = dimm(one, folder, index)?;
        refuse_twin(one, &dimm, &dimms)?;
        dimms.push(dimm);
    }
    let mut regions = Vec::new();
    for one in &region_tables {
        let (members, interleaving) = set(one, dimms.len())?;
        regions.push(region(one, Source::Set { members, interleaving }, regions.len())?);
    }
    if region_tables.is_empty() {
        regions = dimms.iter().enumerate().map(|(index, dimm)| over(index, dimm)).collect();
    }
    for one in &range_tables {
        regions.push(region(one, Source::Range(backing(one, folder)?), regions.len())?);
    }
    for one in &ram_tables {
        let backing = backing(one, folder)?;
        let label_size = Some(RAM_LABELS);
        if let Some(size) = backing.size().filter(|size| *size <= RAM_LABELS) {
            return Err(one
                .refuse(one.at)
                .found(format_args!("{size} bytes"))
                .accepted(format_args!("more than the {RAM_LABELS} of the label area")));
        }
        let dimm = Dimm { backing, label_size, identity: None, flags: Vec::new(), at: one.at };
        let Region { source, .. } = over(dimms.len(), &dimm);
        regions.push(region(one, source, regions.len())?);
        dimms.push(dimm);
    }
    let mut indexes = Vec::new();
    for region in &regions {
        if indexes.contains(&region.options.range_index) {
            return Err(table
                .refuse(region.at)
                .found(format_args!("range-index {} a second time", region.options.range_index))
                .accepted("each once on a bus"));
        }
        indexes.push(region.options.range_index);
    }
    Ok(Bus { provider, dimms, regions, at: table.at })
}

/// The region that a DIMM has by itself.
fn over(index: usize, dimm: &Dimm) -> Region {
    let member =
        Member { dimm: index, offset: Dpa(0), size: None, position: 0, region_offset: Some(0), at: dimm.at };
    let options = Options {
        kind: RegionKind::Pmem,
        read_only: false,
        align: None,
        persistence: None,
        numa_node: 0,
        target_node: 0,
        range_index: range_index(index),
    };
    let source = Source::Set { members: vec![member], interleaving: Interleaving::Lines(LINE) };
    Region { source, start: None, options, at: dimm.at }
}

/// QEMU's numbers: 2, 4, 6 ...
fn range_index(index: usize) -> u16 {
    u16::try_from(index.saturating_add(1).saturating_mul(2)).unwrap_or(u16::MAX)
}

fn backing(table: &Table<'_>, folder: &Path) -> Result<Backing> {
    let (file, memory, size) = (table.string("file")?, table.bytes("memory")?, table.bytes("size")?);
    if let Some(bytes) = memory.or(size) {
        some_pages(table, bytes)?;
    }
    match (file, memory, size) {
        (Some(file), None, size) => {
            if file.value.contains('\0') {
                return Err(table.refuse(file.at).found("a zero byte in a path").accepted("a path"));
            }
            Ok(Backing::File(folder.join(PathBuf::from(file.value)), size.map(|size| size.value)))
        }
        (None, Some(memory), None) => Ok(Backing::Memory(memory.value)),
        (None, Some(_), Some(size)) => {
            Err(table.refuse(size.at).found("size beside memory").accepted("size beside file only"))
        }
        (Some(_), Some(memory), _) => {
            Err(table.refuse(memory.at).found("both file and memory").accepted("one of them"))
        }
        (None, None, _) => {
            Err(table.refuse(table.at).found("neither file nor memory").accepted("one of them"))
        }
    }
}

/// A size or an offset must be a number of whole pages.
fn pages(table: &Table<'_>, bytes: At<u64>) -> Result<()> {
    match bytes.value.checked_rem(PAGE) {
        Some(0) => Ok(()),
        _ => Err(table
            .refuse(bytes.at)
            .found(format_args!("{} bytes", bytes.value))
            .accepted(format_args!("a multiple of {PAGE}"))),
    }
}

/// As [`pages`], one at least.
fn some_pages(table: &Table<'_>, bytes: At<u64>) -> Result<()> {
    match bytes.value {
        0 => {
            Err(table.refuse(bytes.at).found("0 bytes").accepted(format_args!("a multiple of {PAGE}, not 0")))
        }
        _ => pages(table, bytes),
    }
}

fn dimm(table: &Table<'_>, folder: &Path, index: usize) -> Result<Dimm> {
    let backing = backing(table, folder)?;
    let label_size = table.bytes("label-size")?;
    if let Some(size) = label_size.filter(|size| size.value != 0) {
        pages(table, size)?;
        if size.value > AREA_MAX {
            let accepted = format!("{AREA_MAX:#x} bytes at most");
            return Err(table
                .refuse(size.at)
                .found(format_args!("a label area of {} bytes", size.value))
                .accepted(accepted));
        }
        if let Some(all) = backing.size().filter(|all| *all <= size.value) {
            return Err(table
                .refuse(size.at)
                .found(format_args!("a label area of {} bytes", size.value))
                .accepted(format_args!("less than the DIMM's {all} bytes")));
        }
    }
    let like = Identity::qemu(u32::try_from(index).unwrap_or(u32::MAX));
    let small = |key: &str, default: u16| -> Result<u16> {
        Ok(table.number(key, u64::from(u16::MAX))?.map_or(default, |number| number.value))
    };
    let large = |key: &str, default: u32| -> Result<u32> {
        Ok(table.number(key, u64::from(u32::MAX))?.map_or(default, |number| number.value))
    };
    let location = table.number::<u8>("location", u64::from(u8::MAX))?;
    let date = table.number::<u16>("date", u64::from(u16::MAX))?;
    let manufacturing = (location.is_some() || date.is_some()).then(|| Manufacturing {
        location: location.map_or(0, |location| location.value),
        date: date.map_or(0, |date| date.value),
    });
    let identity = Identity {
        handle: large("handle", like.handle)?,
        phys_id: small("phys-id", like.phys_id)?,
        serial: large("serial", like.serial)?,
        vendor: small("vendor", like.vendor)?,
        device: small("device", like.device)?,
        revision: small("revision", like.revision)?,
        subsystem_vendor: small("subsystem-vendor", like.subsystem_vendor)?,
        subsystem_device: small("subsystem-device", like.subsystem_device)?,
        subsystem_revision: small("subsystem-revision", like.subsystem_revision)?,
        manufacturing,
        format: small("format", like.format)?,
        family: large("family", like.family)?,
    };
    let flags = table.some_of("flags", FLAGS)?.unwrap_or_default();
    let label_size = label_size.map(|size| size.value);
    Ok(Dimm { backing, label_size, identity: Some(identity), flags, at: table.at })
}

/// Two DIMMs that cannot be told apart could be swapped, and labels would be believed all the same.
fn refuse_twin(table: &Table<'_>, dimm: &Dimm, others: &[Dimm]) -> Result<()> {
    let Some(identity) = &dimm.identity else { return Ok(()) };
    for (number, other) in others.iter().enumerate() {
        let Some(other) = &other.identity else { continue };
        if other.handle == identity.handle {
            return Err(table
                .refuse(table.place_of("handle"))
                .found(format_args!("handle {:#x}, which DIMM {number} has", identity.handle))
                .accepted("a handle for each DIMM of a bus"));
        }
        let who = |of: &Identity| (of.vendor, of.serial, of.manufacturing);
        if who(other) == who(identity) {
            return Err(table
                .refuse(table.place_of("serial"))
                .found(format_args!("the identity of DIMM {number}: {}", identity.id()))
                .accepted("a serial (vendor, location or date) of its own"));
        }
    }
    Ok(())
}

fn set(table: &Table<'_>, dimms: usize) -> Result<(Vec<Member>, Interleaving)> {
    let interleave = table.bytes_or("interleave", "concat")?;
    let interleaving = match interleave.map(|lines| (lines.at, lines.value)) {
        None => Interleaving::Lines(LINE),
        Some((_, None)) => Interleaving::Concat,
        Some((_, Some(lines))) if lines.is_power_of_two() && (64..=1 << 30).contains(&lines) => {
            Interleaving::Lines(lines)
        }
        Some((at, Some(lines))) => {
            return Err(table
                .refuse(at)
                .found(format_args!("lines of {lines} bytes"))
                .accepted("a power of two from 64 to 1 GiB, or \"concat\""));
        }
    };
    let items = table.items("members", "a member of [[bus.region]]", keys::MEMBER)?;
    if items.is_empty() || items.len() > MEMBERS_MAX {
        return Err(table
            .refuse(table.place_of("members"))
            .found(format_args!("{} members", items.len()))
            .accepted(format_args!("1 to {MEMBERS_MAX} of them, each the number of a DIMM or a table")));
    }
    let count = items.len();
    let mut members: Vec<Member> = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let member = member(table, &item, index)?;
        let refuse = || table.refuse(member.at);
        if member.dimm >= dimms {
            let accepted = if dimms == 0 {
                "[[bus.dimm]] first".to_owned()
            } else {
                format!("0 to {} (DIMMs are counted from 0 on each bus)", dimms.saturating_sub(1))
            };
            return Err(refuse().found(format_args!("DIMM {}", member.dimm)).accepted(accepted));
        }
        if usize::try_from(member.position).map_or(true, |position| position >= count) {
            return Err(refuse()
                .found(format_args!("position {}", member.position))
                .accepted(format_args!("0 to {}", count.saturating_sub(1))));
        }
        for other in &members {
            if other.dimm == member.dimm {
                return Err(refuse()
                    .found(format_args!("DIMM {} a second time", member.dimm))
                    .accepted("each once in a region"));
            }
            if other.position == member.position {
                return Err(refuse()
                    .found(format_args!("position {} a second time", member.position))
                    .accepted("each position once"));
            }
        }
        members.push(member);
    }
    Ok((members, interleaving))
}

fn member(region: &Table<'_>, item: &Item<'_>, index: usize) -> Result<Member> {
    let turn = u32::try_from(index).unwrap_or(u32::MAX);
    let table = match item {
        Item::Number(dimm) => {
            let (dimm, at) = (dimm.value, dimm.at);
            let offset = Dpa(0);
            return Ok(Member { dimm, offset, size: None, position: turn, region_offset: None, at });
        }
        Item::Table(table) => table,
    };
    let Some(dimm) = table.number::<usize>("dimm", u64::from(u32::MAX))? else {
        return Err(region.refuse(table.at).found("a member without dimm").accepted("dimm = N"));
    };
    let offset = table.bytes("offset")?;
    if let Some(offset) = offset {
        pages(table, offset)?;
    }
    let size = table.bytes("size")?;
    if let Some(size) = size {
        some_pages(table, size)?;
    }
    let position = table.number::<u32>("position", u64::from(u32::MAX))?;
    Ok(Member {
        dimm: dimm.value,
        offset: Dpa(offset.map_or(0, |offset| offset.value)),
        size: size.map(|size| size.value),
        position: position.map_or(turn, |position| position.value),
        region_offset: table.bytes("region-offset")?.map(|offset| offset.value),
        at: table.at,
    })
}

fn region(table: &Table<'_>, source: Source, index: usize) -> Result<Region> {
    let start = table.bytes("start")?;
    if let Some(start) = start {
        pages(table, start)?;
    }
    // A RAM range is for namespaces alone, so its table has no such key.
    let kind = table.one_of("type", &[("pmem", RegionKind::Pmem), ("volatile", RegionKind::Volatile)])?;
    let persistence = table.one_of(
        "persistence",
        &[
            ("cpu_cache", Persistence::CpuCache),
            ("memory_controller", Persistence::MemoryController),
            ("unknown", Persistence::Unknown),
        ],
    )?;
    let node = |key: &str| -> Result<i32> {
        let found = table.bytes_or(key, "none")?;
        match found.map(|node| (node.at, node.value)) {
            None => Ok(0),
            Some((_, None)) => Ok(-1),
            Some((at, Some(node))) => match i32::try_from(node) {
                Ok(number) if node <= NODE_MAX => Ok(number),
                _ => Err(table.refuse(at).found(node).accepted(format_args!("0 to {NODE_MAX}, or \"none\""))),
            },
        }
    };
    let number = table.number::<u16>("range-index", u64::from(u16::MAX))?;
    if let Some(number) = number.filter(|number| number.value == 0) {
        return Err(table.refuse(number.at).found("range-index 0").accepted("1 to 0xffff"));
    }
    let options = Options {
        kind: kind.unwrap_or(RegionKind::Pmem),
        read_only: table.boolean("read-only")?.unwrap_or(false),
        align: table.bytes("align")?.map(|align| align.value),
        persistence,
        numa_node: node("numa-node")?,
        target_node: node("target-node")?,
        range_index: number.map_or(range_index(index), |number| number.value),
    };
    Ok(Region { source, start: start.map(|start| start.value), options, at: table.at })
}
