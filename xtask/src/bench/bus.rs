// SPDX-License-Identifier: MIT OR Apache-2.0
//! A bus with many namespaces: whether it comes up as fast as its workers can probe.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nvstack_btt::{CreateOptions, create};
use nvstack_format::btt::{LbaSize, Version};
use nvstack_format::guid::{BTT2, PERSISTENT_MEMORY};
use nvstack_format::label::{Flags, Label, Name, Version as LabelVersion};
use nvstack_format::{Dpa, SetMember, cookies};
use nvstack_label::LabelArea;
use nvstack_media::{Anon, Domain, Media, MediaOffset, Part};
use nvstack_stack::provider::ImageProvider;
use nvstack_stack::{NamespaceKey, Stack};
use uuid::Uuid;

use super::stats::Spread;
use crate::report::{Context, Result, ensure};

const NAMESPACES: u64 = 1000;
const SIZE: u64 = 16 << 20;
const LABELS: u64 = 1 << 20;
/// Namespaces that are bound alone in a round, for the time of a single probe.
const SINGLES: u64 = 32;

/// Memory on which reading the first bytes of a namespace, where its info block is, takes its time.
struct Slow {
    media: Anon,
    nanos: AtomicU64,
}

impl Media for Slow {
    fn len(&self) -> u64 {
        self.media.len()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn domain(&self) -> Domain {
        self.media.domain()
    }
    fn read(&self, at: MediaOffset, into: &mut [u8]) -> nvstack_media::Result<()> {
        let nanos = self.nanos.load(Ordering::Relaxed);
        if nanos > 0 && at.0.is_multiple_of(SIZE) && at.0 < NAMESPACES * SIZE {
            std::thread::sleep(Duration::from_nanos(nanos));
        }
        self.media.read(at, into)
    }
    fn store(&self, at: MediaOffset, from: &[u8]) -> nvstack_media::Result<()> {
        self.media.store(at, from)
    }
    fn stream(&self, at: MediaOffset, from: &[u8]) -> nvstack_media::Result<()> {
        self.media.stream(at, from)
    }
    fn zero(&self, at: MediaOffset, len: u64) -> nvstack_media::Result<()> {
        self.media.zero(at, len)
    }
    fn load_u32(&self, at: MediaOffset) -> nvstack_media::Result<u32> {
        self.media.load_u32(at)
    }
    fn store_u32(&self, at: MediaOffset, value: u32) -> nvstack_media::Result<()> {
        self.media.store_u32(at, value)
    }
    fn load_u64(&self, at: MediaOffset) -> nvstack_media::Result<u64> {
        self.media.load_u64(at)
    }
    fn store_u64(&self, at: MediaOffset, value: u64) -> nvstack_media::Result<()> {
        self.media.store_u64(at, value)
    }
    fn flush(&self, at: MediaOffset, len: u64) -> nvstack_media::Result<()> {
        self.media.flush(at, len)
    }
    fn drain(&self) -> nvstack_media::Result<()> {
        self.media.drain()
    }
    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        self.media.badblocks(at, len)
    }
    fn name(&self) -> String {
        self.media.name()
    }
}

fn uuid(n: u64) -> Uuid {
    Uuid::from_u128(0x4000_8000_0000_0000_0000 + u128::from(n))
}

/// One DIMM with all namespaces, each with a label and a BTT.
fn image() -> Result<Arc<Slow>> {
    let media = Anon::new(NAMESPACES * SIZE + LABELS).context("memory")?;
    let image = Arc::new(Slow { media, nanos: AtomicU64::new(0) });
    let area = Part::new(Arc::clone(&image), MediaOffset(NAMESPACES * SIZE), LABELS).context("label area")?;
    let mut area = LabelArea::init(area, LabelVersion::V1_2).context("labels")?;
    let cookie = cookies(&[SetMember::qemu(0)]).v1_2;
    for n in 0..NAMESPACES {
        let label = Label {
            uuid: uuid(n),
            name: Name::new("").map_err(|e| e.to_string())?,
            flags: Flags::empty(),
            nlabel: 1,
            position: 0,
            isetcookie: cookie,
            lbasize: 512,
            dpa: Dpa(n * SIZE),
            rawsize: SIZE,
            slot: 0,
            align: 0,
            type_guid: PERSISTENT_MEMORY,
            abstraction: BTT2,
        };
        area.write_namespace(&label).context("label")?;
        let part = Part::new(Arc::clone(&image), MediaOffset(n * SIZE), SIZE).context("namespace")?;
        let lbasize = LbaSize::new(4096).map_err(|e| e.to_string())?;
        let own = Uuid::from_u128(uuid(n).as_u128() | 1 << 100);
        let options =
            CreateOptions { version: Version::V2_0, parent: uuid(n), uuid: own, lbasize, overwrite: false };
        create(&part, &options).context("BTT")?;
    }
    Ok(image)
}

/// Milliseconds of one namespace's probe by itself, with nothing else going on: the median of several.
fn single(image: &Arc<Slow>, workers: usize) -> Result<f64> {
    let stack = Stack::with_workers(workers);
    let mut spec = ImageProvider::new(image.clone(), Some(LABELS)).context("image")?.bus();
    spec.idle.namespaces = (0..NAMESPACES).map(|n| NamespaceKey::Label(uuid(n))).collect();
    let bus = stack.register(spec);
    stack.settle();
    let tree = stack.tree();
    let mut times = Vec::new();
    for n in (0..NAMESPACES).step_by(usize::try_from(NAMESPACES / SINGLES).unwrap_or(1)) {
        let start = Instant::now();
        // It ends with an error that says that the namespace came up as a BTT, as in Linux.
        let _ = tree.write("bus/nd/drivers/nd_pmem/bind", &format!("namespace0.{n}"));
        times.push(millis(start.elapsed()));
        ensure(tree.read(&format!("namespace0.{n}/holder")).is_ok_and(|h| h.starts_with("btt")), || {
            format!("namespace0.{n} did not come up")
        })?;
    }
    stack.unregister(bus).context("bus")?;
    Ok(Spread::of(times).median)
}

/// Milliseconds from the registration of the bus until everything on it is up.
fn whole(image: &Arc<Slow>, workers: usize) -> Result<f64> {
    let stack = Stack::with_workers(workers);
    let spec = ImageProvider::new(image.clone(), Some(LABELS)).context("image")?.bus();
    let start = Instant::now();
    let bus = stack.register(spec);
    stack.settle();
    let time = millis(start.elapsed());
    let up = stack.tree().list("class/block").context("class/block")?.len();
    ensure(u64::try_from(up) == Ok(NAMESPACES), || format!("{up} of {NAMESPACES} disks came up"))?;
    stack.unregister(bus).context("bus")?;
    Ok(time)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Runs the rounds and gives the table.
pub(crate) fn run(rounds: usize) -> Result<String> {
    let mut table = format!(
        "## A bus with {NAMESPACES} namespaces\n\nMilliseconds from the registration of a bus with {NAMESPACES} BTT namespaces \
         of 16 MiB, labels and all, until the last disk is there (*bus*), beside those of one namespace bound by itself \
         (*probe*; all are alike). *read*: what each read of an info block waits, as a medium may make it. *ideal*: probe x \
         {NAMESPACES} / workers, rounded up to whole rounds of the workers; bus / ideal is to stay under 2. Probes that do not \
         wait use nothing but the CPU, so they cannot go faster than there are CPUs: more workers than that make *ideal* \
         one that this machine cannot reach, and the ratio is then over 2 (last row).\n\n\
         | read | workers | probe, ms | bus, ms | ideal, ms | bus / ideal |\n|---|---|---|---|---|---|\n",
    );
    let image = image()?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for (wait, workers) in [(5, 8), (5, 64), (0, cpus), (0, 8)] {
        image.nanos.store(wait * 1_000_000, Ordering::Relaxed);
        let turns = NAMESPACES.div_ceil(u64::try_from(workers).unwrap_or(1));
        let (mut probes, mut buses, mut ideals) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let probe = single(&image, workers)?;
            probes.push(probe);
            buses.push(whole(&image, workers)?);
            ideals.push(probe * turns as f64);
        }
        let _ = writeln!(
            table,
            "| {wait} ms | {workers} | {} | {} | {} | {} |",
            Spread::of(probes).show(2),
            Spread::of(buses.iter().copied()).show(0),
            Spread::of(ideals.iter().copied()).show(0),
            Spread::ratio(&buses, &ideals).show(2),
        );
    }
    Ok(table)
}
