// SPDX-License-Identifier: MIT OR Apache-2.0
//! Enabling and disabling namespaces, regions and DIMMs.

use nvstack_media::{Error, Kind, Result};

use crate::control::{bind, disable_namespace, enable_namespace, unbind};
use crate::filter::Filter;
use crate::model::{Dimm, Namespace, Region, buses, settle, unknown};
use crate::report::{Outcome, Reporter, counted, counted_dimms};
use crate::sys::Sys;

/// What to enable or to disable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnableOptions {
    /// Names, or `all`.
    pub names: Vec<String>,
    /// `-b`, `-r`, `-t`.
    pub filter: Filter,
}

impl EnableOptions {
    /// Those of one name.
    #[must_use]
    pub fn named(name: &str) -> EnableOptions {
        EnableOptions { names: vec![name.to_owned()], ..EnableOptions::default() }
    }
}

/// Whether `names` means the device of that name, or of the number that ends it.
fn means(names: &[String], prefix: &str, name: &str) -> bool {
    names.iter().any(|w| w == "all" || w == name || Some(w.as_str()) == name.strip_prefix(prefix))
}

/// ENXIO for a name that none of those there has.
fn all_known(names: &[String], prefix: &'static str, have: &[String]) -> Result<()> {
    let lost = names
        .iter()
        .find(|w| w.as_str() != "all" && !have.iter().any(|h| means(std::slice::from_ref(*w), prefix, h)));
    lost.map_or(Ok(()), |name| Err(unknown(prefix, name, have)))
}

pub(crate) fn named_namespaces<'a>(
    sys: &'a dyn Sys,
    names: &[String],
    filter: &Filter,
) -> Result<Vec<Namespace<'a>>> {
    filter.check()?;
    let mut found = filter.namespaces(sys);
    let have: Vec<String> = found.iter().map(|n| n.name().to_owned()).collect();
    all_known(names, "namespace", &have)?;
    found.retain(|n| means(names, "namespace", n.name()));
    Ok(found)
}

/// The regions that are meant. One that is not there is told, and no error: `ndctl` says `0 regions`.
fn named_regions<'a>(
    sys: &'a dyn Sys,
    o: &EnableOptions,
    reporter: &mut dyn Reporter,
) -> Result<Vec<Region<'a>>> {
    o.filter.check()?;
    let mut found: Vec<Region<'a>> = o.filter.regions(sys).into_iter().map(|(_, r)| r).collect();
    let have: Vec<String> = found.iter().map(|r| r.name().to_owned()).collect();
    if let Err(e) = all_known(&o.names, "region", &have) {
        reporter.error(&e);
    }
    found.retain(|r| means(&o.names, "region", r.name()));
    Ok(found)
}

/// As [`named_dimms`], and tells of a name that is not there.
pub(crate) fn told_dimms<'a>(
    sys: &'a dyn Sys,
    names: &[String],
    filter: &Filter,
    reporter: &mut dyn Reporter,
) -> Vec<Dimm<'a>> {
    let all = buses(sys).into_iter().filter(|b| filter.bus(b)).flat_map(|b| b.dimms());
    let have: Vec<String> = all.map(|d| d.name().to_owned()).collect();
    if let Err(e) = all_known(names, "nmem", &have) {
        reporter.error(&e);
    }
    named_dimms(sys, names, filter)
}

/// The DIMMs that are meant. Unlike with the others a name that is not there is no error: `ndctl` says `0 nmem`.
pub(crate) fn named_dimms<'a>(sys: &'a dyn Sys, names: &[String], filter: &Filter) -> Vec<Dimm<'a>> {
    let mut found = Vec::new();
    for bus in buses(sys).into_iter().filter(|b| filter.bus(b)) {
        found.extend(bus.dimms().into_iter().filter(|d| means(names, "nmem", d.name())));
    }
    found
}

/// `enable-namespace`. Those that are enabled count; those that are not configured are passed over with `all`.
///
/// ENXIO for a name that is not there.
pub fn enable_namespaces(sys: &dyn Sys, o: &EnableOptions, reporter: &mut dyn Reporter) -> Result<Outcome> {
    settle(sys);
    let mut outcome = Outcome::default();
    for n in named_namespaces(sys, &o.names, &o.filter)? {
        if n.size() == 0 {
            if !o.names.iter().any(|w| w == "all") {
                let e = Error::new(Kind::Gone, format!("enable {}", n.name()))
                    .found("no size")
                    .accepted("a namespace that create-namespace has made");
                outcome.fail(reporter, &e);
            }
            continue;
        }
        match enable_namespace(&n) {
            Ok(()) => outcome.count = outcome.count.saturating_add(1),
            Err(e) => outcome.fail(reporter, &e),
        }
    }
    reporter.count(&format_args!("enabled {}", counted(outcome.count, "namespace")));
    Ok(outcome)
}

/// `disable-namespace`. Those that are disabled count. Unlike `ndctl` it does not count one whose driver stays.
///
/// ENXIO for a name that is not there.
pub fn disable_namespaces(sys: &dyn Sys, o: &EnableOptions, reporter: &mut dyn Reporter) -> Result<Outcome> {
    settle(sys);
    let mut outcome = Outcome::default();
    for n in named_namespaces(sys, &o.names, &o.filter)? {
        match disable_namespace(&n) {
            Ok(()) if n.size() > 0 => outcome.count = outcome.count.saturating_add(1),
            Ok(()) => {}
            Err(e) => outcome.fail(reporter, &e),
        }
    }
    reporter.count(&format_args!("disabled {}", counted(outcome.count, "namespace")));
    Ok(outcome)
}

/// `enable-region`. The exit status is 0 whatever happens, as `ndctl` has it.
pub fn enable_regions(sys: &dyn Sys, o: &EnableOptions, reporter: &mut dyn Reporter) -> Result<Outcome> {
    settle(sys);
    let mut count = 0usize;
    for region in named_regions(sys, o, reporter)? {
        match bind(&region) {
            Ok(()) => count = count.saturating_add(1),
            Err(e) => reporter.error(&e),
        }
    }
    reporter.count(&format_args!("enabled {}", counted(count, "region")));
    Ok(Outcome { count, ..Outcome::default() })
}

/// `disable-region`: first its namespaces. A region with a namespace in use is left alone. The exit status is 0 whatever
/// happens, as `ndctl` has it.
pub fn disable_regions(sys: &dyn Sys, o: &EnableOptions, reporter: &mut dyn Reporter) -> Result<Outcome> {
    settle(sys);
    let mut count = 0usize;
    for region in named_regions(sys, o, reporter)? {
        match disable_region(&region) {
            Ok(()) => count = count.saturating_add(1),
            Err(e) => reporter.error(&e),
        }
    }
    reporter.count(&format_args!("disabled {}", counted(count, "region")));
    Ok(Outcome { count, ..Outcome::default() })
}

/// Disables a region and what is in it.
pub(crate) fn disable_region(region: &Region<'_>) -> Result<()> {
    for n in region.namespaces() {
        disable_namespace(&n)?;
    }
    unbind(region)
}

/// The exit status of the verbs on DIMMs and labels: 0 or 1.
pub(crate) fn collapse(mut outcome: Outcome) -> Outcome {
    outcome.status = outcome.status.min(1);
    outcome
}

/// `enable-dimm`. The exit status is 0 or 1.
pub fn enable_dimms(sys: &dyn Sys, o: &EnableOptions, reporter: &mut dyn Reporter) -> Result<Outcome> {
    settle(sys);
    let mut outcome = Outcome::default();
    for dimm in told_dimms(sys, &o.names, &o.filter, reporter) {
        match bind(&dimm) {
            Ok(()) => outcome.count = outcome.count.saturating_add(1),
            Err(e) => outcome.fail(reporter, &e),
        }
    }
    reporter.count(&format_args!("enabled {}", counted_dimms(outcome.count)));
    Ok(collapse(outcome))
}

/// `disable-dimm`: not one that an enabled region uses. The exit status is 0 or 1.
pub fn disable_dimms(sys: &dyn Sys, o: &EnableOptions, reporter: &mut dyn Reporter) -> Result<Outcome> {
    settle(sys);
    let mut outcome = Outcome::default();
    for dimm in told_dimms(sys, &o.names, &o.filter, reporter) {
        if dimm.active() {
            reporter.note(&format_args!("{} is active, skipping...", dimm.name()));
            outcome.status = 1;
            continue;
        }
        match unbind(&dimm) {
            Ok(()) => outcome.count = outcome.count.saturating_add(1),
            Err(e) => outcome.fail(reporter, &e),
        }
    }
    reporter.count(&format_args!("disabled {}", counted_dimms(outcome.count)));
    Ok(collapse(outcome))
}
