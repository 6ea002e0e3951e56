// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regions as JSON.

use serde_json::{Value, json};

use super::Detail;
use crate::json::Object;
use crate::model::{ClaimKind, Dimm, Region};

/// A region's object, without what hidden DIMMs give to it, with the namespaces that are shown in it.
pub(super) fn region(
    region: &Region<'_>,
    hidden: &[Dimm<'_>],
    namespaces: Vec<Value>,
    detail: Detail,
) -> Value {
    let style = detail.style;
    let mut o = Object::new();
    let mut add = |key: &str, value: Value| {
        o.insert(key.into(), value);
    };
    add("dev", region.name().into());
    add("size", style.size(region.size()));
    if let Some(align) = region.align() {
        add("align", style.size(align));
    }
    add("available_size", style.size(region.available()));
    add("max_available_extent", style.size(region.largest_extent()));
    add("type", region.kind().into());
    if detail.verbose {
        for key in ["numa_node", "target_node"] {
            if let Some(node) = region.node_number(key) {
                add(key, node.into());
            }
        }
    }
    if let Some(cookie) = region.set_cookie() {
        add("iset_id", style.hex(cookie));
    }
    if detail.mappings {
        let mappings: Vec<Value> = region
            .mappings()
            .into_iter()
            .filter(|m| hidden.iter().all(|d| d.name() != m.dimm))
            .map(|m| {
                let mut o = Object::new();
                o.insert("dimm".into(), m.dimm.into());
                o.insert("offset".into(), style.hex(m.offset));
                o.insert("length".into(), style.hex(m.length));
                if let Some(position) = m.position {
                    o.insert("position".into(), position.into());
                }
                Value::Object(o)
            })
            .collect();
        if !mappings.is_empty() {
            add("mappings", mappings.into());
        }
    }
    if !region.bound() {
        add("state", "disabled".into());
    }
    badblocks(&region.badblocks(), region, detail, &mut add);
    if detail.capabilities {
        let capabilities = capabilities(region);
        if !capabilities.is_empty() {
            add("capabilities", capabilities.into());
        }
    }
    let domain = region.word("persistence_domain").unwrap_or_else(|| "unknown".to_owned());
    add("persistence_domain", domain.into());
    if !namespaces.is_empty() {
        add("namespaces", namespaces.into());
    }
    Value::Object(o)
}

/// What is lost: how many units of 512 bytes, and where if that is asked for.
pub(super) fn badblocks(
    runs: &[(u64, u64)],
    region: &Region<'_>,
    detail: Detail,
    add: &mut dyn FnMut(&str, Value),
) {
    if runs.is_empty() {
        return;
    }
    let count: u64 = runs.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count));
    add("badblock_count", count.into());
    if !detail.media_errors {
        return;
    }
    // In a region of one DIMM there is no doubt which one lost them.
    let dimms: Vec<String> = region.mappings().into_iter().map(|m| m.dimm).collect();
    let run = |(offset, length): &(u64, u64)| match dimms.as_slice() {
        [_] => json!({ "offset": offset, "length": length, "dimms": dimms }),
        _ => json!({ "offset": offset, "length": length }),
    };
    add("badblocks", runs.iter().map(run).collect());
}

/// What its seeds can be made into.
fn capabilities(region: &Region<'_>) -> Vec<Value> {
    let mut found = Vec::new();
    for kind in ClaimKind::ALL {
        let Some(seed) = region.claim_seed(kind) else { continue };
        found.push(match kind {
            ClaimKind::Btt => json!({ "mode": "sector", "sector_sizes": seed.sector_sizes().supported }),
            ClaimKind::Pfn => json!({ "mode": "fsdax", "alignments": seed.alignments() }),
            ClaimKind::Dax => json!({ "mode": "devdax", "alignments": seed.alignments() }),
        });
    }
    found
}
