// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of the model share: machines as ndctl's measurements had them, and ndctl's stores.
#![allow(missing_docs, dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

pub mod hooked;
pub mod outside;

use std::io::{IoSlice, IoSliceMut, Read};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_format::{SetMember, cookies};
use nvstack_media::{Anon, Interleave, Kind, Media, MediaOffset, Part};
use nvstack_stack::provider::{ImageProvider, QEMU_START};
use nvstack_stack::{
    Action, BusSpec, DimmSpec, Event, Identity, Idle, MappingSpec, OpenOptions, Provider, RegionSpec, Result,
    Stack, Tree,
};

pub const MIB: u64 = 1 << 20;

/// The image of the dumps: 256 MiB, the last 128 KiB of it a label area, which is initialised.
pub fn image(size: u64) -> Arc<dyn Media> {
    let media: Arc<dyn Media> = Arc::new(Anon::new(size).unwrap());
    let at = MediaOffset(size - (128 << 10));
    let area = Part::new(Arc::clone(&media), at, 128 << 10).unwrap();
    nvstack_label::LabelArea::init(area, nvstack_format::label::Version::V1_2).unwrap();
    media
}

/// Its bus.
pub fn bus(image: &Arc<dyn Media>) -> BusSpec {
    ImageProvider::new(Arc::clone(image), Some(128 << 10)).unwrap().bus()
}

/// A machine with it, settled.
pub fn machine(size: u64) -> (Stack, Tree) {
    let stack = Stack::new();
    stack.register(bus(&image(size)));
    stack.settle();
    let tree = stack.tree();
    (stack, tree)
}

/// Reads an attribute without its newline.
pub fn get(tree: &Tree, path: &str) -> String {
    tree.read(path).unwrap_or_else(|e| panic!("{path}: {e}")).trim_end_matches('\n').to_owned()
}

/// Binds a device as ndctl does: every driver is tried; only the tree tells whether it went well.
pub fn bind(tree: &Tree, dev: &str) -> Result<()> {
    let mut last = Ok(());
    for (driver, _) in tree.list("bus/nd/drivers").unwrap() {
        match tree.write(&format!("bus/nd/drivers/{driver}/bind"), &format!("{dev}\0")) {
            Ok(()) => return Ok(()),
            Err(e) if last.is_ok() || e.kind() != Kind::Unrecognised => last = Err(e),
            Err(_) => {}
        }
    }
    last
}

/// Disables and destroys a namespace as ndctl does: raw, its first bytes wiped, gone.
pub fn destroy(stack: &Stack, ns: &str, claim: Option<&str>) {
    let tree = stack.tree();
    match claim {
        Some(claim) => {
            unbind(&tree, claim).unwrap();
            tree.write(&format!("{claim}/namespace"), "\n\0").unwrap();
        }
        None => unbind(&tree, ns).unwrap(),
    }
    tree.write(&format!("{ns}/holder_class"), "\0").unwrap();
    tree.write(&format!("{ns}/force_raw"), "1\n\0").unwrap();
    bind(&tree, ns).unwrap();
    let disk = stack.open(ns, &OpenOptions::default()).unwrap();
    let zeros = vec![0u8; 8192];
    disk.write(Lba(0), &[IoSlice::new(&zeros)], WriteFlags::FUA).unwrap();
    drop(disk);
    tree.write(&format!("{ns}/force_raw"), "0\n\0").unwrap();
    unbind(&tree, ns).unwrap();
    tree.write(&format!("{ns}/size"), "0x0\n\0").unwrap();
}

/// Unbinds a device.
pub fn unbind(tree: &Tree, dev: &str) -> Result<()> {
    tree.write(&format!("bus/nd/devices/{dev}/driver/unbind"), &format!("{dev}\0"))
}

/// Configures the namespace seed of a region as ndctl does; gives its name.
pub fn allocate(tree: &Tree, region: &str, uuid: u128, size: u64, sector: u32, class: &str) -> String {
    // Number 0 is used again when it is idle.
    let first = format!("namespace{}.0", &region[6..]);
    let idle = tree.read(&format!("{first}/size")).is_ok_and(|size| size == "0\n");
    let ns = if idle { first } else { get(tree, &format!("{region}/namespace_seed")) };
    let uuid = uuid::Uuid::from_u128(uuid).to_string();
    for (attribute, text) in [
        ("uuid", format!("{uuid}\0")),
        ("alt_name", "\0".to_owned()),
        ("size", format!("{size:#x}\n\0")),
        ("sector_size", format!("{sector}\n\0")),
        ("holder_class", format!("{class}\0")),
    ] {
        tree.write(&format!("{ns}/{attribute}"), &text).unwrap();
    }
    ns
}

/// Makes a namespace in a mode on a region; gives its name and its claim's.
pub fn create(tree: &Tree, region: &str, mode: &str, uuid: u128, size: u64) -> (String, Option<String>) {
    let own = uuid::Uuid::from_u128(uuid | 1 << 100).to_string();
    let (class, sector, stores): (&str, u32, Vec<(&str, String)>) = match mode {
        "raw" => ("", 512, vec![]),
        "sector" => ("btt", 4096, vec![("uuid", own), ("sector_size", "4096\n".into())]),
        "fsdax" => ("pfn", 512, vec![("uuid", own), ("mode", "pmem".into()), ("align", "2097152\n".into())]),
        "devdax" => ("dax", 512, vec![("uuid", own), ("mode", "pmem".into()), ("align", "2097152\n".into())]),
        other => panic!("{other}"),
    };
    let ns = allocate(tree, region, uuid, size, sector, class);
    if class.is_empty() {
        bind(tree, &ns).unwrap();
        return (ns, None);
    }
    let seed = get(tree, &format!("{region}/{class}_seed"));
    for (attribute, text) in stores {
        tree.write(&format!("{seed}/{attribute}"), &format!("{text}\0")).unwrap();
    }
    tree.write(&format!("{seed}/namespace"), &format!("{ns}\0")).unwrap();
    bind(tree, &seed).unwrap();
    (ns, Some(seed))
}

/// A label area of its own, initialised.
pub fn labels() -> Arc<dyn Media> {
    let area: Arc<dyn Media> = Arc::new(Anon::new(128 << 10).unwrap());
    nvstack_label::LabelArea::init(Arc::clone(&area), nvstack_format::label::Version::V1_2).unwrap();
    area
}

/// A bus of one region over `media`, with labels beside it.
pub fn labelled(media: Arc<dyn Media>, labels: Arc<dyn Media>) -> BusSpec {
    BusSpec {
        provider: Provider::Nfit,
        dimms: vec![DimmSpec { identity: Some(Identity::qemu(1)), labels: Some(labels), fault: None }],
        regions: vec![RegionSpec::of_dimm(0, media, QEMU_START, cookies(&[SetMember::qemu(0)]))],
        idle: Idle::default(),
    }
}

/// A bus of regions without labels, one for each medium.
pub fn ranges(media: impl IntoIterator<Item = Arc<dyn Media>>) -> BusSpec {
    let mut start = QEMU_START;
    let mut regions = Vec::new();
    for media in media {
        let len = media.len();
        regions.push(RegionSpec::of_range(media, start));
        start += len.next_multiple_of(1 << 30);
    }
    BusSpec {
        provider: Provider::Platform("e820".to_owned()),
        dimms: Vec::new(),
        regions,
        idle: Idle::default(),
    }
}

/// A bus of one interleave set of `ways` DIMMs of `size` bytes each.
pub fn set(ways: u32, size: u64, areas: &[Arc<dyn Media>]) -> BusSpec {
    let members: Vec<Arc<dyn Media>> =
        (0..ways).map(|_| Arc::new(Anon::new(size).unwrap()) as Arc<dyn Media>).collect();
    let set: Vec<SetMember> = (0..ways).map(SetMember::qemu).collect();
    let striped: Arc<dyn Media> = Arc::new(Interleave::new(members, 256).unwrap());
    let mappings = (0..ways)
        .map(|n| MappingSpec { dimm: n as usize, dpa: 0, size, position: u16::try_from(n).unwrap() })
        .collect();
    BusSpec {
        provider: Provider::Nfit,
        dimms: (0..ways)
            .map(|n| DimmSpec {
                identity: Some(Identity::qemu(n + 1)),
                labels: Some(Arc::clone(&areas[n as usize])),
                fault: None,
            })
            .collect(),
        regions: vec![RegionSpec { mappings, ..RegionSpec::of_dimm(0, striped, QEMU_START, cookies(&set)) }],
        idle: Idle::default(),
    }
}

/// All bytes of a medium.
pub fn contents(media: &dyn Media) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(media.len()).unwrap()];
    media.read(MediaOffset(0), &mut bytes).unwrap();
    bytes
}

pub fn open(stack: &Stack, name: &str) -> Arc<dyn BlockDevice> {
    stack.open(name, &OpenOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

pub fn read(disk: &dyn BlockDevice, lba: u64) -> Result<Vec<u8>> {
    // Whatever a read leaves out is seen.
    let mut sector = vec![0xa5; disk.geometry().sector_size as usize];
    disk.read(Lba(lba), &mut [IoSliceMut::new(&mut sector)])?;
    Ok(sector)
}

pub fn write(disk: &dyn BlockDevice, lba: u64, byte: u8) -> Result<()> {
    let sector = vec![byte; disk.geometry().sector_size as usize];
    disk.write(Lba(lba), &[IoSlice::new(&sector)], WriteFlags::empty())
}

/// What a refusal is: its kind, and its words.
#[track_caller]
pub fn refused<T>(outcome: Result<T>, kind: Kind, words: &[&str]) {
    let Err(error) = outcome else { panic!("not refused; expected {kind:?}") };
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} not in: {text}");
    }
}

/// All events until now.
pub fn told(events: &Receiver<Event>) -> Vec<Event> {
    events.try_iter().collect()
}

/// Their actions and names.
pub fn acts(events: &[Event]) -> Vec<(Action, &str)> {
    events.iter().map(|e| (e.action, e.name.as_str())).collect()
}

/// A variable of an event.
pub fn variable<'a>(event: &'a Event, key: &str) -> Option<&'a str> {
    event.variables.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str())
}

/// Configures a btt seed.
pub fn btt_seed(tree: &Tree, seed: &str, uuid: u128, sector: u32, ns: &str) {
    tree.write(&format!("{seed}/uuid"), &uuid::Uuid::from_u128(uuid).to_string()).unwrap();
    tree.write(&format!("{seed}/sector_size"), &sector.to_string()).unwrap();
    tree.write(&format!("{seed}/namespace"), ns).unwrap();
}

pub fn fixture(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// An image of those that Linux made or read, in memory.
pub fn fixture_image(name: &str) -> Arc<dyn Media> {
    let path = fixture(name);
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut bytes = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(file).unwrap().read_to_end(&mut bytes).unwrap();
    let media = Anon::new(bytes.len() as u64).unwrap();
    // Most of it is zeros, which take no memory unless they are stored.
    for (n, page) in (0..).zip(bytes.chunks(4096)).filter(|(_, page)| page.iter().any(|b| *b != 0)) {
        media.store(MediaOffset(n * 4096), page).unwrap();
    }
    Arc::new(media)
}
