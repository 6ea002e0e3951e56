// SPDX-License-Identifier: MIT OR Apache-2.0
//! Negotiation, as clients see it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod common;

use std::sync::Arc;

use common::{Bed, Client, Ram, limits};
use nvstack_media::Kind;

const UNSUP: u32 = 0x8000_0001;
const INVALID: u32 = 0x8000_0003;
const UNKNOWN: u32 = 0x8000_0006;
const TOO_BIG: u32 = 0x8000_0009;

#[test]
fn go_tells_size_flags_and_block_sizes_to_all_and_names_to_those_who_ask() {
    let bed = Bed::new(Ram::new(2048, 512));
    let mut client = bed.greeted();
    let block_size = [512u32, 4096, 32 << 20].map(u32::to_be_bytes).concat();
    let infos = client.info(6, "ram", &[]).unwrap();
    assert_eq!(infos.iter().map(|i| i.0).collect::<Vec<_>>(), [0, 3]);
    assert_eq!(infos[1].1, block_size);
    assert_eq!((client.size, client.flags), (1 << 20, 0xd6d));
    let infos = client.info(7, "", &[1, 2, 3, 77]).unwrap();
    assert_eq!(infos[1..], [(3, block_size), (1, b"ram".to_vec()), (2, b"bytes in memory".to_vec())]);
    assert_eq!(client.read(0, 512), Ok(vec![0; 512]));
}

#[test]
fn flags_follow_the_device_and_the_agreement() {
    let bed = Bed::new(Ram::new(8, 4096).read_only());
    let mut client = bed.greeted();
    client.go("").unwrap();
    assert_eq!(client.flags, 0x50f);

    let mut ram = Ram::new(8, 4096);
    ram.geometry.discard = false;
    let bed = Bed::new(ram);
    let mut client = bed.greeted();
    client.info(6, "", &[]).unwrap();
    assert_eq!(client.flags, 0xd4d);
    client.structured_reply();
    client.go("").unwrap();
    assert_eq!(client.flags, 0xdcd);
}

#[test]
fn strange_preferred_sizes_are_told_as_valid_ones() {
    for (preferred, told) in [(0, 4096u32), (4097, 4096), (1 << 31, 32 << 20), (65536, 65536)] {
        let mut ram = Ram::new(8, 4096);
        ram.geometry.preferred = preferred;
        let bed = Bed::new(ram);
        let infos = bed.greeted().go("ram").unwrap();
        assert_eq!(infos[1].1[4..8], told.to_be_bytes(), "{preferred}");
    }
}

#[test]
fn export_name_enters_transmission_with_and_without_zeroes() {
    let bed = Bed::new(Ram::new(8, 4096));
    for (flags, zeroes) in [(3, 0), (1, 124), (2, 0), (0, 124)] {
        let mut client = Client::greeted_with(bed.socket(), flags);
        client.option(1, b"ram");
        assert_eq!((client.u64(), client.u16()), (8 * 4096, 0xd6d));
        assert_eq!(client.bytes(zeroes), vec![0; zeroes]);
        assert_eq!(client.read(4096, 4096), Ok(vec![0; 4096]));
    }
    let mut client = bed.greeted();
    client.option(1, b"nothing");
    client.assert_ended();
}

#[test]
fn list_names_every_export_in_order() {
    let bed = Bed::new(Ram::new(8, 4096));
    bed.exports.add("b", "", Arc::new(Ram::new(8, 512))).unwrap();
    bed.exports.add("a", "x", Arc::new(Ram::new(8, 512))).unwrap();
    let mut client = bed.greeted();
    client.option(3, &[]);
    let replies = client.option_replies(3);
    let entries: Vec<_> = replies.iter().map(|(code, data)| (*code, data.as_slice())).collect();
    assert_eq!(
        entries,
        [
            (2, &b"\0\0\0\x03rambytes in memory"[..]),
            (2, &b"\0\0\0\x01b"[..]),
            (2, &b"\0\0\0\x01ax"[..]),
            (1, &b""[..])
        ]
    );
    assert_eq!(bed.exports.names(), ["ram", "b", "a"]);
    client.go("a").unwrap();
    assert_eq!(client.size, 4096);
}

#[test]
fn what_is_not_offered_is_refused_and_negotiation_goes_on() {
    let bed = Bed::new(Ram::new(8, 4096));
    let mut client = bed.greeted();
    // STARTTLS, PEEK_EXPORT, EXTENDED_HEADERS, and numbers that nobody has given a meaning.
    for (option, data) in [(5, &b""[..]), (4, b""), (11, b""), (0, b"xyz"), (0xffff_ffff, &[7; 5000])] {
        client.option(option, data);
        assert_eq!(client.option_reply(option).0, UNSUP, "{option}");
    }
    for option in [3, 8] {
        client.option(option, b"data");
        assert_eq!(client.option_reply(option).0, INVALID, "{option}");
    }
    assert_eq!(client.go("none"), Err(UNKNOWN));
    client.go("ram").unwrap();
    assert_eq!(client.flush(), 0);
}

#[test]
fn malformed_option_data_is_refused_and_negotiation_goes_on() {
    let bed = Bed::new(Ram::new(8, 4096));
    let mut client = bed.greeted();
    client.structured_reply();
    let export: [&[u8]; 8] = [
        b"",
        b"\0\0\0",
        b"\0\0\0\x04ram\0\0",
        b"\xff\xff\xff\xffram\0\0",
        b"\0\0\0\x03ram",
        b"\0\0\0\x03ram\0\x01",
        b"\0\0\0\x03ram\0\0x",
        b"\0\0\0\x02\xc3\x28\0\0",
    ];
    for (option, data) in export.iter().flat_map(|data| [(6, data), (7, data)]) {
        client.option(option, data);
        assert_eq!(client.option_reply(option).0, INVALID, "{data:?}");
    }
    let meta: [&[u8]; 6] = [
        b"\0\0\0\x03ram",
        b"\0\0\0\x03ram\0\0\0\x01",
        b"\0\0\0\x03ram\xff\xff\xff\xff",
        b"\0\0\0\x03ram\0\0\0\x01\xff\xff\xff\xffbase:",
        b"\0\0\0\x03ram\0\0\0\x01\0\0\0\x05base:x",
        b"\0\0\0\x03ram\0\0\0\x01\0\0\0\x02b\0",
    ];
    for (option, data) in meta.iter().flat_map(|data| [(9, data), (10, data)]) {
        client.option(option, data);
        assert_eq!(client.option_reply(option).0, INVALID, "{data:?}");
    }
    // A name longer than the protocol's strings.
    assert_eq!(client.go(&"n".repeat(4097)), Err(INVALID));
    assert_eq!(client.go(&"n".repeat(4096)), Err(UNKNOWN));
    client.go("ram").unwrap();
}

#[test]
fn oversized_option_data_is_refused_at_once_and_skipped() {
    let bed = Bed::new(Ram::new(8, 4096));
    let mut client = bed.greeted();
    client.option_head(6, 3 << 20);
    assert_eq!(client.option_reply(6).0, TOO_BIG);
    client.send(&vec![0x49; 3 << 20]);
    client.go("ram").unwrap();
    assert_eq!(client.flush(), 0);
    // There is no reply that could refuse this one.
    let mut client = bed.greeted();
    client.option_head(1, 1 << 20);
    client.assert_ended();
}

#[test]
fn abort_is_acknowledged() {
    let bed = Bed::new(Ram::new(8, 4096));
    let mut client = bed.greeted();
    client.option(2, b"bye");
    assert_eq!(client.option_reply(2), (1, vec![]));
    client.assert_ended();
    bed.await_connections(0);
}

#[test]
fn unknown_client_flags_end_the_connection() {
    let bed = Bed::new(Ram::new(8, 4096));
    Client::greeted_with(bed.socket(), 7).assert_ended();
}

#[test]
fn metadata_contexts_are_listed_and_chosen() {
    let bed = Bed::new(Ram::new(8, 4096));
    let mut client = bed.greeted();
    assert_eq!(client.meta(9, "ram", &[]), Err(INVALID), "structured replies come first");
    assert_eq!(client.meta(10, "ram", &["base:allocation"]), Err(INVALID));
    client.structured_reply();
    let allocation = |id| (id, "base:allocation".to_owned());
    let bad = |id| (id, "nvstack:badblocks".to_owned());
    assert_eq!(client.meta(9, "ram", &[]), Ok(vec![allocation(0), bad(0)]));
    assert_eq!(client.meta(9, "", &["base:"]), Ok(vec![allocation(0)]));
    assert_eq!(client.meta(9, "ram", &["nvstack:", "x-other:", "junk"]), Ok(vec![bad(0)]));
    assert_eq!(client.meta(9, "none", &[]), Err(UNKNOWN));
    assert_eq!(client.meta(10, "none", &["base:allocation"]), Err(UNKNOWN));
    assert_eq!(client.meta(10, "ram", &[]), Ok(vec![]));
    assert_eq!(client.meta(10, "ram", &["base:", "nvstack:"]), Ok(vec![]), "no wildcards here");
    assert_eq!(
        client.meta(10, "ram", &["nvstack:badblocks", "base:allocation", "base:allocation"]),
        Ok(vec![allocation(1), bad(2)])
    );
}

#[test]
fn contexts_count_for_the_export_that_they_were_chosen_for() {
    let bed = Bed::new(Ram::new(8, 4096));
    bed.exports.add("other", "", Arc::new(Ram::new(8, 4096))).unwrap();
    for (set, go, works) in
        [("ram", "ram", true), ("ram", "", true), ("ram", "other", false), ("other", "ram", false)]
    {
        let mut client = bed.greeted();
        client.structured_reply();
        client.set_meta_context(set, &["base:allocation"]);
        client.go(go).unwrap();
        let cookie = client.request(7, 0, 0, 4096);
        let refused = matches!(client.chunks(cookie)[..], [common::Chunk::Error(22, _)]);
        assert_eq!(!refused, works, "{set} {go}");
    }
    // A later choice that fails leaves none.
    let mut client = bed.greeted();
    client.structured_reply();
    client.set_meta_context("ram", &["base:allocation"]);
    client.meta(10, "none", &["base:allocation"]).unwrap_err();
    client.go("ram").unwrap();
    assert_eq!(client.command(7, 0, 0, 4096), 22);
}

#[test]
fn a_negotiation_has_a_deadline_and_a_bound() {
    let limits = nvstack_nbd::Limits { handshake: std::time::Duration::from_secs(1), ..limits() };
    let bed = Bed::with(Ram::new(8, 4096), limits);
    let began = std::time::Instant::now();
    let mut silent = bed.socket();
    let mut slow = bed.greeted();
    let mut skipping = bed.greeted();
    skipping.option_head(6, u32::MAX);
    let dripping = bed.greeted();
    let drip = std::thread::spawn(move || {
        let mut dripping = dripping;
        // Each byte comes in time, all of them together do not.
        while std::io::Write::write_all(&mut dripping.socket, b"I").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(began.elapsed().as_secs() < 10, "a dripping client is never cut");
        }
    });
    slow.option_head(7, 20);
    slow.assert_ended();
    assert_eq!(skipping.option_reply(6).0, TOO_BIG);
    // However fast the rest comes, its end is too far away.
    let flood = vec![0; 1 << 20];
    while std::io::Write::write_all(&mut skipping.socket, &flood).is_ok() {
        assert!(began.elapsed().as_secs() < 10, "a flooding client is never cut");
    }
    let mut rest = vec![];
    std::io::Read::read_to_end(&mut silent, &mut rest).unwrap();
    assert_eq!(rest.len(), 18);
    drip.join().unwrap();
    bed.await_connections(0);
    // One that has begun its work is not bound by it.
    let mut client = bed.simple();
    std::thread::sleep(std::time::Duration::from_millis(1300));
    assert_eq!(client.flush(), 0);
    drop(client);
}

#[test]
fn a_negotiation_has_so_many_options_and_no_more() {
    let bed = Bed::new(Ram::new(8, 4096));
    let mut client = bed.greeted();
    let many = b"IHAVEOPT\0\0\0\x08\0\0\0\0".repeat(5000);
    let mut socket = client.socket.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let _ = std::io::Write::write_all(&mut socket, &many);
    });
    let mut rest = vec![];
    let _ = std::io::Read::read_to_end(&mut client.socket, &mut rest);
    sender.join().unwrap();
    assert!(rest.len() <= 4096 * 20, "{} replies", rest.len() / 20);
    bed.await_connections(0);
}

#[test]
fn exports_that_clients_could_not_use_are_refused() {
    let exports = nvstack_nbd::Exports::new();
    let ram = || Arc::new(Ram::new(8, 512));
    exports.add("a", "", ram()).unwrap();
    assert_eq!(exports.add("a", "", ram()).unwrap_err().kind(), Kind::Exists);
    for name in ["", "a\0", &"n".repeat(4097)] {
        assert_eq!(exports.add(name, "", ram()).unwrap_err().kind(), Kind::Invalid);
    }
    for size in [0, 520, 1 << 17] {
        assert_eq!(
            exports.add("b", "", Arc::new(Ram::new(1, size))).unwrap_err().kind(),
            Kind::Invalid,
            "{size}"
        );
    }
    assert!(exports.remove("b").is_none());
    assert!(exports.remove("a").is_some());
    assert_eq!(exports.names(), Vec::<String>::new());
}
