// SPDX-License-Identifier: MIT OR Apache-2.0
//! `destroy-namespace`.

use nvstack_media::{Error, Kind, Result};

use crate::control::{Wiped, disable_namespace, wipe_head};
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
        match destroy_one(n, o.force, reporter) {
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

/// Frees a namespace of what stands on it: disables it and wipes its info blocks. Whether there was anything to wipe.
///
/// Where they cannot be reached it goes on, as `ndctl`, with a warning: what follows names another parent.
pub(crate) fn take_down(n: &Namespace<'_>, force: bool, reporter: &mut dyn Reporter) -> Result<bool> {
    check_idle(n, force)?;
    disable_namespace(n)?;
    // Kernels before 4.13 know no such attribute, and a tree may not either.
    let _ = n.store("holder_class", "");
    match wipe_head(n)? {
        Wiped::Yes => Ok(true),
        Wiped::Blank => Ok(false),
        Wiped::Unreachable(e) => {
            reporter.warning(&format_args!("{} failed to enable for zeroing, continuing: {e}", n.name()));
            Ok(false)
        }
    }
}

/// Whether anything was there to destroy.
fn destroy_one(n: &Namespace<'_>, force: bool, reporter: &mut dyn Reporter) -> Result<bool> {
    if n.size() == 0 {
        return Ok(false);
    }
    let wiped = take_down(n, force, reporter)?;
    if !n.labelled() {
        return Ok(wiped);
    }
    free(n)?;
    Ok(true)
}

/// Gives the space of a namespace back, with its label.
pub(crate) fn free(n: &Namespace<'_>) -> Result<()> {
    match n.store("size", "0\n") {
        // The namespace may be gone before the store returns.
        Err(e) if e.kind() != Kind::Gone && n.exists() => Err(e),
        _ => Ok(()),
    }
}
