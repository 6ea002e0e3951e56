// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drivers taking devices and letting them go, and what goes with them.
//!
//! What may take long (probing, laying out, waiting for requests in flight) is never done under the bus's lock. Meanwhile the
//! device is marked `changing`, which makes everybody else who would change it get [`Kind::Busy`]; afterwards its
//! generation tells whether it is still the same one.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nvstack_block::Linear;
use nvstack_media::{Error, Kind, MediaOffset, Part, Result};
use uuid::Uuid;

use crate::events::Action;
use crate::model::{
    Bound, BusState, Claim, Dev, Generation, Namespace, NamespaceKind, PAGE, Region, busy, gone, lowest_free,
};
use crate::personality::{Attached, Personality, Probed, Settings, Subject};
use crate::probe;
use crate::stack::At;
use crate::sync::Instant;

/// Has the driver `driver` take a device: what a write to its `bind` attribute does.
pub(crate) fn bind(at: &At, driver: &str, dev: Dev) -> Result<()> {
    let name = at.name(dev);
    let fits = at.driver_of(dev).is_some_and(|fits| fits == driver);
    if !fits {
        return Err(Error::new(Kind::Unrecognised, "bind")
            .path(name)
            .found(format_args!("driver {driver}"))
            .accepted(at.driver_of(dev).unwrap_or("no driver")));
    }
    match dev {
        Dev::Bus(_) | Dev::Control(_) => {
            Err(Error::new(Kind::Busy, "bind").path(name).found("a device that always has its driver"))
        }
        Dev::Dimm(n) => bind_dimm(at, n),
        Dev::Region(n) => bind_region(at, n),
        Dev::Namespace(r, n) => bind_namespace(at, r, n, None),
        Dev::Claim(r, d, n) => bind_claim(at, r, d, n),
    }
}

/// Has a device's driver let it go: what a write to its `unbind` attribute does.
pub(crate) fn unbind(at: &At, driver: &str, dev: Dev) -> Result<()> {
    let name = at.name(dev);
    if at.driver_of(dev).is_none_or(|fits| fits != driver) {
        return Err(Error::new(Kind::Unrecognised, "unbind")
            .path(name)
            .found(format_args!("driver {driver}"))
            .accepted(at.driver_of(dev).unwrap_or("no driver")));
    }
    match dev {
        Dev::Bus(_) | Dev::Control(_) => {
            Err(Error::new(Kind::Busy, "unbind").path(name).found("a device that always has its driver"))
        }
        Dev::Dimm(n) => unbind_dimm(at, n),
        Dev::Region(n) => unbind_region(at, n, GRACE),
        Dev::Namespace(..) | Dev::Claim(..) => unbind_device(at, dev),
    }
}

/// How long an unbind waits for others who change the same devices.
const GRACE: Duration = Duration::from_secs(2);

fn already(name: String) -> Error {
    Error::new(Kind::Busy, "bind").path(name).found("a device with its driver").accepted("one without")
}

fn bind_dimm(at: &At, n: u32) -> Result<()> {
    let generation = {
        let state = at.bus.lock();
        let dimm = state.dimm(n)?;
        if dimm.bound {
            return Err(already(format!("nmem{n}")));
        }
        if dimm.changing {
            return Err(busy(&format!("nmem{n}"), "bind", "a DIMM whose labels are being read"));
        }
        dimm.generation
    };
    let bound = probe::probe_dimm(at, n, generation);
    // Autodetection may have come second, and left it to us.
    probe::start_regions(at, &mut at.bus.lock());
    bound
}

fn unbind_dimm(at: &At, n: u32) -> Result<()> {
    let mut state = at.bus.lock();
    let dimm = state.dimm_mut(n)?;
    if !dimm.bound {
        return Err(Error::new(Kind::Unrecognised, "unbind").path(format!("nmem{n}")).found("no driver"));
    }
    if dimm.busy > 0 {
        // Regions go on with the labels that they know; Linux lets this happen and fails their next label update.
        return Err(busy(&format!("nmem{n}"), "unbind", "an enabled region on it"));
    }
    dimm.bound = false;
    crate::labels::take(dimm, None);
    at.tell(&state, Action::Unbind, Dev::Dimm(n));
    Ok(())
}

fn bind_region(at: &At, n: u32) -> Result<()> {
    let generation = {
        let state = at.bus.lock();
        let region = state.region(n)?;
        if region.bound {
            return Err(already(format!("region{n}")));
        }
        if region.changing {
            return Err(busy(&format!("region{n}"), "bind", "a region that is being changed"));
        }
        region.generation
    };
    probe::probe_region(at, n, generation)
}

/// What a probe of a namespace came to.
enum Found {
    /// It is this driver's, with a device of its own.
    Claimed(usize, Settings, Box<dyn Attached>),
    /// The driver of the namespace itself has it.
    InPlace(usize, Box<dyn Attached>),
    /// Nobody may have it.
    Refused(Error),
}

/// Binds a namespace: whoever finds his own on it claims it; else it is raw.
///
/// As in Linux a namespace that turns out to be claimed gives [`Kind::NoDevice`] to who asked for the raw one: it is there
/// under another name. With a generation, the call is from autodetection.
pub(crate) fn bind_namespace(at: &At, r: u32, n: u32, generation: Option<Generation>) -> Result<()> {
    bind_as(at, r, n, generation, None)
}

/// The same, or without a probe as the claim of one driver with settings of its own.
pub(crate) fn bind_as(
    at: &At,
    r: u32,
    n: u32,
    generation: Option<Generation>,
    by: Option<(usize, Settings)>,
) -> Result<()> {
    let name = format!("namespace{r}.{n}");
    let drivers = at.inner.drivers();
    let autodetected = generation.is_some();
    let (subject, force_raw, generation, held) = {
        let mut state = at.bus.lock();
        if state.dead {
            return Err(gone(name));
        }
        let ns = state.namespace(r, n)?;
        if generation.is_some_and(|g| g != ns.generation) {
            return Err(gone(name));
        }
        if ns.bound.is_some() {
            return Err(already(name));
        }
        if ns.changing {
            return Err(busy(&name, "bind", "a namespace that is being changed"));
        }
        if let Some((driver, id)) = ns.holder {
            return Err(Error::new(Kind::NoDevice, "bind")
                .path(name)
                .found(format_args!("a namespace that {} holds", at.name(Dev::Claim(r, driver, id))))
                .accepted("one that nobody holds"));
        }
        if ns.size < PAGE || (ns.kind == NamespaceKind::Pmem && ns.uuid.is_none()) {
            return Err(Error::new(Kind::Unrecognised, "bind")
                .path(name)
                .found(format_args!(
                    "{} bytes, uuid {}",
                    ns.size,
                    ns.uuid.map_or("none".into(), |u| u.to_string())
                ))
                .accepted("a page or more, and a uuid"));
        }
        let (generation, force_raw) = (ns.generation, ns.force_raw);
        let subject = subject(at, &state, r, n)?;
        state.namespace_mut(r, n)?.changing = true;
        let dimms = state.region(r)?.mappings.iter().filter_map(|m| state.dimms.get(&m.dimm));
        let held = dimms.filter_map(|dimm| dimm.damage.clone()).next().filter(|_| !force_raw);
        (subject, force_raw, generation, held)
    };

    let found = match (by, held) {
        (Some((driver, mut settings)), _) => drivers
            .get(driver)
            .ok_or_else(|| gone(&name))
            .and_then(|d| d.attach(&subject, &mut settings))
            .map(|attached| Found::Claimed(driver, settings, attached)),
        // Linux takes the region for one without labels, and serves all of it raw: whoever writes there destroys namespaces.
        (None, Some(damage)) => Err(Error::new(Kind::Corrupt, "probe namespace").because(damage)),
        (None, None) => contained(&name, || detect(&drivers, subject, force_raw)),
    };

    let mut state = at.bus.lock();
    let mut ours = state.namespace_mut(r, n).ok().filter(|ns| ns.generation == generation);
    // Also on a bus that is being removed: who removes it waits for this.
    if let Some(ns) = &mut ours {
        ns.changing = false;
    }
    let alive = ours.is_some() && !state.dead;
    at.bus.freed.notify_all();
    if !alive {
        drop(state);
        drop(found);
        return Err(gone(name));
    }
    match found {
        Ok(Found::InPlace(driver, attached)) => {
            let bound = at.bound(driver, attached);
            let ns = state.namespace_mut(r, n)?;
            ns.bound = Some(bound);
            ns.error = None;
            at.tell(&state, Action::Bind, Dev::Namespace(r, n));
            at.tell_disk(&state, Action::Add, Dev::Namespace(r, n));
            at.ensure_seeds(&mut state, r);
            Ok(())
        }
        Ok(Found::Claimed(driver, settings, attached)) => {
            let bound = at.bound(driver, attached);
            let id = {
                let region = state.region_mut(r)?;
                let used = || region.claims.keys().filter(|(d, _)| *d == driver).map(|(_, id)| *id);
                let wanted = n.saturating_add(1);
                let id = if used().any(|id| id == wanted) { lowest_free(used()) } else { wanted };
                let claim = Claim {
                    generation: at.inner.next_generation(),
                    settings,
                    namespace: Some(n),
                    bound: Some(bound),
                    changing: false,
                };
                region.claims.insert((driver, id), claim);
                id
            };
            let ns = state.namespace_mut(r, n)?;
            ns.holder = Some((driver, id));
            ns.error = None;
            let dev = Dev::Claim(r, driver, id);
            at.tell(&state, Action::Add, dev);
            at.tell(&state, Action::Bind, dev);
            at.tell_disk(&state, Action::Add, dev);
            at.ensure_seeds(&mut state, r);
            Err(Error::new(Kind::NoDevice, "bind")
                .path(name)
                .found(format_args!("a namespace that comes up as {}", at.name(dev))))
        }
        Ok(Found::Refused(error)) | Err(error) => {
            let told = error.to_string();
            if autodetected {
                let region = state.region_mut(r)?;
                region.initial.1 = region.initial.1.saturating_sub(1);
            }
            let kind = error.kind();
            state.namespace_mut(r, n)?.error = Some(error);
            at.tell_more(&state, Action::Change, Dev::Namespace(r, n), vec![("ERROR", told.clone())]);
            Err(Error::new(kind, "bind").path(name).because(told))
        }
    }
}

/// Runs a driver's own code. One that panics fails its device, and no other.
pub(crate) fn contained<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Error::new(Kind::Io, "run driver").path(name).found("a driver that panicked"))
    })
}

/// Asks the drivers in their order. Whoever finds his own is attached at once.
fn detect(drivers: &[Arc<dyn Personality>], mut subject: Subject, force_raw: bool) -> Result<Found> {
    let size = subject.size();
    let numbered = || drivers.iter().enumerate();
    for (number, driver) in numbered().filter(|(_, d)| !d.identity().in_place) {
        if force_raw || !driver.accepts(subject.class) || size < driver.identity().min_size {
            continue;
        }
        match driver.probe(&subject)? {
            Probed::Found(mut settings) => {
                let attached = driver.attach(&subject, &mut settings)?;
                return Ok(Found::Claimed(number, settings, attached));
            }
            Probed::Refused(error) => return Ok(Found::Refused(error)),
            Probed::Absent(absence) => subject.absent.extend(absence),
        }
    }
    for (number, driver) in numbered().filter(|(_, d)| d.identity().in_place) {
        let mut settings = driver.defaults();
        if !force_raw {
            match driver.probe(&subject)? {
                Probed::Found(found) => settings = found,
                Probed::Refused(error) => return Ok(Found::Refused(error)),
                Probed::Absent(_) => continue,
            }
        }
        return Ok(Found::InPlace(number, driver.attach(&subject, &mut settings)?));
    }
    Err(Error::new(Kind::NoDevice, "bind").path(subject.name).found("no driver for a raw namespace"))
}

/// A namespace as its drivers see it.
pub(crate) fn subject(at: &At, state: &BusState, r: u32, n: u32) -> Result<Subject> {
    let region = state.region(r)?;
    let ns = state.namespace(r, n)?;
    let name = at.name(Dev::Namespace(r, n));
    let media = match &region.media {
        Ok(media) => Arc::clone(media),
        Err(cause) => {
            return Err(Error::new(Kind::NoDevice, "use region").path(name).because(cause.to_string()));
        }
    };
    let part = Part::new(media, MediaOffset(ns.start), ns.size)?;
    let read_only = region.read_only.load(std::sync::atomic::Ordering::Relaxed);
    let sector = if ns.kind == NamespaceKind::Pmem && ns.lbasize == 4096 { 4096 } else { 512 };
    let device = Linear::new(name.clone(), part, sector, read_only)?;
    Ok(Subject {
        name,
        device: Arc::new(device),
        uuid: ns.uuid.unwrap_or(Uuid::nil()),
        class: ns.class,
        start: region.start.saturating_add(ns.start),
        lbasize: ns.lbasize,
        read_only,
        absent: Vec::new(),
    })
}

/// Binds a claim that was configured: its driver attaches to what is on the namespace, or lays it out.
fn bind_claim(at: &At, r: u32, d: usize, id: u32) -> Result<()> {
    let dev = Dev::Claim(r, d, id);
    let name = at.name(dev);
    let driver = at.inner.driver(d).ok_or_else(|| gone(&name))?;
    let (subject, mut settings, generation, n, of_namespace) = {
        let mut state = at.bus.lock();
        if state.dead {
            return Err(gone(name));
        }
        let claim = state.claim(r, d, id)?;
        if claim.bound.is_some() {
            return Err(already(name));
        }
        if claim.changing {
            return Err(busy(&name, "bind", "a device that is being changed"));
        }
        let Some(n) = claim.namespace else {
            return Err(Error::new(Kind::Unrecognised, "bind")
                .path(name)
                .found("no namespace")
                .accepted("the name of one in the namespace attribute"));
        };
        let ns = state.namespace(r, n)?;
        if ns.bound.is_some() || ns.changing {
            return Err(busy(&name, "bind", format_args!("namespace{r}.{n} in use")));
        }
        let of_namespace = ns.generation;
        let subject = subject(at, &state, r, n)?;
        let (settings, generation) = (claim.settings.clone(), claim.generation);
        state.claim_mut(r, d, id)?.changing = true;
        state.namespace_mut(r, n)?.changing = true;
        (subject, settings, generation, n, of_namespace)
    };

    let attached = contained(&name, || driver.attach(&subject, &mut settings));

    let mut state = at.bus.lock();
    // One of the same name that came meanwhile is no business of ours.
    if let Ok(ns) = state.namespace_mut(r, n)
        && ns.generation == of_namespace
    {
        ns.changing = false;
    }
    let mut ours = state.claim_mut(r, d, id).ok().filter(|claim| claim.generation == generation);
    // Also on a bus that is being removed: who removes it waits for this.
    if let Some(claim) = &mut ours {
        claim.changing = false;
    }
    let alive = ours.is_some() && !state.dead;
    at.bus.freed.notify_all();
    if !alive {
        drop(state);
        drop(attached);
        return Err(gone(name));
    }
    let claim = state.claim_mut(r, d, id)?;
    // A failed attach changes nothing of the seed's settings: it can be tried again.
    let attached = attached.map_err(|e| e.path(&name))?;
    claim.settings = settings;
    claim.bound = Some(at.bound(d, attached));
    state.namespace_mut(r, n)?.error = None;
    at.tell(&state, Action::Bind, dev);
    at.tell_disk(&state, Action::Add, dev);
    at.ensure_seeds(&mut state, r);
    Ok(())
}

/// Takes a driver's hold, if there is one, and marks the device.
fn take(bound: &mut Option<Bound>, changing: &mut bool) -> Option<Bound> {
    let taken = bound.take();
    *changing = taken.is_some();
    taken
}

/// Unbinds a namespace or a claim. The claim stays: it can be bound again.
fn unbind_device(at: &At, dev: Dev) -> Result<()> {
    let name = at.name(dev);
    let (bound, generation) = {
        let mut state = at.bus.lock();
        let (changing, generation) = match dev {
            Dev::Namespace(r, n) => state.namespace(r, n).map(|ns| (ns.changing, ns.generation))?,
            Dev::Claim(r, d, n) => state.claim(r, d, n).map(|claim| (claim.changing, claim.generation))?,
            _ => return Err(gone(name)),
        };
        if changing {
            return Err(busy(&name, "unbind", "a device that is being changed"));
        }
        // While it is still there to be told of.
        at.tell_disk(&state, Action::Remove, dev);
        let bound = match dev {
            Dev::Namespace(r, n) => {
                state.namespace_mut(r, n).ok().and_then(|ns| take(&mut ns.bound, &mut ns.changing))
            }
            Dev::Claim(r, d, n) => {
                state.claim_mut(r, d, n).ok().and_then(|c| take(&mut c.bound, &mut c.changing))
            }
            _ => None,
        };
        let bound =
            bound.ok_or_else(|| Error::new(Kind::Unrecognised, "unbind").path(&name).found("no driver"))?;
        (bound, generation)
    };
    at.release(bound);
    let mut state = at.bus.lock();
    // One of the same name that came meanwhile is no business of ours: whoever changes it goes on.
    let changing = match dev {
        Dev::Namespace(r, n) => {
            state.namespace_mut(r, n).ok().filter(|ns| ns.generation == generation).map(|ns| &mut ns.changing)
        }
        Dev::Claim(r, d, n) => state
            .claim_mut(r, d, n)
            .ok()
            .filter(|claim| claim.generation == generation)
            .map(|claim| &mut claim.changing),
        _ => None,
    };
    let there = changing.map(|changing| *changing = false).is_some();
    at.bus.freed.notify_all();
    if there {
        at.tell(&state, Action::Unbind, dev);
    }
    Ok(())
}

/// Unbinds a region: everything on it goes, claims before namespaces.
pub(crate) fn unbind_region(at: &At, r: u32, grace: Duration) -> Result<()> {
    let mut state = at.bus.lock();
    {
        let region = state.region_mut(r)?;
        if !region.bound {
            return Err(Error::new(Kind::Unrecognised, "unbind")
                .path(format!("region{r}"))
                .found("no driver"));
        }
        if region.changing {
            return Err(busy(&format!("region{r}"), "unbind", "a region that is being changed"));
        }
        region.changing = true;
    }
    // Whoever binds or unbinds just now is let finish; one that hangs finds its device gone when it comes back.
    let until = Instant::now() + grace;
    while state.region(r)?.namespaces.values().any(|ns| ns.changing)
        || state.region(r)?.claims.values().any(|c| c.changing)
    {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        state = at.bus.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    // In the order of the tree: claims before namespaces. What is told of them afterwards is taken down while they are there.
    let devices = crate::tree::names::devices_of_region(&state, r);
    let mut released = Vec::with_capacity(devices.len());
    for dev in devices {
        at.tell_disk(&state, Action::Remove, dev);
        let bound = crate::tree::names::bound_of(&state, dev).is_some();
        released.push((dev, at.name(dev), bound, crate::tree::uevent_unbound(at, &state, dev)));
    }
    let (claims, namespaces) = {
        let region = state.region_mut(r)?;
        (std::mem::take(&mut region.claims), std::mem::take(&mut region.namespaces))
    };
    // While they are taken apart nobody finds them any more.
    drop(state);
    for bound in claims.into_values().filter_map(|claim| claim.bound) {
        at.release(bound);
    }
    for bound in namespaces.into_values().filter_map(|ns| ns.bound) {
        at.release(bound);
    }
    let mut state = at.bus.lock();
    for (dev, name, bound, variables) in released {
        if bound {
            at.tell_as(Action::Unbind, dev, name.clone(), variables.clone());
        }
        at.tell_as(Action::Remove, dev, name, variables);
    }
    let region = state.region_mut(r)?;
    region.namespace_seed = None;
    region.seeds.clear();
    region.bound = false;
    region.changing = false;
    region.findings.clear();
    let dimms: Vec<u32> = region.mappings.iter().map(|m| m.dimm).collect();
    for dimm in dimms {
        if let Ok(dimm) = state.dimm_mut(dimm) {
            dimm.busy = dimm.busy.saturating_sub(1);
        }
    }
    at.bus.freed.notify_all();
    at.tell(&state, Action::Unbind, Dev::Region(r));
    Ok(())
}

/// Removes a bus with all that is on it.
pub(crate) fn remove_bus(at: &At, grace: Duration) -> Result<()> {
    {
        let mut state = at.bus.lock();
        if state.dead {
            return Err(gone(format_args!("ndbus{}", at.bus.id)));
        }
        state.dead = true;
    }
    // Probes that are under way find the bus dead; those that only wait end at once.
    at.settle(Some(Instant::now() + grace));
    let regions: Vec<u32> = at.bus.lock().regions.keys().copied().collect();
    for id in regions {
        loop {
            let mut state = at.bus.lock();
            // Somebody who unbinds it just now is let finish: what he waits for would be waited for here.
            while state.region(id).is_ok_and(|region| region.bound && region.changing) {
                state = at.bus.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let bound = state.region(id).is_ok_and(|region| region.bound);
            drop(state);
            // It fails only if somebody else was quicker.
            if !bound || unbind_region(at, id, grace).is_ok() {
                break;
            }
        }
        let mut state = at.bus.lock();
        at.tell(&state, Action::Remove, Dev::Region(id));
        state.regions.remove(&id);
        drop(state);
        at.inner.free_region(id);
    }
    let dimms: Vec<u32> = at.bus.lock().dimms.keys().copied().collect();
    for id in dimms {
        let mut state = at.bus.lock();
        let dimm = state.dimm_mut(id)?;
        let gates = [dimm.readers.take(), dimm.writers.take()];
        if std::mem::take(&mut dimm.bound) {
            at.tell(&state, Action::Unbind, Dev::Dimm(id));
        }
        at.tell(&state, Action::Remove, Dev::Dimm(id));
        state.dimms.remove(&id);
        drop(state);
        // Whoever is at its labels just now is waited for.
        for gate in gates.into_iter().flatten() {
            let _ = gate.close();
        }
        at.inner.free_dimm(id);
    }
    let state = at.bus.lock();
    let (bus, name) = (Dev::Bus(at.bus.id), at.name(Dev::Bus(at.bus.id)));
    let variables = crate::tree::uevent_unbound(at, &state, bus);
    at.tell_as(Action::Unbind, bus, name.clone(), variables.clone());
    at.tell_as(Action::Remove, bus, name, variables);
    drop(state);
    at.inner.forget(at.bus.id);
    Ok(())
}

impl At {
    /// The driver that a device binds to.
    pub(crate) fn driver_of(&self, dev: Dev) -> Option<&'static str> {
        match dev {
            Dev::Bus(_) => Some("nd_bus"),
            Dev::Control(_) => None,
            Dev::Dimm(_) => Some("nvdimm"),
            Dev::Region(_) => Some("nd_region"),
            Dev::Namespace(..) => {
                let drivers = self.inner.drivers();
                drivers.iter().map(|d| d.identity()).find(|d| d.in_place).map(|d| d.driver)
            }
            Dev::Claim(_, driver, _) => self.inner.driver(driver).map(|d| d.identity().driver),
        }
    }

    /// A driver's hold, with a number for its disk.
    fn bound(&self, driver: usize, attached: Box<dyn Attached>) -> Bound {
        Bound {
            attached: Arc::from(attached),
            driver,
            minor: self.inner.new_disk(),
            disk: None,
            opening: Arc::default(),
        }
    }

    /// Ends a driver's hold: requests in flight, and who is opening the disk, are waited for, and what it had is given back.
    pub(crate) fn release(&self, bound: Bound) {
        drop(bound.opening.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(disk) = bound.disk {
            disk.close();
        }
        drop(bound.attached);
        self.inner.free_disk(bound.minor);
    }

    /// Sees to it that a region has its seeds: an idle namespace where labels can make one, and an idle device of each driver. What
    /// has become of use is no seed any more, and exactly one new one takes its place.
    pub(crate) fn ensure_seeds(&self, state: &mut BusState, r: u32) {
        let drivers = self.inner.drivers();
        let Ok(region) = state.region(r) else { return };
        // One that is being taken apart gets no new ones.
        if !region.bound || region.changing {
            return;
        }
        let labelled = region.nstype(&state.dimms) == 5;
        let mut born = Vec::new();
        let Ok(region) = state.region_mut(r) else { return };
        let consumed = |region: &Region, n: u32| match region.namespaces.get(&n) {
            None => true,
            Some(ns) => {
                ns.bound.is_some()
                    || ns.holder.is_some_and(|key| region.claims.get(&key).is_some_and(|c| c.bound.is_some()))
            }
        };
        if labelled {
            if region.namespace_seed.is_none_or(|n| consumed(region, n)) {
                // One that was deleted, or never allocated, will do.
                let idle = region
                    .namespaces
                    .iter()
                    .find(|(_, ns)| ns.size == 0 && ns.holder.is_none() && ns.bound.is_none())
                    .map(|(n, _)| *n);
                let seed = idle.unwrap_or_else(|| {
                    let n = lowest_free(region.namespaces.keys().copied());
                    region.namespaces.insert(n, probe::blank(self, NamespaceKind::Pmem));
                    born.push(Dev::Namespace(r, n));
                    n
                });
                region.namespace_seed = Some(seed);
            }
        } else {
            region.namespace_seed = region.namespaces.keys().next().copied();
        }
        for (number, driver) in drivers.iter().enumerate().filter(|(_, d)| !d.identity().in_place) {
            let seed = region.seeds.get(&number).and_then(|id| region.claims.get(&(number, *id)));
            if seed.is_none_or(|claim| claim.bound.is_some()) {
                let used = region.claims.keys().filter(|(d, _)| *d == number).map(|(_, id)| *id);
                let id = lowest_free(used);
                region.claims.insert((number, id), idle_claim(self, driver.as_ref()));
                region.seeds.insert(number, id);
                born.push(Dev::Claim(r, number, id));
            }
        }
        for dev in born {
            self.tell(state, Action::Add, dev);
        }
    }

    /// Tells that the disk of a device came or went.
    pub(crate) fn tell_disk(&self, state: &BusState, action: Action, dev: Dev) {
        let Some(disk) = crate::tree::names::disk_of(self, state, dev) else { return };
        self.inner.events.tell(crate::events::Event {
            sequence: 0,
            action,
            name: disk.name.clone(),
            devpath: format!("/{}/block/{}", self.path(dev), disk.name),
            subsystem: "block",
            variables: vec![
                ("MAJOR", crate::tree::BLOCK_MAJOR.to_string()),
                ("MINOR", disk.minor.to_string()),
                ("DEVNAME", disk.name),
                ("DEVTYPE", "disk".to_owned()),
            ],
        });
    }
}

/// A device that a driver starts with.
pub(crate) fn idle_claim(at: &At, driver: &dyn Personality) -> Claim {
    Claim {
        generation: at.inner.next_generation(),
        settings: driver.defaults(),
        namespace: None,
        bound: None,
        changing: false,
    }
}

/// Whether a namespace may be configured: it has neither driver nor claim, and nobody is at it.
pub(crate) fn free(ns: &Namespace, name: &str, operation: &'static str) -> Result<()> {
    if ns.changing {
        return Err(busy(name, operation, "a namespace that is being changed"));
    }
    if ns.bound.is_some() {
        return Err(busy(name, operation, "a namespace with its driver"));
    }
    if ns.holder.is_some() {
        return Err(busy(name, operation, "a namespace that is claimed"));
    }
    Ok(())
}
