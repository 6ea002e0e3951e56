// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a configuration to a summary.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvstack_btt_sim::sim::Mutant;
use nvstack_media::{Error, Kind, Result};
use nvstack_sim::{Image, Model};
use serde::Serialize;

use crate::case::{Case, Violation};
use crate::creation::Creation;
use crate::damage::{self, Damager};
use crate::explorer::{Bounds, Counts, Explorer};
use crate::schedule::Thread;
use crate::share::{Done, Limits, ViolationSummary, line, share};
use crate::workload::{Op, Start, Workload, all_tasks, random};

/// What is explored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every workload with up to so many requests over two tasks and two sectors, on new arenas; with fewer requests
    /// by one also on arenas with a past.
    Bounded {
        /// Requests.
        operations: usize,
    },
    /// So many workloads of up to four tasks, four requests each, by number from the seed on, each with so many schedules.
    Random {
        /// Workloads.
        workloads: u64,
        /// Schedules of each.
        schedules: u64,
    },
    /// As `Bounded`, on new arenas, with one operation on the medium that fails, wherever it can.
    Faults {
        /// Requests.
        operations: usize,
    },
    /// These, each with one operation on the medium that fails, wherever it can.
    Failing(Vec<Workload>),
    /// As `Bounded`, on new arenas, with blocks that become unreadable and readable again among the requests.
    Lost {
        /// Requests, and changes of the medium.
        operations: usize,
    },
    /// As `Bounded`; and at each moment the process is killed, and the power cut while another one opens the device and goes on.
    Kills {
        /// Requests.
        operations: usize,
    },
    /// A BTT is laid out: over nothing, over bytes of any kind, over an old one of its own sector size and of another.
    Creation,
    /// Each word of the tables is changed to many values, and so many pairs of words; each byte of an info block is
    /// changed. No cut leaves that: it is refused, or does no harm.
    Damage {
        /// Pairs.
        pairs: u64,
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
    /// How often the power is cut again inside recovery.
    pub depth: u32,
    /// Whether states and images that were met before are skipped.
    pub prune: bool,
    /// Images at one moment; of more, a sample.
    pub images: u64,
    /// States of one workload.
    pub states: u64,
    /// Operations on the medium that fail in one run, each wherever it can.
    pub faults: u32,
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
    /// All workloads of up to three requests, under all models, with a second cut inside each recovery; failing operations,
    /// lost blocks, creation and damage; some larger workloads. Millions of images, in less than a minute on two cores.
    #[must_use]
    pub fn quick() -> Config {
        Config {
            scopes: vec![
                Scope::Bounded { operations: 3 },
                Scope::Faults { operations: 2 },
                Scope::Failing(overwritten()),
                Scope::Lost { operations: 3 },
                Scope::Kills { operations: 1 },
                Scope::These(found()),
                Scope::Creation,
                Scope::Damage { pairs: 10_000 },
                Scope::Random { workloads: 500, schedules: 20 },
            ],
            models: Model::ALL.to_vec(),
            mutant: None,
            depth: 1,
            prune: true,
            images: 4096,
            states: 1_000_000,
            faults: 0,
            seed: 1,
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            stop_at_first: true,
            time: Some(Duration::from_secs(55)),
            stop: Arc::default(),
        }
    }

    /// What a test run explores: all workloads of up to four requests, and otherwise more of what [`Config::quick`] does.
    /// More than ten million images.
    #[must_use]
    pub fn normal() -> Config {
        Config {
            scopes: vec![
                Scope::Bounded { operations: 4 },
                Scope::Faults { operations: 3 },
                Scope::Lost { operations: 4 },
                Scope::Kills { operations: 2 },
                Scope::Creation,
                Scope::Damage { pairs: 100_000 },
                Scope::Random { workloads: 400, schedules: 20 },
            ],
            time: None,
            ..Config::quick()
        }
    }

    /// The long run: all workloads of up to five requests, a third cut, and many larger workloads. More than five hundred
    /// million images.
    #[must_use]
    pub fn long() -> Config {
        Config {
            scopes: vec![
                Scope::Bounded { operations: 5 },
                Scope::Faults { operations: 4 },
                Scope::Lost { operations: 5 },
                Scope::Kills { operations: 3 },
                Scope::Creation,
                Scope::Damage { pairs: 1_000_000 },
                Scope::Random { workloads: LONG_RANDOM, schedules: 40 },
            ],
            depth: 2,
            time: None,
            ..Config::quick()
        }
    }

    fn bounds(&self, scope: &Scope) -> Bounds {
        let schedules = match scope {
            Scope::Random { schedules, .. } => Some(*schedules),
            _ => None,
        };
        Bounds {
            depth: self.depth,
            prune: self.prune,
            schedules,
            states: self.states,
            images: if let Scope::Damage { pairs } = scope { *pairs } else { self.images },
            faults: self.faults.max(u32::from(matches!(scope, Scope::Faults { .. } | Scope::Failing(_)))),
            kills: matches!(scope, Scope::Kills { .. }),
            seed: self.seed,
        }
    }

    /// The workloads of all scopes and models, in order.
    fn jobs(&self) -> Vec<(Model, Workload, Bounds)> {
        let mut jobs = Vec::new();
        for scope in &self.scopes {
            let bounds = self.bounds(scope);
            for model in &self.models {
                let kinds: &[Op] = if *model == Model::Pages {
                    &[Op::Write(0), Op::Fua(0), Op::Zero(0), Op::Read(0), Op::Flush]
                } else {
                    &[Op::Write(0), Op::Zero(0), Op::Read(0)]
                };
                let workloads = match scope {
                    Scope::These(workloads) => workloads.clone(),
                    Scope::Random { workloads, .. } => {
                        (0..*workloads).map(|n| random(self.seed.wrapping_add(n), kinds)).collect()
                    }
                    Scope::Bounded { operations } => bounded(kinds, *operations),
                    Scope::Kills { operations } => {
                        // All of them with a past, too: zeros over zeros tell nothing.
                        let mut workloads = bounded(kinds, operations.saturating_add(1));
                        workloads.retain(|w| w.operations() <= *operations);
                        workloads
                    }
                    Scope::Failing(workloads) => workloads.clone(),
                    Scope::Creation => [Start::Fresh, Start::Bad, Start::Worn, Start::Old]
                        .map(|start| Workload { lanes: 0, far: false, start, tasks: vec![vec![Op::Create]] })
                        .to_vec(),
                    // What is damaged has nothing to do with what persists when; but writers differ.
                    Scope::Damage { .. } if !matches!(model, Model::X86 | Model::Pages) => Vec::new(),
                    Scope::Damage { .. } => (Start::ALL.into_iter())
                        .filter(|start| *start != Start::Bad)
                        .map(|start| (2, start))
                        .chain([(0, Start::Fresh)])
                        .map(|(lanes, start)| Workload {
                            lanes,
                            far: false,
                            start,
                            tasks: vec![vec![Op::Damage]],
                        })
                        .collect(),
                    Scope::Faults { operations } => fresh(kinds, *operations, false),
                    Scope::Lost { operations } => {
                        let kinds: Vec<Op> = kinds.iter().copied().chain([Op::Lose(0), Op::Clear]).collect();
                        let mut workloads = fresh(&kinds, *operations, true);
                        let loses = |w: &Workload| w.tasks.iter().flatten().any(|o| matches!(o, Op::Lose(_)));
                        workloads.retain(loses);
                        workloads
                    }
                };
                jobs.extend(workloads.into_iter().map(|w| (*model, w, bounds)));
            }
        }
        // Few requests first, so that the first failure is a short one.
        jobs.sort_by_key(|(_, workload, _)| match workload.special() {
            // Cheap, and dear.
            Some(Op::Damage) => 2,
            Some(_) => 4,
            None => workload.operations(),
        });
        jobs
    }
}

/// Workloads that found something once and are larger than what is gone through quickly.
fn found() -> Vec<Workload> {
    ["2.near.fresh:p0,r0,c/r0"].iter().filter_map(|text| text.parse().ok()).collect()
}

/// Sectors that wait for their commit and are overwritten where they lie.
fn overwritten() -> Vec<Workload> {
    let some = ["2.near.fresh:w0,w0,f", "2.near.worn:w0,w0,z0,f", "2.near.fresh:w0,w0,r0,u1"];
    some.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Larger workloads of the long run, under each model.
const LONG_RANDOM: u64 = 30_000;

fn fresh(kinds: &[Op], operations: usize, near: bool) -> Vec<Workload> {
    let places: &[bool] = if near { &[false] } else { &[false, true] };
    let new = |tasks: Vec<Vec<Op>>| {
        places.iter().map(move |far| Workload {
            lanes: 2,
            far: *far,
            start: Start::Fresh,
            tasks: tasks.clone(),
        })
    };
    all_tasks(kinds, operations).into_iter().flat_map(new).collect()
}

fn bounded(kinds: &[Op], operations: usize) -> Vec<Workload> {
    let mut workloads = Vec::new();
    for tasks in all_tasks(kinds, operations) {
        let total: usize = tasks.iter().map(Vec::len).sum();
        let starts: &[Start] = if total < operations { &Start::ALL } else { &[Start::Fresh] };
        for start in starts {
            for far in [false, true] {
                if total == operations && far && tasks.len() == 1 {
                    continue;
                }
                workloads.push(Workload { lanes: 2, far, start: *start, tasks: tasks.clone() });
            }
        }
    }
    workloads.sort_by_key(Workload::operations);
    workloads
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
            lost: v.lost.iter().map(line).collect(),
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
    /// Images that cuts there left, and cuts inside recoveries.
    pub images: u64,
    /// Those of them that were cut out of recoveries.
    pub images_in_recovery: u64,
    /// Moments at which the process was killed, and another one went on.
    pub kills: u64,
    /// Those of the images that cuts left after that.
    pub images_after_kill: u64,
    /// Different images that were recovered and judged; the others were equal to one of the same workload.
    pub recoveries: u64,
    /// Images that no cut leaves, with bytes of the tables changed: refused, or harmless.
    pub damaged: u64,
    /// Runs of the tasks.
    pub runs: u64,
    /// Moments with too many images, of which a sample was taken.
    pub sampled: u64,
    /// Workloads that were not explored to the end.
    pub cut_short: u64,
    /// Whether the time ran out first.
    pub out_of_time: bool,
    /// Whether somebody said stop.
    pub interrupted: bool,
    /// Seconds.
    pub elapsed: f64,
    /// The shortest failure of each workload that failed, fewest requests first.
    pub violations: Vec<ViolationSummary>,
    /// The first of them, whole.
    #[serde(skip)]
    pub first: Option<Violation>,
}

/// Explores one workload.
fn explore(
    workload: &Workload,
    model: Model,
    mutant: Option<Mutant>,
    bounds: &Bounds,
    is_over: &dyn Fn() -> bool,
) -> Result<(Counts, Option<Violation>)> {
    match workload.special() {
        Some(Op::Create) => Creation::new(workload.start, model)?.explore(workload, mutant, bounds),
        Some(_) if workload.lanes == 0 => damage::explore_whole(workload, model, mutant),
        Some(_) => Ok(Damager::new(workload, model)?.explore(mutant, bounds)),
        None => {
            let mut explorer = Explorer::new(workload, model, mutant, *bounds)?;
            explorer.explore(is_over);
            Ok((explorer.counts, explorer.worst))
        }
    }
}

/// Explores. `progress` is called after each workload, by any thread.
pub fn run(config: &Config, progress: &(dyn Fn(&Progress) + Sync)) -> Result<Summary> {
    if config.mutant.is_some() && !crate::MUTANTS {
        return Err(Error::new(Kind::Unsupported, "leave out part of the protocol")
            .found("a build without the feature mutants")
            .accepted("one with it"));
    }
    let begun = Instant::now();
    let stop_at = config.time.map(|time| begun + time);
    let jobs = config.jobs();
    let limits =
        Limits { threads: config.threads, stop_at_first: config.stop_at_first, stop_at, stop: &config.stop };
    let is_over = || stop_at.is_some_and(|at| Instant::now() >= at) || config.stop.load(Ordering::Relaxed);
    let Done { workloads, counts, mut found, out_of_time, interrupted } = share(
        &jobs,
        &limits,
        || Thread::hold(config.mutant),
        |(model, workload, bounds)| explore(workload, *model, config.mutant, bounds, &is_over),
        Counts::add,
        |done, counts| progress(&Progress { done, of: jobs.len(), counts: *counts }),
    )?;
    found.sort_by_key(|(number, v)| (v.case.workload.operations(), *number));
    Ok(Summary {
        workloads,
        of: jobs.len(),
        states: counts.states,
        images: counts.images + counts.inner + counts.killed,
        kills: counts.kills,
        images_after_kill: counts.killed,
        images_in_recovery: counts.inner,
        recoveries: counts.recoveries,
        damaged: counts.damaged,
        runs: counts.runs,
        sampled: counts.sampled,
        cut_short: counts.cut_short,
        out_of_time,
        interrupted,
        elapsed: begun.elapsed().as_secs_f64(),
        violations: found.iter().map(|(_, v)| v.into()).collect(),
        first: found.into_iter().next().map(|(_, v)| v),
    })
}

/// Every pair of an image and of what it may hold that a workload leads to, as hashes. Pruning may not change it.
///
/// [`Kind::Corrupt`] if there is a failure, which it names.
pub fn reachable(workload: &Workload, model: Model, prune: bool) -> Result<HashSet<(u128, u64)>> {
    let _thread = Thread::hold(None);
    let bounds = Config { prune, ..Config::quick() }.bounds(&Scope::These(Vec::new()));
    let mut explorer = Explorer::new(workload, model, None, bounds)?;
    explorer.pairs = Some(HashSet::new());
    explorer.explore(&|| false);
    match explorer.worst {
        None => Ok(explorer.pairs.unwrap_or_default()),
        Some(v) => Err(Error::new(Kind::Corrupt, "explore").found(v.what).accepted(v.case)),
    }
}

/// One failure, seen again.
#[derive(Debug)]
pub struct Replay {
    /// The operations on the medium, in order.
    pub steps: Vec<String>,
    /// The image that the cut left.
    pub image: Image,
    /// What is wrong with it; none if nothing is.
    pub what: Option<String>,
}

/// Runs one case again, and judges its image.
///
/// [`Kind::Invalid`] if the steps don't fit the workload.
pub fn replay(case: &Case) -> Result<Replay> {
    let _thread = Thread::hold(case.mutant);
    let bounds = Bounds {
        depth: 1,
        prune: true,
        images: 4096,
        schedules: None,
        states: u64::MAX,
        faults: 0,
        kills: false,
        seed: 1,
    };
    let (trace, image, what) = match case.workload.special() {
        Some(Op::Create) => {
            let (trace, image, what) = Creation::new(case.workload.start, case.model)?.replay(case)?;
            (trace.iter().map(ToString::to_string).collect(), image, what)
        }
        Some(_) if case.workload.lanes == 0 => {
            let image = damage::whole_image(case.choice.first().copied().unwrap_or(0))?;
            let what = damage::judge_whole(&image, case.model);
            (Vec::new(), image, what)
        }
        Some(_) => {
            let damager = Damager::new(&case.workload, case.model)?;
            let image = damager.image(&case.choice);
            let what = damager.judge(&image).err();
            (Vec::new(), image, what)
        }
        None => Explorer::new(&case.workload, case.model, case.mutant, bounds)?
            .replay(case)
            .map_err(|e| Error::new(Kind::Invalid, "replay").found(case).accepted(e))?,
    };
    Ok(Replay { steps: trace, image, what })
}
