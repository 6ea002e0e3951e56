// SPDX-License-Identifier: MIT OR Apache-2.0
//! Autodetection: DIMMs, then the regions on them, then their namespaces, by workers. No probe waits for another that it does
//! not build on, and none reads anything but its own bus.

use std::sync::Arc;

use nvstack_format::guid::ClaimClass;
use nvstack_format::label::SIGNATURE;
use nvstack_label::LabelArea;
use nvstack_media::{Error, Kind, Media, MediaOffset, Result};

use crate::bind;
use crate::events::Action;
use crate::labels;
use crate::model::{BusState, Dev, Dimm, Generation, Namespace, NamespaceKind};
use crate::spec::NamespaceKey;
use crate::stack::At;

/// Has everything on a new bus probed that is to be.
pub(crate) fn start(at: &At, state: &mut BusState) {
    let dimms: Vec<(u32, Generation)> =
        state.dimms.iter().filter(|(_, d)| !d.probed).map(|(id, d)| (*id, d.generation)).collect();
    for (id, generation) in dimms {
        let ticket = at.begin(state, format!("nmem{id}"));
        let at = at.clone();
        at.inner.pool.clone().submit(move || {
            let _ = probe_dimm(&at, id, generation);
            let mut state = at.bus.lock();
            start_regions(&at, &mut state);
            at.end(&mut state, ticket);
        });
    }
    start_regions(at, state);
}

/// Has the regions probed whose DIMMs are.
pub(crate) fn start_regions(at: &At, state: &mut BusState) {
    let ready: Vec<(u32, Generation)> = state
        .regions
        .iter()
        .filter(|(_, r)| r.changing && !r.bound && r.error.is_none())
        .filter(|(_, r)| r.mappings.iter().all(|m| state.dimms.get(&m.dimm).is_none_or(|d| d.probed)))
        .map(|(id, r)| (*id, r.generation))
        .collect();
    for (id, generation) in ready {
        // A region is probed once: `changing` says that it is to be, and is under way from here on.
        if let Some(region) = state.regions.get_mut(&id) {
            region.changing = false;
        }
        let ticket = at.begin(state, format!("region{id}"));
        let at = at.clone();
        at.inner.pool.clone().submit(move || {
            let _ = probe_region(&at, id, generation);
            let mut state = at.bus.lock();
            at.end(&mut state, ticket);
        });
    }
}

/// Reads a DIMM's label area.
pub(crate) fn probe_dimm(at: &At, id: u32, generation: Generation) -> Result<()> {
    let (media, fault) = {
        let mut state = at.bus.lock();
        let dimm = state.dimm_mut(id)?;
        alive(dimm, generation, id)?;
        // What two read at once is not the same once one of them has let a region write labels.
        if dimm.bound || dimm.changing {
            return Err(Error::new(Kind::Busy, "bind")
                .path(format!("nmem{id}"))
                .found("a DIMM that has its driver, or is getting it"));
        }
        dimm.changing = true;
        (dimm.media.clone(), dimm.fault.as_ref().map(ToString::to_string))
    };
    let read = match (fault, media) {
        (Some(fault), _) => {
            Err(Error::new(Kind::NoDevice, "probe DIMM").path(format!("nmem{id}")).because(fault))
        }
        (None, None) => Ok(None),
        (None, Some(media)) => read_labels(media).map(Some),
    };
    let mut state = at.bus.lock();
    if state.dead {
        return Err(crate::model::gone(format_args!("nmem{id}")));
    }
    let dimm = alive(state.dimm(id)?, generation, id)?.generation;
    let outcome = {
        let dimm = state.dimm_mut(id).map(|d| (d.generation == dimm).then_some(d))?;
        let Some(dimm) = dimm else { return Err(crate::model::gone(format_args!("nmem{id}"))) };
        dimm.probed = true;
        dimm.changing = false;
        match read {
            Ok(area) => {
                let (area, damage) = match area {
                    Some((area, damage)) => (Some(area), damage),
                    None => (None, None),
                };
                labels::take(dimm, area);
                dimm.damage = damage.map(|error| error.to_string());
                dimm.error.clone_from(&dimm.damage);
                dimm.bound = true;
                Ok(())
            }
            Err(error) => {
                dimm.bound = false;
                dimm.error = Some(error.to_string());
                Err(error)
            }
        }
    };
    match outcome {
        Ok(()) => at.tell(&state, Action::Bind, Dev::Dimm(id)),
        Err(_) => {
            let error = state.dimm(id)?.error.clone().unwrap_or_default();
            at.tell_more(&state, Action::Change, Dev::Dimm(id), vec![("ERROR", error)]);
        }
    }
    outcome
}

fn alive(dimm: &Dimm, generation: Generation, id: u32) -> Result<&Dimm> {
    if dimm.generation == generation { Ok(dimm) } else { Err(crate::model::gone(format_args!("nmem{id}"))) }
}

/// A label area with its slots.
pub(crate) type ReadArea = (LabelArea<Arc<dyn Media>>, Vec<nvstack_label::Slot>);

/// The label area, and what is wrong with index blocks that carry the signature of such and are not valid.
fn read_labels(media: Arc<dyn Media>) -> Result<(ReadArea, Option<Error>)> {
    let area = LabelArea::open(media)?;
    let slots = area.slots()?;
    let mut damage = None;
    if area.index().is_none() {
        for (number, (header, block)) in area.headers()?.iter().zip(area.blocks()).enumerate() {
            if let (SIGNATURE, Err(finding)) = (header.signature, block)
                && damage.is_none()
            {
                let operation = format!("read label index block {number}");
                let error = Error::invalid(Kind::Corrupt, operation, MediaOffset(0), finding.clone());
                damage = Some(error.path(area.media().name()));
            }
        }
    }
    Ok(((area, slots), damage))
}

/// Puts a region's namespaces together, and has them probed.
pub(crate) fn probe_region(at: &At, id: u32, generation: Generation) -> Result<()> {
    let mut state = at.bus.lock();
    if state.dead || state.region(id)?.generation != generation {
        return Err(crate::model::gone(format_args!("region{id}")));
    }
    if state.region(id)?.bound {
        return Err(Error::new(Kind::Busy, "bind")
            .path(format!("region{id}"))
            .found("a region with its driver"));
    }
    let found = usable(&state, id).and_then(|()| labels::assemble(&state, id));
    let assembled = match found {
        Ok(assembled) => assembled,
        Err(error) => {
            let text = error.to_string();
            state.region_mut(id)?.error = Some(text.clone());
            at.tell_more(&state, Action::Change, Dev::Region(id), vec![("ERROR", text)]);
            return Err(error);
        }
    };
    let nstype = state.region(id)?.nstype(&state.dimms);
    let mut fresh = Vec::new();
    let (size, start) = {
        let region = state.region(id)?;
        (region.size, region.start)
    };
    if nstype == 4 {
        fresh.push((Namespace { size, ..blank(at, NamespaceKind::Io) }, NamespaceKey::Range(start)));
    }
    for found in assembled.namespaces {
        let key = NamespaceKey::Label(found.uuid);
        fresh.push((
            Namespace {
                start: found.start,
                size: found.size,
                uuid: Some(found.uuid),
                name: found.name,
                lbasize: found.lbasize,
                class: found.class,
                ..blank(at, NamespaceKind::Pmem)
            },
            key,
        ));
    }
    let region = state.region_mut(id)?;
    region.bound = true;
    region.error = None;
    region.findings = assembled.findings;
    region.initial = (fresh.len(), fresh.len());
    let mut to_bind = Vec::new();
    for (number, (namespace, key)) in (0u32..).zip(fresh) {
        let generation = namespace.generation;
        region.namespaces.insert(number, namespace);
        if !at.bus.idle.contains(&key) {
            to_bind.push((number, generation));
        }
    }
    let dimms: Vec<u32> = region.mappings.iter().map(|m| m.dimm).collect();
    let mut writers = Vec::new();
    for dimm in dimms {
        if let Ok(dimm) = state.dimm_mut(dimm) {
            dimm.busy += 1;
            writers.extend(dimm.writers.take());
        }
    }
    at.tell(&state, Action::Bind, Dev::Region(id));
    let numbers: Vec<u32> = state.region(id)?.namespaces.keys().copied().collect();
    for number in numbers {
        at.tell(&state, Action::Add, Dev::Namespace(id, number));
    }
    at.ensure_seeds(&mut state, id);
    for (number, generation) in to_bind {
        let ticket = at.begin(&mut state, format!("namespace{id}.{number}"));
        let at = at.clone();
        at.inner.pool.clone().submit(move || {
            let _ = bind::bind_namespace(&at, id, number, Some(generation));
            let mut state = at.bus.lock();
            at.end(&mut state, ticket);
        });
    }
    drop(state);
    // From here on labels are the region's: who was given them to write has them no more.
    for gate in writers {
        let _ = gate.close();
    }
    Ok(())
}

/// Whether a region's bytes and DIMMs are there.
fn usable(state: &BusState, id: u32) -> Result<()> {
    let region = state.region(id)?;
    let name = format!("region{id}");
    if let Err(cause) = &region.media {
        return Err(Error::new(Kind::NoDevice, "probe region").path(name).because(cause.to_string()));
    }
    for m in &region.mappings {
        let Some(dimm) = state.dimms.get(&m.dimm) else { continue };
        // Without its labels nobody knows what is whose: Linux refuses the region, too.
        if !dimm.bound && (dimm.media.is_some() || dimm.fault.is_some()) {
            return Err(Error::new(Kind::NoDevice, "probe region")
                .path(name)
                .found(format_args!("nmem{} disabled", m.dimm))
                .accepted("its DIMMs with their labels"));
        }
    }
    Ok(())
}

/// A namespace without anything.
pub(crate) fn blank(at: &At, kind: NamespaceKind) -> Namespace {
    Namespace {
        generation: at.inner.next_generation(),
        kind,
        start: 0,
        size: 0,
        uuid: None,
        name: String::new(),
        lbasize: 512,
        class: ClaimClass::None,
        force_raw: false,
        holder: None,
        bound: None,
        changing: false,
        error: None,
    }
}
