// SPDX-License-Identifier: MIT OR Apache-2.0
//! Between the model and the label areas: what labels say a region is made of, and the labels that say what became of it.

use std::sync::Arc;

use nvstack_block::{BlockDevice, Linear};
use nvstack_format::guid::ClaimClass;
use nvstack_format::label::{Name, Version};
use nvstack_format::{Dpa, Invalid};
use nvstack_label::{Finding, FindingKind, LabelArea, LabelSet, Member, NamespaceLabel, SetArea};
use nvstack_media::{Error, Kind, Media, MediaOffset, Result};
use uuid::Uuid;

use crate::model::{BusState, Dimm, Mapping};
use crate::probe::ReadArea;
use crate::sync::Gate;

/// A namespace that labels tell.
pub(crate) struct Told {
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    pub(crate) class: ClaimClass,
    pub(crate) lbasize: u64,
    pub(crate) start: u64,
    pub(crate) size: u64,
}

/// What the labels of a region say.
#[derive(Default)]
pub(crate) struct Assembled {
    pub(crate) namespaces: Vec<Told>,
    pub(crate) findings: Vec<String>,
}

/// Gives a DIMM its label area, as read.
pub(crate) fn take(dimm: &mut Dimm, read: Option<ReadArea>) {
    let (area, slots) = match read {
        Some((area, slots)) => (Some(area), slots),
        None => (None, Vec::new()),
    };
    dimm.reserved = slots
        .iter()
        .filter_map(|slot| slot.label.as_ref().ok())
        .map(|label| (label.uuid, label.dpa.0, label.rawsize))
        .collect();
    dimm.area = area;
    dimm.slots = slots;
}

/// The label area of a DIMM for somebody outside, behind a gate.
pub(crate) fn handle(dimm: &mut Dimm, name: &str, write: bool) -> Result<Arc<dyn Media>> {
    let Some(media) = &dimm.media else {
        return Err(Error::new(Kind::Unsupported, "use label area")
            .path(name)
            .found("a DIMM without a label area"));
    };
    let gate = if write { &mut dimm.writers } else { &mut dimm.readers };
    let gate = match gate {
        Some(gate) => gate,
        None => {
            let device = Linear::new(name, Arc::clone(media), 512, !write)?;
            gate.insert(Arc::new(Gate::new(Arc::new(device), name)))
        }
    };
    Ok(gate.bytes()?.media())
}

/// The mappings of a region in the order of the set.
fn in_order(mappings: &[Mapping]) -> Vec<Mapping> {
    let mut sorted = mappings.to_vec();
    sorted.sort_by_key(|m| m.position);
    sorted
}

/// The namespaces that a region's labels tell. A region without labels has none.
pub(crate) fn assemble(state: &BusState, region: u32) -> Result<Assembled> {
    let number = region;
    let name = format!("region{region}");
    let region = state.region(region)?;
    if region.nstype(&state.dimms) != 5 {
        return Ok(Assembled::default());
    }
    let Some(cookies) = &region.cookies else {
        return Err(Error::new(Kind::NoDevice, "use labels").path(name).found("no interleave set"));
    };
    let mappings = in_order(&region.mappings);
    let members: Vec<Member> = mappings
        .iter()
        .filter_map(|m| {
            let dimm = state.dimms.get(&m.dimm)?;
            let (version, slots) = (dimm.version(), dimm.slots.clone());
            Some(Member { version, slots, start: Dpa(m.dpa), size: m.size })
        })
        .collect();
    let mut assembled = nvstack_label::assemble(&members, cookies);
    assembled.findings.extend(nowhere(state, number, &mappings));
    let nmem = |member: usize| mappings.get(member).map_or(0, |m| m.dimm);
    Ok(Assembled {
        namespaces: assembled
            .namespaces
            .into_iter()
            .map(|n| Told {
                uuid: n.uuid,
                name: n.name.to_string(),
                class: n.class,
                lbasize: n.lbasize,
                start: n.start,
                size: n.size,
            })
            .collect(),
        findings: assembled
            .findings
            .into_iter()
            .map(|f| {
                let dimm = nmem(f.dimm);
                let area = state.dimms.get(&dimm).and_then(|d| d.area.as_ref());
                let Some(slot) = f.slot else { return format!("nmem{dimm}: {}", f.detail) };
                let at = area.and_then(|area| area.slot_offset(slot)).unwrap_or(MediaOffset(0));
                let operation = format!("nmem{dimm}: use label in slot {slot}");
                let error = Error::invalid(Kind::Corrupt, operation, at, f.detail);
                area.map_or(error.to_string(), |area| format!("{error} (in {})", area.media().name()))
            })
            .collect(),
    })
}

/// Labels of bytes that are no region's, told by the first region of their DIMM.
fn nowhere(state: &BusState, number: u32, mappings: &[Mapping]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (member, mapping) in mappings.iter().enumerate() {
        let all = || {
            let regions = state.regions.iter();
            regions
                .flat_map(|(id, r)| r.mappings.iter().map(move |m| (*id, *m)))
                .filter(|(_, m)| m.dimm == mapping.dimm)
        };
        if all().map(|(id, _)| id).min() != Some(number) {
            continue;
        }
        let Some(dimm) = state.dimms.get(&mapping.dimm) else { continue };
        for label in dimm.slots.iter().filter_map(|slot| slot.label.as_ref().ok()) {
            let somewhere = all().any(|(_, m)| {
                label.dpa.0 < m.dpa.saturating_add(m.size)
                    && m.dpa < label.end().0.max(label.dpa.0.saturating_add(1))
            });
            if !somewhere {
                let end = all().map(|(_, m)| m.dpa.saturating_add(m.size)).max().unwrap_or(0);
                found.push(Finding {
                    dimm: member,
                    slot: Some(label.slot),
                    uuid: Some(label.uuid),
                    kind: FindingKind::BadLabel,
                    detail: Invalid::new(
                        "label",
                        "rawsize",
                        112,
                        format_args!("{} bytes from {}", label.rawsize, label.dpa),
                        format_args!("bytes of a region: the DIMM's end at {end}"),
                    ),
                });
            }
        }
    }
    found
}

/// Works on the label areas of a region as on one, and keeps what the model knows of them up to date.
fn with_set<T>(
    state: &mut BusState,
    region: u32,
    work: impl FnOnce(&mut LabelSet<'_, Arc<dyn Media>>) -> Result<T>,
) -> Result<T> {
    let name = format!("region{region}");
    let (mappings, cookies) = {
        let region = state.region(region)?;
        (in_order(&region.mappings), region.cookies)
    };
    let no_labels = |dimm: u32| {
        Error::new(Kind::NoDevice, "write labels")
            .path(&name)
            .found(format_args!("nmem{dimm} disabled, or without labels"))
            .accepted("its DIMMs with their labels")
    };
    let cookies = cookies
        .ok_or_else(|| Error::new(Kind::NoDevice, "write labels").path(&name).found("no interleave set"))?;
    for m in &mappings {
        if !state.dimms.get(&m.dimm).is_some_and(|d| d.bound && d.labelled()) {
            return Err(no_labels(m.dimm));
        }
    }
    // Taken out, so that all can be changed at once; put back whatever happens.
    let mut areas: Vec<(u32, LabelArea<Arc<dyn Media>>)> = Vec::with_capacity(mappings.len());
    for m in &mappings {
        if let Some(area) = state.dimms.get_mut(&m.dimm).and_then(|d| d.area.take()) {
            areas.push((m.dimm, area));
        }
    }
    let done = {
        let members = areas
            .iter_mut()
            .zip(&mappings)
            .map(|((_, area), m)| SetArea { area, start: Dpa(m.dpa), size: m.size })
            .collect();
        LabelSet::new(members, cookies).and_then(|mut set| work(&mut set))
    };
    let mut reread = Ok(());
    for (dimm, area) in areas {
        let slots = area.slots();
        if let Some(dimm) = state.dimms.get_mut(&dimm) {
            match slots {
                Ok(slots) => take(dimm, Some((area, slots))),
                Err(error) => {
                    dimm.area = Some(area);
                    reread = Err(error);
                }
            }
        }
    }
    let done = done.map_err(|e| e.path(&name))?;
    reread?;
    Ok(done)
}

/// Writes the labels of a namespace that has a uuid and a size.
/// `before` is the uuid that it had; where it is another one, the labels of that uuid give way.
pub(crate) fn write(state: &mut BusState, r: u32, n: u32, before: Option<Uuid>) -> Result<()> {
    let ns = state.namespace(r, n)?;
    let Some(uuid) = ns.uuid.filter(|_| ns.size > 0) else { return Ok(()) };
    let (start, size, lbasize, class, name) = (ns.start, ns.size, ns.lbasize, ns.class, ns.name.clone());
    let name = Name::new(&name).map_err(|f| {
        Error::new(Kind::Invalid, "write labels").path(format!("namespace{r}.{n}")).because(f)
    })?;
    let old = version(state, r) == Some(Version::V1_1);
    // Labels of version 1.1 have no room for a class; what is on the namespace tells by itself.
    let class = if old { ClaimClass::None } else { class };
    let before = before.filter(|before| *before != uuid);
    let label = NamespaceLabel { uuid, name, class, lbasize, start, size };
    with_set(state, r, |set| set.write_as(before, &label))
}

/// Deletes the labels of a namespace, if it has any.
pub(crate) fn delete(state: &mut BusState, r: u32, uuid: Uuid) -> Result<()> {
    with_set(state, r, |set| match set.delete(uuid) {
        Err(e) if e.kind() == Kind::NotFound => Ok(()),
        done => done,
    })
}

/// The version of the labels on a region's DIMMs; none where they are not initialised, or differ.
pub(crate) fn version(state: &BusState, r: u32) -> Option<Version> {
    let region = state.region(r).ok()?;
    let mut versions = region.mappings.iter().map(|m| state.dimms.get(&m.dimm).and_then(Dimm::version));
    let first = versions.next()??;
    versions.all(|v| v == Some(first)).then_some(first)
}
