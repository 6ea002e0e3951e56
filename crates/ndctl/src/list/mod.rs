// SPDX-License-Identifier: MIT OR Apache-2.0
//! `list`: the objects of a tree as JSON.
//!
//! Keys, their order, nesting and the shape of the whole are those of `ndctl list` 76.1. Left out consciously: objects
//! come in the order of their numbers, where `ndctl` has none; a namespace without a place in the region, or a disabled
//! one, shows the bad blocks of that place and not those of the region; cookies above 2^63 are not negative (nor are they
//! in `ndctl` 81); capabilities are shown if the region has any seed (as 81).

mod namespace;
mod region;

use nvstack_media::Result;
use serde_json::Value;

use crate::filter::Filter;
use crate::json::{Object, Style};
use crate::model::{Bus, Dimm, buses, settle};
use crate::report::Outcome;
use crate::sys::Sys;

/// What to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Which objects.
    pub filter: Filter,
    /// `-B`: buses. With none of the four classes asked for, those that the filter names are; else namespaces.
    pub buses: bool,
    /// `-D`: DIMMs.
    pub dimms: bool,
    /// `-R`: regions.
    pub regions: bool,
    /// `-N`: namespaces.
    pub namespaces: bool,
    /// `-X`: the device-dax details of namespaces, and without `-N` and `-m` no others than devdax.
    pub device_dax: bool,
    /// `-i`: what is idle or disabled too.
    pub idle: bool,
    /// `-c`: configured namespaces too, enabled or not.
    pub configured: bool,
    /// `-M`: each run of lost bytes, not only their count.
    pub media_errors: bool,
    /// `-C`: what may be made in a region.
    pub capabilities: bool,
    /// `-u`: numbers for people, and one object alone without its brackets.
    pub human: bool,
    /// `-v`: 1 for the uuid of the label and where memory is, 2 for all classes, 3 for all that is known.
    pub verbose: u8,
}

impl ListOptions {
    /// The options with what they imply.
    fn resolved(&self) -> ListOptions {
        let mut o = self.clone();
        if o.device_dax && !o.namespaces && o.filter.mode.is_none() {
            o.filter.mode = Some("devdax".to_owned());
        }
        if !(o.buses || o.dimms || o.regions || o.namespaces) {
            o.buses = o.filter.bus.is_some();
            o.dimms = o.filter.dimm.is_some();
            o.regions = o.filter.region.is_some();
            o.namespaces = o.filter.namespace.is_some();
        }
        if o.verbose >= 1 {
            o.namespaces = true;
            o.media_errors = true;
            o.device_dax = true;
        }
        if o.verbose >= 2 {
            o.buses = true;
            o.dimms = true;
            o.regions = true;
        }
        if o.verbose >= 3 {
            o.idle = true;
            o.capabilities = true;
        }
        if !(o.buses || o.dimms || o.regions) {
            o.namespaces = true;
        }
        o
    }
}

/// What is shown of an object.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Detail {
    pub(crate) style: Style,
    pub(crate) device_dax: bool,
    pub(crate) media_errors: bool,
    pub(crate) capabilities: bool,
    pub(crate) mappings: bool,
    pub(crate) verbose: bool,
}

pub(crate) use namespace::namespace;

/// `list`. Reads, and changes nothing.
///
/// No JSON where there is nothing to list. [`nvstack_media::Kind::Invalid`] for a filter that makes no sense.
pub fn list(sys: &dyn Sys, options: &ListOptions) -> Result<Outcome> {
    options.filter.check()?;
    let o = options.resolved();
    settle(sys);
    let style = Style { human: o.human };
    let detail = Detail {
        style,
        device_dax: o.device_dax,
        media_errors: o.media_errors,
        capabilities: o.capabilities,
        mappings: o.dimms,
        verbose: o.verbose > 0,
    };

    let mut all = Classes::default();
    let mut tree = Vec::new();
    for bus in buses(sys).iter().filter(|bus| o.filter.bus(bus)) {
        let found = classes(bus, &o, detail);
        if o.buses {
            let mut object = bus_object(bus);
            found.insert_into(&mut object);
            tree.push(Value::Object(object));
        } else {
            all.extend(found);
        }
    }
    let json = if o.buses { Outcome::objects(tree, style) } else { all.value(style) };
    Ok(Outcome { json: json.into_iter().collect(), ..Outcome::default() })
}

/// Objects by class. Namespaces are here if no region holds them.
#[derive(Default)]
struct Classes {
    dimms: Vec<Value>,
    regions: Vec<Value>,
    namespaces: Vec<Value>,
    nested: bool,
}

impl Classes {
    fn extend(&mut self, other: Classes) {
        self.dimms.extend(other.dimms);
        self.regions.extend(other.regions);
        self.namespaces.extend(other.namespaces);
        self.nested |= other.nested;
    }

    fn insert_into(self, object: &mut Object) {
        for (key, values) in
            [("dimms", self.dimms), ("regions", self.regions), ("namespaces", self.namespaces)]
        {
            if !values.is_empty() {
                object.insert(key.into(), Value::Array(values));
            }
        }
    }

    /// One class alone is an array, several are an object.
    fn value(self, style: Style) -> Option<Value> {
        let has =
            [!self.dimms.is_empty(), !self.regions.is_empty(), self.nested || !self.namespaces.is_empty()];
        if has.into_iter().filter(|h| *h).count() > 1 {
            let mut object = Object::new();
            self.insert_into(&mut object);
            return Some(Value::Object(object));
        }
        let class = [self.dimms, self.regions, self.namespaces].into_iter().find(|c| !c.is_empty());
        Outcome::objects(class.unwrap_or_default(), style)
    }
}

/// The objects of one bus.
fn classes(bus: &Bus<'_>, o: &ListOptions, detail: Detail) -> Classes {
    let mut found = Classes::default();
    if o.dimms {
        let shown = |d: &Dimm<'_>| o.filter.dimm(bus, d) && (o.idle || d.bound());
        found.dimms = bus.dimms().iter().filter(|d| shown(d)).map(|d| dimm(d, detail.style)).collect();
    }
    for region in bus.regions().iter().filter(|r| o.filter.region(bus, r)) {
        let mut namespaces = Vec::new();
        if o.namespaces {
            let mut meant = region.namespaces();
            meant.retain(|n| {
                o.filter.namespace(n) && (o.idle || n.active() || (o.configured && n.size() > 0))
            });
            namespaces = meant.iter().map(|n| namespace(n, detail)).collect();
        }
        if !o.regions {
            found.namespaces.extend(namespaces);
        } else if o.idle || region.bound() {
            found.nested |= !namespaces.is_empty();
            let idle: Vec<Dimm<'_>> = bus.dimms().into_iter().filter(|d| !o.idle && !d.bound()).collect();
            found.regions.push(region::region(region, &idle, namespaces, detail));
        }
    }
    found
}

fn bus_object(bus: &Bus<'_>) -> Object {
    let mut o = Object::new();
    o.insert("provider".into(), bus.provider().into());
    o.insert("dev".into(), bus.name().into());
    if let Some(scrubbing) = bus.scrubbing() {
        o.insert("scrub_state".into(), if scrubbing { "active" } else { "idle" }.into());
    }
    o
}

/// What the words of `nfit/flags` are called.
const HEALTH: [(&str, &str); 6] = [
    ("map_fail", "flag_failed_map"),
    ("save_fail", "flag_failed_save"),
    ("not_armed", "flag_failed_arm"),
    ("restore_fail", "flag_failed_restore"),
    ("flush_fail", "flag_failed_flush"),
    ("smart_event", "flag_smart_event"),
];

/// A DIMM's object.
pub(crate) fn dimm(dimm: &Dimm<'_>, style: Style) -> Value {
    let mut o = Object::new();
    o.insert("dev".into(), dimm.name().into());
    if let Some(id) = dimm.word("nfit/id") {
        o.insert("id".into(), id.into());
    }
    for (key, attribute) in [("handle", "nfit/handle"), ("phys_id", "nfit/phys_id")] {
        if let Some(value) = dimm.number(attribute) {
            o.insert(key.into(), style.hex(value));
        }
    }
    if !dimm.bound() {
        o.insert("state".into(), "disabled".into());
    }
    let health = dimm.health();
    for (word, key) in HEALTH {
        if health.iter().any(|h| h == word) {
            o.insert(key.into(), true.into());
        }
    }
    if let Some(security) = dimm.word("security") {
        o.insert("security".into(), security.into());
    }
    if dimm.number("frozen") == Some(1) {
        o.insert("security_frozen".into(), true.into());
    }
    Value::Object(o)
}
