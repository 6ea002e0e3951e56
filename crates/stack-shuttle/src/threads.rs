// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads at a machine, each with a sector of its own.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_format::label::Version;
use nvstack_media::{Anon, Kind, Media, MediaOffset, Part, Result};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};

use crate::narrow::{binders, openers};
use crate::provider::ImageProvider;
use crate::{BusId, OpenOptions, Stack, Tree, sync};

const MIB: u64 = 1 << 20;
/// The claim and the namespace under it, and a namespace that is raw.
pub(crate) const CLAIM: &str = "btt0.0";
pub(crate) const CLAIMED: &str = "namespace0.1";
const RAW: &str = "namespace0.0";

/// An image with a label area.
pub(crate) fn image() -> Anon {
    let size = 64 * MIB;
    let media = Anon::new(size).unwrap();
    let area = Part::new(&media, MediaOffset(size - (128 << 10)), 128 << 10).unwrap();
    nvstack_label::LabelArea::init(area, Version::V1_2).unwrap();
    media
}

/// A machine with an image, its bus and its tree.
pub(crate) fn machine(media: &Arc<dyn Media>) -> (Stack, BusId, Tree) {
    let stack = Stack::with_workers(8);
    let bus = stack.register(ImageProvider::new(Arc::clone(media), Some(128 << 10)).unwrap().bus());
    stack.settle();
    let tree = stack.tree();
    (stack, bus, tree)
}

/// Reads a sector of a disk, and writes it: it works, or the disk is gone.
pub(crate) fn used(disk: &dyn BlockDevice) {
    let mut bytes = vec![0; usize::try_from(disk.geometry().sector_size).unwrap()];
    let read = disk.read(Lba(3), &mut [IoSliceMut::new(&mut bytes)]);
    let written = read.and_then(|()| disk.write(Lba(3), &[IoSlice::new(&bytes)], WriteFlags::FUA));
    if let Err(e) = written {
        assert_eq!(e.kind(), Kind::Gone, "{e}");
    }
}

fn set(tree: &Tree, device: &str, values: &[(&str, &str)]) {
    for (attribute, text) in values {
        tree.write(&format!("{device}/{attribute}"), &format!("{text}\0")).unwrap();
    }
}

fn get(tree: &Tree, path: &str) -> String {
    tree.read(path).unwrap().trim_end_matches('\n').to_owned()
}

fn driver(device: &str) -> &'static str {
    if device == "region0" { "nd_region" } else { "nd_pmem" }
}

pub(crate) fn bind(tree: &Tree, device: &str) -> Result<()> {
    tree.write(&format!("bus/nd/drivers/{}/bind", driver(device)), &format!("{device}\0"))
}

pub(crate) fn unbind(tree: &Tree, device: &str) -> Result<()> {
    tree.write(&format!("bus/nd/drivers/{}/unbind", driver(device)), &format!("{device}\0"))
}

/// A namespace in raw mode and one in sector mode.
pub(crate) fn furnish(tree: &Tree) {
    for (n, class) in [(1, ""), (2, "btt")] {
        let idle = tree.read("namespace0.0/size").is_ok_and(|size| size == "0\n");
        let ns = if idle { RAW.to_owned() } else { get(tree, "region0/namespace_seed") };
        let uuid = uuid::Uuid::from_u128(n).to_string();
        let sector = if class.is_empty() { "512" } else { "4096" };
        set(tree, &ns, &[("uuid", &uuid), ("alt_name", ""), ("size", "0x1000000"), ("sector_size", sector)]);
        set(tree, &ns, &[("holder_class", class)]);
        if class.is_empty() {
            bind(tree, &ns).unwrap();
            continue;
        }
        let seed = get(tree, "region0/btt_seed");
        assert_eq!((&*seed, &*ns), (CLAIM, CLAIMED));
        let own = uuid::Uuid::from_u128(n << 64).to_string();
        set(tree, &seed, &[("uuid", &own), ("sector_size", "4096"), ("namespace", &ns)]);
        bind(tree, &seed).unwrap();
    }
}

/// What may be said to who comes at the wrong moment.
pub(crate) fn in_order(done: &Result<()>) {
    if let Err(e) = done {
        let usual =
            [Kind::Busy, Kind::Gone, Kind::NoDevice, Kind::NotFound, Kind::Unrecognised, Kind::Invalid];
        assert!(usual.contains(&e.kind()), "{e}");
    }
}

/// A user with a sector of its own on each disk.
struct User {
    stack: Stack,
    tree: Tree,
    lba: u64,
    /// By disk: what it was last told to be written, and what may be there beside it.
    written: [(u8, u8); 2],
    disks: [Option<Arc<dyn BlockDevice>>; 2],
}

impl User {
    fn use_disk(&mut self, which: usize, next: u8) {
        let name = [RAW, CLAIMED][which];
        let disk = match self.disks[which].take() {
            Some(disk) => disk,
            None => match self.stack.open(name, &OpenOptions::default()) {
                Ok(disk) => disk,
                Err(e) => return in_order(&Err(e)),
            },
        };
        let size = usize::try_from(disk.geometry().sector_size).unwrap();
        let mut bytes = vec![0; size];
        match disk.read(Lba(self.lba), &mut [IoSliceMut::new(&mut bytes)]) {
            Ok(()) => {
                let (sure, perhaps) = self.written[which];
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{name}: torn");
                assert!([sure, perhaps].contains(&bytes[0]), "{name}: {} after {sure}, {perhaps}", bytes[0]);
            }
            Err(e) => {
                assert_eq!(e.kind(), Kind::Gone, "{e}");
                return;
            }
        }
        match disk.write(Lba(self.lba), &[IoSlice::new(&vec![next; size])], WriteFlags::FUA) {
            Ok(()) => {
                self.written[which] = (next, next);
                self.disks[which] = Some(disk);
            }
            Err(e) => {
                assert_eq!(e.kind(), Kind::Gone, "{e}");
                self.written[which].1 = next;
            }
        }
    }

    fn act(&mut self, next: u8) {
        match thread_rng().gen_range(0..12) {
            0..=2 => self.use_disk(0, next),
            3..=5 => self.use_disk(1, next),
            6 => in_order(&unbind(&self.tree, CLAIM)),
            7 => in_order(&bind(&self.tree, CLAIM)),
            8 => in_order(&unbind(&self.tree, RAW)),
            9 => in_order(&bind(&self.tree, RAW)),
            10 => in_order(&unbind(&self.tree, "region0")),
            _ => {
                in_order(&bind(&self.tree, "region0"));
                self.stack.settle();
            }
        }
    }
}

/// One execution: a machine with two namespaces, threads that use them and take them apart, and its end.
fn execute() {
    sync::begin();
    let media: Arc<dyn Media> = Arc::new(image());
    let (stack, bus, tree) = machine(&media);
    furnish(&tree);
    let removed = thread_rng().gen_bool(0.2);
    let users: Vec<_> = (1..=3u8)
        .map(|number| {
            let (stack, tree) = (stack.clone(), tree.clone());
            thread::spawn(move || {
                let lba = u64::from(number);
                let mut user = User { stack, tree, lba, written: [(0, 0); 2], disks: [None, None] };
                for n in 1..=thread_rng().gen_range(2..=4) {
                    user.act(number * 10 + n);
                }
                user
            })
        })
        .collect();
    if removed {
        stack.unregister(bus).unwrap();
    }
    let mut users: Vec<User> = users.into_iter().map(|user| user.join().unwrap()).collect();
    stack.settle();
    if removed {
        assert!(tree.list("bus/nd/devices").unwrap().is_empty(), "left behind");
        for user in &mut users {
            user.disks.iter().flatten().for_each(|disk| {
                assert_eq!(disk.flush().unwrap_err().kind(), Kind::Gone, "after the removal");
            });
        }
        return;
    }
    // All can be put together again, and what was acknowledged is there.
    for device in ["region0", RAW, CLAIM] {
        in_order(&bind(&tree, device));
        stack.settle();
    }
    for user in &mut users {
        for which in 0..2 {
            user.disks[which] = None;
            user.use_disk(which, 99);
            assert_eq!(user.written[which].0, 99, "a disk that does not come back");
        }
    }
    stack.unregister(bus).unwrap();
    assert!(tree.list("bus/nd/devices").unwrap().is_empty(), "left behind");
    assert_eq!(Arc::strong_count(&media), 1, "the medium is kept by somebody");
}

fn run<S: Scheduler + 'static>(scheduler: S, execute: fn()) -> usize {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    Runner::new(scheduler, config).run(execute)
}

/// What threads do together.
#[derive(Clone, Copy, Debug)]
pub enum Scene {
    /// All that can be done, at random.
    All,
    /// One claim is bound and unbound by several.
    Binders,
    /// A disk is opened while its device is unbound.
    Openers,
}

/// Runs so many schedules, half of them wholly random, half with few interruptions at random places; ten times as many in a
/// long run. A failure prints the schedule, for `shuttle::replay`.
pub fn check(name: &str, scene: Scene, schedules: usize) {
    let execute = match scene {
        Scene::All => execute,
        Scene::Binders => binders,
        Scene::Openers => openers,
    };
    let each = if nvstack_tally::long() { schedules * 10 } else { schedules } / 2;
    let ran = run(RandomScheduler::new(each), execute) + run(PctScheduler::new(3, each), execute);
    nvstack_tally::tally("concurrency", name, "schedules", u64::try_from(ran).unwrap());
}
