// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every power cut while an fsdax or devdax is laid out, and while descriptors of its pages are changed.
//!
//! The real engine lays a namespace out over what one held before, or somebody writes the info block alone
//! (`write-infoblock`), or descriptors are set. Before each store, flush and drain the power is cut in every way that the model
//! allows. There is then no info block, the old one whole with its descriptors, or the new one whole with none set; and of a
//! descriptor the old version or the new one. The engine and a naive second reader must agree.
//!
//! * [`run`] explores what a [`Config`] says and gives a [`Summary`].
//! * [`replay`] shows one failure again, from the line that names it.
//! * [`Config::mutant`] leaves out a part of the protocol, and the exploration must notice.

mod case;
mod judge;
mod workload;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvstack_media::{Error, Kind, Result};
pub use nvstack_pfn_sim::sim::Mutant;
use nvstack_pfn_sim::sim::leave_out;
use nvstack_sim::{Image, Lost, Model};
use serde::Serialize;

use crate::labels::moment::{Moment, Recorder, hash};
use crate::share::{Done, Limits, ViolationSummary, share};
pub use case::{Case, Violation, mutant};
use judge::Judge;
pub use workload::{Before, Deed, Workload, all};

/// How to explore.
#[derive(Clone, Debug)]
pub struct Config {
    /// What.
    pub workloads: Vec<Workload>,
    /// Under which models.
    pub models: Vec<Model>,
    /// The part of the protocol that is left out.
    pub mutant: Option<Mutant>,
    /// Images at one moment; of more, a sample.
    pub images: u64,
    /// Whether at each moment the process is also killed, and another one goes on.
    pub kills: bool,
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
    /// Everything under all models: seconds.
    #[must_use]
    pub fn quick() -> Config {
        Config {
            workloads: all(),
            models: Model::ALL.to_vec(),
            mutant: None,
            images: 2048,
            kills: true,
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            stop_at_first: true,
            time: None,
            stop: Arc::default(),
        }
    }

    /// The same with more images.
    #[must_use]
    pub fn long() -> Config {
        Config { images: 1 << 16, ..Config::quick() }
    }
}

/// What an exploration met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Moments at which the power was cut.
    pub states: u64,
    /// Images that cuts there left.
    pub images: u64,
    /// Moments at which the process was killed, and another one went on.
    pub kills: u64,
    /// Different ones that were judged.
    pub recoveries: u64,
    /// Moments with too many images, of which a sample was taken.
    pub sampled: u64,
}

impl Counts {
    /// Adds others to these.
    pub const fn add(&mut self, other: &Counts) {
        self.states += other.states;
        self.images += other.images;
        self.kills += other.kills;
        self.recoveries += other.recoveries;
        self.sampled += other.sampled;
    }
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

/// What an exploration found.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Workloads that were explored, each once for each model.
    pub workloads: usize,
    /// Workloads that there are.
    pub of: usize,
    /// Moments at which the power was cut.
    pub states: u64,
    /// Images that cuts there left.
    pub images: u64,
    /// Moments at which the process was killed, and another one went on.
    pub kills: u64,
    /// Different ones that were judged.
    pub recoveries: u64,
    /// Moments with too many images, of which a sample was taken.
    pub sampled: u64,
    /// Whether the time ran out first.
    pub out_of_time: bool,
    /// Whether somebody said stop.
    pub interrupted: bool,
    /// Seconds.
    pub elapsed: f64,
    /// The first failure of each workload that failed.
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
    let of_workload = |workload: &Workload| config.models.iter().map(|model| (*workload, *model)).collect();
    let jobs: Vec<(Workload, Model)> = config.workloads.iter().flat_map::<Vec<_>, _>(of_workload).collect();
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
        |(workload, model)| explore(workload, *model, config),
        Counts::add,
        |done, counts| progress(&Progress { done, of: jobs.len(), counts: *counts }),
    )?;
    found.sort_by_key(|(number, _)| *number);
    Ok(Summary {
        workloads,
        of: jobs.len(),
        states: counts.states,
        images: counts.images,
        kills: counts.kills,
        recoveries: counts.recoveries,
        sampled: counts.sampled,
        out_of_time,
        interrupted,
        elapsed: begun.elapsed().as_secs_f64(),
        violations: found.iter().map(|(_, v)| v.into()).collect(),
        first: found.into_iter().next().map(|(_, v)| v),
    })
}

/// What was done, cut everywhere.
struct Run {
    moments: Vec<Moment>,
    wrong: Option<String>,
}

impl Run {
    /// All of a workload.
    fn whole(workload: &Workload, model: Model, start: &Image) -> Run {
        let (recorder, media) = Recorder::media(std::slice::from_ref(start), model, None);
        let mut wrong = None;
        for (step, medium) in (0..workload.steps()).zip(media.iter().cycle()) {
            if let Err(e) = workload.run(medium, step) {
                wrong = Some(format!("step {step}: {e}"));
                break;
            }
            recorder.answer();
        }
        Run { moments: recorder.end(), wrong }
    }

    /// What another process does after the first one was killed before an operation, by its number. None if it was done
    /// before that.
    fn killed(workload: &Workload, model: Model, start: &Image, at: usize) -> Option<Run> {
        let (recorder, media) = Recorder::killed(start, model, at);
        let medium = media.first()?;
        let failed = |step: &usize| workload.run(medium, *step).is_err();
        let answered = (0..workload.steps()).find(failed).unwrap_or(workload.steps());
        recorder.end();
        let (recorder, survivor) = recorder.survivor(answered)?;
        let wrong = workload.survive(&survivor, answered, &mut || recorder.answer());
        let wrong = wrong.err().map(|e| format!("after a kill: {e}"));
        Some(Run { moments: recorder.end(), wrong })
    }
}

/// A judge, with the part that is left out left out from now on.
fn begin(workload: &Workload, model: Model, mutant: Option<Mutant>) -> Result<(Judge<'_>, Image)> {
    leave_out(None);
    let start = workload.start()?;
    let judge = Judge::new(workload, model, start.clone())?;
    leave_out(mutant);
    Ok((judge, start))
}

fn explore(workload: &Workload, model: Model, config: &Config) -> Result<(Counts, Option<Violation>)> {
    let (mut judge, start) = begin(workload, model, config.mutant)?;
    let mut counts = Counts::default();
    let mut seen = HashSet::new();
    let case = |killed, moment, choice| Case {
        model,
        mutant: config.mutant,
        workload: *workload,
        killed,
        moment,
        choice,
    };
    let run = Run::whole(workload, model, &start);
    let moments = run.moments.len();
    if let Some((moment, choice, what, lost)) = look(run, &mut judge, config, &mut counts, &mut seen) {
        return Ok((counts, Some(Violation { case: case(None, moment, choice), what, lost })));
    }
    // The process is killed at each moment, and another one opens what is seen, and goes on.
    for at in 0..if config.kills { moments } else { 0 } {
        if config.stop.load(Ordering::Relaxed) {
            break;
        }
        let Some(run) = Run::killed(workload, model, &start, at) else { break };
        counts.kills += 1;
        if let Some((moment, choice, what, lost)) = look(run, &mut judge, config, &mut counts, &mut seen) {
            let case = case(Some(at as u64), moment, choice);
            return Ok((counts, Some(Violation { case, what, lost })));
        }
    }
    Ok((counts, None))
}

/// Judges every image of some moments. Of the first that is wrong: its moment, its choice, what is wrong, and what it lacks.
fn look(
    run: Run,
    judge: &mut Judge<'_>,
    config: &Config,
    counts: &mut Counts,
    seen: &mut HashSet<(u128, usize)>,
) -> Option<(u64, Vec<u16>, String, Vec<Lost>)> {
    let Run { moments, mut wrong } = run;
    for (number, moment) in moments.iter().enumerate() {
        if config.stop.load(Ordering::Relaxed) {
            break;
        }
        counts.states += 1;
        let last = number + 1 == moments.len();
        if moment.same && !last {
            continue;
        }
        counts.sampled += u64::from(moment.count() > u128::from(config.images));
        let answered = moment.answered;
        let (given, found) = moment.each(config.images, |choices, images| {
            if !seen.insert((hash(images), answered)) {
                return ControlFlow::Continue(());
            }
            counts.recoveries += 1;
            let (Some(image), Some(choice)) = (images.first(), choices.first()) else {
                return ControlFlow::Continue(());
            };
            match judge.judge(image, answered) {
                Ok(()) => ControlFlow::Continue(()),
                Err(what) => ControlFlow::Break((choice.clone(), what)),
            }
        });
        counts.images += given;
        let (choice, what) = match (found, wrong.take_if(|_| last)) {
            (Some(found), _) => found,
            (None, Some(what)) => (Vec::new(), what),
            (None, None) => continue,
        };
        let lost = moment.cuts.first().map(|cuts| cuts.lost(&choice)).unwrap_or_default();
        return Some((number as u64, choice, format!("before {}: {what}", moment.event), lost));
    }
    None
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
/// [`Kind::Invalid`] if there is no such moment in the workload.
pub fn replay(case: &Case) -> Result<Replay> {
    let _thread = Thread;
    let (mut judge, start) = begin(&case.workload, case.model, case.mutant)?;
    let run = match case.killed {
        None => Some(Run::whole(&case.workload, case.model, &start)),
        Some(at) => {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            Run::killed(&case.workload, case.model, &start, at)
        }
    };
    let refused = || Error::new(Kind::Invalid, "replay").found(case).accepted("a moment of its workload");
    let Run { moments, wrong } = run.ok_or_else(refused)?;
    let of_case = || {
        let number = usize::try_from(case.moment).ok()?;
        let moment = moments.get(number)?;
        let image = moment.images(std::slice::from_ref(&case.choice)).into_iter().next()?;
        Some((number, moment, image))
    };
    let (number, moment, image) = of_case().ok_or_else(refused)?;
    let what = judge.judge(&image, moment.answered).err();
    let what = what.or(wrong.filter(|_| number + 1 == moments.len()));
    let what = what.map(|what| format!("before {}: {what}", moment.event));
    let steps = moments.iter().take(number).map(|m| m.event.clone()).collect();
    Ok(Replay { steps, image, what })
}
