// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs on label areas.

use nvstack_format::guid;
use nvstack_format::label::{AreaLayout, HEADER_LEN, Index, IndexHeader, Label, Version, select};
use nvstack_media::{Error, Kind, MediaOffset, Result, check_range};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::control::{bind, unbind};
use crate::enable::{collapse, disable_region, named_dimms, told_dimms};
use crate::filter::Filter;
use crate::json::{Object, Style};
use crate::model::{Dimm, Region, settle};
use crate::report::{Outcome, Reporter, counted_dimms};
use crate::sys::Sys;

/// No label area is larger (the size is 32 bits); a tree that says more is not believed.
const AREA_MAX: u64 = nvstack_format::label::AREA_MAX;
/// Bytes that are moved at once.
const CHUNK: u64 = 1 << 20;

/// Which DIMMs, and which bytes of their label areas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelOptions {
    /// Names, or `all`.
    pub dimms: Vec<String>,
    /// `-b`.
    pub filter: Filter,
    /// `-s`: how many bytes; to the end if not given.
    pub size: Option<u64>,
    /// `-O`: from which byte on.
    pub offset: u64,
}

/// How labels are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadLabels {
    /// `-j`: as JSON instead of bytes.
    pub json: bool,
    /// `-u`: as JSON, numbers for people.
    pub human: bool,
    /// `-I`: the index blocks alone.
    pub index: bool,
}

/// Which label area to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitLabels {
    /// `-V`: 1.1 as `ndctl` has it unless told otherwise. Version 1.2 can name what stands on a namespace.
    pub version: Version,
    /// `-f`: over labels that are there.
    pub force: bool,
}

impl Default for InitLabels {
    fn default() -> InitLabels {
        InitLabels { version: Version::V1_1, force: false }
    }
}

/// Runs `work` on every DIMM that is meant. The exit status is 0 or 1.
fn each(
    sys: &dyn Sys,
    o: &LabelOptions,
    reporter: &mut dyn Reporter,
    mut work: impl FnMut(&Dimm<'_>, &mut Outcome) -> Result<()>,
) -> Result<Outcome> {
    o.filter.check()?;
    settle(sys);
    let mut outcome = Outcome::default();
    for dimm in told_dimms(sys, &o.dimms, &o.filter, reporter) {
        match work(&dimm, &mut outcome) {
            Ok(()) => outcome.count = outcome.count.saturating_add(1),
            Err(e) => outcome.fail(reporter, &e),
        }
    }
    Ok(collapse(outcome))
}

fn area_len(dimm: &Dimm<'_>) -> Result<u64> {
    let len = dimm.sys().label_size(dimm.name())?;
    if len > AREA_MAX {
        return Err(Error::new(Kind::Corrupt, format!("read label area of {}", dimm.name()))
            .found(format_args!("{len} bytes"))
            .accepted(format_args!("at most {AREA_MAX}")));
    }
    Ok(len)
}

fn read(dimm: &Dimm<'_>, at: u64, len: u64) -> Result<Vec<u8>> {
    let wanted = usize::try_from(len).map_err(|_| Error::new(Kind::NoMemory, "read label area"))?;
    let mut bytes = vec![0; wanted];
    dimm.sys().label_read(dimm.name(), at, &mut bytes)?;
    Ok(bytes)
}

/// The range that is meant, as (from, length).
fn range(dimm: &Dimm<'_>, o: &LabelOptions) -> Result<(u64, u64)> {
    let all = area_len(dimm)?;
    let len = o.size.unwrap_or_else(|| all.saturating_sub(o.offset));
    check_range(all, "find place in label area", MediaOffset(o.offset), len)?;
    Ok((o.offset, len))
}

/// The layouts that an area can have, and what its two index blocks then are.
struct Area {
    layout: AreaLayout,
    blocks: [Option<Index>; 2],
    headers: Vec<IndexHeader>,
}

impl Area {
    /// Reads the index blocks. Linux tries small labels first.
    fn open(dimm: &Dimm<'_>) -> Result<Area> {
        let size = area_len(dimm)?;
        let mut best = None;
        for version in Version::ALL {
            let area = Area::of(dimm, size, version)?;
            if area.blocks.iter().any(Option::is_some) {
                return Ok(area);
            }
            let says = area.headers.iter().any(|h| {
                h.signature == nvstack_format::label::SIGNATURE
                    && h.label_len == u64::from(version.label_len())
            });
            if best.is_none() || says {
                best = Some(area);
            }
        }
        best.ok_or_else(|| Error::new(Kind::Corrupt, "read label index"))
    }

    fn of(dimm: &Dimm<'_>, size: u64, version: Version) -> Result<Area> {
        let layout = layout(size, version)?;
        let mut headers = Vec::new();
        let mut block = |number| -> Result<Option<Index>> {
            let bytes = read(dimm, layout.index(number), layout.index_len)?;
            headers.extend(bytes.get(..HEADER_LEN).and_then(IndexHeader::decode));
            Ok(Index::parse(&bytes, &layout, number).ok())
        };
        let blocks = [block(0)?, block(1)?];
        Ok(Area { layout, blocks, headers })
    }

    fn current(&self) -> Option<&Index> {
        let [first, second] = &self.blocks;
        let number = select(first.as_ref(), second.as_ref())?;
        self.blocks.get(number)?.as_ref()
    }
}

fn layout(size: u64, version: Version) -> Result<AreaLayout> {
    AreaLayout::compute(size, version)
        .map_err(|f| Error::invalid(Kind::Invalid, "use as label area", MediaOffset(0), f))
}

/// `read-labels`: the bytes of label areas, or what stands in them. DIMMs without a label area are passed over.
///
/// [`Kind::Invalid`] for JSON of a range.
pub fn read_labels(
    sys: &dyn Sys,
    o: &LabelOptions,
    how: ReadLabels,
    reporter: &mut dyn Reporter,
) -> Result<Outcome> {
    let json = how.json || how.human;
    if json && (o.size.is_some() || o.offset != 0) {
        return Err(Error::new(Kind::Invalid, "read labels")
            .found("--json with --size or --offset")
            .accepted("one of them"));
    }
    let style = Style { human: how.human };
    let mut objects = Vec::new();
    let mut bytes = Vec::new();
    let mut outcome = each(sys, o, reporter, |dimm, _| {
        if json {
            objects.push(show(dimm, how.index, style)?);
            return Ok(());
        }
        let (mut at, len) = range(dimm, o)?;
        let mut end = at.saturating_add(len);
        if how.index && o.size.is_none() {
            end = end.min(Area::open(dimm)?.layout.labeloff());
        }
        while at < end {
            let step = end.saturating_sub(at).min(CHUNK);
            bytes.extend(read(dimm, at, step)?);
            at = at.saturating_add(step);
        }
        Ok(())
    })?;
    if json {
        outcome.json.extend(Outcome::objects(objects, style));
    } else {
        outcome.bytes = Some(bytes);
    }
    reporter.count(&format_args!("read {}", counted_dimms(outcome.count)));
    Ok(outcome)
}

fn show(dimm: &Dimm<'_>, index_alone: bool, style: Style) -> Result<Value> {
    let area = Area::open(dimm)?;
    let index = |h: &IndexHeader| {
        let signature = h.signature.split(|b| *b == 0).next().unwrap_or_default();
        json!({
            "signature": String::from_utf8_lossy(signature),
            "major": h.major,
            "minor": h.minor,
            "labelsize": h.label_len,
            "seq": h.seq,
            "nslot": h.nslot,
        })
    };
    let mut o = Object::new();
    o.insert("dev".into(), dimm.name().into());
    o.insert("index".into(), area.headers.iter().map(index).collect());
    if !index_alone {
        o.insert("label".into(), labels(dimm, &area, style)?.into());
    }
    Ok(Value::Object(o))
}

/// Every label whose slot number is its own, in use or not.
fn labels(dimm: &Dimm<'_>, area: &Area, style: Style) -> Result<Vec<Value>> {
    let version = area.layout.version;
    let mut found = Vec::new();
    for slot in 0..area.current().map_or(area.layout.slots, Index::nslot) {
        let Some(at) = area.layout.slot(slot) else { break };
        let bytes = read(dimm, at, version.label_len().into())?;
        found.extend(
            Label::decode(&bytes, version).filter(|l| l.slot == slot).map(|l| label(&l, version, style)),
        );
    }
    Ok(found)
}

fn label(label: &Label, version: Version, style: Style) -> Value {
    let mut o = Object::new();
    o.insert("uuid".into(), label.uuid.to_string().into());
    o.insert("name".into(), label.name.to_string().into());
    o.insert("slot".into(), label.slot.into());
    o.insert("position".into(), label.position.into());
    o.insert("nlabel".into(), label.nlabel.into());
    o.insert("flags".into(), label.flags.bits().into());
    o.insert("isetcookie".into(), style.hex(label.isetcookie));
    o.insert("lbasize".into(), label.lbasize.into());
    o.insert("dpa".into(), style.hex(label.dpa.0));
    o.insert("rawsize".into(), style.size(label.rawsize));
    if version == Version::V1_2 {
        // ndctl prints the bytes in the order in which they stand there, not as GUIDs are written.
        for (key, id) in [("type_guid", label.type_guid), ("abstraction_guid", label.abstraction)] {
            o.insert(key.into(), Uuid::from_bytes(guid::to_media(id)).to_string().into());
        }
    }
    Value::Object(o)
}

/// Refuses a DIMM that an enabled region uses: its labels are in use.
fn check_free(dimm: &Dimm<'_>) -> Result<()> {
    if dimm.active() {
        return Err(Error::new(Kind::Busy, format!("{}: regions active, abort label write", dimm.name()))
            .accepted("a DIMM whose regions are disabled"));
    }
    Ok(())
}

/// Writes labels, and has the DIMM's driver read them again.
fn rewrite(dimm: &Dimm<'_>, write: impl FnOnce() -> Result<()>) -> Result<()> {
    write()?;
    if !dimm.bound() {
        return Ok(());
    }
    unbind(dimm)?;
    bind(dimm)
}

/// Zeroes the headers of both index blocks, the current one last, if all of both is going to be overwritten. So a cut leaves the
/// old labels or none, never those of one change before. In a range that has only some of it there is no order that helps.
fn retire(dimm: &Dimm<'_>, from: u64, len: u64) -> Result<()> {
    let area = match Area::open(dimm) {
        Ok(area) => area,
        // With lost bytes at most one of the blocks can be valid, and there is no older one.
        Err(e) if e.kind() == Kind::Poison => return Ok(()),
        Err(e) => return Err(e),
    };
    let Some(current) = area.current().map(Index::number) else { return Ok(()) };
    if from == 0 && len >= area.layout.labeloff() {
        for number in [1usize.saturating_sub(current), current] {
            dimm.sys().label_write(dimm.name(), area.layout.index(number), &[0; HEADER_LEN])?;
        }
    }
    Ok(())
}

/// Both index blocks of an area without labels. A cut leaves an area that is new, none, or what it was.
fn write_fresh(dimm: &Dimm<'_>, version: Version) -> Result<()> {
    let size = area_len(dimm)?;
    let layout = layout(size, version)?;
    retire(dimm, 0, size)?;
    for (number, seq) in [(0, 3), (1, 2)] {
        let bytes = Index::fresh(layout, number, seq).encode();
        dimm.sys().label_write(dimm.name(), layout.index(number), &bytes)?;
    }
    Ok(())
}

/// In which parts the bytes of a whole area are written: what follows its index blocks, the current one of those, the other.
fn parts(size: u64, bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    for version in Version::ALL {
        let Ok(layout) = layout(size, version) else { continue };
        let Ok(len) = usize::try_from(layout.index_len) else { continue };
        let head = len.saturating_mul(2);
        let block = |number, range| bytes.get(range).and_then(|b| Index::parse(b, &layout, number).ok());
        let blocks = [block(0, 0..len), block(1, len..head)];
        let [first, second] = &blocks;
        match select(first.as_ref(), second.as_ref()) {
            Some(0) => return vec![head..bytes.len(), 0..len, len..head],
            Some(_) => return vec![head..bytes.len(), len..head, 0..len],
            None => {}
        }
    }
    std::iter::once(0..bytes.len()).collect()
}

/// `init-labels`: makes label areas without labels.
///
/// Without `force` [`Kind::Exists`] for a DIMM that has labels.
pub fn init_labels(
    sys: &dyn Sys,
    o: &LabelOptions,
    how: InitLabels,
    reporter: &mut dyn Reporter,
) -> Result<Outcome> {
    let outcome = each(sys, o, reporter, |dimm, _| {
        check_free(dimm)?;
        if let (false, Some(index)) = (how.force, Area::open(dimm)?.current()) {
            return Err(Error::new(Kind::Exists, format!("{}: labels already initialized", dimm.name()))
                .found(format_args!("labels of version 1.{}", index.layout().version.minor()))
                .accepted("a blank label area, or --force"));
        }
        rewrite(dimm, || write_fresh(dimm, how.version))
    })?;
    reporter.count(&format_args!("initialized {}", counted_dimms(outcome.count)));
    Ok(outcome)
}

/// `check-labels`: whether Linux would take an index block of each, and which of the two are good.
pub fn check_labels(sys: &dyn Sys, o: &LabelOptions, reporter: &mut dyn Reporter) -> Result<Outcome> {
    let mut one_bad = Vec::new();
    let outcome = each(sys, o, reporter, |dimm, _| {
        let area = Area::open(dimm)?;
        if area.current().is_none() {
            return Err(Error::new(Kind::Corrupt, format!("check labels of {}", dimm.name()))
                .found("no valid index block")
                .accepted("one or two"));
        }
        if let Some(bad) = area.blocks.iter().position(Option::is_none) {
            one_bad.push(format!("{}: index block {bad} is not valid; the other counts", dimm.name()));
        }
        Ok(())
    })?;
    for warning in one_bad {
        reporter.warning(&warning);
    }
    let plural = if outcome.count > 1 { "s" } else { "" };
    reporter.count(&format_args!("successfully verified {} nmem label{plural}", outcome.count));
    Ok(outcome)
}

/// `zero-labels`: fills label areas, or the range that is meant, with zeros.
pub fn zero_labels(sys: &dyn Sys, o: &LabelOptions, reporter: &mut dyn Reporter) -> Result<Outcome> {
    let outcome = each(sys, o, reporter, |dimm, _| {
        check_free(dimm)?;
        let (mut at, len) = range(dimm, o)?;
        let end = at.saturating_add(len);
        rewrite(dimm, || {
            retire(dimm, at, len)?;
            while at < end {
                let step = end.saturating_sub(at).min(CHUNK);
                let zeros = vec![0; usize::try_from(step).unwrap_or(0)];
                sys.label_write(dimm.name(), at, &zeros)?;
                at = at.saturating_add(step);
            }
            Ok(())
        })
    })?;
    reporter.count(&format_args!("zeroed {}", counted_dimms(outcome.count)));
    Ok(outcome)
}

/// `write-labels`: writes bytes into the label area of one DIMM, as many as there are or as `size` says.
///
/// [`Kind::Invalid`] for more than one DIMM: two with the same labels would be taken for one set.
pub fn write_labels(
    sys: &dyn Sys,
    o: &LabelOptions,
    bytes: &[u8],
    reporter: &mut dyn Reporter,
) -> Result<Outcome> {
    let dimms = named_dimms(sys, &o.dimms, &o.filter);
    if dimms.len() > 1 {
        return Err(Error::new(Kind::Invalid, "write labels")
            .found(format_args!("{} DIMMs", dimms.len()))
            .accepted("one"));
    }
    let len = o.size.map_or(bytes.len(), |s| usize::try_from(s).unwrap_or(usize::MAX).min(bytes.len()));
    let bytes = bytes.get(..len).unwrap_or(bytes);
    let outcome = each(sys, o, reporter, |dimm, _| {
        check_free(dimm)?;
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let size = area_len(dimm)?;
        check_range(size, "write label area", MediaOffset(o.offset), len)?;
        rewrite(dimm, || {
            if o.offset != 0 {
                return sys.label_write(dimm.name(), o.offset, bytes);
            }
            retire(dimm, o.offset, len)?;
            for part in parts(size, bytes) {
                let at = u64::try_from(part.start).unwrap_or(u64::MAX);
                match bytes.get(part) {
                    Some(part) if !part.is_empty() => sys.label_write(dimm.name(), at, part)?,
                    _ => {}
                }
            }
            Ok(())
        })
    })?;
    reporter.count(&format_args!("wrote {}", counted_dimms(outcome.count)));
    Ok(outcome)
}

/// Makes labels for a region that has none: its DIMMs get areas of version 1.2, those that have them keep them.
///
/// An error if the region still has no labels, which is then enabled again all the same.
pub(crate) fn label_region(region: &Region<'_>) -> Result<()> {
    disable_region(region)?;
    let result = region.mappings().iter().try_for_each(|mapping| {
        let [dimm] = named_dimms(region.sys(), std::slice::from_ref(&mapping.dimm), &Filter::default())
            .try_into()
            .map_err(|_| Error::new(Kind::NotFound, "look for DIMM").found(&mapping.dimm))?;
        // Another region may use it still.
        check_free(&dimm)?;
        if Area::open(&dimm)?.current().is_none() {
            write_fresh(&dimm, Version::V1_2)?;
        }
        unbind(&dimm)?;
        bind(&dimm)
    });
    let enabled = bind(region);
    result?;
    enabled?;
    if region.labelled() {
        return Ok(());
    }
    Err(Error::new(Kind::Unsupported, format!("make labels for {}", region.name()))
        .found("a region without labels still"))
}
