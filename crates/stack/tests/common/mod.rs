// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of the model share: machines as ndctl's measurements had them, and ndctl's stores.
#![allow(dead_code, unreachable_pub)]

use std::io::IoSlice;
use std::sync::Arc;

use nvstack_media::{Anon, Media, MediaOffset, Part};
use nvstack_stack::provider::ImageProvider;
use nvstack_stack::{BusSpec, Result, Stack, Tree};

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
            Err(e) if last.is_ok() || e.kind() != nvstack_stack::Kind::Unrecognised => last = Err(e),
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
    let disk = stack.open(ns, &nvstack_stack::OpenOptions::default()).unwrap();
    let zeros = vec![0u8; 8192];
    disk.write(nvstack_block::Lba(0), &[IoSlice::new(&zeros)], nvstack_block::WriteFlags::FUA).unwrap();
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
