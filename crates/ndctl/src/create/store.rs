// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stores that make a namespace.

use nvstack_media::{Error, Kind, Result};

use super::{CreateOptions, candidate, random_uuid};
use crate::control::{bind, enable_namespace};
use crate::destroy::{free, take_down};
use crate::labels::label_region;
use crate::model::{Claim, ClaimKind, MapLocation, Namespace};
use crate::plan::Plan;
use crate::report::Reporter;

/// Takes a namespace down and makes it anew in its place, or where labels are made for its region, as its first.
pub(super) fn anew<'a>(
    n: &Namespace<'a>,
    mut plan: Plan,
    o: &CreateOptions,
    reporter: &mut dyn Reporter,
) -> Result<Namespace<'a>> {
    let region = n.region().clone();
    take_down(n, o.force, reporter)?;
    let mut made = n.clone();
    if plan.autolabel {
        if let Err(e) = label_region(&region) {
            // The namespace can still be what was asked, but for a size and a uuid of its own.
            reporter.warning(&format_args!("{}: goes on without labels: {e}", region.name()));
            plan.uuid = None;
        }
        let mut why = Vec::new();
        made = candidate(&region, &mut why).ok_or_else(|| {
            Error::new(Kind::Unrecognised, format!("reconfigure {}", n.name())).found(why.join("; "))
        })?;
    }
    set_up(&made, &plan, o)?;
    Ok(made)
}

/// Stores what was planned, and enables it.
pub(super) fn set_up(n: &Namespace<'_>, plan: &Plan, o: &CreateOptions) -> Result<()> {
    let claim = match plan.mode.claim() {
        // Pages that ordinary memory describes already need nothing more.
        Some(ClaimKind::Pfn)
            if plan.map == Some(MapLocation::Memory) && n.text("mode").as_deref() == Some("memory") =>
        {
            None
        }
        Some(kind) => Some(n.region().claim_seed(kind).ok_or_else(|| {
            Error::new(Kind::Unrecognised, format!("create {}", n.name()))
                .found(format_args!("no {} seed", kind.word()))
        })?),
        None => None,
    };
    let result = configure(n, claim.as_ref(), plan).and_then(|()| match &claim {
        Some(claim) => bind(claim),
        None => enable_namespace(n),
    });
    if result.is_err() && o.autorecover {
        // What is taken back is told by the error that is on its way already.
        if let Some(claim) = claim.filter(|c| c.word("namespace").is_some()) {
            let _ = claim.store("namespace", "\n");
        }
        let _ = n.store("holder_class", "");
        // A namespace that was there before stays, raw: behind its head is still what was there.
        if n.labelled() && o.reconfigure.is_none() {
            let _ = free(n);
        }
    }
    result
}

/// The stores, in `ndctl`'s order.
fn configure(n: &Namespace<'_>, claim: Option<&Claim<'_>>, plan: &Plan) -> Result<()> {
    if let Some(uuid) = plan.uuid {
        n.store("uuid", &uuid.to_string())?;
        n.store("alt_name", &plan.name)?;
        n.store("size", &format!("{:#x}\n", plan.size))?;
    }
    if n.sector_sizes().supported.contains(&plan.sector_size) {
        n.store("sector_size", &format!("{}\n", plan.sector_size))?;
    }
    // Says to those who look later what to look for; kernels before 4.13 know no such attribute.
    let _ = n.store("holder_class", plan.mode.claim().map_or("", ClaimKind::word));

    let Some(claim) = claim else { return Ok(()) };
    claim.store("uuid", &random_uuid()?.to_string())?;
    match claim.kind() {
        ClaimKind::Btt => claim.store("sector_size", &format!("{}\n", plan.sector_size))?,
        ClaimKind::Pfn | ClaimKind::Dax => {
            claim.store("mode", plan.map.unwrap_or(MapLocation::Device).word())?;
            if let Some(align) = plan.align.filter(|_| claim.align().is_some()) {
                claim.store("align", &format!("{align}\n"))?;
            }
        }
    }
    claim.store("namespace", n.name())
}
