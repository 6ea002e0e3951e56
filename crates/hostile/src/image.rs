// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole images, as a user opens them: a bus comes up, its tree is read, its disks are used.

use std::io::{IoSlice, IoSliceMut, Read};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nvstack_block::{BlockDevice, Lba, WriteFlags, partitions};
use nvstack_format::label::Version;
use nvstack_media::{Media, MediaOffset};
use nvstack_stack::provider::ImageProvider;
use nvstack_stack::{Entry, OpenOptions, Stack};

use crate::btt::seal;
use crate::labels::{self, Place};
use crate::naive::{label as naive, number};
use crate::{Input, Sparse};

/// Images that Linux wrote, as they lie in fixtures/golden.
const IMAGES: [&str; 8] = [
    "sec4096-v1.2",
    "sec512-v1.1",
    "fsdax-dev-2M",
    "devdax-dev-2M",
    "multi4-v1.2",
    "nolabel-sector4096",
    "nolabel-fsdax-dev",
    "multi3-v1.1",
];

/// An image, where its label area is, and where its namespaces begin.
#[derive(Debug)]
struct Base {
    medium: Sparse,
    labels: Option<Place>,
    namespaces: Vec<u64>,
}

fn base(which: u8) -> &'static Base {
    static ALL: [OnceLock<Base>; IMAGES.len()] = [const { OnceLock::new() }; IMAGES.len()];
    let which = usize::from(which) % IMAGES.len();
    ALL[which].get_or_init(|| {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden");
        let path = golden.join(format!("{}.img.zst", IMAGES[which]));
        let packed = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut bytes = Vec::new();
        let mut decoder = ruzstd::decoding::StreamingDecoder::new(&packed[..]).expect("zstd");
        decoder.read_to_end(&mut bytes).expect("zstd");
        let medium = Sparse::from_bytes(&bytes);
        let size = 128 << 10;
        let at = bytes.len() as u64 - size;
        let area = naive::area(&bytes[at as usize..]);
        let mut namespaces = vec![0];
        for (_, label) in area.iter().flat_map(|area| &area.slots) {
            namespaces.extend(label.as_ref().map(|label| number(label, 104, 8)));
        }
        namespaces.sort_unstable();
        namespaces.dedup();
        let labels = area.map(|area| Place {
            at,
            size,
            version: if area.shape.label == 128 { Version::V1_1 } else { Version::V1_2 },
        });
        Base { medium, labels, namespaces }
    })
}

/// An image of Linux's with damage anywhere: its bus comes up, every attribute can be read, every disk that is there reads the same twice
/// and keeps what is written to it, and whoever only looks changes no byte.
///
/// Input: which image, how, then edits: of the label area, of an info block (with the checksum put right), of bytes, lost bytes.
pub fn whole_image(data: &[u8]) {
    let mut input = Input::new(data);
    let base = base(input.u8());
    let how = input.u8();
    let medium = base.medium.clone();
    for _ in 0..40 {
        if input.is_empty() {
            break;
        }
        edit(&mut input, &medium, base);
    }
    let before = medium.clone();
    let medium = Arc::new(medium);
    let image: Arc<dyn Media> = Arc::clone(&medium) as Arc<dyn Media>;
    let label_size = if how & 1 == 0 { None } else { base.labels.map(|place| place.size).or(Some(0)) };
    let Ok(provider) = ImageProvider::new(image, label_size) else { return };
    let stack = Stack::with_workers(2);
    let bus = stack.register(provider.bus());
    stack.settle_within(Duration::from_secs(20)).expect("probes end");
    let disks = walk(&stack);
    for disk in &disks {
        let Ok(device) = stack.open(disk, &OpenOptions { read_only: true, ..OpenOptions::default() }) else {
            continue;
        };
        let once = look(&device);
        assert_eq!(once, look(&device), "{disk} reads differently the second time");
        let _ = partitions(&device);
    }
    if let Some(at) = medium.differs(&before) {
        panic!("whoever looked changed the page at {at:#x}");
    }
    for disk in &disks {
        if let Ok(device) = stack.open(disk, &OpenOptions::default()) {
            keep(&device, disk);
        }
    }
    if how & 2 == 0 {
        let tree = stack.tree();
        for disk in &disks {
            let _ = tree.write(&format!("bus/nd/devices/{disk}/driver/unbind"), disk);
        }
    }
    walk(&stack);
    stack.unregister(bus).expect("nobody uses it");
}

fn edit(input: &mut Input<'_>, medium: &Sparse, base: &Base) {
    let operation = input.u8();
    let namespace = base.namespaces[usize::from(operation >> 4) % base.namespaces.len()];
    let info = namespace + if operation & 8 == 0 { 4096 } else { 0 };
    match operation % 8 {
        0..=2 => match base.labels {
            Some(place) => labels::edit(input, medium, place, 1, true),
            None => medium.poke(info + input.below(128), &[input.u8()]),
        },
        3 | 4 => {
            let at = input.below(31) * 4;
            let len = if at >= 80 { 8 } else { 4 };
            medium.poke(info + at, &input.number().to_le_bytes()[..len]);
            if operation & 128 == 0 {
                seal(medium, info, 4096, 4088);
            }
        }
        5 => {
            // Near what an info block says of itself: flog, map, backup.
            let offsets = [88, 96, 104, 112].map(|at| u64::from_le_bytes(medium.get(info + at)));
            let at = info
                .saturating_add(offsets[usize::from(input.u8() % 4)])
                .saturating_add(input.below(1 << 20));
            let len = usize::from(input.u8() % 64);
            medium.poke(at, input.take(len));
        }
        6 => {
            let from = input.below(Media::len(medium) >> 12) << 12;
            medium.poke(info, &medium.get::<4096>(from));
        }
        _ => {
            let at = if operation & 128 == 0 { info } else { 0 }.saturating_add(input.number());
            let _ = medium.inject_poison(MediaOffset(at), 512);
        }
    }
}

/// Reads all that the tree holds; gives the names of what may be opened.
pub(crate) fn walk(stack: &Stack) -> Vec<String> {
    let tree = stack.tree();
    let mut disks = Vec::new();
    for (path, entry) in tree.walk() {
        match entry {
            Entry::Attribute { .. } => {
                let _ = tree.read(&path);
            }
            Entry::Link { .. } => {
                let _ = tree.link(&path);
            }
            _ => {
                let _ = tree.list(&path);
            }
        }
    }
    for (name, _) in tree.list("bus/nd/devices").unwrap_or_default() {
        let device = name.rsplit('/').next().unwrap_or(&name);
        if device.contains('.') && !device.starts_with("dax") {
            disks.push(device.to_owned());
        }
    }
    disks
}

/// Sectors here and there, or the kinds of error.
fn look(device: &Arc<dyn BlockDevice>) -> Vec<Result<Vec<u8>, nvstack_media::Kind>> {
    let geometry = device.geometry();
    let last = geometry.sectors.saturating_sub(1);
    let mut lbas = vec![0, 1, 2, 7, 100, last / 2, last.saturating_sub(1), last];
    lbas.retain(|lba| *lba <= last);
    let read = |lba: &u64| {
        let mut bytes = vec![0; geometry.sector_size as usize];
        device.read(Lba(*lba), &mut [IoSliceMut::new(&mut bytes)]).map_err(|e| e.kind()).map(|()| bytes)
    };
    let window = geometry.sectors.min(4096);
    let mut told = 0;
    if device
        .extents(Lba(0), window, &mut |extent| {
            told += extent.sectors;
            true
        })
        .is_ok()
    {
        assert_eq!(told, window, "extents");
    }
    lbas.iter().map(read).collect()
}

/// What is written is read, and nothing else changes.
fn keep(device: &Arc<dyn BlockDevice>, name: &str) {
    let before = look(device);
    let geometry = device.geometry();
    let bytes = vec![0xc3; geometry.sector_size as usize];
    if device.write(Lba(3), &[IoSlice::new(&bytes)], WriteFlags::FUA).is_err() {
        return;
    }
    let mut read = vec![0; bytes.len()];
    if device.read(Lba(3), &mut [IoSliceMut::new(&mut read)]).is_ok() {
        assert_eq!(read, bytes, "{name}");
    }
    assert_eq!(look(device), before, "{name}: another sector changed");
}
