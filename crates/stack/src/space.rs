// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has which bytes of a region, and what is left.
//!
//! A namespace takes the same bytes of each DIMM of its set, so what counts is what is free on all of them, in steps of the
//! region's `align` divided by the ways.

use uuid::Uuid;

use crate::model::{BusState, Mapping, Region};

/// A free piece, in bytes from the start of each mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// The pieces of a region that no label calls its own, apart from those of `but`, in steps of the region's alignment.
pub(crate) fn gaps(state: &BusState, region: &Region, but: Option<Uuid>) -> Vec<Gap> {
    let step = (region.align / region.ways()).max(1);
    let len = region.mappings.iter().map(|m| m.size).min().unwrap_or(0);
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for m in &region.mappings {
        let Some(dimm) = state.dimms.get(&m.dimm) else { continue };
        // Steps are counted in the DIMM's own addresses, as Linux counts them.
        let first = m.dpa.next_multiple_of(step).saturating_sub(m.dpa);
        if first > 0 {
            taken.push((0, first));
        }
        for (uuid, dpa, size) in &dimm.reserved {
            let end = dpa.saturating_add(*size).min(m.dpa.saturating_add(m.size));
            if Some(*uuid) == but || end <= m.dpa || *dpa >= m.dpa.saturating_add(m.size) {
                continue;
            }
            let from = dpa / step * step;
            let to = end.next_multiple_of(step);
            taken.push((from.saturating_sub(m.dpa), to.saturating_sub(m.dpa)));
        }
    }
    taken.sort_unstable();
    let base = region.mappings.first().map_or(0, |m| m.dpa);
    let end = base.saturating_add(len) / step * step;
    let end = end.saturating_sub(base);
    let mut gaps = Vec::new();
    let mut at = 0u64;
    for (from, to) in taken.into_iter().chain([(end, end)]) {
        let from = from.min(end);
        if from > at {
            gaps.push(Gap { start: at, len: from - at });
        }
        at = at.max(to);
    }
    gaps
}

/// `available_size` and `max_available_extent`: bytes of the region. Where a DIMM is disabled Linux tells of none that are
/// available, and of an extent all the same.
pub(crate) fn available(state: &BusState, region: &Region) -> (u64, u64) {
    let gaps = gaps(state, region, None);
    let enabled = |m: &Mapping| state.dimms.get(&m.dimm).is_some_and(|dimm| dimm.bound);
    let total: u64 = if region.mappings.iter().all(enabled) { gaps.iter().map(|g| g.len).sum() } else { 0 };
    let most = gaps.iter().map(|g| g.len).max().unwrap_or(0);
    (total.saturating_mul(region.ways()), most.saturating_mul(region.ways()))
}

/// Where a namespace of `each` bytes on every DIMM can go: where it is, if there is room for it there; else the first place.
pub(crate) fn place(
    state: &BusState,
    region: &Region,
    uuid: Uuid,
    now: Option<u64>,
    each: u64,
) -> Option<u64> {
    let gaps = gaps(state, region, Some(uuid));
    let fits = |g: &&Gap, at: u64| g.start <= at && at.saturating_add(each) <= g.start.saturating_add(g.len);
    match now {
        // What it holds stays where it is, or there is no room.
        Some(at) => gaps.iter().find(|g| fits(g, at)).map(|_| at),
        None => gaps.iter().find(|g| g.len >= each).map(|g| g.start),
    }
}
