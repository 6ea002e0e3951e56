// SPDX-License-Identifier: MIT OR Apache-2.0
//! kill -9 of the server under load, and serving again. On a plain file the kernel's page cache survives the process: this
//! is a test of the order of our stores and acknowledgements, and of recovery, not of a power cut.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nvstack_tally::tally;

use super::load::{Ledger, Promise, Tally, until_the_end};
use super::stamp::mix;
use crate::content::data_size;
use crate::layout::audit;
use crate::process::succeed;
use crate::report::{Context, Failure, Lane, Result, ensure};
use crate::server::{Server, nvstack};

/// Rounds of each mode, as the promise to users has it: in every run, and in a long one.
const ROUNDS: [u64; 2] = [20, 200];
/// Bytes of the device that are written, over and over.
const USED: usize = 4 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// A way to serve, and what it promises.
struct Mode {
    name: &'static str,
    in_memory: bool,
    args: &'static [&'static str],
    promise: Promise,
    /// The kill comes after a random number of acknowledged writes up to this.
    most: u64,
    words: &'static str,
}

const MODES: [Mode; 3] = [
    Mode {
        name: "writeback",
        in_memory: false,
        args: &["--cache", "writeback"],
        promise: Promise::Flushed,
        most: 300,
        words: "every write that a FLUSH or FUA acknowledged is there",
    },
    Mode {
        name: "writethrough",
        in_memory: false,
        args: &["--cache", "writethrough"],
        promise: Promise::Acknowledged,
        // Each waits for its own three msyncs.
        most: 30,
        words: "every acknowledged write is there",
    },
    Mode {
        name: "memory",
        in_memory: true,
        args: &[],
        promise: Promise::Acknowledged,
        most: 20_000,
        words: "every acknowledged write is there (a file in /dev/shm)",
    },
];

/// The sector sizes that take turns in the rounds of a mode.
const SECTORS: [u64; 2] = [512, 4104];

fn rounds() -> u64 {
    ROUNDS[usize::from(nvstack_tally::long())]
}

/// Runs all modes.
pub(crate) fn run(lane: &mut Lane, bin: &Path, folder: &Path) {
    lane.say("kill -9 leaves the page cache: this shows the order of our stores and acknowledgements, not a power cut");
    for mode in &MODES {
        lane.case(format!("kill-9.{}", mode.name), || {
            let place = if mode.in_memory { Path::new("/dev/shm") } else { folder };
            let work = tempfile::Builder::new().prefix("nvstack-kill-").tempdir_in(place).context(place.display())?;
            let mut sum = Tally::default();
            for sector_size in SECTORS {
                let tally = mode.rounds(bin, work.path(), sector_size)?;
                sum.acknowledged += tally.acknowledged;
                sum.flushes += tally.flushes;
                sum.cut += tally.cut;
            }
            let case = format!("serve, {}", mode.name);
            tally("kill", &case, "times killed under load", rounds());
            tally("kill", &case, "acknowledged writes before that", sum.acknowledged);
            tally("kill", &case, "requests cut off", sum.cut);
            Ok(format!(
                "{} times: {}, no sector is torn, the BTT is sound ({} writes and {} flushes acknowledged, {} requests cut off)",
                rounds(), mode.words, sum.acknowledged, sum.flushes, sum.cut
            ))
        });
    }
}

impl Mode {
    /// Half of the rounds, all on one image.
    fn rounds(&self, bin: &Path, work: &Path, sector_size: u64) -> Result<Tally> {
        let image = work.join(format!("{sector_size}.img"));
        let size = ["--size", "32M", "--label-size", "0", "-m", "sector", "-l", &sector_size.to_string()]
            .map(str::to_owned);
        succeed(nvstack(bin, ["create".as_ref(), image.as_os_str()]).args(size), LIMIT)?;
        let data_size = data_size(sector_size);
        let mut ledger = Ledger::new(self.promise, data_size, USED / data_size);
        let mut sum = Tally::default();
        for round in 0..rounds() / SECTORS.len() as u64 {
            let seed = sector_size << 32 | round;
            let tally = self.round(bin, &image, work, &mut ledger, seed);
            let tally = tally
                .map_err(|why| keep(why, &image, &format!("{sector_size}-byte sectors, round {round}")))?;
            sum.acknowledged += tally.acknowledged;
            sum.flushes += tally.flushes;
            sum.cut += tally.cut;
        }
        ensure(sum.cut > 0, || "no request was in flight at any kill".to_owned())?;
        let server = Server::start(bin, &image, &[])?;
        server.stop()?;
        audit(&image)?;
        Ok(sum)
    }

    /// Load, kill, serve again, look. Every other time the look is through a server that only reads.
    fn round(&self, bin: &Path, image: &Path, work: &Path, ledger: &mut Ledger, seed: u64) -> Result<Tally> {
        let address = format!("unix:{}", work.join("nbd.sock").display());
        let serve = |more: &[&str]| {
            let args: Vec<&str> = self.args.iter().chain(&["--nbd", &address]).chain(more).copied().collect();
            Server::start(bin, image, &args)
        };
        let server = serve(&[])?;
        let (socket, export) = (server.socket()?, server.export());
        // The kill waits for acknowledgements, not for a time: a busy disk gives few of them. Then for some part of a request.
        let enough = 1 + mix(seed) % self.most;
        let phase = Duration::from_micros(mix(enough) % 3000);
        let patience = Instant::now() + LIMIT;
        let tally = until_the_end(ledger, &socket, &export, seed, |acknowledged| {
            while acknowledged() < enough && Instant::now() < patience {
                thread::sleep(Duration::from_micros(200));
            }
            thread::sleep(phase);
            server.kill();
        })?;
        ensure(tally.acknowledged >= enough, || {
            format!("{} writes acknowledged in {LIMIT:?}", tally.acknowledged)
        })?;
        let server = serve(if seed.is_multiple_of(2) { &[] } else { &["--read-only"] })?;
        ledger.check(&server)?;
        server.stop()?;
        Ok(tally)
    }
}

/// Keeps the image of a failure where it outlives the run.
fn keep(why: Failure, image: &Path, round: &str) -> Failure {
    let kept = crate::unit::target().join("kill-9-failed.img");
    match fs::copy(image, &kept) {
        Ok(_) => format!("{round}: {why} (the image: {})", kept.display()).into(),
        Err(_) => format!("{round}: {why}").into(),
    }
}
