// SPDX-License-Identifier: MIT OR Apache-2.0
//! S3: the BTT stacks on whatever offers `rw_bytes`: a namespace, a partition of one, a plain mapping. R18 through the stack.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{MIB, create, get, machine, open, read, refused, write};
use nvstack_block::{BlockDevice, Kind, Lba, Partition, PartitionInfo, PartitionKind};
use nvstack_btt::{Btt, CreateOptions, OpenOptions};
use nvstack_format::btt::{LbaSize, Version};
use nvstack_media::{Access, Mapping, Media};
use uuid::Uuid;

fn btt(media: Arc<dyn Media>, name: &str) -> Btt<Arc<dyn Media>> {
    let options = CreateOptions {
        version: Version::V2_0,
        parent: Uuid::nil(),
        uuid: Uuid::from_u128(7),
        lbasize: LbaSize::new(512).unwrap(),
        overwrite: false,
    };
    nvstack_btt::create(&media, &options).unwrap();
    Btt::open(media, OpenOptions::new(name, Version::V2_0, Uuid::nil())).unwrap()
}

fn works(disk: &dyn BlockDevice) {
    assert!(disk.geometry().atomic);
    for generation in 1..4 {
        for lba in [0, 1, 77, disk.geometry().sectors - 1] {
            write(disk, lba, generation + lba as u8).unwrap();
        }
    }
    for lba in [0, 1, 77, disk.geometry().sectors - 1] {
        assert!(read(disk, lba).unwrap().iter().all(|b| *b == 3 + lba as u8));
    }
}

#[test]
fn s3_over_a_namespace() {
    let (stack, tree) = machine(64 * MIB);
    let (ns, claim) = create(&tree, "region0", "sector", 1, 32 * MIB);
    let claim = claim.unwrap();
    let disk = open(&stack, &ns);
    works(&*disk);
    assert_eq!(get(&tree, &format!("{ns}/holder")), claim);
    assert_eq!(get(&tree, &format!("{ns}/mode")), "safe");
    let size: u64 = get(&tree, &format!("{claim}/size")).parse().unwrap();
    assert_eq!(disk.geometry().bytes(), size);
}

#[test]
fn s3_over_a_partition_of_a_raw_namespace() {
    let (stack, tree) = machine(64 * MIB);
    let (ns, _) = create(&tree, "region0", "raw", 1, 32 * MIB);
    let raw = open(&stack, &ns);
    write(&*raw, 7, 0xaa).unwrap();
    write(&*raw, 8 + 40_000, 0xbb).unwrap();
    let info = PartitionInfo {
        number: 1,
        first: Lba(8),
        sectors: 40_000,
        kind: PartitionKind::Mbr(0x83),
        id: None,
        label: String::new(),
    };
    let partition = Partition::new(raw.clone(), info).unwrap();
    let disk = btt(partition.bytes().unwrap().media(), &partition.name());
    works(&disk);
    // It keeps to its partition, and ends with the namespace.
    assert_eq!((read(&*raw, 7).unwrap()[0], read(&*raw, 40_008).unwrap()[511]), (0xaa, 0xbb));
    common::unbind(&tree, &ns).unwrap();
    refused(write(&disk, 0, 1), Kind::Gone, &[&ns]);
}

#[test]
fn s3_over_a_plain_mapping() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain");
    std::fs::File::create(&path).unwrap().set_len(20 * MIB).unwrap();
    let disk = btt(Arc::new(Mapping::open_locked(&path, Access::ReadWrite).unwrap()), "plain");
    works(&disk);
    disk.flush().unwrap();
    drop(disk);
    let media: Arc<dyn Media> = Arc::new(Mapping::open_locked(&path, Access::ReadOnly).unwrap());
    let options = OpenOptions { read_only: true, ..OpenOptions::new("plain", Version::V2_0, Uuid::nil()) };
    assert_eq!(read(&Btt::open(media, options).unwrap(), 77).unwrap()[0], 80);
}

/// The engine's own tests cut the power at every store; this is the way through the model: what readers see beside writers.
#[test]
fn r18_no_sector_is_torn_or_old_beside_writers() {
    let (stack, tree) = machine(64 * MIB);
    let (ns, _) = create(&tree, "region0", "sector", 1, 32 * MIB);
    let disk = open(&stack, &ns);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut newest = [0u8; 4];
                    let mut rounds = 0;
                    while !over.load(Ordering::Acquire) || rounds < 10 {
                        rounds += 1;
                        for lba in 0..4 {
                            let sector = read(&*disk, lba).unwrap();
                            assert!(sector.iter().all(|b| *b == sector[0]), "torn");
                            assert!(sector[0] >= newest[lba as usize], "old");
                            newest[lba as usize] = sector[0];
                        }
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (0..4)
            .map(|lba| {
                let disk = &disk;
                scope.spawn(move || (1..=250).for_each(|n| write(&**disk, lba, n).unwrap()))
            })
            .collect();
        writers.into_iter().for_each(|w| w.join().unwrap());
        over.store(true, Ordering::Release);
        readers.into_iter().for_each(|r| r.join().unwrap());
    });
    for lba in 0..4 {
        assert_eq!(read(&*disk, lba).unwrap()[4095], 250);
    }
}
