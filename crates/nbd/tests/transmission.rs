// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests and replies, as clients see them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod common;

use std::sync::atomic::Ordering::SeqCst;

use common::{Bed, Chunk, EINVAL, EIO, ENOSPC, EPERM, Ram, Reply, pattern};

const MIB: usize = 1 << 20;
/// The largest write that goes to the device in one call.
const PIECE: usize = nvstack_nbd::PIECE;

#[test]
fn what_was_written_is_read_at_every_size() {
    for sector in [512usize, 4096] {
        let bed = Bed::new(Ram::new((40 * MIB / sector) as u64, sector as u32));
        for mut client in [bed.simple(), bed.structured(&[])] {
            let lengths =
                [sector, 3 * sector, 65536, PIECE - sector, PIECE, PIECE + sector, 3 * MIB, 32 * MIB];
            for (i, len) in lengths.into_iter().enumerate() {
                let offset = ((i + 1) * sector) as u64;
                let data = pattern(len as u64, len);
                assert_eq!(client.write(0, offset, &data), 0, "{len}");
                assert!(client.read(offset, len as u32) == Ok(data.clone()), "{len}");
                let at = offset as usize;
                assert!(bed.ram.state().data[at..at + len] == data, "{len} on the device");
            }
        }
    }
}

#[test]
fn a_write_up_to_a_piece_is_one_call_and_a_longer_one_whole_pieces() {
    let bed = Bed::new(Ram::new(4096, 512));
    let mut client = bed.simple();
    assert_eq!(client.write(0, 512, &pattern(1, PIECE)), 0);
    assert_eq!(bed.ram.calls(), ["write 1+512"]);
    assert_eq!(client.write(1, 0, &pattern(1, 4096)), 0);
    assert_eq!(bed.ram.calls(), ["write 0+8 fua"]);
    assert_eq!(client.write(0, 512, &pattern(2, PIECE + 1024)), 0);
    assert_eq!(bed.ram.calls(), ["write 1+512", "write 513+2"]);
    // All of it is durable before the reply, by one flush.
    assert_eq!(client.write(1, 512, &pattern(3, PIECE + 512)), 0);
    assert_eq!(bed.ram.calls(), ["write 1+512", "write 513+1", "flush"]);
    assert!(bed.ram.state().durable[512..512 + PIECE + 512] == pattern(3, PIECE + 512));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let bed = Bed::new(Ram::new(1024, 4096));
    for mut client in [bed.simple(), bed.structured(&[])] {
        let structured = client.structured;
        let (count, mut cookies) = (10_000u64, vec![]);
        let mut socket = client.socket.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            let mut all = vec![];
            for i in 0..count {
                let offset = (i % 1000) * 4096;
                if i % 2 == 0 {
                    all.extend(common::encode(1, 0, i, offset, 4096));
                    all.extend(pattern(i, 4096));
                } else {
                    all.extend(common::encode(0, 0, i, offset - 4096, 4096));
                }
            }
            std::io::Write::write_all(&mut socket, &all).unwrap();
        });
        for i in 0..count {
            match client.reply() {
                Reply::Simple(cookie, 0) => {
                    if i % 2 == 1 {
                        assert!(!structured && client.bytes(4096) == pattern(i - 1, 4096));
                    }
                    cookies.push(cookie);
                }
                Reply::Chunk(cookie, true, Chunk::Data(offset, data)) => {
                    assert!(i % 2 == 1 && offset == (i - 1) % 1000 * 4096 && data == pattern(i - 1, 4096));
                    cookies.push(cookie);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(cookies, (0..count).collect::<Vec<_>>());
        sender.join().unwrap();
    }
}

#[test]
fn pipelined_writes_of_any_size_arrive_whole() {
    let bed = Bed::new(Ram::new(64 << 11, 512));
    let mut client = bed.simple();
    let (mut all, mut expected, mut offset) = (vec![], vec![], 0);
    for i in 0..120u64 {
        let data = pattern(i, [96, 200, 3, 255, 256, 1, 300, 130][i as usize % 8] << 10);
        all.extend(common::encode(1, 0, i, offset, data.len() as u32));
        all.extend(&data);
        offset += data.len() as u64;
        expected.extend(data);
    }
    let mut socket = client.socket.try_clone().unwrap();
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut socket, &all).unwrap());
    for i in 0..120 {
        assert_eq!(client.reply(), Reply::Simple(i, 0));
    }
    sender.join().unwrap();
    assert!(bed.ram.state().data[..expected.len()] == expected);
    let whole = bed.ram.calls().len();
    assert_eq!(whole, 120 + 15, "only those of 300 KiB are longer than a piece");
}

#[test]
fn requests_may_arrive_in_any_pieces() {
    let bed = Bed::new(Ram::new(1024, 512));
    let mut client = bed.simple();
    let mut all = vec![];
    for i in 0..20u64 {
        all.extend(common::encode(1, 0, i, i * 1024, 1024));
        all.extend(pattern(i, 1024));
    }
    for part in all.chunks(701) {
        client.send(part);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    for i in 0..20 {
        assert_eq!(client.reply(), Reply::Simple(i, 0));
    }
    for i in 0..20u64 {
        assert_eq!(client.read(i * 1024, 1024), Ok(pattern(i, 1024)));
    }
}

#[test]
fn unaligned_and_outlying_requests_move_nothing_and_the_stream_goes_on() {
    let bed = Bed::new(Ram::new(16, 4096));
    let size = 16 * 4096;
    for mut client in [bed.simple(), bed.structured(&["base:allocation"])] {
        for (offset, len) in [(0, 512), (512, 4096), (1, 1), (4096, 4095), (u64::MAX, 4096)] {
            for command in [0, 4, 5, 6, 7] {
                assert_eq!(client.command(command, 0, offset, len), EINVAL, "{command} {offset} {len}");
            }
            assert_eq!(client.write(0, offset, &vec![1; len as usize]), EINVAL);
        }
        for (offset, len) in
            [(size, 4096), (size - 4096, 8192), (0, 1 << 20), (u64::MAX - 4095, 4096), (1 << 63, 4096)]
        {
            for (command, error) in [(0, EINVAL), (4, EINVAL), (5, EINVAL), (7, EINVAL), (6, ENOSPC)] {
                assert_eq!(client.command(command, 0, offset, len), error, "{command} {offset} {len}");
            }
            assert_eq!(client.write(0, offset, &vec![1; len as usize]), ENOSPC);
        }
        assert_eq!(bed.ram.calls(), Vec::<String>::new());
        assert_eq!(client.read(0, size as u32), Ok(vec![0; size as usize]));
        assert_eq!(client.read(size - 4096, 4096), Ok(vec![0; 4096]), "the last sector is inside");
    }
}

#[test]
fn requests_beyond_the_maximum_are_refused_and_the_payload_is_skipped() {
    let bed = Bed::new(Ram::new(48 << 11, 512));
    let mut client = bed.simple();
    let beyond = (32 << 20) + 512;
    assert_eq!(client.command(0, 0, 0, beyond), EINVAL);
    assert_eq!(client.command(5, 0, 0, beyond), EINVAL);
    assert_eq!(client.write(0, 0, &vec![7; beyond as usize]), EINVAL);
    assert_eq!(bed.ram.calls(), Vec::<String>::new());
    // No payload, no reason to refuse.
    assert_eq!(client.command(6, 0, 0, beyond), 0);
    assert_eq!(client.command(4, 0, 0, beyond), 0);
}

#[test]
fn unknown_commands_and_flags_are_refused() {
    let bed = Bed::new(Ram::new(16, 4096));
    let mut client = bed.simple();
    for command in [8, 9, 0x1234, 0xffff] {
        assert_eq!(client.command(command, 0, 0, 4096), EINVAL);
    }
    // DF without structured replies, NO_HOLE on a read, REQ_ONE on a flush, bits without a name.
    for (command, flags) in [(0, 4), (0, 2), (3, 8), (5, 16), (6, 0x20), (4, 0x8000)] {
        let len = if command == 3 { 0 } else { 4096 };
        assert_eq!(client.command(command, flags, 0, len), EINVAL, "{command} {flags}");
    }
    assert_eq!(client.write(2, 0, &[1; 4096]), EINVAL);
    assert_eq!(client.command(3, 0, 4096, 0), EINVAL, "a flush has no range");
    assert_eq!(client.command(7, 0, 0, 4096), EINVAL, "no context was chosen");
    assert_eq!(bed.ram.calls(), Vec::<String>::new());
    // FUA is fine everywhere.
    for (command, len) in [(3, 0), (4, 4096), (5, 4096), (6, 4096)] {
        assert_eq!(client.command(command, 1, 0, len), 0, "{command}");
    }
    let cookie = client.request(0, 1, 0, 4096);
    assert_eq!(client.status(cookie), 0);
    client.bytes(4096);
}

#[test]
fn requests_of_no_bytes_do_nothing() {
    let bed = Bed::new(Ram::new(16, 4096));
    let mut client = bed.simple();
    assert_eq!(client.read(4096, 0), Ok(vec![]));
    assert_eq!(client.write(0, 4096, &[]), 0);
    assert_eq!(client.command(4, 0, 0, 0), 0);
    let mut client = bed.structured(&["base:allocation"]);
    let cookie = client.request(0, 0, 4096, 0);
    assert_eq!(client.chunks(cookie), [Chunk::None]);
    assert_eq!(client.command(7, 0, 0, 0), EINVAL);
    assert!(bed.ram.state().data.iter().all(|b| *b == 0));
}

#[test]
fn a_read_only_export_refuses_every_change() {
    let bed = Bed::new(Ram::new(16, 4096).read_only());
    for mut client in [bed.simple(), bed.structured(&[])] {
        assert_eq!(client.write(0, 0, &[1; 4096]), EPERM);
        assert_eq!(client.write(0, 1 << 40, &[1; 8192]), EPERM);
        assert_eq!(client.command(4, 0, 0, 4096), EPERM);
        assert_eq!(client.command(6, 0, 0, 4096), EPERM);
        assert_eq!(client.flush(), 0);
        assert_eq!(client.read(0, 4096), Ok(vec![0; 4096]));
    }
    assert_eq!(bed.ram.calls(), ["flush", "flush"]);
}

#[test]
fn flush_fua_trim_and_zeroes_reach_the_device() {
    let bed = Bed::new(Ram::new(16, 4096));
    let mut client = bed.simple();
    assert_eq!(client.write(0, 0, &pattern(1, 8192)), 0);
    assert!(bed.ram.state().durable.iter().all(|b| *b == 0));
    assert_eq!(client.flush(), 0);
    assert!(bed.ram.state().durable[..8192] == pattern(1, 8192));
    assert_eq!(client.write(1, 8192, &pattern(2, 4096)), 0);
    assert!(bed.ram.state().durable[8192..12288] == pattern(2, 4096));
    bed.ram.calls();
    assert_eq!(client.command(4, 0, 4096, 8192), 0);
    assert_eq!(client.command(4, 1, 4096, 4096), 0);
    assert_eq!(client.command(6, 0, 0, 4096), 0);
    assert_eq!(client.command(6, 3, 4096, 4096), 0);
    assert_eq!(client.command(6, 16, 8192, 4096), 0);
    assert_eq!(
        bed.ram.calls(),
        [
            "discard 1+2",
            "discard 1+1",
            "flush",
            "zero 0+1 WriteFlags(0x0)",
            "zero 1+1 WriteFlags(FUA | NO_HOLE)",
            "zero 2+1 WriteFlags(FAST)"
        ]
    );
    assert_eq!(client.read(0, 12288), Ok(vec![0; 12288]));
    bed.ram.zeroing_is_slow.store(true, SeqCst);
    assert_eq!(client.command(6, 16, 0, 4096), 95, "ENOTSUP answers a fast zero only");
    assert_eq!(client.command(6, 0, 0, 4096), 0);
    bed.ram.no_zeroing.store(true, SeqCst);
    assert_eq!(client.command(6, 0, 0, 4096), EINVAL);
    bed.ram.flush_fails.store(true, SeqCst);
    assert_eq!(client.flush(), EIO);
    assert_eq!(client.command(4, 1, 0, 4096), EIO);
    bed.ram.flush_fails.store(false, SeqCst);
}

#[test]
fn a_device_without_discard_does_not_get_any() {
    let mut ram = Ram::new(16, 4096);
    ram.geometry.discard = false;
    let bed = Bed::new(ram);
    assert_eq!(bed.simple().command(4, 0, 0, 4096), EINVAL);
    assert_eq!(bed.ram.calls(), Vec::<String>::new());
}

#[test]
fn cache_reads_the_range() {
    let bed = Bed::new(Ram::new(4096, 512));
    let mut client = bed.simple();
    assert_eq!(client.command(5, 0, 0, 2 << 20), 0);
    bed.ram.state().bad.insert(2000);
    assert_eq!(client.command(5, 0, 0, 2 << 20), EIO);
    assert_eq!(client.command(5, 0, 0, 2000 * 512), 0);
}

#[test]
fn a_failed_read_tells_where_and_gives_what_is_good() {
    let bed = Bed::new(Ram::new(4096, 512));
    let data = pattern(9, 64 << 10);
    let mut simple = bed.simple();
    assert_eq!(simple.write(0, 0, &data), 0);
    bed.ram.state().bad.insert(21);
    assert_eq!(simple.read(0, 64 << 10), Err(EIO));
    assert_eq!(simple.read(22 * 512, 512), Ok(data[22 * 512..23 * 512].to_vec()));

    let mut client = bed.structured(&[]);
    let text = "read LBA 21".to_owned();
    for (flags, len) in [(0, 32 << 10), (0, 64 << 10), (4, 32 << 10), (0, 1 << 20)] {
        let cookie = client.request(0, flags, 512, len);
        let good = Chunk::Data(512, data[512..21 * 512].to_vec());
        assert_eq!(client.chunks(cookie), [good, Chunk::ErrorAt(EIO, text.clone(), 21 * 512)]);
    }
    let cookie = client.request(0, 0, 21 * 512, 512);
    assert_eq!(client.chunks(cookie), [Chunk::ErrorAt(EIO, text.clone(), 21 * 512)]);
    // One chunk that is longer than a piece had to be announced whole: zeros follow the good bytes.
    let cookie = client.request(0, 4, 512, 1 << 20);
    let mut padded = vec![0; 1 << 20];
    padded[..20 * 512].copy_from_slice(&data[512..21 * 512]);
    assert_eq!(client.chunks(cookie), [Chunk::Data(512, padded), Chunk::ErrorAt(EIO, text, 21 * 512)]);
    assert_eq!(client.read(0, 512), Ok(data[..512].to_vec()));
}

#[test]
fn a_long_simple_read_of_known_bad_blocks_is_an_error_and_of_others_ends_the_connection() {
    let bed = Bed::new(Ram::new(4096, 512));
    let mut client = bed.simple();
    bed.ram.state().bad.insert(4000);
    assert_eq!(client.read(0, 2 << 20), Err(EIO));
    assert_eq!(client.read(0, 1 << 20), Ok(vec![0; 1 << 20]));
    bed.ram.extents_fail.store(true, SeqCst);
    let cookie = client.request(0, 0, 0, 2 << 20);
    assert_eq!(client.reply(), Reply::Simple(cookie, 0));
    let mut rest = vec![];
    let _ = std::io::Read::read_to_end(&mut client.socket, &mut rest);
    assert!(rest.len() < 2 << 20, "lost bytes must not be passed off as data");
}

#[test]
fn dont_fragment_gives_one_chunk() {
    let bed = Bed::new(Ram::new(4096, 512));
    let mut client = bed.structured(&[]);
    let data = pattern(4, 2 << 20);
    assert_eq!(client.write(0, 0, &data), 0);
    assert_eq!(client.command(6, 0, 8192, 128 << 10), 0);
    let mut data = data;
    data[8192..8192 + (128 << 10)].fill(0);
    for len in [512, 65536, PIECE as u32, 2 << 20] {
        let cookie = client.request(0, 4, 0, len);
        let chunks = client.chunks(cookie);
        assert!(chunks[0] == Chunk::Data(0, data[..len as usize].to_vec()), "{len}");
        assert!(matches!(chunks[1..], [] | [Chunk::None]), "{len}");
    }
}

#[test]
fn holes_of_larger_reads_are_told_and_not_sent() {
    let bed = Bed::new(Ram::new(4096, 512));
    let mut client = bed.structured(&[]);
    let data = pattern(5, 2 << 20);
    assert_eq!(client.write(0, 0, &data), 0);
    assert_eq!(client.command(6, 0, 8192, 120 << 10), 0);
    let cookie = client.request(0, 0, 4096, 1 << 20);
    let chunks = client.chunks(cookie);
    assert!(chunks[0] == Chunk::Data(4096, data[4096..8192].to_vec()));
    assert_eq!(chunks[1], Chunk::Hole(8192, 120 << 10));
    assert!(matches!(chunks[2], Chunk::Data(131072, _)));
    let mut data = data;
    data[8192..131072].fill(0);
    assert!(client.read(0, 2 << 20) == Ok(data.clone()));
    // A hole to the end closes the reply; one that fills it is the reply.
    assert_eq!(client.command(6, 0, 1 << 20, 1 << 20), 0);
    let cookie = client.request(0, 0, 1 << 20, 1 << 20);
    assert_eq!(client.chunks(cookie), [Chunk::Hole(1 << 20, 1 << 20)]);
    data[1 << 20..].fill(0);
    for fail in [false, true] {
        for ramble in [false, true] {
            bed.ram.extents_fail.store(fail, SeqCst);
            bed.ram.extents_ramble.store(ramble, SeqCst);
            assert!(client.read(0, 2 << 20) == Ok(data.clone()), "{fail} {ramble}");
        }
    }
    // Small reads go straight.
    let cookie = client.request(0, 0, 8192, 4096);
    assert_eq!(client.chunks(cookie), [Chunk::Data(8192, vec![0; 4096])]);
}

#[test]
fn more_holes_than_are_looked_at_in_one_go() {
    let bed = Bed::new(Ram::new(8192, 512));
    let mut client = bed.structured(&["base:allocation"]);
    let data = pattern(6, 4 << 20);
    assert_eq!(client.write(0, 0, &data), 0);
    let mut expected = data;
    {
        let mut state = bed.ram.state();
        for lba in (0..8192).filter(|lba| lba % 2 == 1) {
            state.holes.insert(lba);
            state.data[lba as usize * 512..][..512].fill(0);
        }
        expected.copy_from_slice(&state.data);
    }
    assert!(client.read(0, 4 << 20) == Ok(expected));
    let cookie = client.request(7, 0, 0, 4 << 20);
    let chunks = client.chunks(cookie);
    let Chunk::Status(1, extents) = &chunks[0] else { panic!("{chunks:?}") };
    assert_eq!(extents.len(), 4096, "as many as one reply tells");
    assert_eq!(extents[..2], [(512, 0), (512, 3)]);
}

#[test]
fn block_status_tells_allocation_and_bad_blocks() {
    let bed = Bed::new(Ram::new(1024, 4096));
    let mut client = bed.structured(&["base:allocation", "nvstack:badblocks"]);
    bed.ram.state().holes.extend(8..16);
    bed.ram.state().bad.extend([2, 3, 9]);
    for ramble in [false, true] {
        bed.ram.extents_ramble.store(ramble, SeqCst);
        let cookie = client.request(7, 0, 4096, 31 * 4096);
        assert_eq!(
            client.chunks(cookie),
            [
                Chunk::Status(1, vec![(7 * 4096, 0), (8 * 4096, 3), (16 * 4096, 0)]),
                Chunk::Status(2, vec![(4096, 0), (8192, 1), (5 * 4096, 0), (4096, 1), (22 * 4096, 0)]),
            ]
        );
        let cookie = client.request(7, 8, 4096, 31 * 4096);
        assert_eq!(
            client.chunks(cookie),
            [Chunk::Status(1, vec![(7 * 4096, 0)]), Chunk::Status(2, vec![(4096, 0)])]
        );
        let cookie = client.request(7, 8, 8192, 4096);
        assert_eq!(
            client.chunks(cookie),
            [Chunk::Status(1, vec![(4096, 0)]), Chunk::Status(2, vec![(4096, 1)])]
        );
    }
    bed.ram.extents_fail.store(true, SeqCst);
    let cookie = client.request(7, 0, 0, 4096);
    assert_eq!(client.chunks(cookie), [Chunk::Error(EIO, "extents".into())]);
    bed.ram.extents_fail.store(false, SeqCst);
    // One context alone is told alone.
    let mut client = bed.structured(&["nvstack:badblocks"]);
    let cookie = client.request(7, 0, 0, 4 * 4096);
    assert_eq!(client.chunks(cookie), [Chunk::Status(2, vec![(8192, 0), (8192, 1)])]);
}

#[test]
fn a_write_that_fails_in_the_middle_is_answered_after_its_payload() {
    let bed = Bed::new(Ram::new(8192, 512));
    bed.ram.state().bad.insert(600);
    let mut client = bed.structured(&[]);
    let cookie = client.request(1, 0, 0, 2 << 20);
    client.send(&pattern(1, 2 << 20));
    assert_eq!(client.reply(), Reply::Chunk(cookie, true, Chunk::Error(EIO, "write LBA 600".into())));
    assert_eq!(bed.ram.calls(), ["write 0+512", "write 512+512"], "nothing is written after the error");
    assert_eq!(client.write(0, 0, &pattern(2, 512)), 0);
    assert_eq!(bed.simple().write(0, 512 * 512, &pattern(1, PIECE)), EIO);
}

#[test]
fn errors_carry_their_text_when_replies_are_structured() {
    let bed = Bed::new(Ram::new(16, 4096));
    let mut client = bed.structured(&[]);
    for (command, offset, words) in
        [(0, 512, "whole sectors of 4096"), (6, 1 << 30, "export's 65536 bytes"), (99, 0, "99")]
    {
        let cookie = client.request(command, 0, offset, 4096);
        match client.reply() {
            Reply::Chunk(c, true, Chunk::Error(_, text)) => {
                assert!(c == cookie && text.contains(words), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_flush_on_one_connection_covers_the_writes_of_another() {
    let bed = Bed::new(Ram::new(1024, 4096));
    let (mut one, mut two) = (bed.simple(), bed.structured(&[]));
    assert_ne!(one.flags & 0x100, 0, "CAN_MULTI_CONN");
    for i in 0..50u64 {
        let data = pattern(i, 4096);
        assert_eq!(one.write(0, i * 4096, &data), 0);
        assert_eq!(two.read(i * 4096, 4096), Ok(data.clone()));
        assert_eq!(two.flush(), 0);
        let at = i as usize * 4096;
        assert!(bed.ram.state().durable[at..at + 4096] == data);
    }
}

#[test]
fn disc_ends_the_connection_after_what_came_before() {
    let bed = Bed::new(Ram::new(16, 4096));
    let mut client = bed.simple();
    let mut all = common::encode(1, 0, 1, 0, 4096);
    all.extend(pattern(1, 4096));
    all.extend(common::encode(0, 0, 2, 0, 4096));
    all.extend(common::encode(2, 0, 3, 0, 0));
    client.send(&all);
    assert_eq!(client.reply(), Reply::Simple(1, 0));
    assert_eq!(client.reply(), Reply::Simple(2, 0));
    assert_eq!(client.bytes(4096), pattern(1, 4096));
    client.assert_ended();
    bed.await_connections(0);
    assert_eq!(bed.ram.calls(), ["write 0+1"], "an end is no flush");
}
