// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tasks do, and on what.

use std::fmt;
use std::str::FromStr;

use nvstack_btt_sim::sim::Small;
use nvstack_media::{Error, Kind};
use nvstack_sim::{Model, mix};

/// One request of a task, on a sector by its number in the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// A write.
    Write(u8),
    /// A write that is durable when it completes.
    Fua(u8),
    /// Write-zeroes, by a zero entry in the map.
    Zero(u8),
    /// A read.
    Read(u8),
    /// A flush.
    Flush,
    /// Not a request: the block of a sector becomes unreadable.
    Lose(u8),
    /// Not a request: everything is readable again, as `ndctl clear-errors` leaves it.
    Clear,
    /// No request: a BTT is laid out. Alone, on a whole arena.
    Create,
    /// No request: bytes of the tables are changed as no cut changes them. Alone.
    Damage,
}

impl Op {
    /// The sector that it is about.
    #[must_use]
    pub const fn sector(self) -> Option<u8> {
        match self {
            Op::Write(s) | Op::Fua(s) | Op::Zero(s) | Op::Read(s) | Op::Lose(s) => Some(s),
            Op::Flush | Op::Clear | Op::Create | Op::Damage => None,
        }
    }

    fn on(self, sector: u8) -> Op {
        match self {
            Op::Write(_) => Op::Write(sector),
            Op::Fua(_) => Op::Fua(sector),
            Op::Zero(_) => Op::Zero(sector),
            Op::Read(_) => Op::Read(sector),
            Op::Flush => Op::Flush,
            Op::Lose(_) => Op::Lose(sector),
            Op::Clear => Op::Clear,
            Op::Create => Op::Create,
            Op::Damage => Op::Damage,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Write(s) => write!(f, "w{s}"),
            Op::Fua(s) => write!(f, "u{s}"),
            Op::Zero(s) => write!(f, "z{s}"),
            Op::Read(s) => write!(f, "r{s}"),
            Op::Flush => f.write_str("f"),
            Op::Lose(s) => write!(f, "p{s}"),
            Op::Clear => f.write_str("c"),
            Op::Create => f.write_str("n"),
            Op::Damage => f.write_str("d"),
        }
    }
}

/// What is on the medium before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    /// A new arena.
    Fresh,
    /// Lane 0 wrote sector 0 twice: its next sequence number comes after 3.
    Worn,
    /// A cut kept the map entry of sector 0 from being written.
    Cut,
    /// A flog of the old padding, with one write in it.
    Old,
    /// Sector 0 was lost: its map entry says so.
    Lost,
    /// The blocks of sector 0 and of lane 0 can't be read.
    Bad,
}

impl Start {
    /// All of them.
    pub const ALL: [Start; 6] = [Start::Fresh, Start::Worn, Start::Cut, Start::Old, Start::Lost, Start::Bad];

    const fn name(self) -> &'static str {
        match self {
            Start::Fresh => "fresh",
            Start::Worn => "worn",
            Start::Cut => "cut",
            Start::Old => "old",
            Start::Lost => "lost",
            Start::Bad => "bad",
        }
    }
}

/// Tasks that run together, and the arena that they run on.
///
/// Written as `2.near.fresh:w0,w1/r0`: two lanes, map entries of neighbouring sectors in one cache line (`far`: each in
/// one of its own), a new arena; then the tasks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Lanes of the arena; 0 for a whole one as the format has it, with 256.
    pub lanes: u8,
    /// Whether the map entries of the sectors lie in lines of their own.
    pub far: bool,
    /// What is there before.
    pub start: Start,
    /// What each task does, one after the other.
    pub tasks: Vec<Vec<Op>>,
}

impl Workload {
    /// How many sectors it is about.
    #[must_use]
    pub fn sectors(&self) -> u8 {
        let most = self.tasks.iter().flatten().filter_map(|op| op.sector()).max().unwrap_or(0);
        most.max(1) + 1
    }

    /// What is done, if it is laying out or damage, and no requests.
    #[must_use]
    pub fn special(&self) -> Option<Op> {
        match self.tasks.as_slice() {
            [task] => match task.as_slice() {
                [op @ (Op::Create | Op::Damage)] => Some(*op),
                _ => None,
            },
            _ => None,
        }
    }

    /// Requests of all tasks.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.tasks.iter().map(Vec::len).sum()
    }

    /// The LBA of one of its sectors.
    #[must_use]
    pub fn lba(&self, sector: u8) -> u64 {
        u64::from(sector) * if self.far { 16 } else { 1 }
    }

    /// The arena for it.
    #[must_use]
    pub fn shape(&self, model: Model) -> Small {
        Small {
            sectors: u32::try_from(self.lba(self.sectors() - 1) + 1).unwrap_or(u32::MAX),
            lanes: u32::from(self.lanes),
            align: if model == Model::Pages { 4096 } else { 64 },
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.far { "far" } else { "near" };
        let ops = |task: &Vec<Op>| task.iter().map(Op::to_string).collect::<Vec<_>>().join(",");
        let tasks: Vec<String> = self.tasks.iter().map(ops).collect();
        write!(f, "{}.{place}.{}:{}", self.lanes, self.start.name(), tasks.join("/"))
    }
}

impl FromStr for Workload {
    type Err = Error;

    fn from_str(text: &str) -> Result<Workload, Error> {
        let wrong = || {
            Error::new(Kind::Invalid, "read workload")
                .found(format_args!("{text:?}"))
                .accepted("LANES.near|far.START:OPS[/OPS...], such as 2.near.fresh:w0,w1/r0")
        };
        let parse = || -> Option<Workload> {
            let (head, tasks) = text.split_once(':')?;
            let mut head = head.split('.');
            let lanes: u8 = head.next()?.parse().ok().filter(|n| *n <= 64)?;
            let far = match head.next()? {
                "near" => false,
                "far" => true,
                _ => return None,
            };
            let start = head.next()?;
            let start = Start::ALL.into_iter().find(|s| s.name() == start)?;
            let op = |op: &str| -> Option<Op> {
                let (kind, sector) = op.split_at_checked(1)?;
                let sector = || sector.parse::<u8>().ok().filter(|s| *s < 8);
                Some(match kind {
                    "w" => Op::Write(sector()?),
                    "u" => Op::Fua(sector()?),
                    "z" => Op::Zero(sector()?),
                    "r" => Op::Read(sector()?),
                    "p" => Op::Lose(sector()?),
                    "f" if op.len() == 1 => Op::Flush,
                    "c" if op.len() == 1 => Op::Clear,
                    "n" if op.len() == 1 => Op::Create,
                    "d" if op.len() == 1 => Op::Damage,
                    _ => return None,
                })
            };
            let tasks: Option<Vec<Vec<Op>>> =
                tasks.split('/').map(|t| t.split(',').map(op).collect()).collect();
            let tasks = tasks.filter(|t| t.len() <= 32 && head.next().is_none())?;
            let workload = Workload { lanes, far, start, tasks };
            // What is no request stands alone, and only what stands alone has a whole arena.
            let special = |op: &Op| matches!(op, Op::Create | Op::Damage);
            let alone = workload.special().is_some();
            let fits = if alone { true } else { lanes > 0 && !workload.tasks.iter().flatten().any(special) };
            (fits && (lanes == 0 || workload.special() != Some(Op::Create))).then_some(workload)
        };
        parse().ok_or_else(wrong)
    }
}

/// Every list of tasks, at most two, with `1..=operations` requests of these kinds over two sectors, fewest requests first.
/// Tasks are alike and so are sectors: of those that differ by a change of names alone one is given.
#[must_use]
pub fn all_tasks(kinds: &[Op], operations: usize) -> Vec<Vec<Vec<Op>>> {
    let symbols: Vec<Op> = kinds
        .iter()
        .flat_map(|kind| match kind.sector() {
            Some(_) => vec![kind.on(0), kind.on(1)],
            None => vec![*kind],
        })
        .collect();
    let mut lists: Vec<Vec<Vec<Op>>> = vec![vec![Vec::new()]];
    for _ in 0..operations {
        let longer = lists.last().into_iter().flatten();
        let longer = longer.flat_map(|list| {
            symbols.iter().map(move |op| {
                let mut list = list.clone();
                list.push(*op);
                list
            })
        });
        let longer = longer.collect();
        lists.push(longer);
    }
    let mut found = Vec::new();
    for total in 1..=operations {
        for second in 0..=total / 2 {
            for one in lists.get(total - second).into_iter().flatten() {
                for other in lists.get(second).into_iter().flatten() {
                    let tasks: Vec<Vec<Op>> =
                        [one, other].into_iter().filter(|t| !t.is_empty()).cloned().collect();
                    if is_canonical(&tasks) {
                        found.push(tasks);
                    }
                }
            }
        }
    }
    found
}

/// Whether no change of names gives a smaller list.
fn is_canonical(tasks: &[Vec<Op>]) -> bool {
    let swap = |task: &Vec<Op>| -> Vec<Op> {
        task.iter().map(|op| op.sector().map_or(*op, |s| op.on(1 - s))).collect()
    };
    let mut variants = vec![tasks.iter().map(swap).collect::<Vec<_>>()];
    if let [one, other] = tasks
        && one.len() == other.len()
    {
        variants.push(vec![other.clone(), one.clone()]);
        variants.push(vec![swap(other), swap(one)]);
    }
    variants.iter().all(|v| tasks <= v.as_slice())
}

/// A workload by number: up to four tasks with up to four requests each, over four sectors and up to three lanes.
#[must_use]
pub fn random(seed: u64, kinds: &[Op]) -> Workload {
    let mut state = mix(seed);
    let mut roll = |n: u64| {
        state = mix(state);
        (state >> 20) % n
    };
    let op = |roll: &mut dyn FnMut(u64) -> u64| {
        let kind = kinds.get(roll(kinds.len() as u64) as usize).copied().unwrap_or(Op::Flush);
        kind.on(roll(4) as u8)
    };
    let tasks = 2 + roll(3);
    let tasks = (0..tasks).map(|_| (0..1 + roll(4)).map(|_| op(&mut roll)).collect()).collect();
    let start = Start::ALL[roll(Start::ALL.len() as u64) as usize];
    Workload { lanes: 2 + roll(2) as u8, far: roll(2) == 1, start, tasks }
}
