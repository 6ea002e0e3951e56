// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every power cut while an fsdax or devdax is laid out, and while descriptors of its pages are changed.
//!
//! The real engine lays a namespace out over what one held before, or somebody writes the info block alone
//! (`write-infoblock`), or descriptors are set. Before each store, flush and drain the power is cut in every way that the model
//! allows. There is then no info block, the old one whole with its descriptors, or the new one whole with none set; and of a
//! descriptor the old version or the new one. The engine and a naive second reader must agree.

mod judge;
mod workload;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Instant;

use nvstack_media::Result;
pub use nvstack_pfn_sim::sim::Mutant;
use nvstack_pfn_sim::sim::leave_out;
use nvstack_sim::Model;
use serde::Serialize;

use crate::labels::moment::{Moment, Recorder, hash};
use judge::Judge;
pub use workload::{Before, Deed, Workload};

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
    /// End after the first workload that fails.
    pub stop_at_first: bool,
}

impl Config {
    /// Everything under all models: seconds.
    #[must_use]
    pub fn quick() -> Config {
        Config {
            workloads: workload::all(),
            models: Model::ALL.to_vec(),
            mutant: None,
            images: 2048,
            kills: true,
            stop_at_first: true,
        }
    }

    /// The same with more images.
    #[must_use]
    pub fn long() -> Config {
        Config { images: 1 << 16, ..Config::quick() }
    }
}

/// A failure.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// What was wrong.
    pub what: String,
    /// What was done, and the model.
    pub workload: String,
    /// The operation before which the power went.
    pub moment: String,
    /// The stores that the image does not have: offset, value, and source line.
    pub lost: Vec<String>,
}

/// What an exploration found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Workloads that were explored, each once for each model.
    pub workloads: usize,
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
    /// Seconds.
    pub elapsed: f64,
    /// The first failure of each workload that failed.
    pub violations: Vec<Violation>,
}

/// Explores.
pub fn run(config: &Config) -> Result<Summary> {
    let begun = Instant::now();
    let mut summary = Summary::default();
    for workload in &config.workloads {
        for model in &config.models {
            let outcome = explore(workload, *model, config, &mut summary);
            leave_out(None);
            summary.workloads += 1;
            summary.violations.extend(outcome?);
            if config.stop_at_first && !summary.violations.is_empty() {
                summary.elapsed = begun.elapsed().as_secs_f64();
                return Ok(summary);
            }
        }
    }
    summary.elapsed = begun.elapsed().as_secs_f64();
    Ok(summary)
}

fn explore(
    workload: &Workload,
    model: Model,
    config: &Config,
    summary: &mut Summary,
) -> Result<Option<Violation>> {
    leave_out(None);
    let start = workload.start()?;
    let mut judge = Judge::new(workload, model, start.clone())?;
    leave_out(config.mutant);
    let (recorder, media) = Recorder::media(std::slice::from_ref(&start), model, None);
    let Some(medium) = media.first() else { return Ok(None) };
    let mut wrong = None;
    for step in 0..workload.steps() {
        if let Err(e) = workload.run(medium, step) {
            wrong = Some(format!("step {step}: {e}"));
            break;
        }
        recorder.answer();
    }
    let moments = recorder.end();
    let mut seen = HashSet::new();
    let name = format!("{workload} ({model})");
    if let Some(found) = look(&moments, &mut judge, config, summary, &mut seen, &name, wrong) {
        return Ok(Some(found));
    }
    if !config.kills {
        return Ok(None);
    }
    // The process is killed at each moment, and another one opens what is seen, and goes on.
    for fail_at in 0..moments.len() {
        let (recorder, media) = Recorder::killed(&start, model, fail_at);
        let Some(medium) = media.first() else { return Ok(None) };
        let answered = (0..workload.steps())
            .find(|step| workload.run(medium, *step).is_err())
            .unwrap_or(workload.steps());
        recorder.end();
        let Some((recorder, survivor)) = recorder.survivor(answered) else { break };
        summary.kills += 1;
        let wrong = workload.survive(&survivor, answered, &mut || recorder.answer());
        let wrong = wrong.err().map(|e| format!("after a kill: {e}"));
        let name = format!("{workload}, killed before operation {fail_at} ({model})");
        if let Some(found) = look(&recorder.end(), &mut judge, config, summary, &mut seen, &name, wrong) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Judges every image of some moments. `wrong` is what was wrong anyway.
fn look(
    moments: &[Moment],
    judge: &mut Judge<'_>,
    config: &Config,
    summary: &mut Summary,
    seen: &mut HashSet<(u128, usize)>,
    name: &str,
    mut wrong: Option<String>,
) -> Option<Violation> {
    for (number, moment) in moments.iter().enumerate() {
        summary.states += 1;
        let last = number + 1 == moments.len();
        if moment.same && !last {
            continue;
        }
        summary.sampled += u64::from(moment.count() > u128::from(config.images));
        let answered = moment.answered;
        let (given, found) = moment.each(config.images, |choices, images| {
            if !seen.insert((hash(images), answered)) {
                return ControlFlow::Continue(());
            }
            summary.recoveries += 1;
            let Some(image) = images.first() else { return ControlFlow::Continue(()) };
            match judge.judge(image, answered) {
                Ok(()) => ControlFlow::Continue(()),
                Err(what) => ControlFlow::Break((choices.to_vec(), what)),
            }
        });
        summary.images += given;
        let what = match (found, wrong.take_if(|_| last)) {
            (Some((choices, what)), _) => (choices, what),
            (None, Some(what)) => (Vec::new(), what),
            (None, None) => continue,
        };
        let lost = moment.cuts.iter().zip(&what.0).flat_map(|(cuts, choice)| cuts.lost(choice));
        let line = |l: nvstack_sim::Lost| {
            let file = l.site.file().rsplit('/').next().unwrap_or_default();
            format!("{:#x} = {:#018x} from {file}:{}", l.at, l.value, l.site.line())
        };
        return Some(Violation {
            what: what.1,
            workload: name.to_owned(),
            moment: moment.event.clone(),
            lost: lost.map(line).collect(),
        });
    }
    None
}
