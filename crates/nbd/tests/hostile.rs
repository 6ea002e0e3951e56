// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clients that lie, stop, vanish or talk nonsense: each harms itself alone.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use common::{Bed, Client, Ram, Reply, encode, limits, pattern, wait_for};
use nvstack_nbd::Limits;
use proptest::prelude::*;

/// The others are served as if nothing had been.
fn assert_unharmed(bed: &Bed) {
    let mut client = bed.simple();
    let data = pattern(0xabc, 4096);
    assert_eq!(client.write(1, 0, &data), 0);
    assert_eq!(client.read(0, 4096), Ok(data));
}

#[test]
fn garbage_where_an_option_should_be_ends_the_connection() {
    let bed = Bed::new(Ram::new(16, 4096));
    for garbage in [&[0; 64][..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 5000], b"IHAVEOPU\0\0\0\x07\0\0\0\0"] {
        let mut client = bed.greeted();
        client.send(garbage);
        client.assert_ended();
    }
    bed.await_connections(0);
    assert_unharmed(&bed);
}

#[test]
fn what_was_answered_before_garbage_is_told() {
    let bed = Bed::new(Ram::new(16, 4096));
    for garbage in [&b"no option is like this"[..], b"IHAVEOPT\0\0\0\x01\0\0\0\x05other"] {
        let mut client = bed.greeted();
        client.send(&[b"IHAVEOPT\0\0\0\x08\0\0\0\0", garbage].concat());
        assert_eq!(client.option_reply(8), (1, Vec::new()));
        client.assert_ended();
    }
    bed.await_connections(0);
    assert_unharmed(&bed);
}

#[test]
fn one_connection_can_be_served_without_a_server() {
    let exports = nvstack_nbd::Exports::new();
    exports.add("ram", "", Arc::new(Ram::new(16, 4096))).unwrap();
    let (socket, server) = std::os::unix::net::UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let served = scope.spawn(|| nvstack_nbd::serve_connection(server, &exports, &limits()));
        let mut client = Client::greeted(socket);
        client.go("ram").unwrap();
        assert_eq!(client.write(1, 4096, &pattern(1, 4096)), 0);
        assert_eq!(client.read(4096, 4096), Ok(pattern(1, 4096)));
        assert!(!served.is_finished());
        drop(client);
        served.join().unwrap();
    });
}

#[test]
fn garbage_where_a_request_should_be_ends_the_connection_after_the_replies() {
    let bed = Bed::new(Ram::new(16, 4096));
    let mut client = bed.simple();
    let mut all = encode(3, 0, 77, 0, 0);
    all.extend(b"this is no request, whatever it may be");
    client.send(&all);
    assert_eq!(client.reply(), Reply::Simple(77, 0));
    client.assert_ended();
    bed.await_connections(0);
    assert_unharmed(&bed);
}

#[test]
fn a_client_that_vanishes_at_any_byte_leaves_nothing_behind() {
    let bed = Bed::with(Ram::new(16, 4096), Limits { connections: 10_000, ..limits() });
    let mut all = 3u32.to_be_bytes().to_vec();
    all.extend(b"IHAVEOPT\0\0\0\x07\0\0\0\x09\0\0\0\x03ram\0\0");
    let negotiated = all.len();
    all.extend(encode(1, 0, 1, 0, 4096));
    all.extend([7; 4096]);
    all.extend(encode(1, 0, 1, 4096, 8192));
    all.extend([8; 5000]);
    for cut in (0..negotiated + 60).chain((negotiated + 60..all.len()).step_by(97)) {
        let mut socket = bed.socket();
        socket.write_all(&all[..cut]).unwrap();
    }
    // Clients are taken in their order: once this one is served, all have been taken.
    drop(bed.simple());
    bed.await_connections(0);
    assert!(Arc::strong_count(&bed.ram) == 2, "a device is still held");
    // A write that did not arrive whole, and would have fitted, was not begun.
    assert!(bed.ram.state().data[4096..].iter().all(|b| *b == 0));
    assert_unharmed(&bed);
}

#[test]
fn a_client_that_stops_in_the_middle_of_a_request_is_given_up() {
    let limits = Limits { stall: Duration::from_secs(1), handshake: Duration::from_secs(60), ..limits() };
    let bed = Bed::with(Ram::new(16, 4096), limits);
    let mut idle = bed.simple();
    let mut header = bed.simple();
    header.send(&encode(0, 0, 1, 0, 4096)[..13]);
    let mut payload = bed.simple();
    payload.request(1, 0, 0, 4096);
    payload.send(&[1; 100]);
    let mut long = bed.simple();
    long.request(1, 0, 1 << 40, 1 << 30);
    header.assert_ended();
    payload.assert_ended();
    long.assert_ended();
    bed.await_connections(1);
    // Between two requests a client may take any time.
    assert_eq!(idle.flush(), 0);
    assert_unharmed(&bed);
}

#[test]
fn a_client_that_never_reads_is_given_up_and_hinders_nobody() {
    let limits = Limits { stall: Duration::from_millis(500), ..limits() };
    let bed = Bed::with(Ram::new(4096, 4096), limits);
    let mut deaf = bed.simple();
    let reads: Vec<u8> = (0..64).flat_map(|i| encode(0, 0, i, 0, 4 << 20)).collect();
    deaf.send(&reads);
    let began = Instant::now();
    let mut other = bed.structured(&[]);
    for i in 0..200 {
        assert_eq!(other.write(0, i * 4096, &pattern(i, 4096)), 0);
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    bed.await_connections(1);
    assert_eq!(other.flush(), 0);
}

#[test]
fn a_lying_length_takes_the_rest_of_the_liars_own_stream_only() {
    let bed = Bed::new(Ram::new(1024, 4096));
    // Says 64 KiB and sends a page and another request: those bytes are payload.
    let mut client = bed.simple();
    client.request(1, 0, 0, 65536);
    let mut rest = vec![5; 4096];
    rest.extend(encode(3, 0, 9, 0, 0));
    client.send(&rest);
    client.socket.shutdown(std::net::Shutdown::Write).unwrap();
    client.assert_ended();
    assert!(bed.ram.state().data.iter().all(|b| *b == 0));
    // Says less than it sends: the surplus is taken for a request, and is none.
    let mut client = bed.simple();
    let cookie = client.request(1, 0, 0, 4096);
    client.send(&[6; 4096 + 28]);
    assert_eq!(client.status(cookie), 0);
    client.assert_ended();
    // The largest lengths that can be named.
    for command in [0, 1, 4, 5, 6, 7] {
        let mut client = bed.simple();
        let cookie = client.request(command, 0, 0, u32::MAX);
        if command != 1 {
            assert_ne!(client.status(cookie), 0);
            assert_eq!(client.flush(), 0);
        }
    }
    bed.await_connections(0);
    assert_unharmed(&bed);
}

#[test]
fn more_clients_than_seats_are_turned_away_until_one_leaves() {
    let bed = Bed::with(Ram::new(16, 4096), Limits { connections: 3, ..limits() });
    let mut clients: Vec<_> = (0..3).map(|_| bed.simple()).collect();
    let mut socket = bed.socket();
    assert_eq!(socket.read(&mut [0; 32]).unwrap(), 0, "closed without a word");
    assert_eq!(bed.handle.connections(), 3);
    for client in &mut clients {
        assert_eq!(client.flush(), 0);
    }
    clients.pop();
    bed.await_connections(2);
    assert_unharmed(&bed);
}

#[test]
fn a_panicking_device_ends_the_connection_that_called_it() {
    use nvstack_block::{BlockDevice, Extent, Geometry, Lba, Result, WriteFlags};
    struct Panics(Ram);
    impl BlockDevice for Panics {
        fn name(&self) -> String {
            self.0.name()
        }
        fn geometry(&self) -> Geometry {
            self.0.geometry()
        }
        fn read(&self, _: Lba, _: &mut [std::io::IoSliceMut<'_>]) -> Result<()> {
            std::panic::resume_unwind(Box::new("a defect of a device"))
        }
        fn write(&self, at: Lba, from: &[std::io::IoSlice<'_>], flags: WriteFlags) -> Result<()> {
            self.0.write(at, from, flags)
        }
        fn flush(&self) -> Result<()> {
            self.0.flush()
        }
        fn write_zeroes(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()> {
            self.0.write_zeroes(at, sectors, flags)
        }
        fn discard(&self, at: Lba, sectors: u64) -> Result<()> {
            self.0.discard(at, sectors)
        }
        fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
            self.0.extents(at, sectors, found)
        }
    }
    let bed = Bed::new(Ram::new(16, 4096));
    bed.exports.add("panics", "", Arc::new(Panics(Ram::new(16, 4096)))).unwrap();
    let mut client = bed.greeted();
    client.go("panics").unwrap();
    assert_eq!(client.write(0, 0, &[1; 4096]), 0);
    client.request(0, 0, 0, 4096);
    client.assert_ended();
    bed.await_connections(0);
    assert_unharmed(&bed);
}

#[test]
fn a_slow_client_does_not_slow_others() {
    let bed = Bed::new(Ram::new(1024, 4096));
    bed.ram.slow.store(2_000_000, SeqCst);
    let mut slow = bed.simple();
    let cookie = slow.request(0, 0, 0, 4096);
    wait_for("the slow read to begin", || bed.handle.connections() == 1);
    let began = Instant::now();
    let mut quick = bed.greeted();
    quick.go("ram").unwrap();
    assert_eq!(quick.flush(), 0);
    assert!(began.elapsed() < Duration::from_millis(1500), "waited for another's read");
    assert_eq!(slow.status(cookie), 0);
}

/// Anything a client can say: sense, near-sense and noise.
fn speech() -> impl Strategy<Value = Vec<u8>> {
    let lengths = prop_oneof![0u32..5000, Just(4096), Just(u32::MAX), any::<u32>()];
    let option = (0u32..13, prop::collection::vec(any::<u8>(), 0..80), any::<bool>(), lengths.clone())
        .prop_map(|(code, data, lie, len)| {
            let len = if lie { len } else { data.len() as u32 };
            [&b"IHAVEOPT"[..], &code.to_be_bytes(), &len.to_be_bytes(), &data].concat()
        });
    let go = Just(b"IHAVEOPT\0\0\0\x07\0\0\0\x09\0\0\0\x03ram\0\0".to_vec());
    let structured = Just(b"IHAVEOPT\0\0\0\x08\0\0\0\0".to_vec());
    let offsets = prop_oneof![(0u64..40).prop_map(|p| p * 4096), any::<u64>()];
    let request = (0u16..10, 0u16..40, offsets, lengths, prop::collection::vec(any::<u8>(), 0..40)).prop_map(
        |(command, flags, offset, len, noise)| [encode(command, flags, 1, offset, len), noise].concat(),
    );
    let honest = (0u64..16).prop_map(|p| [encode(1, 0, 1, p * 4096, 4096), vec![9; 4096]].concat());
    let noise = prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![2 => option, 3 => go, 2 => structured, 3 => request, 3 => honest, 1 => noise]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever is said and however it is cut: the server stands, and the next client is served.
    #[test]
    fn no_speech_harms_the_server(words in prop::collection::vec(speech(), 0..12), cut in 1usize..5000) {
        static BED: std::sync::OnceLock<Bed> = std::sync::OnceLock::new();
        let bed = BED.get_or_init(|| Bed::new(Ram::new(16, 4096)));
        let mut client = Client::greeted(bed.socket());
        let mut listener = client.socket.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let mut sink = vec![];
            let _ = listener.read_to_end(&mut sink);
        });
        for part in words.concat().chunks(cut) {
            if client.socket.write_all(part).is_err() {
                break;
            }
        }
        client.socket.shutdown(std::net::Shutdown::Both).unwrap();
        reader.join().unwrap();
        bed.await_connections(0);
        assert_unharmed(bed);
    }
}
