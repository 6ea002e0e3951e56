// SPDX-License-Identifier: MIT OR Apache-2.0
//! One workload under one model: every interleaving, every moment, every image.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::ops::ControlFlow;
use std::sync::Arc;

use nvstack_btt_sim::sim::Mutant;
use nvstack_media::Result;
use nvstack_sim::{Hook, Image, Model, SimMedium, mix};

use crate::case::{Case, Violation};
use crate::content::Contents;
use crate::judge::{Judge, Through};
use crate::kill::kill;
use crate::naive;
use crate::oracle::{Allowed, Oracle};
use crate::schedule::{Gate, Stacks, Tasks, Turn};
use crate::workload::{Start, Workload};

/// In a schedule: the process was killed before, and the survivor made a step.
pub(crate) const SURVIVOR: u8 = 25;

type Hashes = HashSet<u128, BuildHasherDefault<Through>>;

/// How a workload is explored.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How often the power is cut again inside recovery.
    pub depth: u32,
    /// States and images that were met before are not looked at again.
    pub prune: bool,
    /// Images at one moment; of more, a sample.
    pub images: u64,
    /// Schedules: all of them, or so many at random.
    pub schedules: Option<u64>,
    /// States after which a workload is left as it is; told as `cut_short`.
    pub states: u64,
    /// Operations on the medium that fail, each wherever it can, in one run.
    pub faults: u32,
    /// Whether at each moment the process is also killed, and another one goes on.
    pub kills: bool,
    /// For what is random.
    pub seed: u64,
}

/// What an exploration met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Moments at which the power was cut, each different from all others of its workload.
    pub states: u64,
    /// Images that cuts there left, before any is told to be the same as another.
    pub images: u64,
    /// Images that were recovered and judged, those inside recoveries included.
    pub recoveries: u64,
    /// Images that cuts inside recoveries left.
    pub inner: u64,
    /// Times that the tasks were run from the start.
    pub runs: u64,
    /// Moments with more images than the bound, of which a sample was taken.
    pub sampled: u64,
    /// Workloads that were not explored to the end.
    pub cut_short: u64,
    /// Images that no cut leaves: bytes of the tables were changed.
    pub damaged: u64,
    /// Moments at which the process was killed and another one went on.
    pub kills: u64,
    /// Images that cuts left after that.
    pub killed: u64,
}

impl Counts {
    /// Adds others to these.
    pub const fn add(&mut self, other: &Counts) {
        self.states += other.states;
        self.images += other.images;
        self.recoveries += other.recoveries;
        self.inner += other.inner;
        self.runs += other.runs;
        self.sampled += other.sampled;
        self.cut_short += other.cut_short;
        self.damaged += other.damaged;
        self.kills += other.kills;
        self.killed += other.killed;
    }
}

/// A place where the tasks could have gone on in another way.
struct Fork {
    taken: Turn,
    left: Vec<Turn>,
}

/// Explores one workload.
pub(crate) struct Explorer<'w> {
    workload: &'w Workload,
    model: Model,
    mutant: Option<Mutant>,
    bounds: Bounds,
    judge: Judge,
    start: Image,
    seen: Hashes,
    /// What survivors began with, and what they might find.
    survived: Hashes,
    /// What was met: counts.
    pub(crate) counts: Counts,
    /// The shortest failure.
    pub(crate) worst: Option<Violation>,
    /// Every pair of an image and what it may hold, if they are wanted.
    pub(crate) pairs: Option<HashSet<(u128, u64)>>,
}

impl<'w> Explorer<'w> {
    /// For a workload.
    pub(crate) fn new(
        workload: &'w Workload,
        model: Model,
        mutant: Option<Mutant>,
        bounds: Bounds,
    ) -> Result<Explorer<'w>> {
        let judge = Judge::new(workload, model, bounds.depth, bounds.prune)?;
        let start = start(workload, &judge)?;
        Ok(Explorer {
            workload,
            model,
            mutant,
            bounds,
            judge,
            start,
            seen: Hashes::default(),
            survived: Hashes::default(),
            counts: Counts::default(),
            worst: None,
            pairs: None,
        })
    }

    /// Begins the workload anew.
    fn begin(&mut self, stacks: &mut Stacks) -> Result<(SimMedium, Tasks), String> {
        let found = self.judge.judge(&self.start).map_err(|e| format!("before the workload: {e}"))?;
        let gate = Arc::new(Gate::default());
        let medium =
            SimMedium::hooked(self.start.clone(), self.model, Arc::<Gate>::clone(&gate) as Arc<dyn Hook>);
        let device = self.judge.open(medium.clone(), false).map_err(|e| format!("open: {e}"))?;
        let oracle = self.oracle(found.contents)?;
        self.counts.runs += 1;
        Ok((medium, Tasks::start(self.workload, device, *self.judge.places(), gate, oracle, stacks)))
    }

    /// What the sectors hold before anything is asked for: of lost ones, what may come back.
    fn oracle(&self, contents: Contents) -> Result<Oracle, String> {
        let mut whole = self.start.clone();
        whole.heal(0, whole.len());
        let under = naive::decode(&whole, self.judge.places())?;
        let under = under.contents(&whole, self.judge.places(), self.judge.sectors());
        let sectors = self.workload.sectors();
        let mut oracle = Oracle::new(under, sectors, self.model != Model::Pages);
        for sector in (0..sectors).filter(|s| contents.get(*s) != under.get(*s)) {
            oracle.lose(sector, under.get(sector));
        }
        Ok(oracle)
    }

    /// Runs through all there is. The shortest failure, if any, is in `worst` then.
    pub(crate) fn explore(&mut self, is_over: &dyn Fn() -> bool) {
        let mut stacks = Stacks::of_thread();
        match self.bounds.schedules {
            Some(schedules) => {
                for number in 0..schedules {
                    let mut random = mix(self.bounds.seed ^ number);
                    self.run(&mut stacks, &mut Vec::new(), &mut |ready| {
                        random = mix(random);
                        ((random >> 16) % ready as u64) as usize
                    });
                    if self.is_over(is_over) {
                        return;
                    }
                }
            }
            None => {
                let mut forks: Vec<Fork> = Vec::new();
                loop {
                    self.run(&mut stacks, &mut forks, &mut |_| 0);
                    while forks.last().is_some_and(|f| f.left.is_empty()) {
                        forks.pop();
                    }
                    let Some(fork) = forks.last_mut() else { return };
                    let Some(next) = fork.left.pop() else { return };
                    fork.taken = next;
                    if self.is_over(is_over) {
                        return;
                    }
                }
            }
        }
    }

    fn is_over(&mut self, is_over: &dyn Fn() -> bool) -> bool {
        let over = self.counts.states >= self.bounds.states || is_over();
        self.counts.cut_short += u64::from(over);
        over
    }

    /// Runs the tasks once: along the forks, then as `choose` says, until there is nothing new.
    fn run(&mut self, stacks: &mut Stacks, forks: &mut Vec<Fork>, choose: &mut dyn FnMut(usize) -> usize) {
        let (medium, mut tasks) = match self.begin(stacks) {
            Ok(begun) => begun,
            Err(e) => {
                self.note(&[], &[], e, Vec::new());
                return;
            }
        };
        let all = self.bounds.schedules.is_none();
        let mut schedule: Vec<u8> = Vec::new();
        let (mut last, mut faults) = (0, 0);
        loop {
            let step = schedule.len();
            let old = all && step < forks.len();
            if !old && !self.look(&medium, &tasks, &schedule) && all {
                break;
            }
            let ready: Vec<usize> = tasks.ready().collect();
            if ready.is_empty() {
                if !tasks.done() {
                    self.note(&schedule, &[], "every task waits for another".into(), Vec::new());
                }
                break;
            }
            let taken = match forks.get(step).filter(|_| old) {
                Some(fork) => fork.taken,
                None if all => {
                    // Whoever ran goes on, if it can: so the first run has the fewest changes.
                    let task = if ready.contains(&last) { last } else { ready.first().copied().unwrap_or(0) };
                    let others = ready.iter().filter(|t| **t != task);
                    let mut left: Vec<Turn> = Vec::new();
                    if faults < self.bounds.faults {
                        let failing = ready.iter().filter(|t| tasks.may_fail(**t));
                        left.extend(failing.map(|task| Turn { task: *task, fails: true }));
                    }
                    left.extend(others.map(|task| Turn { task: *task, fails: false }));
                    let taken = Turn { task, fails: false };
                    forks.push(Fork { taken, left });
                    taken
                }
                None => {
                    let task = ready.get(choose(ready.len())).copied().unwrap_or(0);
                    let fails = faults < self.bounds.faults && tasks.may_fail(task) && choose(16) == 0;
                    Turn { task, fails }
                }
            };
            last = taken.task;
            faults += u32::from(taken.fails);
            schedule.push(taken.code());
            tasks.step(taken);
        }
        tasks.finish(stacks);
    }

    /// Cuts the power now, if this moment is a new one. False if it is not.
    fn look(&mut self, medium: &SimMedium, tasks: &Tasks, schedule: &[u8]) -> bool {
        let oracle = tasks.oracle();
        if self.bounds.prune {
            let key = medium.state_hash() ^ u128::from(mix(oracle.hash() ^ mix(tasks.places())));
            if !self.seen.insert(key) {
                return false;
            }
        }
        self.counts.states += 1;
        if let Some(wrong) = &oracle.wrong {
            let wrong = wrong.clone();
            drop(oracle);
            self.note(schedule, &[], wrong, Vec::new());
            return true;
        }
        let allowed = oracle.allowed(self.workload.sectors());
        let at_rest = oracle.at_rest();
        drop(oracle);
        let cuts = medium.cuts();
        self.counts.sampled += u64::from(cuts.count() > u128::from(self.bounds.images));
        let mut found: Option<(Vec<u16>, String)> = None;
        let judge = &mut self.judge;
        let pairs = &mut self.pairs;
        let seed = mix(self.bounds.seed ^ self.counts.states);
        let (images, _) = cuts.each(self.bounds.images, seed, |choice, image| {
            if let Some(pairs) = pairs {
                pairs.insert((image.hash(), allowed.hash()));
            }
            let wrong = match judge.judge(image) {
                Ok(found) => allowed.finds(found.contents).or_else(|| found.unrest(at_rest)),
                Err(wrong) => Some(wrong.to_string()),
            };
            if let Some(wrong) = wrong {
                let lost = |choice: &[u16]| cuts.lost(choice).len();
                if found.as_ref().is_none_or(|(best, _)| lost(choice) < lost(best)) {
                    found = Some((choice.to_vec(), wrong));
                }
            }
            ControlFlow::<()>::Continue(())
        });
        self.counts.images += images;
        self.counts.recoveries = self.judge.recoveries;
        self.counts.inner = self.judge.inner;
        if let Some((choice, wrong)) = found {
            let lost = cuts.lost(&choice);
            self.note(schedule, &choice, wrong, lost);
        }
        if self.bounds.kills {
            self.kill(medium, &allowed, schedule);
        }
        true
    }

    /// Kills the process at this moment, if no other one left the same.
    fn kill(&mut self, medium: &SimMedium, allowed: &Allowed, schedule: &[u8]) {
        let left = medium.survival_hash() ^ u128::from(mix(allowed.hash()));
        if self.bounds.prune && !self.survived.insert(left) {
            return;
        }
        let outcome = kill(medium, self.model, &mut self.judge, allowed, None);
        self.counts.kills += 1;
        self.counts.killed += outcome.images;
        self.counts.recoveries = self.judge.recoveries;
        self.counts.inner = self.judge.inner;
        if let Some(wrong) = outcome.wrong {
            let steps = usize::try_from(wrong.step).unwrap_or(usize::MAX);
            let mut schedule = schedule.to_vec();
            schedule.extend(std::iter::repeat_n(SURVIVOR, steps));
            self.note(&schedule, &wrong.choice, wrong.what, wrong.lost);
        }
    }

    /// Keeps a failure if it is shorter than what is known.
    fn note(&mut self, schedule: &[u8], choice: &[u16], what: String, lost: Vec<nvstack_sim::Lost>) {
        let changes = schedule.windows(2).filter(|w| w[0] != w[1]).count();
        let size = (changes, schedule.len(), lost.len());
        if self.worst.as_ref().is_some_and(|w| w.size <= size) {
            return;
        }
        let case = Case {
            model: self.model,
            mutant: self.mutant,
            workload: self.workload.clone(),
            schedule: schedule.to_vec(),
            choice: choice.to_vec(),
        };
        self.worst = Some(Violation { case, what, lost, size, states: self.counts.states });
    }

    /// Runs one schedule again and gives the medium as it was then, with the operations so far, and the image of the cut.
    pub(crate) fn replay(&mut self, case: &Case) -> Result<(Vec<String>, Image, Option<String>), String> {
        let mut stacks = Stacks::of_thread();
        let (medium, mut tasks) = match self.begin(&mut stacks) {
            Ok(begun) => begun,
            // That it does not even begin may be what is wrong.
            Err(wrong) if case.schedule.is_empty() => {
                return Ok((Vec::new(), self.start.clone(), Some(wrong)));
            }
            Err(wrong) => return Err(wrong),
        };
        // What led to where each task first stops was done already: opening, and nothing else.
        medium.record();
        let before = case.schedule.iter().position(|code| *code == SURVIVOR).unwrap_or(case.schedule.len());
        let (schedule, after) = case.schedule.split_at(before);
        for turn in schedule.iter().map(|code| Turn::from_code(*code)) {
            if !tasks.ready().any(|t| t == turn.task) || turn.fails && !tasks.may_fail(turn.task) {
                return Err("the schedule does not fit the workload".into());
            }
            tasks.step(turn);
        }
        let (wrong, allowed, at_rest) = {
            let oracle = tasks.oracle();
            (oracle.wrong.clone(), oracle.allowed(self.workload.sectors()), oracle.at_rest())
        };
        if !after.is_empty() {
            let steps = u32::try_from(after.len()).unwrap_or(u32::MAX);
            let trace: Vec<String> = medium.trace().iter().map(ToString::to_string).collect();
            let outcome = kill(&medium, self.model, &mut self.judge, &allowed, Some((steps, &case.choice)));
            tasks.finish(&mut stacks);
            let killed =
                std::iter::once("the process is killed, and another one opens the device".to_owned());
            let trace = trace.into_iter().chain(killed).chain(outcome.events).collect();
            let image = outcome.image.unwrap_or_else(|| medium.image());
            return Ok((trace, image, outcome.wrong.map(|w| w.what)));
        }
        let trace = medium.trace().iter().map(ToString::to_string).collect();
        let image = medium.cuts().image(&case.choice);
        let stuck = tasks.ready().next().is_none() && !tasks.done();
        tasks.finish(&mut stacks);
        let wrong = wrong.or_else(|| stuck.then(|| "every task waits for another".to_owned()));
        let wrong = wrong.or_else(|| match self.judge.judge(&image) {
            Ok(found) => allowed.finds(found.contents).or_else(|| found.unrest(at_rest)),
            Err(wrong) => Some(wrong.to_string()),
        });
        Ok((trace, image, wrong))
    }
}

/// The image that a workload begins with.
pub(crate) fn start(workload: &Workload, judge: &Judge) -> Result<Image> {
    let places = *judge.places();
    let mut image = Image::zeros(judge.size()?);
    naive::lay_out(&mut image, &places);
    match workload.start {
        Start::Fresh => {}
        Start::Worn => {
            naive::write(&mut image, &places, (0, 1), 0, 0xd1, false);
            naive::write(&mut image, &places, (0, 1), 0, 0xd2, false);
        }
        Start::Cut => naive::write(&mut image, &places, (0, 1), 0, 0xd1, true),
        Start::Old => naive::write(&mut image, &places, (0, 2), 0, 0xd1, false),
        Start::Lost => naive::lose(&mut image, &places, 0),
        Start::Bad => {
            image.lose(places.data, 512);
            image.lose(places.data + u64::from(places.sectors) * 512, 512);
        }
    }
    Ok(image)
}
