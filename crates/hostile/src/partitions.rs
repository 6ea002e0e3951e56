// SPDX-License-Identifier: MIT OR Apache-2.0
//! Partition tables.

use std::io::IoSliceMut;
use std::sync::Arc;

use nvstack_block::{BlockDevice, Lba, Linear, Partition, partitions};

use crate::{Input, Sparse};

/// Sectors of the disk.
const SECTORS: u64 = 256;

/// The checksum of GPT, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

fn word(medium: &Sparse, at: u64) -> u64 {
    u32::from_le_bytes(medium.get(at)).into()
}

/// Puts right the checksums of the GPT header at `at`, whatever else it says, as far as it says something sensible.
fn sign(medium: &Sparse, at: u64, sector: u64) {
    let sum = |from: u64, len: u64| {
        let mut bytes = vec![0; len.min(1 << 16) as usize];
        medium.peek(from, &mut bytes);
        crc32(&bytes).to_le_bytes()
    };
    let entries = u64::from_le_bytes(medium.get(at + 72)).saturating_mul(sector);
    medium.poke(at + 88, &sum(entries, word(medium, at + 80).saturating_mul(word(medium, at + 84))));
    medium.poke(at + 16, &[0; 4]);
    medium.poke(at + 16, &sum(at, word(medium, at + 12)));
}

/// A GPT with two partitions, header and backup, and the record before them.
fn gpt(medium: &Sparse, sector: u64) {
    medium.poke(446, &[0, 0, 2, 0, 0xee, 0, 0, 0, 1, 0, 0, 0, 255, 0, 0, 0]);
    let array = 128 * 128 / sector;
    for (mine, other, entries) in [(1, SECTORS - 1, 2), (SECTORS - 1, 1, SECTORS - 1 - array)] {
        for (number, first, last) in [(0u64, 40u64, 99u64), (6, 100, 180)] {
            let at = entries * sector + number * 128;
            medium.poke(
                at,
                &[
                    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d,
                    0xe4,
                ],
            );
            medium.poke(at + 16, &[number as u8 + 1; 16]);
            medium.poke(at + 32, &first.to_le_bytes());
            medium.poke(at + 40, &last.to_le_bytes());
            medium.poke(at + 56, b"b\0o\0o\0t\0");
        }
        let at = mine * sector;
        medium.poke(at, b"EFI PART\0\0\x01\0\x5c\0\0\0");
        for (offset, value) in
            [(24, mine), (32, other), (40, 2 + array), (48, SECTORS - 2 - array), (72, entries)]
        {
            medium.poke(at + offset, &value.to_le_bytes());
        }
        medium.poke(at + 80, &[128, 0, 0, 0, 128, 0, 0, 0]);
        sign(medium, at, sector);
    }
}

/// An MBR with primary partitions, and a chain of logical ones.
fn mbr(medium: &Sparse) {
    let entry = |record: u64, slot: u64, kind: u8, first: u32, sectors: u32| {
        let at = record * 512 + 446 + slot * 16;
        medium.poke(at + 4, &[kind]);
        medium.poke(at + 8, &first.to_le_bytes());
        medium.poke(at + 12, &sectors.to_le_bytes());
        medium.poke(record * 512 + 510, &[0x55, 0xaa]);
    };
    entry(0, 0, 0x83, 8, 32);
    entry(0, 1, 0x05, 64, 128);
    entry(64, 0, 0x83, 8, 16);
    entry(64, 1, 0x05, 32, 32);
    entry(96, 0, 0x83, 8, 16);
}

/// MBRs and GPTs: whatever they say, a partition lies in its device, and the chain of logical ones ends.
///
/// Input: which table, then edits: place, then bytes or a number (128: and the GPT's checksums put right).
pub fn partition_table(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    let sector: u64 = if how & 1 == 0 { 512 } else { 4096 };
    let medium = Sparse::new(SECTORS * sector + u64::from(how >> 6) * 100);
    medium.poke(510, &[0x55, 0xaa]);
    match how >> 1 & 3 {
        0 => {}
        1 => mbr(&medium),
        _ => gpt(&medium, sector),
    }
    for _ in 0..60 {
        if input.is_empty() {
            break;
        }
        let operation = input.u8();
        let header = [sector, (SECTORS - 1) * sector][usize::from(operation >> 6 & 1)];
        let at = match operation & 15 {
            0..=2 => 446 + input.below(66),
            3 | 4 => 64 * 512 + 446 + input.below(66),
            5 => input.below(SECTORS) * 512 + 446 + input.below(66),
            6..=9 => header + input.below(96),
            10..=13 => 2 * sector + input.below(1024),
            _ => input.below(SECTORS * sector),
        };
        if operation & 32 == 0 {
            let len = [1, 2, 4, 8][usize::from(operation >> 4 & 1) * 2 + usize::from(at % 4 == 0)];
            medium.poke(at, &input.number().to_le_bytes()[..len]);
        } else {
            let len = usize::from(input.u8() % 32);
            medium.poke(at, input.take(len));
        }
        if operation & 128 != 0 {
            sign(&medium, header, sector);
        }
    }
    let before = medium.clone();
    let device: Arc<dyn BlockDevice> =
        Arc::new(Linear::new("pmem0s", medium.clone(), sector as u32, false).expect("a device"));
    let found = partitions(&device).unwrap_or_default();
    let sectors = device.geometry().sectors;
    for (info, next) in found.iter().zip(found.iter().skip(1)) {
        assert!(info.number < next.number, "{found:?}");
    }
    for info in &found {
        assert!(
            info.sectors > 0 && info.first.0.checked_add(info.sectors).is_some_and(|end| end <= sectors),
            "{info:?}"
        );
        let partition =
            Partition::open(Arc::clone(&device), info.number).expect("a partition that was told of");
        let mut bytes = vec![0; sector as usize];
        for lba in [0, info.sectors - 1] {
            partition.read(Lba(lba), &mut [IoSliceMut::new(&mut bytes)]).expect("memory");
        }
        assert!(partition.read(Lba(info.sectors), &mut [IoSliceMut::new(&mut bytes)]).is_err());
        let _ = partition.bytes().map(|bytes| bytes.size());
    }
    let _ = Partition::open(Arc::clone(&device), 5);
    assert!(medium.same_bytes(&before));
}
