// SPDX-License-Identifier: MIT OR Apache-2.0
//! S3: the BTT stacks on whatever offers `rw_bytes`: a namespace, a partition of one, a plain mapping. R18 through the stack.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::hooked::{Access, Door, Hooked};
use common::{MIB, create, get, labelled, labels, machine, open, read, refused, write};
use nvstack_block::{BlockDevice, Kind, Lba, Partition, PartitionInfo, PartitionKind};
use nvstack_btt::{Btt, CreateOptions, OpenOptions};
use nvstack_format::btt::{LbaSize, Version};
use nvstack_media::{Anon, Mapping, Media};
use nvstack_stack::Stack;
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
    let disk = btt(Arc::new(Mapping::open_locked(&path, nvstack_media::Access::ReadWrite).unwrap()), "plain");
    works(&disk);
    disk.flush().unwrap();
    drop(disk);
    let media: Arc<dyn Media> =
        Arc::new(Mapping::open_locked(&path, nvstack_media::Access::ReadOnly).unwrap());
    let options = OpenOptions { read_only: true, ..OpenOptions::new("plain", Version::V2_0, Uuid::nil()) };
    assert_eq!(read(&Btt::open(media, options).unwrap(), 77).unwrap()[0], 80);
}

/// A machine with a disk in sector mode, on a medium that tells of each access.
fn hooked(hook: impl Fn(Access) + Send + Sync + 'static) -> (Stack, Arc<dyn BlockDevice>) {
    let media = Hooked::new(Arc::new(Anon::new(64 * MIB).unwrap()), move |access| {
        hook(access);
        Ok(())
    });
    let stack = Stack::new();
    stack.register(labelled(media, labels()));
    stack.settle();
    let (ns, _) = create(&stack.tree(), "region0", "sector", 1, 32 * MIB);
    let disk = open(&stack, &ns);
    (stack, disk)
}

/// The engine's own tests cut the power at every store; this is the way through the model: what readers see beside writers.
#[test]
fn r18_no_sector_is_torn_or_old_beside_writers() {
    const WRITES: u8 = 100;
    // Whoever is about to read or write a block is held up just then, for others to get in between.
    let (_stack, disk) = hooked(|access| {
        if access.len == 4096 {
            std::thread::sleep(Duration::from_micros(20));
        }
    });
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
                scope.spawn(move || (1..=WRITES).for_each(|n| write(&**disk, lba, n).unwrap()))
            })
            .collect();
        writers.into_iter().for_each(|w| w.join().unwrap());
        over.store(true, Ordering::Release);
        readers.into_iter().for_each(|r| r.join().unwrap());
    });
    for lba in 0..4 {
        assert_eq!(read(&*disk, lba).unwrap()[4095], WRITES);
    }
}

/// Who reads slowly has one sector in hand, whatever is written meanwhile.
#[test]
fn r18_a_block_that_is_being_read_is_not_written() {
    let (door, slow) = (Door::default(), Arc::new(AtomicBool::new(false)));
    let (_stack, disk) = hooked({
        let (door, slow) = (door.clone(), Arc::clone(&slow));
        move |access| {
            if access.operation == "read" && access.len == 4096 && slow.swap(false, Ordering::AcqRel) {
                door.pass();
            }
        }
    });
    write(&*disk, 0, 1).unwrap();
    slow.store(true, Ordering::Release);
    std::thread::scope(|scope| {
        let _open = door.opened_at_end();
        let reader = scope.spawn(|| read(&*disk, 0).unwrap());
        door.wait_for(1);
        let writer = scope.spawn(|| {
            // The block that is being read comes free, and is this thread's next.
            write(&*disk, 0, 2).unwrap();
            write(&*disk, 1, 3).unwrap();
        });
        // The second write waits for the reader. One that does not has long ended by then.
        for _ in 0..300 {
            if writer.is_finished() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        door.open();
        let sector = reader.join().unwrap();
        assert!(sector.iter().all(|b| *b == 1), "the reader was given {}", sector[4095]);
        writer.join().unwrap();
    });
    assert_eq!((read(&*disk, 0).unwrap()[0], read(&*disk, 1).unwrap()[0]), (2, 3));
}
