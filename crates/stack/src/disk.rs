// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks: opened once, handed out any number of times, closed under whoever holds them.

use std::any::Any;
use std::sync::{Arc, PoisonError};

use nvstack_block::BlockDevice;
use nvstack_media::{Error, Kind, Media, Result};

use crate::model::{Bound, BusState, Dev, Generation};
use crate::personality::OpenOptions;
use crate::stack::{At, Inner, Opened};
use crate::switch::Switched;
use crate::sync::Gate;
use crate::sync::atomic::{AtomicBool, Ordering};

/// A disk that somebody opened.
pub(crate) struct OpenDisk {
    gate: Arc<Gate>,
    note: String,
    sector_size: u32,
    read_only: bool,
    /// Ends with the disk: a thread that flushes, for one.
    keep: Option<Box<dyn Any + Send + Sync>>,
}

impl OpenDisk {
    /// Waits for what is in flight; nothing comes later.
    pub(crate) fn close(self) {
        // What works for the disk ends before the disk does.
        drop(self.keep);
        // Linux flushes a region when its disks go. What can't be flushed is told to those who wrote it, when they flush.
        let _ = self.gate.flush();
        // It fails only for who closes from within a request of the same disk.
        let _ = self.gate.close();
    }

    fn opened(&self) -> Opened {
        Opened { device: self.gate.clone(), note: self.note.clone(), sector_size: self.sector_size }
    }
}

/// Finds the device that a name means: a disk's own name, a namespace (then whoever holds it), or a claim.
pub(crate) fn find(inner: &Arc<Inner>, name: &str) -> Result<(At, Dev)> {
    if let Some((at, dev)) = crate::tree::names::device(inner, name) {
        let held = match dev {
            Dev::Namespace(r, n) => {
                let state = at.bus.lock();
                state.namespace(r, n)?.holder.map(|(driver, id)| Dev::Claim(r, driver, id))
            }
            _ => None,
        };
        return Ok((at, held.unwrap_or(dev)));
    }
    crate::tree::names::disk(inner, name).ok_or_else(|| {
        Error::new(Kind::NotFound, "open disk")
            .found(name)
            .accepted("the name of a disk, a namespace or its claim")
    })
}

/// Opens a disk.
pub(crate) fn open(inner: &Arc<Inner>, name: &str, options: &OpenOptions) -> Result<Opened> {
    let (at, dev) = find(inner, name)?;
    let device_name = at.name(dev);
    let (opening, generation) = {
        let state = at.bus.lock();
        let (bound, generation, _) = bound_to_open(&at, &state, dev)?;
        if let Some(disk) = &bound.disk {
            return join(disk, &device_name, options);
        }
        (Arc::clone(&bound.opening), generation)
    };
    // One at a time: a second writer on the same bytes would undo what the first one has written meanwhile. Who unbinds the
    // device waits for it.
    let _opening = opening.lock().unwrap_or_else(PoisonError::into_inner);
    let (attached, read_only, lock, media) = {
        let state = at.bus.lock();
        let (bound, now, lock) = bound_to_open(&at, &state, dev)?;
        if now != generation || !Arc::ptr_eq(&bound.opening, &opening) {
            return Err(crate::model::gone(device_name));
        }
        if let Some(disk) = &bound.disk {
            return join(disk, &device_name, options);
        }
        let media = region_media(&state, dev).ok_or_else(|| crate::model::gone(&device_name))?;
        (Arc::clone(&bound.attached), options.read_only || lock.load(Ordering::Relaxed), lock, media)
    };
    // Slow, so not under the bus's lock.
    let how = OpenOptions { read_only, ..options.clone() };
    let disk = crate::bind::contained(&device_name, || attached.open(&device_name, &how))?;
    let sector_size = attached.sector_size().unwrap_or_else(|| disk.device.geometry().sector_size);
    let guarded = Switched::new(disk.device, lock, media, healed(&at, dev));
    let opened = OpenDisk {
        gate: Arc::new(Gate::new(Arc::new(guarded), &device_name)),
        note: disk.note,
        sector_size,
        read_only,
        keep: disk.keep,
    };
    let out = opened.opened();
    let mut state = at.bus.lock();
    match bound_of(&mut state, dev, generation).filter(|bound| Arc::ptr_eq(&bound.opening, &opening)) {
        Some(bound) => {
            bound.disk = Some(opened);
            Ok(out)
        }
        None => {
            drop(state);
            opened.close();
            Err(crate::model::gone(device_name))
        }
    }
}

/// The driver's hold on a device whose disk is to be opened, the life of the device, and the `read_only` of its region.
fn bound_to_open<'a>(
    at: &At,
    state: &'a BusState,
    dev: Dev,
) -> Result<(&'a Bound, Generation, Arc<AtomicBool>)> {
    let region_read_only = |r: u32| state.region(r).map(|r| Arc::clone(&r.read_only));
    let (generation, bound, lock, error) = match dev {
        Dev::Namespace(r, n) => {
            let ns = state.namespace(r, n)?;
            (ns.generation, ns.bound.as_ref(), region_read_only(r)?, ns.error.as_ref())
        }
        Dev::Claim(r, driver, n) => {
            let claim = state.claim(r, driver, n)?;
            (claim.generation, claim.bound.as_ref(), region_read_only(r)?, None)
        }
        _ => {
            return Err(Error::new(Kind::Unsupported, "open disk")
                .path(at.name(dev))
                .accepted("a namespace or its claim"));
        }
    };
    let bound = bound.ok_or_else(|| {
        let refusal = Error::new(Kind::NoDevice, "open disk").path(at.name(dev));
        match error {
            Some(error) => refusal.because(error.to_string()),
            None => refusal.found("a disabled device").accepted("one with its driver"),
        }
    })?;
    Ok((bound, generation, lock))
}

/// The bytes of a device's region.
fn region_media(state: &BusState, dev: Dev) -> Option<Arc<dyn Media>> {
    let (Dev::Namespace(r, _) | Dev::Claim(r, ..)) = dev else { return None };
    state.region(r).ok()?.media.as_ref().ok().map(Arc::clone)
}

/// What is to be done when a write through a device's disk has healed bytes. It keeps neither machine nor bus.
fn healed(at: &At, dev: Dev) -> Arc<dyn Fn() + Send + Sync> {
    let (inner, bus) = (Arc::downgrade(&at.inner), Arc::downgrade(&at.bus));
    Arc::new(move || {
        if let (Some(inner), Some(bus), Dev::Namespace(r, _) | Dev::Claim(r, ..)) =
            (inner.upgrade(), bus.upgrade(), dev)
        {
            crate::poison::revalidate(&At { inner, bus }, r);
        }
    })
}

/// One more handle on a disk that is open.
fn join(disk: &OpenDisk, name: &str, options: &OpenOptions) -> Result<Opened> {
    if disk.read_only && !options.read_only {
        return Err(Error::new(Kind::Busy, "open disk")
            .path(name)
            .found("it open read-only")
            .accepted("read-only handles, as the first"));
    }
    Ok(disk.opened())
}

fn bound_of(state: &mut BusState, dev: Dev, generation: Generation) -> Option<&mut Bound> {
    if state.dead {
        return None;
    }
    match dev {
        Dev::Namespace(r, n) => {
            let ns = state.namespace_mut(r, n).ok().filter(|ns| ns.generation == generation)?;
            ns.bound.as_mut()
        }
        Dev::Claim(r, driver, n) => {
            let claim = state.claim_mut(r, driver, n).ok().filter(|c| c.generation == generation)?;
            claim.bound.as_mut()
        }
        _ => None,
    }
}
