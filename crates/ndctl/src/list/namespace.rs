// SPDX-License-Identifier: MIT OR Apache-2.0
//! Namespaces as JSON.

use serde_json::Value;

use super::{Detail, region};
use crate::json::{Object, Style};
use crate::model::{Claim, ClaimKind, MapLocation, Namespace, Personality};

/// The sector size of a namespace that says none: those without labels, and with labels of old versions.
const SECTOR: u64 = 512;

/// A namespace's object.
pub(crate) fn namespace(n: &Namespace<'_>, detail: Detail) -> Value {
    let style = detail.style;
    let mut o = Object::new();
    let mut add = |key: &str, value: Value| {
        o.insert(key.into(), value);
    };
    let personality = n.personality();
    let claim = match &personality {
        Personality::Claimed(claim) => Some(claim),
        Personality::Raw | Personality::Paged => None,
    };

    add("dev", n.name().into());
    add("mode", n.mode().into());
    let map = match &personality {
        Personality::Raw => None,
        Personality::Paged => Some(MapLocation::Memory.map()),
        Personality::Claimed(c) if c.kind() == ClaimKind::Btt => None,
        Personality::Claimed(c) => Some(c.map_location().map_or("none", MapLocation::map)),
    };
    if let Some(map) = map {
        add("map", map.into());
    }
    // A claim whose device did not come up has no size.
    if let Some(size) = claim.map_or_else(|| Some(n.size()), |c| c.size()) {
        add("size", style.size(size));
    }

    let label = n.uuid().filter(|_| n.labelled());
    match claim {
        Some(claim) => {
            if let Some(uuid) = claim.uuid() {
                add("uuid", uuid.to_string().into());
            }
            if let (true, Some(uuid)) = (detail.verbose, label.filter(|u| !u.is_nil())) {
                add("raw_uuid", uuid.to_string().into());
            }
        }
        None => {
            if let Some(uuid) = label {
                add("uuid", uuid.to_string().into());
            }
        }
    }

    let devdax = claim.filter(|c| c.kind() == ClaimKind::Dax);
    if let Some(claim) = devdax {
        if let Some(region) = dax_region(claim, style).filter(|_| detail.device_dax) {
            add("daxregion", region);
        } else if let Some(device) = claim.dax_devices().into_iter().next() {
            add("chardev", device.name.into());
        }
    } else {
        let sizes = match claim {
            Some(c) if c.kind() == ClaimKind::Btt => c.sector_sizes(),
            _ => n.sector_sizes(),
        };
        add("sector_size", sizes.chosen.unwrap_or(SECTOR).into());
    }
    if let Some(align) = claim.filter(|c| c.kind() != ClaimKind::Btt).and_then(Claim::align) {
        add("align", align.into());
    }
    if let Some(dev) = n.block_device() {
        add("blockdev", dev.into());
    }
    if !n.active() {
        add("state", "disabled".into());
    }
    if let Some(name) = n.word("alt_name") {
        add("name", name.into());
    }
    if detail.verbose {
        for key in ["numa_node", "target_node"] {
            if let Some(node) = n.node_number(key) {
                add(key, node.into());
            }
        }
    }
    region::badblocks(&n.badblocks(), n.region(), detail, &mut add);
    Value::Object(o)
}

/// The character devices of a devdax namespace.
fn dax_region(claim: &Claim<'_>, style: Style) -> Option<Value> {
    let (id, size, available) = claim.dax_region()?;
    let mut o = Object::new();
    o.insert("id".into(), id.into());
    o.insert("size".into(), style.size(size));
    if let Some(available) = available {
        o.insert("available_size".into(), style.size(available));
    }
    if let Some(align) = claim.align() {
        o.insert("align".into(), align.into());
    }
    let devices = claim.dax_devices().into_iter().map(|device| {
        let mut o = Object::new();
        o.insert("chardev".into(), device.name.into());
        o.insert("size".into(), style.size(device.size));
        if let Some(node) = device.target_node {
            o.insert("target_node".into(), node.into());
        }
        if let Some(align) = device.align {
            o.insert("align".into(), align.into());
        }
        o.insert("mode".into(), if device.system_ram { "system-ram" } else { "devdax" }.into());
        Value::Object(o)
    });
    o.insert("devices".into(), devices.collect());
    Some(Value::Object(o))
}
