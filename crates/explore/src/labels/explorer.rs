// SPDX-License-Identifier: MIT OR Apache-2.0
//! One workload under one model: every moment, every set of images.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nvstack_label_sim::sim::{Mutant, leave_out};
use nvstack_media::Result;
use nvstack_sim::{Image, Lost, Model};

use super::case::{Case, Violation};
use super::damage;
use super::judge::{Expect, Judge};
use super::moment::{Moment, Recorder, hash};
use super::workload::{Change, Step, Workload, open};
use crate::judge::Through;

/// How a workload is explored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) depth: u32,
    pub(crate) prune: bool,
    pub(crate) images: u64,
    pub(crate) inner: u64,
}

/// What an exploration met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Moments at which the power was cut.
    pub states: u64,
    /// Sets of images that cuts there left, before any is told to be the same as another.
    pub images: u64,
    /// Different ones that were read by the engine and by the second reader, settled, done again and deleted, those inside
    /// repairs included.
    pub recoveries: u64,
    /// Sets of images that cuts inside repairs left.
    pub inner: u64,
    /// Different ones of which Linux shows no namespace in the region until they are settled.
    pub given_up: u64,
    /// Moments with more sets of images than the bound, of which a sample was taken.
    pub sampled: u64,
}

impl Counts {
    /// Adds others to these.
    pub const fn add(&mut self, other: &Counts) {
        self.states += other.states;
        self.images += other.images;
        self.recoveries += other.recoveries;
        self.inner += other.inner;
        self.given_up += other.given_up;
        self.sampled += other.sampled;
    }
}

/// Explores one workload.
pub(crate) struct Explorer<'w> {
    workload: &'w Workload,
    model: Model,
    mutant: Option<Mutant>,
    bounds: Bounds,
    steps: Vec<Step>,
    start: Vec<Image>,
    pub(crate) counts: Counts,
    pub(crate) worst: Option<Violation>,
    /// Whether the fault of the workload came to pass.
    pub(crate) failed: bool,
}

/// What was done, and how far it came.
struct Run {
    moments: Vec<Moment>,
    wrong: Option<String>,
    failed: bool,
}

impl<'w> Explorer<'w> {
    /// For a workload. The areas at first are made by the whole protocol.
    pub(crate) fn new(
        workload: &'w Workload,
        model: Model,
        mutant: Option<Mutant>,
        bounds: Bounds,
    ) -> Result<Explorer<'w>> {
        leave_out(None);
        let steps = workload.steps().unwrap_or_default();
        let start = workload.images()?;
        leave_out(mutant);
        Ok(Explorer {
            workload,
            model,
            mutant,
            bounds,
            steps,
            start,
            counts: Counts::default(),
            worst: None,
            failed: false,
        })
    }

    /// Does the changes one after the other.
    fn run(&self) -> Run {
        let (recorder, media) =
            Recorder::media(&self.start, self.model, self.workload.fault.map(usize::from));
        let mut wrong = None;
        match open(&media) {
            Err(e) => wrong = Some(format!("open: {e}")),
            Ok(mut areas) => {
                for step in &self.steps {
                    let failed = recorder.failed();
                    match step.run(&mut areas) {
                        // What failed because of the fault is tried again, in the next step, by the same areas.
                        Err(_) if !failed && recorder.failed() => {}
                        Err(e) => {
                            wrong = Some(format!("{}: {e}", step.change.name()));
                            break;
                        }
                        Ok(()) => {}
                    }
                    recorder.answer();
                }
            }
        }
        let failed = recorder.failed();
        Run { moments: recorder.end(), wrong, failed }
    }

    /// What may be found at a moment.
    fn expect(&self, moment: &Moment, failed: bool, last: bool) -> Option<Expect<'_>> {
        let step = self.steps.get(moment.answered).or(self.steps.last())?;
        let mut allowed = vec![step.before.clone(), step.after.clone()];
        if moment.answered >= self.steps.len() {
            allowed.remove(0);
        } else if failed && moment.answered > 0 {
            allowed.push(self.steps.first()?.before.clone());
        }
        if step.change.is_raw() && moment.answered < self.steps.len() {
            allowed.push(None);
        }
        // After the last change, nothing is half-way.
        let whole = last && moment.answered >= self.steps.len();
        Some(Expect { step, number: moment.answered * 2 + usize::from(whole), allowed, whole })
    }

    /// Goes through all there is, unless it is told to stop. The first failure, if any, is in `worst` then.
    pub(crate) fn explore(&mut self, stop: &Arc<AtomicBool>) {
        if self.workload.changes.contains(&Change::Damage) {
            self.damages();
            return;
        }
        let run = self.run();
        self.failed = run.failed;
        let bounds = self.bounds;
        let mut judge = Judge::new(self.model, self.workload.ways, bounds.depth, bounds.inner, bounds.prune);
        judge.stop = Arc::clone(stop);
        let mut seen: HashSet<u128, BuildHasherDefault<Through>> = HashSet::default();
        let mut counts = Counts::default();
        let mut worst = None;
        let mut between = 0;
        for (number, moment) in run.moments.iter().enumerate() {
            counts.states += 1;
            // An end is judged whatever led to it: nothing may be pending then.
            if moment.same && number + 1 < run.moments.len() {
                continue;
            }
            counts.sampled += u64::from(moment.count() > u128::from(bounds.images));
            let last = number + 1 == run.moments.len();
            let Some(mut expect) = self.expect(moment, run.failed, last) else { break };
            if moment.answered > between && moment.answered < self.steps.len() {
                // An answered change is durable, and the next one has not stored anything.
                between = moment.answered;
                if !run.failed {
                    expect.allowed = vec![expect.step.before.clone()];
                    expect.whole = true;
                    expect.number += 1;
                }
            }
            let (given, end) = moment.each(bounds.images, |choices, images| {
                if stop.load(Ordering::Relaxed) {
                    return ControlFlow::Break(None);
                }
                let new = seen.insert(hash(images) ^ expect.number as u128);
                if bounds.prune && !new {
                    return ControlFlow::Continue(());
                }
                match judge.judge(images, &expect) {
                    Ok(_) => ControlFlow::Continue(()),
                    Err(what) => ControlFlow::Break(Some((choices.to_vec(), what))),
                }
            });
            counts.images += given;
            match end {
                Some(Some((choices, what))) => {
                    let what = format!("before {}: {what}", moment.event);
                    worst = Some(self.violation(number, choices, what, moment));
                    break;
                }
                Some(None) => break,
                None => {}
            }
        }
        if worst.is_none()
            && let (Some(what), Some(moment)) = (run.wrong, run.moments.last())
        {
            worst = Some(self.violation(run.moments.len() - 1, Vec::new(), what, moment));
        }
        counts.recoveries = judge.judged.recoveries;
        counts.inner = judge.judged.inner;
        counts.given_up = judge.judged.given_up;
        counts.sampled += judge.judged.sampled;
        self.counts.add(&counts);
        if let Some(worst) = &mut worst {
            worst.states = self.counts.states;
        }
        self.worst = worst;
    }

    fn violation(&self, number: usize, choices: Vec<Vec<u16>>, what: String, moment: &Moment) -> Violation {
        let lost: Vec<(usize, Lost)> = (moment.cuts.iter().zip(&choices).enumerate())
            .flat_map(|(dimm, (cuts, choice))| cuts.lost(choice).into_iter().map(move |lost| (dimm, lost)))
            .collect();
        let case = self.case(number as u64, choices);
        Violation { case, what, lost, states: 0 }
    }

    fn case(&self, moment: u64, choices: Vec<Vec<u16>>) -> Case {
        let workload = self.workload.clone();
        Case { model: self.model, mutant: self.mutant, workload, moment, choices }
    }

    fn damages(&mut self) {
        let Some(first) = self.start.first().cloned() else { return };
        for number in 0..damage::count(&first) {
            let Some(damaged) = damage::damaged(&first, number) else { continue };
            self.counts.images += 1;
            self.counts.recoveries += 1;
            let mut images = self.start.clone();
            images[0] = damaged;
            if let Err(what) = damage::judge(&images, self.model) {
                let case = self.case(number, Vec::new());
                let what = what.to_string();
                self.worst = Some(Violation { case, what, lost: Vec::new(), states: number });
                return;
            }
        }
    }

    /// One failure again: what was done, the images, and what is wrong with them.
    pub(crate) fn replay(&mut self, case: &Case) -> Option<(Vec<String>, Vec<Image>, Option<String>)> {
        if self.workload.changes.contains(&Change::Damage) {
            let mut images = self.start.clone();
            images[0] = damage::damaged(&images[0], case.moment)?;
            let what = damage::judge(&images, self.model).err().map(|e| e.to_string());
            return Some((Vec::new(), images, what));
        }
        let run = self.run();
        let number = usize::try_from(case.moment).ok()?;
        let moment = run.moments.get(number)?;
        let last = number + 1 == run.moments.len();
        let images = moment.images(&case.choices);
        let mut expect = self.expect(moment, run.failed, last)?;
        let answered_before = number.checked_sub(1).and_then(|n| run.moments.get(n)).map(|m| m.answered);
        if answered_before.is_some_and(|n| n < moment.answered)
            && moment.answered < self.steps.len()
            && !run.failed
        {
            expect.allowed = vec![expect.step.before.clone()];
            expect.whole = true;
        }
        let bounds = self.bounds;
        let mut judge = Judge::new(self.model, self.workload.ways, bounds.depth, bounds.inner, bounds.prune);
        let what = judge.judge(&images, &expect).err().map(|e| e.to_string());
        let what = what.or(run.wrong.clone().filter(|_| last));
        let steps = run.moments.iter().take(number).map(|m| m.event.clone()).collect();
        Some((steps, images, what))
    }
}
