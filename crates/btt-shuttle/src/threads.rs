// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads at a device, and what is asked of them.

use std::io::{IoSlice, IoSliceMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_media::{Domain, Result};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner, thread};

use crate::gate::Gate;
use crate::history::History;
use crate::medium::{Medium, SECTOR, whole};
use crate::sync::{self, Break};
use crate::ticker::Ticker;

/// Sectors of the device. Those that are used: neighbours in one stripe of the map, and one in the other.
const SECTORS: u32 = 17;
const USED: [u64; 3] = [0, 1, 16];

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every write is durable by itself.
    Direct,
    /// In groups, as on a plain file.
    Grouped,
}

impl Kind {
    fn domain(self) -> Domain {
        match self {
            Kind::Direct => Domain::Memory,
            Kind::Grouped => Domain::PageCache,
        }
    }
}

struct Shared {
    kind: Kind,
    medium: Medium,
    gate: Gate,
    history: History,
    zero_entries: bool,
}

impl Shared {
    /// Writes the same number to sectors; tells whether the device was there.
    fn change(&self, sectors: &[u64], value: u64, durable: bool, work: impl FnOnce() -> Result<()>) -> bool {
        let writes: Vec<_> =
            sectors.iter().map(|sector| self.history.begins(*sector, value, durable)).collect();
        let done = work();
        match &done {
            Ok(()) => writes.iter().for_each(|write| self.history.ended(*write)),
            Err(_) => self.history.refused(&writes),
        }
        self.came_back(done)
    }

    fn came_back(&self, done: Result<()>) -> bool {
        match done {
            Ok(()) => {
                // Whoever was told that something is durable may cut the power now.
                self.history.check_kept(&self.medium.recovered(), self.kind == Kind::Direct);
                true
            }
            Err(e) => {
                assert_eq!(e.kind(), nvstack_media::Kind::Gone, "{e}");
                false
            }
        }
    }

    fn read(&self, first: u64, count: usize) -> bool {
        let mut bytes = vec![0xee; count * SECTOR];
        let from = self.history.now();
        let (a, b) = bytes.split_at_mut(SECTOR);
        let mut into = vec![IoSliceMut::new(a)];
        if !b.is_empty() {
            into.push(IoSliceMut::new(b));
        }
        let done = self.gate.read(Lba(first), &mut into);
        if done.is_ok() {
            for (sector, bytes) in (first..).zip(bytes.chunks_exact(SECTOR)) {
                self.history.seen(sector, whole(bytes), from);
            }
        }
        self.came_back(done)
    }

    /// One request, whatever it is; false if the device is gone.
    fn request(&self, value: u64) -> bool {
        let mut dice = thread_rng();
        let sector = USED[dice.gen_range(0..USED.len())];
        // Sector 2 is nobody's but a request's for two.
        let two = sector < 2 && dice.gen_bool(0.25);
        let sectors: Vec<u64> = (sector..=sector + u64::from(two)).collect();
        let count = sectors.len();
        let fua = dice.gen_bool(0.25);
        let flags = if fua { WriteFlags::FUA } else { WriteFlags::empty() };
        match dice.gen_range(0..10) {
            0..=3 => {
                let bytes: Vec<u8> = value.to_le_bytes().repeat(count * SECTOR / 8);
                self.change(&sectors, value, fua, || {
                    self.gate.write(Lba(sector), &[IoSlice::new(&bytes)], flags)
                })
            }
            4..=6 => self.read(sector, count),
            7 => self.change(&sectors, 0, fua, || {
                self.gate.write_zeroes(Lba(sector), u64::try_from(count).unwrap(), flags)
            }),
            8 if self.zero_entries => self
                .change(&sectors, 0, false, || self.gate.discard(Lba(sector), u64::try_from(count).unwrap())),
            _ => self.flush(),
        }
    }

    fn flush(&self) -> bool {
        let from = self.history.now();
        let done = self.gate.flush();
        if done.is_ok() {
            self.history.flushed(from);
        }
        self.came_back(done)
    }
}

/// One execution: a fresh device, three or four threads, perhaps one that takes the device away, and a power cut.
fn execute(kind: Kind) {
    sync::begin();
    let mut dice = thread_rng();
    let lanes = dice.gen_range(1..=3);
    let zero_entries = dice.gen_bool(0.5);
    let ticking = kind == Kind::Grouped && dice.gen_bool(0.3);
    let removed = dice.gen_bool(0.3);
    if ticking {
        sync::thread::let_time_pass();
    }
    let medium = Medium::new(SECTORS, lanes, kind.domain());
    let btt = Arc::new(medium.open(zero_entries).unwrap());
    let ticker = ticking.then(|| Ticker::start(&btt).unwrap());
    let kept_alive = Arc::downgrade(&btt);
    let gate = Gate::new(btt, "shuttle");
    let shared = Arc::new(Shared { kind, medium, gate, history: History::default(), zero_entries });

    let threads: Vec<_> = (1..=dice.gen_range(3..=4))
        .map(|number| {
            let shared = Arc::clone(&shared);
            let requests = dice.gen_range(1..=3);
            thread::spawn(move || {
                let there = (1..=requests).map(|n| shared.request(number * 10 + n)).collect::<Vec<_>>();
                assert!(there.is_sorted_by(|before, after| before >= after), "a device that came back");
            })
        })
        .collect();
    if removed {
        // As the stack unbinds a disk: what works for it ends, it is flushed, and then it goes.
        drop(ticker);
        shared.flush();
        shared.gate.close().unwrap();
        assert!(kept_alive.upgrade().is_none(), "kept alive");
        assert!(!shared.read(0, 1), "a request after the removal");
    } else {
        drop(ticker);
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let all = |read: &dyn Fn(u64) -> bool| (0..3).chain([16]).for_each(|sector| assert!(read(sector)));
    if !removed {
        all(&|sector| shared.read(sector, 1));
        shared.gate.close().unwrap();
    }

    // The power is cut. What comes back is what recovery promises, and goes on from there.
    let after = shared.medium.after_power_cut();
    let promised = after.recovered();
    shared.history.check_kept(&promised, kind == Kind::Direct);
    shared.history.check_order();
    let btt = after.open(zero_entries).unwrap();
    for (sector, value) in (0..).zip(&promised) {
        let mut bytes = [0; SECTOR];
        btt.read(Lba(sector), &mut [IoSliceMut::new(&mut bytes)]).unwrap();
        assert_eq!(whole(&bytes), *value, "sector {sector} as recovery promised it");
    }
}

fn runner<S: Scheduler + 'static>(scheduler: S, loud: bool) -> Runner<S> {
    let mut config = Config::new();
    config.failure_persistence = if loud { FailurePersistence::Print } else { FailurePersistence::None };
    Runner::new(scheduler, config)
}

/// Runs so many schedules, half of them wholly random, half with few interruptions at random places; ten times as many in a
/// long run. A failure prints the schedule, for `shuttle::replay`.
pub fn check(name: &str, kind: Kind, schedules: usize) {
    let each = if nvstack_tally::long() { schedules * 10 } else { schedules } / 2;
    let ran = runner(RandomScheduler::new(each), true).run(move || execute(kind));
    let ran = ran + runner(PctScheduler::new(3, each), true).run(move || execute(kind));
    nvstack_tally::tally("concurrency", name, "schedules", u64::try_from(ran).unwrap());
}

/// The same with something broken, which must be noticed.
pub fn notices(name: &str, kind: Kind, what: Break, schedules: usize) {
    sync::set_broken(Some(what));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runner(PctScheduler::new(3, schedules), false).run(move || execute(kind))
    }));
    sync::set_broken(None);
    match outcome {
        Err(_) => eprintln!("{name}: {what:?} is missed"),
        Ok(count) => panic!("{name}: nobody missed {what:?} in {count} schedules"),
    }
}
