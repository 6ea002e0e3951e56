// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tree of attributes: Linux's `/sys` as far as NVDIMMs are concerned, with its names, modes, texts and errors.
//!
//! Paths are relative to `/sys`. A device is also found by its name alone: `region0/btt_seed` is
//! `bus/nd/devices/region0/btt_seed`, which is a link to its place below the provider's device. What has no counterpart in Linux
//! stands in groups named `nvstack`.

pub(crate) mod attrs;
pub(crate) mod block;
pub(crate) mod names;
mod nodes;
mod statics;

use std::sync::Arc;

use nvstack_media::{Error, Kind, Result};

use crate::bind;
use crate::configure;
use crate::model::{BusState, Dev};
use crate::stack::{At, Inner};
use attrs::View;
use nodes::{Node, Text};

/// Character devices of buses, of DIMMs, of device-dax; block devices.
pub(crate) const CONTROL_MAJOR: u32 = 245;
pub(crate) const DIMM_MAJOR: u32 = 244;
pub(crate) const DAX_MAJOR: u32 = 253;
pub(crate) const BLOCK_MAJOR: u32 = 259;

/// The tree of a machine.
#[derive(Clone)]
pub struct Tree {
    pub(crate) inner: Arc<Inner>,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Dir,
    /// An attribute with its mode.
    Attribute {
        /// Permission bits.
        mode: u16,
    },
    /// A link.
    Link {
        /// Where it leads, relative to `/sys`.
        target: String,
    },
}

/// Where a path leads.
enum Place {
    /// Into a device's directory: what follows its name.
    Device(At, Dev, String),
    /// Anywhere else.
    Static(String),
}

impl Tree {
    pub(crate) fn new(inner: Arc<Inner>) -> Tree {
        Tree { inner }
    }

    /// The text of an attribute, with its newline.
    ///
    /// As in Linux a value that is not there yet is an error with errno ENXIO ([`Kind::NoDevice`]). `wait_probe` waits until
    /// no probe is under way.
    pub fn read(&self, path: &str) -> Result<String> {
        match self.locate(path, 0)? {
            Place::Static(at) => statics::read(&self.inner, &at).unwrap_or_else(|| Err(missing(path))),
            Place::Device(at, dev, rest) => {
                if matches!(dev, Dev::Bus(_)) && rest == "wait_probe" {
                    at.settle(None);
                }
                let state = at.bus.lock();
                let view = View { at: &at, state: &state, dev };
                match nodes::find(&view, &rest) {
                    Some(Node::Attribute { mode, .. }) if mode & 0o444 == 0 => {
                        Err(forbidden(path, "write-only"))
                    }
                    Some(Node::Attribute { text, .. }) => nodes::show(&view, &text),
                    _ => Err(missing(path)),
                }
            }
        }
    }

    /// Stores a text in an attribute, up to a NUL in it and without newlines at its end: what ndctl writes.
    ///
    /// [`Kind::Permission`] for one that takes no stores, else what the attribute says.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let text = text.split('\0').next().unwrap_or_default();
        let text = text.trim_end_matches('\n');
        match self.locate(path, 0)? {
            Place::Static(at) => self.write_static(path, &at, text),
            Place::Device(at, dev, rest) => {
                let store = {
                    let state = at.bus.lock();
                    let view = View { at: &at, state: &state, dev };
                    match nodes::find(&view, &rest) {
                        Some(Node::Attribute { mode, .. }) if mode & 0o222 == 0 => {
                            return Err(forbidden(path, "read-only"));
                        }
                        Some(Node::Attribute { text, .. }) => text,
                        _ => return Err(missing(path)),
                    }
                };
                match (store, dev) {
                    (Text::Table(attr), _) => match attr.store {
                        Some(store) => store(&at, dev, text),
                        None => Err(forbidden(path, "read-only")),
                    },
                    (Text::Row(row), _) => match row.store {
                        Some(store) => store(&at, dev, text),
                        None => Err(forbidden(path, "read-only")),
                    },
                    // A disk's uevent, which nobody has asked for yet.
                    (Text::Fixed(_), _) => Ok(()),
                    (Text::Own(attribute), Dev::Claim(r, d, n)) => {
                        configure::claim_value(&at, r, d, n, attribute.name, text)
                    }
                    // Writing to a uevent file asks for an event again.
                    (Text::Uevent, _) => {
                        at.tell(&at.bus.lock(), crate::events::Action::Change, dev);
                        Ok(())
                    }
                    _ => Err(forbidden(path, "read-only")),
                }
            }
        }
    }

    /// `bind` and `unbind` of drivers.
    fn write_static(&self, path: &str, at: &str, text: &str) -> Result<()> {
        let driver = at.strip_prefix("bus/nd/drivers/").and_then(|rest| rest.split_once('/'));
        match driver {
            Some((driver, action @ ("bind" | "unbind"))) if statics::is_driver(&self.inner, driver) => {
                let Some((at, dev)) = names::device(&self.inner, text) else {
                    return Err(Error::new(Kind::Unrecognised, action.to_owned())
                        .path(path)
                        .found(format_args!("{text:?}"))
                        .accepted("the name of a device on the nd bus"));
                };
                if action == "bind" { bind::bind(&at, driver, dev) } else { bind::unbind(&at, driver, dev) }
            }
            _ => match statics::entry(&self.inner, at) {
                Some(_) => Err(forbidden(path, "read-only")),
                None => Err(missing(path)),
            },
        }
    }

    /// What is in a directory, in order.
    pub fn list(&self, path: &str) -> Result<Vec<(String, Entry)>> {
        match self.locate(path, 0)? {
            Place::Static(at) => statics::list(&self.inner, &at).ok_or_else(|| missing(path)),
            Place::Device(at, dev, rest) => {
                let state = at.bus.lock();
                nodes::list(&View { at: &at, state: &state, dev }, &rest).ok_or_else(|| missing(path))
            }
        }
    }

    /// What stands at a path; a link at its end is not followed.
    pub fn entry(&self, path: &str) -> Result<Entry> {
        let path = path.trim_matches('/');
        let Some((parent, name)) = path.rsplit_once('/') else {
            return match self.list("")?.into_iter().find(|(n, _)| n == path) {
                Some((_, entry)) => Ok(entry),
                None if names::device(&self.inner, path).is_some() => Ok(Entry::Dir),
                None => Err(missing(path)),
            };
        };
        let found = self.list(parent)?.into_iter().find(|(n, _)| n == name);
        found.map(|(_, entry)| entry).ok_or_else(|| missing(path))
    }

    /// Where a link leads, relative to `/sys`.
    pub fn link(&self, path: &str) -> Result<String> {
        match self.entry(path)? {
            Entry::Link { target } => Ok(target),
            _ => Err(Error::new(Kind::Invalid, "read link").path(path).found("no link").accepted("a link")),
        }
    }

    /// The path without links, relative to `/sys`.
    pub fn canonical(&self, path: &str) -> Result<String> {
        Ok(match self.locate(path, 0)? {
            Place::Static(at) => at,
            Place::Device(at, dev, rest) if rest.is_empty() => at.path(dev),
            Place::Device(at, dev, rest) => format!("{}/{rest}", at.path(dev)),
        })
    }

    /// Everything, in order, each path once; links are not followed.
    #[must_use]
    pub fn walk(&self) -> Vec<(String, Entry)> {
        let mut found = Vec::new();
        let mut ahead = vec![String::new()];
        while let Some(path) = ahead.pop() {
            let Ok(children) = self.list(&path) else { continue };
            for (name, entry) in children.into_iter().rev() {
                let child = if path.is_empty() { name } else { format!("{path}/{name}") };
                if entry == Entry::Dir {
                    ahead.push(child.clone());
                }
                found.push((child, entry));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// Follows a path. Links lead on; how many is bounded.
    fn locate(&self, path: &str, depth: u32) -> Result<Place> {
        if depth > 16 {
            return Err(missing(path));
        }
        let path = path.trim_matches('/');
        let path = path.strip_prefix("sys/").unwrap_or(path);
        // The usual way in, and the short one.
        let after =
            path.strip_prefix("bus/nd/devices/").or_else(|| path.strip_prefix("class/nd/")).unwrap_or(path);
        let (first, rest) = after.split_once('/').unwrap_or((after, ""));
        if let Some((at, dev)) = names::device(&self.inner, first) {
            return self.inside(at, dev, rest, depth);
        }
        if let Some((at, dev, rest)) = statics::below_provider(&self.inner, path) {
            return self.inside(at, dev, &rest, depth);
        }
        // Elsewhere the first link on the way leads on.
        for end in path.match_indices('/').map(|(at, _)| at).chain([path.len()]) {
            let (head, tail) = path.split_at_checked(end).unwrap_or((path, ""));
            if tail.is_empty() {
                break;
            }
            if let Some(Entry::Link { target }) = statics::entry(&self.inner, head) {
                return self.locate(&format!("{target}{tail}"), depth + 1);
            }
        }
        match statics::entry(&self.inner, path) {
            // A directory that is asked for by a link.
            Some(Entry::Link { target }) => self.locate(&target, depth + 1),
            Some(_) => Ok(Place::Static(path.to_owned())),
            None => Err(missing(path)),
        }
    }

    /// Follows the part of a path that is in a device's directory.
    fn inside(&self, at: At, dev: Dev, rest: &str, depth: u32) -> Result<Place> {
        let (first, tail) = rest.split_once('/').unwrap_or((rest, ""));
        if first.is_empty() {
            return Ok(Place::Device(at, dev, String::new()));
        }
        // Devices below.
        let child = match (dev, first) {
            (Dev::Bus(n), "nd") => match tail.split_once('/').unwrap_or((tail, "")) {
                (name, tail) if name == at.name(Dev::Control(n)) => Some((Dev::Control(n), tail.to_owned())),
                _ => None,
            },
            (Dev::Bus(_) | Dev::Region(_), name) => names::device(&self.inner, name)
                .filter(|(of, child)| {
                    Arc::ptr_eq(&of.bus, &at.bus) && names::parent(&at, *child) == Some(dev)
                })
                .map(|(_, child)| (child, tail.to_owned())),
            _ => None,
        };
        if let Some((child, tail)) = child {
            return self.inside(at, child, &tail, depth);
        }
        // Links on the way.
        let target = {
            let state = at.bus.lock();
            let view = View { at: &at, state: &state, dev };
            rest.match_indices('/').map(|(end, _)| end).chain([rest.len()]).find_map(|end| {
                let (head, tail) = rest.split_at_checked(end)?;
                match nodes::find(&view, head) {
                    Some(Node::Link(target)) => Some(format!("{target}{tail}")),
                    _ => None,
                }
            })
        };
        match target {
            Some(target) => self.locate(&target, depth + 1),
            None => Ok(Place::Device(at, dev, rest.to_owned())),
        }
    }
}

fn missing(path: &str) -> Error {
    Error::new(Kind::NotFound, "look up attribute").path(path)
}

fn forbidden(path: &str, what: &str) -> Error {
    Error::new(Kind::Permission, "use attribute").path(path).found(format_args!("a {what} attribute"))
}

/// What a uevent of a device says of it.
pub(crate) fn uevent(at: &At, state: &BusState, dev: Dev) -> Vec<(&'static str, String)> {
    let view = View { at, state, dev };
    let mut variables = Vec::new();
    match dev {
        Dev::Control(n) => {
            return vec![
                ("MAJOR", CONTROL_MAJOR.to_string()),
                ("MINOR", n.to_string()),
                ("DEVNAME", at.name(dev)),
            ];
        }
        Dev::Dimm(n) => {
            let minor = state.dimms.get(&n).map_or(n, |d| d.minor);
            variables.push(("MAJOR", DIMM_MAJOR.to_string()));
            variables.push(("MINOR", minor.to_string()));
            variables.push(("DEVNAME", at.name(dev)));
        }
        _ => {}
    }
    let table = attrs::tables(dev).into_iter().flatten().find(|a| a.name == "devtype");
    if let Some(Ok(devtype)) = table.map(|a| (a.show)(&view)) {
        variables.push(("DEVTYPE", devtype.trim_end().to_owned()));
    }
    if names::is_bound(state, dev)
        && let Some(driver) = at.driver_of(dev)
    {
        variables.push(("DRIVER", driver.to_owned()));
    }
    variables.push(("MODALIAS", format!("nd:t{}", attrs::device_number(&view))));
    variables
}

/// The same once no driver has the device any more.
pub(crate) fn uevent_unbound(at: &At, state: &BusState, dev: Dev) -> Vec<(&'static str, String)> {
    let mut variables = uevent(at, state, dev);
    variables.retain(|(key, _)| *key != "DRIVER");
    variables
}
