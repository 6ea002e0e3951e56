// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is in the tree beside the devices' own directories: buses, drivers, classes, modules, and the links to the devices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nvstack_media::{Error, Kind, Result};

use super::names::{self, dax_of, devices, disk_of, is_bound};
use super::{BLOCK_MAJOR, CONTROL_MAJOR, DAX_MAJOR, DIMM_MAJOR, Entry};
use crate::model::Dev;
use crate::stack::{At, Inner};

/// The modules, each with its driver: those that are always there, since ndctl looks for them before it binds, and those of
/// drivers from outside.
fn modules(inner: &Inner) -> BTreeSet<&'static str> {
    let known = ["dax_pmem", "device_dax", "libnvdimm", "nd_btt", "nd_pmem"];
    known.into_iter().chain(drivers(inner).into_iter().map(module)).collect()
}

/// The drivers of the nd bus.
fn drivers(inner: &Inner) -> BTreeSet<&'static str> {
    let own = inner.drivers();
    ["nd_bus", "nd_region", "nvdimm"].into_iter().chain(own.iter().map(|d| d.identity().driver)).collect()
}

pub(super) fn is_driver(inner: &Inner, name: &str) -> bool {
    name != "nd_bus" && drivers(inner).contains(name)
}

fn link(target: impl Into<String>) -> Entry {
    Entry::Link { target: target.into() }
}

fn file(mode: u16) -> Entry {
    Entry::Attribute { mode }
}

/// The module that a driver is in.
fn module(driver: &str) -> &str {
    match driver {
        "nd_bus" | "nd_region" | "nvdimm" => "libnvdimm",
        other => other,
    }
}

/// What is in a directory; none if it is none of these.
pub(super) fn list(inner: &Arc<Inner>, path: &str) -> Option<Vec<(String, Entry)>> {
    let mut found: BTreeMap<String, Entry> = BTreeMap::new();
    let mut add = |name: &str, entry: Entry| {
        found.insert(name.to_owned(), entry);
    };
    match path {
        "" => ["block", "bus", "class", "dev", "devices", "module"]
            .map(|d| add(d, Entry::Dir))
            .into_iter()
            .collect(),
        "bus" => ["dax", "nd"].map(|d| add(d, Entry::Dir)).into_iter().collect(),
        "bus/dax" | "bus/nd" => {
            add("devices", Entry::Dir);
            add("drivers", Entry::Dir);
            add("drivers_autoprobe", file(0o644));
            add("drivers_probe", file(0o200));
            add("uevent", file(0o200));
        }
        "bus/nd/drivers" => drivers(inner).into_iter().for_each(|d| add(d, Entry::Dir)),
        "bus/dax/drivers" => add("device_dax", Entry::Dir),
        "class" => ["block", "nd"].map(|d| add(d, Entry::Dir)).into_iter().collect(),
        "dev" => ["block", "char"].map(|d| add(d, Entry::Dir)).into_iter().collect(),
        "module" => modules(inner).into_iter().for_each(|m| add(m, Entry::Dir)),
        "bus/nd/devices" => each(inner, |at, dev, _| {
            add(&at.name(dev), link(at.path(dev)));
        }),
        "bus/dax/devices" => each(inner, |at, dev, state| {
            if let Some(dax) = dax_of(at, state, dev) {
                add(&dax.name, link(format!("{}/{}", at.path(dev), dax.name)));
            }
        }),
        "class/nd" => inner.all().iter().for_each(|at| {
            let control = Dev::Control(at.bus.id);
            add(&at.name(control), link(at.path(control)));
        }),
        "block" | "class/block" => each(inner, |at, dev, state| {
            if let Some(disk) = disk_of(at, state, dev) {
                add(&disk.name, link(format!("{}/block/{}", at.path(dev), disk.name)));
            }
        }),
        "dev/block" => each(inner, |at, dev, state| {
            if let Some(disk) = disk_of(at, state, dev) {
                let target = format!("{}/block/{}", at.path(dev), disk.name);
                add(&format!("{BLOCK_MAJOR}:{}", disk.minor), link(target));
            }
        }),
        "dev/char" => {
            each(inner, |at, dev, state| {
                if let Dev::Dimm(n) = dev {
                    let minor = state.dimms.get(&n).map_or(n, |d| d.minor);
                    add(&format!("{DIMM_MAJOR}:{minor}"), link(at.path(dev)));
                }
                if let Dev::Bus(n) = dev {
                    add(&format!("{CONTROL_MAJOR}:{n}"), link(at.path(Dev::Control(n))));
                }
                if let Some(dax) = dax_of(at, state, dev) {
                    let target = format!("{}/{}", at.path(dev), dax.name);
                    add(&format!("{DAX_MAJOR}:{}", dax.minor), link(target));
                }
            });
        }
        "bus/dax/drivers/device_dax" => {
            add("bind", file(0o200));
            add("unbind", file(0o200));
            add("uevent", file(0o200));
            add("module", link("module/device_dax"));
            each(inner, |at, dev, state| {
                if let Some(dax) = dax_of(at, state, dev) {
                    add(&dax.name, link(format!("{}/{}", at.path(dev), dax.name)));
                }
            });
        }
        _ => {
            if let Some(driver) = path.strip_prefix("bus/nd/drivers/") {
                if !drivers(inner).contains(driver) {
                    return None;
                }
                add("uevent", file(0o200));
                add("module", link(format!("module/{}", module(driver))));
                if driver != "nd_bus" {
                    add("bind", file(0o200));
                    add("unbind", file(0o200));
                }
                each(inner, |at, dev, state| {
                    if is_bound(state, dev) && at.driver_of(dev) == Some(driver) {
                        add(&at.name(dev), link(at.path(dev)));
                    }
                });
            } else if let Some(module) = path.strip_prefix("module/") {
                if !modules(inner).contains(module) {
                    return None;
                }
                add("initstate", file(0o444));
            } else if path == "devices" || path.starts_with("devices/") {
                return provider_dirs(inner, path);
            } else {
                return None;
            }
        }
    }
    Some(found.into_iter().collect())
}

/// The directories down to the buses.
fn provider_dirs(inner: &Arc<Inner>, path: &str) -> Option<Vec<(String, Entry)>> {
    let mut found: BTreeMap<String, Entry> = BTreeMap::new();
    let under = format!("{path}/");
    for at in inner.all() {
        let bus = at.path(Dev::Bus(at.bus.id));
        if let Some(rest) = bus.strip_prefix(&under) {
            let name = rest.split('/').next().unwrap_or(rest);
            found.insert(name.to_owned(), Entry::Dir);
        }
    }
    (path == "devices" || !found.is_empty()).then(|| found.into_iter().collect())
}

/// A path into the directory of a bus: the device, and what follows.
pub(super) fn below_provider(inner: &Arc<Inner>, path: &str) -> Option<(At, Dev, String)> {
    if !path.starts_with("devices/") {
        return None;
    }
    inner.all().into_iter().find_map(|at| {
        let bus = at.path(Dev::Bus(at.bus.id));
        let rest = path.strip_prefix(&bus)?;
        let rest = if rest.is_empty() { "" } else { rest.strip_prefix('/')? };
        let dev = Dev::Bus(at.bus.id);
        Some((at.clone(), dev, rest.to_owned()))
    })
}

/// Every device of every bus.
fn each(inner: &Arc<Inner>, mut what: impl FnMut(&At, Dev, &crate::model::BusState)) {
    for at in inner.all() {
        let state = at.bus.lock();
        for dev in devices(&at, &state) {
            what(&at, dev, &state);
        }
    }
}

/// What stands at a path.
pub(super) fn entry(inner: &Arc<Inner>, path: &str) -> Option<Entry> {
    if path.is_empty() {
        return Some(Entry::Dir);
    }
    // Links to devices, without listing them all.
    for under in ["bus/nd/devices/", "class/nd/"] {
        if let Some(name) = path.strip_prefix(under).filter(|name| !name.contains('/')) {
            let (at, dev) = names::device(inner, name)?;
            let control = matches!(dev, Dev::Control(_));
            return (control == (under == "class/nd/")).then(|| link(at.path(dev)));
        }
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    list(inner, parent)?.into_iter().find(|(n, _)| n == name).map(|(_, entry)| entry)
}

/// The text of an attribute that is no device's.
pub(super) fn read(inner: &Arc<Inner>, path: &str) -> Option<Result<String>> {
    let Entry::Attribute { mode } = entry(inner, path)? else { return None };
    if mode & 0o444 == 0 {
        let error = Error::new(Kind::Permission, "use attribute").path(path).found("a write-only attribute");
        return Some(Err(error));
    }
    let text = match path.rsplit('/').next() {
        Some("initstate") => "live\n",
        _ => "1\n",
    };
    Some(Ok(text.to_owned()))
}
