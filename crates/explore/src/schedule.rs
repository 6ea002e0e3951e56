// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tasks that run the real code in turns, on one thread: each stops before every operation on the medium, and where it
//! would wait for a lock, and somebody else decides who goes on.

use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use generator::{Generator, Gn};
use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_btt_sim::Btt;
use nvstack_btt_sim::sim;
use nvstack_media::{Error, Kind, Media, MediaOffset, Result};
use nvstack_sim::{Event, Hook, Operation, SimMedium, mix};

use crate::content;
use crate::judge::read;
use crate::naive::{self, Places};
use crate::oracle::Oracle;
use crate::workload::{Op, Workload};

/// Words of a task's stack.
const STACK: usize = 0x4000;

/// Why a task stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Before an operation on the medium.
    Step(Operation),
    /// Between two accesses to shared memory.
    Point,
    /// Somebody has a lock that it needs.
    Wait,
    /// It is done.
    Done,
}

thread_local! {
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

/// Stops the running task. Nothing but the medium and the locks, far below the task, knows when: so the running task is
/// found through its thread, which the crate calls the old way.
#[expect(deprecated, reason = "a scope can't be handed down through the engine")]
fn stop(why: Stop) {
    generator::yield_with(why);
}

fn wait() -> bool {
    let inside = generator::is_generator();
    if inside {
        stop(Stop::Wait);
    }
    inside
}

fn point() {
    if generator::is_generator() {
        stop(Stop::Point);
    }
}

/// Takes hold of this thread for as long as it lives: tasks that wait for locks let others run.
pub(crate) struct Thread;

impl Thread {
    /// Takes hold, and leaves a part of the protocol out.
    pub(crate) fn hold(mutant: Option<sim::Mutant>) -> Thread {
        sim::hold(Some(sim::Hook { wait, point, task: || RUNNING.with(Cell::get) }));
        sim::leave_out(mutant);
        Thread
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        sim::hold(None);
        sim::leave_out(None);
    }
}

/// Stops tasks before each operation.
#[derive(Default)]
pub(crate) struct Gate {
    current: AtomicUsize,
    open: AtomicBool,
    /// The operation before which the running task stood is to fail.
    fail: AtomicBool,
}

impl Hook for Gate {
    fn step(&self, event: &Event) -> Result<()> {
        if !self.open.load(Ordering::Relaxed) && generator::is_generator() {
            stop(Stop::Step(event.operation));
            if self.fail.swap(false, Ordering::Relaxed) {
                return Err(
                    Error::new(Kind::Io, "use simulated medium").found("a failure that was asked for")
                );
            }
        }
        Ok(())
    }

    fn task(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }
}

type Task = Generator<'static, (), Stop>;

/// Which task goes on, and whether the medium lets it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) task: usize,
    pub(crate) fails: bool,
}

impl Turn {
    /// As a case keeps it.
    pub(crate) const fn code(self) -> u8 {
        (self.task as u8) & 0x7f | if self.fails { 0x80 } else { 0 }
    }

    /// Out of a case.
    pub(crate) const fn from_code(code: u8) -> Turn {
        Turn { task: (code & 0x7f) as usize, fails: code & 0x80 != 0 }
    }
}

/// Tasks that are over, whose stacks the next ones use.
#[derive(Default)]
pub(crate) struct Stacks(Vec<Task>);

thread_local! {
    static STACKS: RefCell<Vec<Task>> = const { RefCell::new(Vec::new()) };
}

impl Stacks {
    /// Those that earlier workloads left to this thread.
    pub(crate) fn of_thread() -> Stacks {
        Stacks(STACKS.with(RefCell::take))
    }
}

impl Drop for Stacks {
    fn drop(&mut self) {
        STACKS.with(|kept| kept.borrow_mut().append(&mut self.0));
    }
}

/// The tasks of a workload, on their way.
pub(crate) struct Tasks {
    tasks: Vec<Task>,
    stops: Vec<Stop>,
    /// Steps of each so far.
    steps: Vec<u64>,
    gate: Arc<Gate>,
    oracle: Arc<Mutex<Oracle>>,
}

fn lock(oracle: &Mutex<Oracle>) -> MutexGuard<'_, Oracle> {
    oracle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tasks {
    /// Starts them, up to where each first stops.
    pub(crate) fn start(
        workload: &Workload,
        device: Btt<SimMedium>,
        places: Places,
        gate: Arc<Gate>,
        oracle: Oracle,
        stacks: &mut Stacks,
    ) -> Tasks {
        let device = Arc::new(device);
        let oracle = Arc::new(Mutex::new(oracle));
        let mut tasks = Tasks { tasks: Vec::new(), stops: Vec::new(), steps: Vec::new(), gate, oracle };
        let mut id = 0;
        for ops in &workload.tasks {
            let work: Vec<(u8, Op, u64)> = ops
                .iter()
                .map(|op| {
                    id += 1;
                    (id, *op, op.sector().map_or(0, |s| workload.lba(s)))
                })
                .collect();
            let (device, oracle) = (Arc::clone(&device), Arc::clone(&tasks.oracle));
            let body = move || {
                for (id, op, lba) in work {
                    run(&device, &places, &oracle, id, op, lba);
                }
                Stop::Done
            };
            let task = match stacks.0.pop() {
                Some(mut task) => {
                    task.init_code(body);
                    task
                }
                None => Gn::new_opt(STACK, body),
            };
            tasks.tasks.push(task);
            tasks.stops.push(Stop::Wait);
            tasks.steps.push(0);
            // What a task does before it first touches the medium is no step of its own.
            tasks.resume(tasks.tasks.len() - 1);
        }
        tasks
    }

    fn resume(&mut self, task: usize) {
        RUNNING.with(|r| r.set(task));
        self.gate.current.store(task, Ordering::Relaxed);
        let stop = self.tasks.get_mut(task).and_then(Generator::resume).unwrap_or(Stop::Done);
        if let Some(slot) = self.stops.get_mut(task) {
            *slot = stop;
        }
    }

    /// Lets a task do one step. Those that wait may find what they wait for afterwards, even if this one waits then, too:
    /// it may have given something up on the way.
    pub(crate) fn step(&mut self, Turn { task, fails }: Turn) {
        if let Some(steps) = self.steps.get_mut(task) {
            *steps += 1;
        }
        if fails && let Ok(mut oracle) = self.oracle.lock() {
            oracle.faults += 1;
        }
        self.gate.fail.store(fails, Ordering::Relaxed);
        self.resume(task);
        self.gate.fail.store(false, Ordering::Relaxed);
        // A task that got one lock may wait for the next one, and have let go of a third: a few rounds without anybody
        // reaching the medium mean that nobody will.
        let mut quiet = 0;
        while quiet < 3 {
            quiet += 1;
            for waiting in 0..self.stops.len() {
                if self.stops.get(waiting) == Some(&Stop::Wait) {
                    self.resume(waiting);
                    if self.stops.get(waiting) != Some(&Stop::Wait) {
                        quiet = 0;
                    }
                }
            }
            if !self.stops.contains(&Stop::Wait) {
                break;
            }
        }
    }

    /// The tasks that can go on.
    pub(crate) fn ready(&self) -> impl Iterator<Item = usize> + '_ {
        self.stops
            .iter()
            .enumerate()
            .filter(|(_, s)| matches!(s, Stop::Step(_) | Stop::Point))
            .map(|(i, _)| i)
    }

    /// Whether what a task is about to do can fail.
    pub(crate) fn may_fail(&self, task: usize) -> bool {
        matches!(self.stops.get(task), Some(Stop::Step(_)))
    }

    /// Where each of them stands.
    pub(crate) fn places(&self) -> u64 {
        let place = |(stop, steps): (&Stop, &u64)| steps << 1 | u64::from(*stop == Stop::Wait);
        self.stops.iter().zip(&self.steps).map(place).fold(0, |h, place| mix(h ^ place))
    }

    /// Whether all are done.
    pub(crate) fn done(&self) -> bool {
        self.stops.iter().all(|s| *s == Stop::Done)
    }

    /// What was asked for and answered so far.
    pub(crate) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        lock(&self.oracle)
    }

    /// Lets all of them run to their ends, whatever the order, and keeps their stacks.
    pub(crate) fn finish(mut self, stacks: &mut Stacks) {
        self.gate.open.store(true, Ordering::Relaxed);
        for _ in 0..1000 {
            if self.done() {
                break;
            }
            for task in 0..self.tasks.len() {
                if self.stops.get(task) != Some(&Stop::Done) {
                    self.resume(task);
                }
            }
        }
        // One that is caught in a deadlock is unwound where it stands.
        stacks.0.extend(self.tasks.drain(..).filter(Generator::is_done));
    }
}

/// Loses the block that the map gives a sector, if it gives it one.
fn lose(device: &Btt<SimMedium>, places: &Places, oracle: &Mutex<Oracle>, sector: u8, lba: u64) {
    let medium = device.media();
    let image = medium.image();
    if let Some(at) = naive::mapped(&image, places, lba as u32) {
        lock(oracle).lose(sector, content::of_block(&image, at));
        let _ = medium.inject_poison(MediaOffset(at), 512);
    }
}

fn run(device: &Btt<SimMedium>, places: &Places, oracle: &Mutex<Oracle>, id: u8, op: Op, lba: u64) {
    let mut begun = None;
    let outcome = match op {
        Op::Write(sector) | Op::Fua(sector) => {
            let fua = matches!(op, Op::Fua(_));
            let flags = if fua { WriteFlags::FUA } else { WriteFlags::empty() };
            let begun = *begun.insert(lock(oracle).write(id, sector, id));
            device
                .write(Lba(lba), &[IoSlice::new(&content::sector(id))], flags)
                .map(|()| lock(oracle).written(begun, fua))
        }
        Op::Zero(sector) => {
            let begun = *begun.insert(lock(oracle).write(id, sector, 0));
            device.write_zeroes(Lba(lba), 1, WriteFlags::empty()).map(|()| lock(oracle).written(begun, false))
        }
        Op::Read(sector) => {
            let begun = *begun.insert(lock(oracle).begin(id));
            read(device, lba).map(|content| lock(oracle).read(begun, sector, content))
        }
        Op::Flush => {
            let begun = *begun.insert(lock(oracle).begin(id));
            device.flush().map(|()| lock(oracle).flushed(begun))
        }
        Op::Lose(sector) => {
            point();
            lose(device, places, oracle, sector, lba);
            Ok(())
        }
        // These are no requests, and have explorers of their own.
        Op::Create | Op::Damage => Ok(()),
        Op::Clear => {
            point();
            device.media().clear_poison(MediaOffset(0), device.media().len())
        }
    };
    if let Err(e) = outcome {
        lock(oracle).failed(begun, &format!("{op} failed: {e}"));
    }
}
