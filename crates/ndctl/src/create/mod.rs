// SPDX-License-Identifier: MIT OR Apache-2.0
//! `create-namespace`.

mod check;
mod store;

use nvstack_media::{Error, Kind, Result};
use uuid::{Builder, Uuid};

use crate::destroy::check_idle;
use crate::enable::named_namespaces;
use crate::filter::Filter;
use crate::json::Style;
use crate::list::{Detail, namespace};
use crate::model::{MapLocation, Namespace, Region, settle};
use crate::plan::Mode;
use crate::report::{Outcome, Reporter, counted};
use crate::sys::Sys;

/// ENODEV: `ndctl` ends so when no region could give a namespace.
const NO_REGION: u8 = 237;

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// `-b`, `-r`, `-t`: where.
    pub filter: Filter,
    /// `-e`: the namespace that is made anew in its place, in what was asked for and else as it is. What it held is lost.
    pub reconfigure: Option<String>,
    /// `-u`: the uuid of its label; random if not given.
    pub uuid: Option<Uuid>,
    /// `-n`: its name, at most 63 bytes.
    pub name: Option<String>,
    /// `-s`: bytes; the largest piece that is free if not given.
    pub size: Option<u64>,
    /// `-m`: what it is made into; fsdax if not given.
    pub mode: Option<Mode>,
    /// `-M`: where the page map goes; the device if not given.
    pub map: Option<MapLocation>,
    /// `-l`: sector size; 4096 in sector mode, else 512, if not given.
    pub sector_size: Option<u64>,
    /// `-a`: alignment of fsdax and devdax; what the seed says if not given.
    pub align: Option<u64>,
    /// `-f`: an active namespace too, and a region whose memory begins unaligned.
    pub force: bool,
    /// `-L`: with `-e` on a region without labels, make labels for it first, where its DIMMs can have them.
    pub autolabel: bool,
    /// `-c`: go on until no space is left.
    pub continuous: bool,
    /// `-R`: take back what was configured if it does not come up.
    pub autorecover: bool,
    /// `--dry-run`: only tell what would be made, and where its space would come from.
    pub dry_run: bool,
    /// `-u`-style numbers.
    pub human: bool,
    /// `-v`.
    pub verbose: bool,
}

impl Default for CreateOptions {
    /// As `create-namespace` without options has it.
    fn default() -> CreateOptions {
        CreateOptions {
            filter: Filter::default(),
            reconfigure: None,
            uuid: None,
            name: None,
            size: None,
            mode: None,
            map: None,
            sector_size: None,
            align: None,
            force: false,
            autolabel: true,
            continuous: false,
            autorecover: true,
            dry_run: false,
            human: false,
            verbose: false,
        }
    }
}

/// `create-namespace`: makes a namespace, or one anew, and prints it as `list -X` does.
///
/// An error refuses what was asked, and nothing was stored. Where no region can give the space the outcome has the status
/// 237, as `ndctl`; one that could not be made although it was planned leaves the status of what failed. All that was
/// asked is checked before the old namespace is touched.
pub fn create(sys: &dyn Sys, o: &CreateOptions, reporter: &mut dyn Reporter) -> Result<Outcome> {
    o.filter.check()?;
    check::options(o)?;
    settle(sys);
    let mut outcome = Outcome::default();
    if let Some(name) = &o.reconfigure {
        for n in named_namespaces(sys, std::slice::from_ref(name), &o.filter)? {
            let plan = check::anew(&n, o)?;
            check_idle(&n, o.force)?;
            if o.dry_run {
                outcome.json.push(plan.json(Style { human: o.human }));
                continue;
            }
            match store::anew(&n, plan, o, reporter) {
                Ok(made) => finish(&made, o, &mut outcome),
                Err(e) => outcome.fail(reporter, &e),
            }
        }
        return Ok(outcome);
    }

    let mut passed_over = Vec::new();
    'regions: for (bus, region) in o.filter.regions(sys) {
        while let Some(free) = candidate(&region, &mut passed_over) {
            let plan = match check::new(&bus, &region, &free, o) {
                Ok(Ok(plan)) => plan,
                Ok(Err(reason)) => {
                    passed_over.push(reason);
                    break;
                }
                // What is left is too small or not aligned: that is how going on ends.
                Err(_) if outcome.count > 0 => break,
                Err(e) => return Err(e),
            };
            if o.dry_run {
                outcome.json.push(plan.json(Style { human: o.human }));
                if o.continuous {
                    break;
                }
                break 'regions;
            }
            match store::set_up(&free, &plan, o) {
                Ok(()) => finish(&free, o, &mut outcome),
                Err(e) => {
                    outcome.fail(reporter, &e);
                    break 'regions;
                }
            }
            if !o.continuous {
                break 'regions;
            }
        }
    }
    if outcome.json.is_empty() && outcome.status == 0 {
        let why = if passed_over.is_empty() { no_region(sys, &o.filter) } else { passed_over.join("; ") };
        reporter.error(&Error::new(Kind::NoSpace, "create namespace: no space left on device").because(why));
        outcome.status = NO_REGION;
    }
    if o.continuous && !o.dry_run {
        reporter.count(&format_args!("created {}", counted(outcome.count, "namespace")));
        if outcome.count > 0 {
            outcome.status = 0;
        }
    }
    Ok(outcome)
}

/// That no region is meant, and which there are.
fn no_region(sys: &dyn Sys, filter: &Filter) -> String {
    let asked = [("bus", &filter.bus), ("region", &filter.region), ("type", &filter.kind)];
    let asked = asked.iter().filter_map(|(what, text)| Some(format!("{what} {}", text.as_ref()?)));
    let there: Vec<String> = Filter::default()
        .regions(sys)
        .iter()
        .map(|(bus, region)| format!("{} (bus {}, type {})", region.name(), bus.name(), region.kind()))
        .collect();
    let there = if there.is_empty() { "none: there is no region".to_owned() } else { there.join(", ") };
    format!("no region fits: found {}, accepted {there}", asked.collect::<Vec<_>>().join(", "))
}

fn finish(made: &Namespace<'_>, o: &CreateOptions, outcome: &mut Outcome) {
    let detail =
        Detail { style: Style { human: o.human }, device_dax: true, verbose: o.verbose, ..Detail::default() };
    outcome.json.push(namespace(made, detail));
    outcome.count = outcome.count.saturating_add(1);
}

/// The namespace of a region that can be configured next: number 0 if it is idle, else the seed.
fn candidate<'a>(region: &Region<'a>, passed_over: &mut Vec<String>) -> Option<Namespace<'a>> {
    if !region.bound() {
        passed_over.push(format!("{} is disabled", region.name()));
        return None;
    }
    let idle = |n: &Namespace<'_>| !n.active() && n.holder().is_none() && (!n.labelled() || n.size() == 0);
    let first = region.namespaces().into_iter().find(|n| n.id() == Some(0));
    let found = first.filter(idle).or_else(|| region.seed().filter(idle));
    if found.is_none() {
        let why =
            if region.labelled() { "has no idle seed" } else { "has no labels, and its namespace is in use" };
        passed_over.push(format!("{} {why}", region.name()));
    }
    found
}

pub(crate) fn random_uuid() -> Result<Uuid> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| Error::new(Kind::Io, "make a uuid").found(e))?;
    Ok(Builder::from_random_bytes(bytes).into_uuid())
}
