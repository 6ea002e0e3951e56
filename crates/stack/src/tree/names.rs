// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names to devices, and back.

use std::sync::Arc;

use crate::model::{Bound, BusState, Dev};
use crate::personality::DeviceNode;
use crate::stack::{At, Inner};

/// A disk in the tree.
pub(crate) struct DiskName {
    pub(crate) name: String,
    pub(crate) minor: u32,
}

/// The device of a bus that has this name now.
pub(crate) fn device(inner: &Arc<Inner>, name: &str) -> Option<(At, Dev)> {
    let split = name.find(|c: char| c.is_ascii_digit())?;
    let (word, numbers) = name.split_at_checked(split)?;
    let number = |text: &str| -> Option<u32> {
        // One name for each device: no leading zeros, no signs.
        let n: u32 = text.parse().ok()?;
        (n.to_string() == text).then_some(n)
    };
    if let Some((region, id)) = numbers.split_once('.') {
        let (region, id) = (number(region)?, number(id)?);
        let drivers = inner.drivers();
        let dev = match word {
            "namespace" => Dev::Namespace(region, id),
            word => {
                let driver =
                    drivers.iter().position(|d| !d.identity().in_place && d.identity().prefix == word)?;
                Dev::Claim(region, driver, id)
            }
        };
        return inner.all().into_iter().find(|at| exists(&at.bus.lock(), dev)).map(|at| (at, dev));
    }
    let id = number(numbers)?;
    let dev = match word {
        "ndbus" => Dev::Bus(id),
        "ndctl" => Dev::Control(id),
        "nmem" => Dev::Dimm(id),
        "region" => Dev::Region(id),
        _ => return None,
    };
    match dev {
        Dev::Bus(_) | Dev::Control(_) => inner.at(id).ok().map(|at| (at, dev)),
        _ => inner.all().into_iter().find(|at| exists(&at.bus.lock(), dev)).map(|at| (at, dev)),
    }
}

/// The device in whose directory another one stands, of those below a bus.
pub(crate) fn parent(at: &At, dev: Dev) -> Option<Dev> {
    match dev {
        Dev::Bus(_) | Dev::Control(_) => None,
        Dev::Dimm(_) | Dev::Region(_) => Some(Dev::Bus(at.bus.id)),
        Dev::Namespace(r, _) | Dev::Claim(r, ..) => Some(Dev::Region(r)),
    }
}

pub(crate) fn exists(state: &BusState, dev: Dev) -> bool {
    match dev {
        Dev::Bus(_) | Dev::Control(_) => true,
        Dev::Dimm(n) => state.dimms.contains_key(&n),
        Dev::Region(n) => state.regions.contains_key(&n),
        Dev::Namespace(r, n) => state.regions.get(&r).is_some_and(|r| r.namespaces.contains_key(&n)),
        Dev::Claim(r, d, n) => state.regions.get(&r).is_some_and(|r| r.claims.contains_key(&(d, n))),
    }
}

/// What has a driver of a device, if one has it.
pub(crate) fn bound_of(state: &BusState, dev: Dev) -> Option<&Bound> {
    match dev {
        Dev::Namespace(r, n) => state.namespace(r, n).ok()?.bound.as_ref(),
        Dev::Claim(r, d, n) => state.claim(r, d, n).ok()?.bound.as_ref(),
        _ => None,
    }
}

/// The namespace of a device: itself, or the one that it holds.
pub(crate) fn namespace_of(state: &BusState, dev: Dev) -> Option<(u32, u32)> {
    match dev {
        Dev::Namespace(r, n) => Some((r, n)),
        Dev::Claim(r, d, n) => state.claim(r, d, n).ok()?.namespace.map(|n| (r, n)),
        _ => None,
    }
}

/// The disk of a device: `pmemR[.N]`, numbered as its namespace is, with what its driver appends.
pub(crate) fn disk_of(at: &At, state: &BusState, dev: Dev) -> Option<DiskName> {
    let bound = bound_of(state, dev)?;
    let DeviceNode::Disk(suffix) = at.inner.driver(bound.driver)?.identity().node else { return None };
    let (r, n) = namespace_of(state, dev)?;
    let number = if n == 0 { r.to_string() } else { format!("{r}.{n}") };
    Some(DiskName { name: format!("pmem{number}{suffix}"), minor: bound.minor })
}

/// The device-dax device of a claim: `daxR.N`, numbered as its namespace is.
pub(crate) fn dax_of(at: &At, state: &BusState, dev: Dev) -> Option<DiskName> {
    let Dev::Claim(..) = dev else { return None };
    let bound = bound_of(state, dev)?;
    if at.inner.driver(bound.driver)?.identity().node != DeviceNode::Dax {
        return None;
    }
    let (r, n) = namespace_of(state, dev)?;
    Some(DiskName { name: format!("dax{r}.{n}"), minor: bound.minor })
}

/// The device whose disk has this name.
pub(crate) fn disk(inner: &Arc<Inner>, name: &str) -> Option<(At, Dev)> {
    let rest = name.strip_prefix("pmem")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let region: u32 = rest.get(..digits)?.parse().ok()?;
    inner.all().into_iter().find_map(|at| {
        let found = {
            let state = at.bus.lock();
            devices_of_region(&state, region)
                .into_iter()
                .find(|dev| disk_of(&at, &state, *dev).is_some_and(|disk| disk.name == name))
        };
        found.map(|dev| (at, dev))
    })
}

/// The namespaces and claims of a region.
pub(crate) fn devices_of_region(state: &BusState, region: u32) -> Vec<Dev> {
    let Some(contents) = state.regions.get(&region) else { return Vec::new() };
    let claims = contents.claims.keys().map(|(d, n)| Dev::Claim(region, *d, *n));
    let namespaces = contents.namespaces.keys().map(|n| Dev::Namespace(region, *n));
    claims.chain(namespaces).collect()
}

/// All devices of a bus that are on the nd bus type, parents before children.
pub(crate) fn devices(at: &At, state: &BusState) -> Vec<Dev> {
    let mut all = vec![Dev::Bus(at.bus.id)];
    all.extend(state.dimms.keys().map(|n| Dev::Dimm(*n)));
    for region in state.regions.keys() {
        all.push(Dev::Region(*region));
        all.extend(devices_of_region(state, *region));
    }
    all
}

/// Whether a driver has a device.
pub(crate) fn is_bound(state: &BusState, dev: Dev) -> bool {
    match dev {
        Dev::Bus(_) => true,
        Dev::Control(_) => false,
        Dev::Dimm(n) => state.dimms.get(&n).is_some_and(|d| d.bound),
        Dev::Region(n) => state.regions.get(&n).is_some_and(|r| r.bound),
        _ => bound_of(state, dev).is_some(),
    }
}
