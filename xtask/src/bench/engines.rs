// SPDX-License-Identifier: MIT OR Apache-2.0
//! Engines: the cost of one random block, against the limit of copying it persistently, and against libpmemblk.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_btt::{Btt, CreateOptions, OpenOptions, create};
use nvstack_format::btt::{LbaSize, Version};
use nvstack_media::{Access, Mapping, Media, MediaOffset};
use uuid::Uuid;

use super::filled_file;
use super::stats::Spread;
use crate::process::{command, succeed};
use crate::report::{Context, Failure, Result};

/// Each medium. Larger than the caches that matter, small enough for three of them in memory.
const MEDIUM: u64 = 512 << 20;
/// Operations of a thread in a round.
const OPERATIONS: u64 = 100_000;

/// A generator of block numbers, the same as in the C program.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// libpmemblk, in a process of its own, on a pool of its own.
struct Pmemblk {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Pmemblk {
    fn start(program: &Path, pool: &Path, block: usize) -> Result<Pmemblk> {
        let mut child = Command::new(program)
            .arg(pool)
            .args([MEDIUM.to_string(), block.to_string()])
            // Flush cache lines instead of calling msync: the pool counts as persistent memory, as ours does.
            .env("PMEM_IS_PMEM_FORCE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("pmemblk")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::from("pmemblk has no pipes"));
        };
        let mut peer = Pmemblk { child, input, output: BufReader::new(output) };
        match peer.line()?.as_str() {
            "ready" => Ok(peer),
            other => Err(format!("pmemblk said {other:?}").into()),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("pmemblk")?;
        Ok(line.trim().to_owned())
    }

    fn time(&mut self, write: bool, threads: u64, seed: u64) -> Result<f64> {
        let op = if write { 'w' } else { 'r' };
        writeln!(self.input, "{op} {threads} {OPERATIONS} {seed}").context("pmemblk")?;
        self.line()?.parse::<f64>().map_err(|e| format!("pmemblk: {e}").into())
    }
}

impl Drop for Pmemblk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Times `threads` threads that each do all operations; nanoseconds for the whole.
fn time(threads: u64, seed: u64, operation: impl Fn(u64, &mut [u8]) + Sync) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let operation = &operation;
            scope.spawn(move || {
                let mut dice = Dice(seed + thread);
                let mut buffer = vec![thread.to_le_bytes()[0]; 4096];
                for _ in 0..OPERATIONS {
                    operation(dice.roll(), &mut buffer);
                }
            });
        }
    });
    nanos(start.elapsed())
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// Fails loudly: a benchmark whose operations fail measures nothing.
fn must<T>(outcome: nvstack_media::Result<T>) -> T {
    outcome.unwrap_or_else(|e| {
        eprintln!("bench: {e}");
        std::process::exit(1)
    })
}

fn shuffled_btt(path: &Path, block: usize) -> Result<Btt<Mapping>> {
    filled_file(path, MEDIUM)?;
    let map = || Mapping::open(path, Access::ReadWrite).map(Mapping::assume_cache);
    let lbasize =
        LbaSize::new(u32::try_from(block).unwrap_or(0)).map_err(|e| Failure::from(e.to_string()))?;
    let made = CreateOptions {
        version: Version::V2_0,
        parent: Uuid::nil(),
        uuid: Uuid::from_u128(1),
        lbasize,
        overwrite: false,
    };
    create(&map().context("map")?, &made).context("create")?;
    let device = Btt::open(map().context("map")?, OpenOptions::new("bench", Version::V2_0, Uuid::nil()))
        .context("open")?;
    // Twice as many writes as blocks, in random order: most entries are moved, none lies where it began.
    let mut dice = Dice(1);
    let data = vec![1u8; block];
    for _ in 0..2 * device.geometry().sectors {
        let lba = Lba(dice.roll() % device.geometry().sectors);
        device.write(lba, &[IoSlice::new(&data)], WriteFlags::empty()).context("fill")?;
    }
    Ok(device)
}

/// Runs the rounds and gives the table.
pub(crate) fn run(folder: &Path, rounds: usize) -> Result<String> {
    let source = folder.join("pmemblk.c");
    let program = folder.join("pmemblk");
    std::fs::write(&source, include_str!("pmemblk.c")).context("pmemblk.c")?;
    succeed(
        command("cc", ["-O2", "-o"]).arg(&program).arg(&source).args(["-lpmemblk", "-lpthread"]),
        Duration::from_secs(120),
    )?;
    let mut table = String::from(
        "## Engines\n\nNanoseconds for one random block on 512 MiB, each store flushed from the CPU's caches (clwb, \
         non-temporal stores, sfence; DRAM stands in for the medium). *limit*: a copy with one drain, or a copy out. The \
         map was shuffled by writing twice as many random blocks as there are. For two threads the time is that of the pair, \
         divided by the operations of both.\n\n\
         | operation | threads | limit, ns | nvstack, ns | libpmemblk, ns | nvstack / limit | libpmemblk / limit | libpmemblk / nvstack |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for block in [512usize, 4096] {
        let raw = folder.join("raw");
        filled_file(&raw, MEDIUM)?;
        let raw = Mapping::open(&raw, Access::ReadWrite).context("map")?.assume_cache();
        let device = shuffled_btt(&folder.join("btt"), block)?;
        let sectors = device.geometry().sectors;
        let blocks = MEDIUM / u64::try_from(block).unwrap_or(1);
        let at = |n: u64| MediaOffset(n % blocks * u64::try_from(block).unwrap_or(1));
        let mut peer = Pmemblk::start(&program, &folder.join("pool"), block)?;
        for write in [true, false] {
            for threads in [1u64, 2] {
                let mut figures = [Vec::new(), Vec::new(), Vec::new()];
                for round in 0..=rounds {
                    let seed = 1000 + u64::try_from(round).unwrap_or(0);
                    let limit = time(threads, seed, |n, buffer| {
                        let part = buffer.get_mut(..block).unwrap_or_default();
                        if write {
                            must(raw.stream(at(n), part));
                            must(raw.drain());
                        } else {
                            must(raw.read(at(n), part));
                        }
                    });
                    let ours = time(threads, seed, |n, buffer| {
                        let part = buffer.get_mut(..block).unwrap_or_default();
                        let lba = Lba(n % sectors);
                        must(if write {
                            device.write(lba, &[IoSlice::new(part)], WriteFlags::empty())
                        } else {
                            device.read(lba, &mut [IoSliceMut::new(part)])
                        });
                    });
                    let theirs = peer.time(write, threads, seed)?;
                    // The first round warms caches and page tables up.
                    if round > 0 {
                        let each = 1.0 / (threads * OPERATIONS) as f64;
                        for (list, figure) in figures.iter_mut().zip([limit, ours, theirs]) {
                            list.push(figure * each);
                        }
                    }
                }
                let [limit, ours, theirs] = &figures;
                let _ = writeln!(
                    table,
                    "| {} {block} | {threads} | {} | {} | {} | {} | {} | {} |",
                    if write { "write" } else { "read" },
                    Spread::of(limit.iter().copied()).show(0),
                    Spread::of(ours.iter().copied()).show(0),
                    Spread::of(theirs.iter().copied()).show(0),
                    Spread::ratio(ours, limit).show(2),
                    Spread::ratio(theirs, limit).show(2),
                    Spread::ratio(theirs, ours).show(2),
                );
            }
        }
        drop(peer);
        for name in ["raw", "btt", "pool"] {
            let _ = std::fs::remove_file(folder.join(name));
        }
    }
    table.push('\n');
    Ok(table)
}
