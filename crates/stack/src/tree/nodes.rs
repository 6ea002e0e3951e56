// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is in a device's directory.

use std::collections::BTreeMap;

use nvstack_media::{Error, Kind, Result};

use super::attrs::{Attr, View, tables};
use super::block::{DAX, DAX_REGION, DISK, DISK_BADBLOCKS, Row, WRITE_CACHE, has_badblocks};
use super::names::{dax_of, disk_of, is_bound};
use super::{Entry, names};
use crate::model::{Dev, bus_path};
use crate::personality::Attribute;

/// How an attribute gets its text.
#[derive(Clone)]
pub(super) enum Text {
    /// As its table says.
    Table(Attr),
    /// As a row of the disk's or device-dax's table says.
    Row(&'static Row),
    /// As the driver says.
    Own(Attribute),
    /// The seed of a driver.
    Seed(usize),
    /// A mapping of a region.
    Mapping(usize),
    /// What a uevent says.
    Uevent,
    /// Just this.
    Fixed(String),
}

/// Something in a device's directory.
pub(super) enum Node {
    Dir,
    Attribute { mode: u16, text: Text },
    Link(String),
}

/// Everything in the directory of a device but the devices below it: path and node.
fn nodes(view: &View<'_>) -> BTreeMap<String, Node> {
    let mut found = BTreeMap::new();
    let mut add = |name: String, mode: u16, text: Text| {
        found.insert(name, Node::Attribute { mode, text });
    };
    for attr in tables(view.dev).into_iter().flatten() {
        if let Some(mode) = attr.mode_on(view) {
            add(attr.name.to_owned(), mode, Text::Table(*attr));
        }
    }
    add("uevent".to_owned(), 0o644, Text::Uevent);
    match view.dev {
        Dev::Region(_) => {
            if let Ok(region) = view.region() {
                for n in 0..region.mappings.len() {
                    add(format!("mapping{n}"), 0o444, Text::Mapping(n));
                }
            }
            for (n, driver) in view.at.inner.drivers().iter().enumerate() {
                let identity = driver.identity();
                if !identity.in_place {
                    add(format!("{}_seed", identity.prefix), 0o444, Text::Seed(n));
                }
            }
        }
        Dev::Claim(_, d, _) => {
            let own = view.at.inner.driver(d);
            for attribute in own.iter().flat_map(|d| d.attributes()) {
                add(attribute.name.to_owned(), attribute.mode, Text::Own(*attribute));
            }
        }
        _ => {}
    }
    links(view, &mut found);
    disks(view, &mut found);
    found
}

fn links(view: &View<'_>, found: &mut BTreeMap<String, Node>) {
    let mut link = |name: &str, target: String| {
        found.insert(name.to_owned(), Node::Link(target));
    };
    if let Dev::Control(n) = view.dev {
        link("subsystem", "class/nd".to_owned());
        link("device", bus_path(&view.at.bus.provider, n));
        return;
    }
    link("subsystem", "bus/nd".to_owned());
    if is_bound(view.state, view.dev)
        && let Some(driver) = view.at.driver_of(view.dev)
    {
        link("driver", format!("bus/nd/drivers/{driver}"));
    }
    if let Dev::Bus(_) | Dev::Dimm(_) = view.dev {
        found.insert("firmware".to_owned(), Node::Dir);
    }
    if let Dev::Bus(_) = view.dev {
        found.insert("nd".to_owned(), Node::Dir);
    }
}

/// The disk of a device, and its device-dax.
fn disks(view: &View<'_>, found: &mut BTreeMap<String, Node>) {
    let mut rows = |under: &str, rows: &'static [Row]| {
        for row in rows {
            found.insert(
                format!("{under}{}", row.name),
                Node::Attribute { mode: row.mode, text: Text::Row(row) },
            );
        }
    };
    let disk = disk_of(view.at, view.state, view.dev);
    let dax = dax_of(view.at, view.state, view.dev);
    if let Some(disk) = &disk {
        rows(&format!("block/{}/", disk.name), &DISK);
    }
    if let Some(dax) = &dax {
        rows("", &DAX_REGION);
        rows(&format!("{}/", dax.name), &DAX);
    }
    if let Some(disk) = disk {
        let under = format!("block/{}", disk.name);
        let mut add = |name: &str, node: Node| {
            found.insert(format!("{under}/{name}"), node);
        };
        if has_badblocks(view) {
            for row in [&DISK_BADBLOCKS, &WRITE_CACHE] {
                add(row.name, Node::Attribute { mode: row.mode, text: Text::Row(row) });
            }
        }
        add("device", Node::Link(view.at.path(view.dev)));
        add("subsystem", Node::Link("class/block".to_owned()));
        let uevent = format!(
            "MAJOR={}\nMINOR={}\nDEVNAME={}\nDEVTYPE=disk\n",
            super::BLOCK_MAJOR,
            disk.minor,
            disk.name
        );
        add("uevent", Node::Attribute { mode: 0o644, text: Text::Fixed(uevent) });
    }
    if let Some(dax) = dax {
        let mut add = |name: &str, node: Node| {
            found.insert(format!("{}/{name}", dax.name), node);
        };
        add("driver", Node::Link("bus/dax/drivers/device_dax".to_owned()));
        add("subsystem", Node::Link("bus/dax".to_owned()));
        let uevent = format!(
            "MAJOR={}\nMINOR={}\nDEVNAME={}\nDRIVER=device_dax\nMODALIAS=dax:t0\n",
            super::DAX_MAJOR,
            dax.minor,
            dax.name
        );
        add("uevent", Node::Attribute { mode: 0o644, text: Text::Fixed(uevent) });
    }
}

/// What stands at a path in a device's directory.
pub(super) fn find(view: &View<'_>, rest: &str) -> Option<Node> {
    let mut all = nodes(view);
    if let Some(node) = all.remove(rest) {
        return Some(node);
    }
    let under = format!("{rest}/");
    all.keys().any(|path| path.starts_with(&under)).then_some(Node::Dir)
}

/// What is in a directory of a device.
pub(super) fn list(view: &View<'_>, rest: &str) -> Option<Vec<(String, Entry)>> {
    let under = if rest.is_empty() { String::new() } else { format!("{rest}/") };
    let mut found: BTreeMap<String, Entry> = BTreeMap::new();
    let all = nodes(view);
    match all.get(rest) {
        Some(Node::Attribute { .. } | Node::Link(_)) => return None,
        Some(Node::Dir) => {}
        None if rest.is_empty() || all.keys().any(|path| path.starts_with(&under)) => {}
        None => return None,
    }
    for (path, node) in all {
        let Some(inside) = path.strip_prefix(&under) else { continue };
        match inside.split_once('/') {
            Some((dir, _)) => {
                found.entry(dir.to_owned()).or_insert(Entry::Dir);
            }
            None => {
                let entry = match node {
                    Node::Dir => Entry::Dir,
                    Node::Attribute { mode, .. } => Entry::Attribute { mode },
                    Node::Link(target) => Entry::Link { target },
                };
                found.insert(inside.to_owned(), entry);
            }
        }
    }
    let children: Vec<Dev> = match (view.dev, rest) {
        (Dev::Bus(n), "nd") => vec![Dev::Control(n)],
        (Dev::Bus(_), "") => {
            let all = names::devices(view.at, view.state);
            all.into_iter().filter(|d| matches!(d, Dev::Dimm(_) | Dev::Region(_))).collect()
        }
        (Dev::Region(r), "") => names::devices_of_region(view.state, r),
        _ => Vec::new(),
    };
    for child in children {
        found.insert(view.at.name(child), Entry::Dir);
    }
    Some(found.into_iter().collect())
}

/// The text of an attribute.
pub(super) fn show(view: &View<'_>, text: &Text) -> Result<String> {
    match text {
        Text::Table(attr) => (attr.show)(view),
        Text::Row(row) => (row.show)(view),
        Text::Fixed(text) => Ok(text.clone()),
        Text::Own(attribute) => {
            let Dev::Claim(_, d, _) = view.dev else {
                return Err(crate::model::gone(view.at.name(view.dev)));
            };
            let driver = view.at.inner.driver(d).ok_or_else(|| crate::model::gone(view.at.name(view.dev)))?;
            let claim = view.claim()?;
            let attached = claim.bound.as_ref().map(|b| b.attached.as_ref());
            if let Some(text) = attached.and_then(|a| a.show(attribute.name)) {
                return Ok(format!("{text}\n"));
            }
            Ok(format!("{}\n", driver.show(&claim.settings, attached, attribute.name)?))
        }
        Text::Seed(driver) => {
            let Dev::Region(r) = view.dev else { return Err(crate::model::gone(view.at.name(view.dev))) };
            Ok(match view.region()?.seeds.get(driver) {
                Some(n) => format!("{}\n", view.at.name(Dev::Claim(r, *driver, *n))),
                None => "\n".to_owned(),
            })
        }
        Text::Mapping(n) => {
            let region = view.region()?;
            let Some(m) = region.mappings.get(*n) else {
                return Err(Error::new(Kind::NotFound, "read mapping").path(view.at.name(view.dev)));
            };
            Ok(format!("nmem{},{},{},{}\n", m.dimm, m.dpa, m.size, m.position))
        }
        Text::Uevent => Ok(super::uevent(view.at, view.state, view.dev)
            .into_iter()
            .map(|(key, value)| format!("{key}={value}\n"))
            .collect()),
    }
}
