// SPDX-License-Identifier: MIT OR Apache-2.0
//! `inject-error` and `clear-errors`: lost bytes, made and healed.

use nvstack_media::{Error, Kind, Result};

use crate::enable::named_namespaces;
use crate::filter::Filter;
use crate::json::{Object, Style};
use crate::list::{Detail, namespace};
use crate::model::{ClaimKind, Namespace, Personality, settle};
use crate::report::{Outcome, Reporter, counted};
use crate::sys::Sys;

/// Bytes of a block here, whatever the sectors of the namespace are.
const BLOCK: u64 = 512;

/// What to do with errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectError {
    /// `-B`, `-n`: lose `count` blocks of 512 bytes from `block` on, or with `-d` find them again.
    Blocks {
        /// From where the data of the namespace begins.
        block: u64,
        /// How many.
        count: u64,
        /// `-d`: heal instead.
        uninject: bool,
    },
    /// `-t`: only tell which are lost.
    Status,
}

/// Where the data of a namespace lies in its region, as (offset, bytes). That of a BTT is the whole namespace: its sectors
/// lie in no order.
fn data(n: &Namespace<'_>) -> Result<(u64, u64)> {
    let place = match n.personality() {
        Personality::Claimed(claim) if claim.kind() != ClaimKind::Btt => claim.resource().zip(claim.size()),
        _ => n.resource().zip(Some(n.size())),
    };
    let in_region = place
        .zip(n.region().resource())
        .and_then(|((start, len), region)| Some((start.checked_sub(region)?, len)));
    in_region.filter(|(_, len)| *len > 0).ok_or_else(|| {
        Error::new(Kind::Gone, format!("find the bytes of {}", n.name()))
            .found("no place in its region")
            .accepted("a namespace that is configured and enabled")
    })
}

/// `inject-error`: marks blocks of a namespace as lost, as worn-out media would, or finds them again.
///
/// [`Kind::OutOfRange`] for blocks outside. `status` prints `{"badblocks":[{"block","count"}]}`.
pub fn inject_error(
    sys: &dyn Sys,
    name: &str,
    filter: &Filter,
    what: InjectError,
    human: bool,
    reporter: &mut dyn Reporter,
) -> Result<Outcome> {
    settle(sys);
    let mut outcome = Outcome::default();
    for n in named_namespaces(sys, &[name.to_owned()], filter)? {
        let result = match what {
            InjectError::Status => {
                outcome.json.push(lost(&n));
                Ok(())
            }
            InjectError::Blocks { block, count, uninject } => {
                inject_blocks(&n, block, count, uninject).map(|()| {
                    let detail = Detail { style: Style { human }, media_errors: true, ..Detail::default() };
                    outcome.json.push(namespace(&n, detail));
                })
            }
        };
        match result {
            Ok(()) => outcome.count = outcome.count.saturating_add(1),
            Err(e) => outcome.fail(reporter, &e),
        }
    }
    Ok(outcome)
}

fn lost(n: &Namespace<'_>) -> serde_json::Value {
    let runs =
        n.badblocks().into_iter().map(|(block, count)| serde_json::json!({ "block": block, "count": count }));
    let mut o = Object::new();
    o.insert("badblocks".into(), runs.collect());
    o.into()
}

fn inject_blocks(n: &Namespace<'_>, block: u64, count: u64, uninject: bool) -> Result<()> {
    let (start, len) = data(n)?;
    let blocks = len.div_euclid(BLOCK);
    let end = block.checked_add(count).filter(|end| *end <= blocks && count > 0);
    if end.is_none() {
        return Err(Error::new(Kind::OutOfRange, format!("inject errors into {}", n.name()))
            .found(format_args!("{count} blocks from {block} on"))
            .accepted(format_args!("one or more within blocks 0 to {blocks}")));
    }
    let at = start.saturating_add(block.saturating_mul(BLOCK));
    let len = count.saturating_mul(BLOCK);
    let region = n.region().name();
    if uninject { n.sys().clear_error(region, at, len) } else { n.sys().inject_error(region, at, len) }
}

/// `clear-errors`: heals all that is lost in a namespace; what stood there is not what it was. Prints the namespace.
///
/// A BTT is passed over, status 1: its sectors are healed by writing them.
pub fn clear_errors(
    sys: &dyn Sys,
    names: &[String],
    filter: &Filter,
    human: bool,
    reporter: &mut dyn Reporter,
) -> Result<Outcome> {
    settle(sys);
    let mut outcome = Outcome::default();
    for n in named_namespaces(sys, names, filter)? {
        if n.size() == 0 {
            continue;
        }
        if matches!(n.personality(), Personality::Claimed(c) if c.kind() == ClaimKind::Btt) {
            reporter.warning(&format_args!(
                "{}: sector mode is skipped: a lost sector is healed by writing it",
                n.name()
            ));
            outcome.status = outcome.status.max(1);
            continue;
        }
        match clear(&n) {
            Ok(()) => {
                let detail = Detail { style: Style { human }, media_errors: true, ..Detail::default() };
                outcome.json.push(namespace(&n, detail));
                outcome.count = outcome.count.saturating_add(1);
            }
            Err(e) => outcome.fail(reporter, &e),
        }
    }
    reporter.count(&format_args!("cleared {}", counted(outcome.count, "namespace")));
    Ok(outcome)
}

fn clear(n: &Namespace<'_>) -> Result<()> {
    let (start, _) = data(n)?;
    for (block, count) in n.badblocks() {
        let at = start.saturating_add(block.saturating_mul(BLOCK));
        n.sys().clear_error(n.region().name(), at, count.saturating_mul(BLOCK))?;
    }
    Ok(())
}
