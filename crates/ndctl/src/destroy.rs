// SPDX-License-Identifier: MIT OR Apache-2.0
//! `destroy-namespace`.

use nvstack_media::{Error, Kind, Result};

use crate::control::{disable_namespace, wipe_head};
use crate::enable::named_namespaces;
use crate::filter::Filter;
use crate::model::{Namespace, settle};
use crate::report::{Outcome, Reporter, counted};
use crate::sys::Sys;

/// What to destroy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestroyOptions {
    /// Names of namespaces, or `all`.
    pub namespaces: Vec<String>,
    /// `-b`, `-r`.
    pub filter: Filter,
    /// `-f`: one that is active too.
    pub force: bool,
}

/// `destroy-namespace`: disables, wipes the info blocks, and frees the space.
///
/// A namespace without a label stays, wiped; it counts if there was anything to wipe. Those that are not configured are
/// passed over with `all`. An active one is refused without `force` ([`Kind::Busy`], 240).
pub fn destroy(sys: &dyn Sys, o: &DestroyOptions, reporter: &mut dyn Reporter) -> Result<Outcome> {
    settle(sys);
    let mut outcome = Outcome::default();
    let named = named_namespaces(sys, &o.namespaces, &o.filter)?;
    for n in named.iter().filter(|n| n.size() > 0 || !o.namespaces.iter().any(|w| w == "all")) {
        match destroy_one(n, o.force) {
            Ok(true) => outcome.count = outcome.count.saturating_add(1),
            Ok(false) => reporter.note(&format_args!("{}: nothing to destroy", n.name())),
            Err(e) => outcome.fail(reporter, &e),
        }
    }
    reporter.count(&format_args!("destroyed {}", counted(outcome.count, "namespace")));
    Ok(outcome)
}

/// Whether an active namespace may be taken down.
pub(crate) fn check_idle(n: &Namespace<'_>, force: bool) -> Result<()> {
    if n.active() && !force {
        return Err(Error::new(Kind::Busy, format!("use {}", n.name()))
            .found("an active namespace")
            .accepted("a disabled one, or --force"));
    }
    if n.region().read_only() {
        return Err(Error::new(Kind::Permission, format!("use {}", n.name()))
            .found(format_args!("{} read-only", n.region().name())));
    }
    Ok(())
}

/// Whether anything was there to destroy.
pub(crate) fn destroy_one(n: &Namespace<'_>, force: bool) -> Result<bool> {
    check_idle(n, force)?;
    if n.size() == 0 {
        return Ok(false);
    }
    disable_namespace(n)?;
    // Kernels before 4.13 know no such attribute, and a tree may not either.
    let _ = n.store("holder_class", "");
    let wiped = wipe_head(n)?;
    if !n.labelled() {
        return Ok(wiped);
    }
    match n.store("size", "0x0\n") {
        // The namespace may be gone before the store returns.
        Err(e) if e.kind() != Kind::Gone && n.exists() => Err(e),
        _ => Ok(true),
    }
}
