// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a configuration to a summary.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use nvstack_format::label::Version;
use nvstack_label_sim::sim::{Mutant, leave_out};
use nvstack_media::{Error, Kind, Result};
use nvstack_sim::{Image, Model};
use serde::Serialize;

use super::case::{Case, Violation};
use super::explorer::{Bounds, Counts, Explorer};
use super::workload::{Change, SHAPES, Workload, all, random};
use crate::share::{Done, Limits, ViolationSummary, share};

/// What is explored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every workload with so many changes, over one, two and four DIMMs.
    Bounded {
        /// Changes.
        changes: usize,
    },
    /// A change whose N-th operation fails, for every N, and then another try by whoever made it.
    Faults,
    /// So many workloads with three to six changes, by number from the seed on.
    Random {
        /// Workloads.
        workloads: u64,
    },
    /// These.
    These(Vec<Workload>),
}

/// How to explore.
#[derive(Clone, Debug)]
pub struct Config {
    /// What.
    pub scopes: Vec<Scope>,
    /// Under which models.
    pub models: Vec<Model>,
    /// The part of the protocol that is left out.
    pub mutant: Option<Mutant>,
    /// How often the power is cut again inside a repair.
    pub depth: u32,
    /// Whether images that were met before are skipped, and what free slots hold is taken to make no difference.
    pub prune: bool,
    /// Sets of images at one moment; of more, a sample.
    pub images: u64,
    /// Sets of images at one moment inside a repair; of more, a sample.
    pub inner: u64,
    /// For what is random.
    pub seed: u64,
    /// Threads that share the workloads.
    pub threads: usize,
    /// End after the first workload that fails.
    pub stop_at_first: bool,
    /// No workload is begun after this time.
    pub time: Option<Duration>,
    /// Set by whoever wants it to end now, with what was found so far.
    pub stop: Arc<AtomicBool>,
}

impl Config {
    /// Every single change, every fault, and some longer workloads, under all models, with a second cut inside each repair:
    /// less than a minute on two cores.
    #[must_use]
    pub fn quick() -> Config {
        Config {
            scopes: vec![Scope::Bounded { changes: 1 }, Scope::Faults, Scope::Random { workloads: 10 }],
            models: Model::ALL.to_vec(),
            mutant: None,
            depth: 1,
            prune: true,
            images: 4096,
            inner: 128,
            seed: 1,
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            stop_at_first: true,
            time: None,
            stop: Arc::default(),
        }
    }

    /// More of all: every pair of changes, more of the longer workloads, and two cuts inside repairs, for as long as there is
    /// time.
    #[must_use]
    pub fn long(time: Duration) -> Config {
        Config {
            scopes: vec![
                Scope::Bounded { changes: 1 },
                Scope::Faults,
                Scope::Random { workloads: 300 },
                Scope::Bounded { changes: 2 },
            ],
            depth: 2,
            images: 1 << 16,
            inner: 2048,
            time: Some(time),
            ..Config::quick()
        }
    }

    /// What shows that a part of the protocol is missed: single changes, first those that are most likely to, and faults; a few
    /// images at each moment.
    #[must_use]
    pub fn without(mutant: Mutant) -> Config {
        let likely = |w: &Workload| match mutant {
            Mutant::UpdatingPass
            | Mutant::WriteOrder
            | Mutant::DeleteOrder
            | Mutant::AdmitAll
            | Mutant::StandIn => w.ways == 2,
            Mutant::TieRule | Mutant::LabelChecksum | Mutant::SlotCheck | Mutant::Contested => {
                w.changes.contains(&Change::Damage)
            }
            Mutant::Wipe
            | Mutant::WipeOrder
            | Mutant::WipeDrain
            | Mutant::WipeWhole
            | Mutant::WipeVersions
            | Mutant::FreshDrain => w.changes.iter().any(|c| c.is_raw()),
            Mutant::RestoreRest | Mutant::RestoreOrder | Mutant::RestoreDrain => {
                w.changes.contains(&Change::Restore)
            }
            _ => w.ways == 1,
        };
        let mut small: Vec<Workload> = all(1).into_iter().filter(|w| w.area == 1024).collect();
        small.sort_by_key(|w| !likely(w));
        let mut scopes = vec![Scope::These(small), Scope::Faults, Scope::Bounded { changes: 1 }];
        if mutant == Mutant::LocalChange {
            scopes.swap(0, 1);
        }
        Config {
            scopes,
            mutant: Some(mutant),
            // What is half-zeroed is missed where a second try is cut.
            depth: u32::from(mutant == Mutant::WipeVersions),
            images: 256,
            ..Config::quick()
        }
    }

    /// The workloads of all scopes and models, in order.
    fn jobs(&self) -> Vec<(Model, Workload, Bounds)> {
        let mut jobs = Vec::new();
        for scope in &self.scopes {
            // What is long, or has more than two DIMMs, has fewer images at each moment: it costs many times as much.
            let long = matches!(scope, Scope::Random { .. });
            let bounds = |workload: &Workload| {
                let less = if long || workload.ways > 2 { 16 } else { 1 };
                Bounds {
                    depth: self.depth,
                    prune: self.prune,
                    images: self.images.div_ceil(less),
                    inner: self.inner.div_ceil(less),
                }
            };
            let workloads = match scope {
                Scope::These(workloads) => workloads.clone(),
                Scope::Random { workloads, .. } => {
                    (0..*workloads).map(|n| random(self.seed.wrapping_add(n))).collect()
                }
                Scope::Bounded { changes } => all(*changes),
                Scope::Faults => faults(),
            };
            // One shape under all models before the next.
            for workload in workloads {
                // A damaged word is damaged under all of them alike.
                let models = if workload.changes.contains(&Change::Damage) { 1 } else { self.models.len() };
                let bounds = bounds(&workload);
                jobs.extend(self.models.iter().take(models).map(|model| (*model, workload.clone(), bounds)));
            }
        }
        jobs
    }
}

/// Two renames, of which the first one fails at its N-th operation: two passes, two structures on each DIMM, three operations.
fn faults() -> Vec<Workload> {
    let mut found = Vec::new();
    for (ways, area) in SHAPES {
        for version in Version::ALL {
            for fault in 0..u16::from(ways) * 12 {
                for turn in if ways > 2 { 0..1 } else { 0..2 } {
                    let changes = vec![Change::Rename, Change::Rename];
                    let fault = Some(fault);
                    found.push(Workload { version, ways, area, turn, neighbours: 0, fault, changes });
                }
            }
        }
    }
    found.retain(Workload::is_sound);
    found
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Workloads that are over.
    pub done: usize,
    /// Workloads in all.
    pub of: usize,
    /// What was met so far.
    pub counts: Counts,
}

impl From<&Violation> for ViolationSummary {
    fn from(v: &Violation) -> ViolationSummary {
        ViolationSummary {
            seed: v.case.to_string(),
            what: v.what.clone(),
            workload: v.case.workload.to_string(),
            lost: v.lost_stores(),
        }
    }
}

/// What an exploration found.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Workloads that were explored, each once for each model.
    pub workloads: usize,
    /// Workloads that there are.
    pub of: usize,
    /// Moments at which the power was cut.
    pub states: u64,
    /// Sets of images that cuts there left, and cuts inside repairs.
    pub images: u64,
    /// Those of them that were cut out of repairs.
    pub images_in_recovery: u64,
    /// Different sets of images that were repaired and judged; the others were equal to one of the same workload.
    pub recoveries: u64,
    /// Different ones of which Linux shows nothing until they are settled: changes of sets that were cut between two DIMMs.
    pub given_up_by_linux: u64,
    /// Moments with too many sets of images, of which a sample was taken.
    pub sampled: u64,
    /// Whether the time ran out first.
    pub out_of_time: bool,
    /// Whether somebody said stop.
    pub interrupted: bool,
    /// Seconds.
    pub elapsed: f64,
    /// The first failure of each workload that failed, fewest changes first.
    pub violations: Vec<ViolationSummary>,
    /// The first of them, whole.
    #[serde(skip)]
    pub first: Option<Violation>,
}

/// A thread that explores: whole again when it is done.
struct Thread;

impl Drop for Thread {
    fn drop(&mut self) {
        leave_out(None);
    }
}

/// Explores. `progress` is called after each workload, by any thread.
pub fn run(config: &Config, progress: &(dyn Fn(&Progress) + Sync)) -> Result<Summary> {
    let begun = Instant::now();
    let jobs = config.jobs();
    let limits = Limits {
        threads: config.threads,
        stop_at_first: config.stop_at_first,
        stop_at: config.time.map(|time| begun + time),
        stop: &config.stop,
    };
    let Done { workloads, counts, mut found, out_of_time, interrupted } = share(
        &jobs,
        &limits,
        || Thread,
        |(model, workload, bounds)| {
            let mut explorer = Explorer::new(workload, *model, config.mutant, *bounds)?;
            explorer.explore(&config.stop);
            Ok((explorer.counts, explorer.worst))
        },
        Counts::add,
        |done, counts| progress(&Progress { done, of: jobs.len(), counts: *counts }),
    )?;
    found.sort_by_key(|(number, v)| (v.case.workload.changes.len(), *number));
    Ok(Summary {
        workloads,
        of: jobs.len(),
        states: counts.states,
        images: counts.images + counts.inner,
        images_in_recovery: counts.inner,
        recoveries: counts.recoveries,
        given_up_by_linux: counts.given_up,
        sampled: counts.sampled,
        out_of_time,
        interrupted,
        elapsed: begun.elapsed().as_secs_f64(),
        violations: found.iter().map(|(_, v)| v.into()).collect(),
        first: found.into_iter().next().map(|(_, v)| v),
    })
}

/// One failure, seen again.
#[derive(Debug)]
pub struct Replay {
    /// The operations on the media, in order.
    pub steps: Vec<String>,
    /// The label area of each DIMM as the cut left it.
    pub images: Vec<Image>,
    /// What is wrong with them; none if nothing is.
    pub what: Option<String>,
}

/// Runs one case again, and judges its images.
///
/// [`Kind::Invalid`] if there is no such moment in the workload.
pub fn replay(case: &Case) -> Result<Replay> {
    let bounds = Bounds { depth: 1, prune: true, images: 16384, inner: 1024 };
    let wrong = || Error::new(Kind::Invalid, "replay").found(case).accepted("a moment of its workload");
    if !case.workload.is_sound() {
        return Err(wrong());
    }
    let mut explorer = Explorer::new(&case.workload, case.model, case.mutant, bounds)?;
    let seen = explorer.replay(case);
    leave_out(None);
    let (steps, images, what) = seen.ok_or_else(wrong)?;
    Ok(Replay { steps, images, what })
}
