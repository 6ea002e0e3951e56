// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of a server: where it listens, what comes and goes, and how it ends.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use common::{Bed, Client, Ram, Reply, encode, limits, pattern, wait_for};
use nvstack_media::Kind;
use nvstack_nbd::{Exports, Limits, Listen, Server};

fn exports() -> Arc<Exports> {
    let exports = Exports::new();
    exports.add("a b?", "", Arc::new(Ram::new(16, 4096))).unwrap();
    Arc::new(exports)
}

fn bind(listen: &str) -> nvstack_media::Result<Server> {
    Server::bind(&listen.parse().unwrap(), exports(), limits())
}

fn unix(path: &Path) -> nvstack_media::Result<Server> {
    Server::bind(&Listen::Unix(path.into()), exports(), limits())
}

/// A socket file that nobody listens on any more, as a killed server leaves it.
fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    assert!(path.symlink_metadata().unwrap().file_type().is_socket());
}

#[test]
fn a_unix_socket_comes_and_goes_with_its_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a b?.sock");
    let server = unix(&path).unwrap();
    let escaped = directory.path().join("a%20b%3F.sock");
    assert_eq!(server.uri("a b?"), format!("nbd+unix:///a%20b%3F?socket={}", escaped.display()));
    assert_eq!(server.uri(""), format!("nbd+unix:///?socket={}", escaped.display()));
    assert_eq!(unix(&path).unwrap_err().kind(), Kind::Busy);
    let handle = server.handle();
    let thread = std::thread::spawn(move || server.run());
    let busy = unix(&path).unwrap_err();
    assert_eq!(busy.kind(), Kind::Busy);
    assert!(busy.to_string().contains("a b?.sock") && busy.to_string().contains("accepted"), "{busy}");
    Client::greeted(UnixStream::connect(&path).unwrap()).go("").unwrap();
    handle.shutdown();
    thread.join().unwrap().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_stale_socket_is_replaced_and_any_other_file_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    leave_stale(&path);
    let server = unix(&path).unwrap();
    UnixStream::connect(&path).unwrap();
    drop(server);
    assert!(!path.exists(), "a server that never ran removes its socket too");

    std::fs::write(&path, "precious").unwrap();
    let error = unix(&path).unwrap_err();
    assert_eq!(error.kind(), Kind::Exists, "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    // A link is judged by itself, not by what it leads to.
    let stale = directory.path().join("stale");
    leave_stale(&stale);
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&stale, &link).unwrap();
    assert_eq!(unix(&link).unwrap_err().kind(), Kind::Exists);
    assert!(link.is_symlink() && stale.exists());
}

#[test]
fn a_socket_that_became_another_ones_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let server = unix(&path).unwrap();
    std::fs::rename(&path, directory.path().join("old")).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    let inode = path.metadata().unwrap().ino();
    drop(server);
    assert_eq!(path.metadata().unwrap().ino(), inode);
}

#[test]
fn of_many_servers_that_start_at_once_over_a_stale_socket_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    for _ in 0..300 {
        leave_stale(&path);
        let barrier = Barrier::new(4);
        let start = || {
            barrier.wait();
            unix(&path)
        };
        let servers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(servers.iter().filter(|s| s.is_ok()).count(), 1);
        assert!(servers.iter().flat_map(|s| s.as_ref().err()).all(|e| e.kind() == Kind::Busy));
        UnixStream::connect(&path).unwrap();
    }
}

#[test]
fn addresses_that_cannot_be_are_refused_by_name() {
    let long = format!("/tmp/{}", "x".repeat(120));
    let error = unix(Path::new(&long)).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("accepted at most 107"), "{error}");
    assert_eq!(unix(Path::new("/nowhere/at/all.sock")).unwrap_err().kind(), Kind::NotFound);
    // The test's own process was passed no socket.
    assert_eq!(bind("passed").unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn tcp_is_loopback_unless_told_otherwise() {
    let server = bind("tcp:0").unwrap();
    let uri = server.uri("a b?");
    let address = uri.strip_prefix("nbd://").unwrap().strip_suffix("/a%20b%3F").unwrap().to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{uri}");
    let taken = bind(&format!("tcp:{address}")).unwrap_err();
    assert_eq!(taken.kind(), Kind::Busy, "{taken}");
    let handle = server.handle();
    let thread = std::thread::spawn(move || server.run());
    let mut client = Client::greeted(TcpStream::connect(&address).unwrap());
    client.go("a b?").unwrap();
    assert_eq!(client.write(0, 4096, &pattern(1, 8192)), 0);
    assert_eq!(client.read(4096, 8192), Ok(pattern(1, 8192)));
    // One that goes on talking while the server stops does not keep it.
    let mut socket = client.socket.try_clone().unwrap();
    let talker = std::thread::spawn(move || while socket.write_all(&encode(3, 0, 1, 0, 0)).is_ok() {});
    let listener = std::thread::spawn(move || {
        let _ = std::io::copy(&mut client.socket, &mut std::io::sink());
    });
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    handle.shutdown();
    thread.join().unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    talker.join().unwrap();
    listener.join().unwrap();
    let any = bind("tcp:0.0.0.0:0").unwrap().uri("");
    assert!(any.starts_with("nbd://127.0.0.1:"), "{any}");
}

#[test]
fn shutdown_under_load_answers_what_was_received_and_flushes() {
    for _ in 0..10 {
        let mut bed = Bed::new(Ram::new(1024, 4096));
        let working = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..4u64)
            .map(|writer| {
                let mut client = bed.simple();
                let working = working.clone();
                std::thread::spawn(move || {
                    // Sixteen in flight; gives how many were acknowledged when the connection ended.
                    let mut acknowledged = 0u64;
                    let mut send = |i: u64| {
                        let mut all = encode(1, 0, i, (writer * 256 + i % 256) * 4096, 4096);
                        all.extend(pattern(writer << 32 | i, 4096));
                        client.socket.write_all(&all).is_ok()
                    };
                    let mut sent = 0;
                    while sent < 16 && send(sent) {
                        sent += 1;
                    }
                    loop {
                        let mut reply = [0; 16];
                        if client.socket.read_exact(&mut reply).is_err() {
                            return acknowledged;
                        }
                        assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
                        assert_eq!(reply[8..], acknowledged.to_be_bytes());
                        acknowledged += 1;
                        if acknowledged == 100 {
                            working.fetch_add(1, SeqCst);
                        }
                        let mut all = encode(1, 0, sent, (writer * 256 + sent % 256) * 4096, 4096);
                        all.extend(pattern(writer << 32 | sent, 4096));
                        if client.socket.write_all(&all).is_ok() {
                            sent += 1;
                        }
                    }
                })
            })
            .collect();
        wait_for("all writers to be at work", || working.load(SeqCst) == 4);
        bed.stop().unwrap();
        assert_eq!(bed.handle.connections(), 0);
        for (writer, thread) in writers.into_iter().enumerate() {
            let acknowledged = thread.join().unwrap();
            assert!(acknowledged >= 100);
            let state = bed.ram.state();
            for i in acknowledged.saturating_sub(200)..acknowledged {
                let at = (writer * 256 + i as usize % 256) * 4096;
                // A later one may have been written and not acknowledged any more.
                let is = |i: u64| state.durable[at..at + 4096] == pattern((writer as u64) << 32 | i, 4096);
                assert!(is(i) || is(i + 256), "acknowledged, flushed, and not there");
            }
        }
        assert_eq!(bed.ram.calls().last().unwrap(), "flush");
        assert!(!bed.path.exists());
    }
}

#[test]
fn shutdown_lets_a_request_in_progress_finish() {
    let mut bed = Bed::new(Ram::new(16, 4096));
    bed.ram.slow.store(300_000, SeqCst);
    let mut client = bed.simple();
    let mut all = encode(1, 0, 1, 0, 4096);
    all.extend(pattern(7, 4096));
    all.extend(encode(0, 0, 2, 0, 4096));
    client.send(&all);
    std::thread::sleep(Duration::from_millis(100));
    bed.stop().unwrap();
    assert_eq!(client.reply(), Reply::Simple(1, 0));
    assert_eq!(client.reply(), Reply::Simple(2, 0));
    assert_eq!(client.bytes(4096), pattern(7, 4096));
    client.assert_ended();
    assert!(bed.ram.state().durable[..4096] == pattern(7, 4096));
}

#[test]
fn shutdown_does_not_wait_for_idle_deaf_or_half_spoken_clients() {
    let limits = Limits { drain: Duration::from_millis(500), stall: Duration::from_secs(60), ..limits() };
    let mut bed = Bed::with(Ram::new(4096, 4096), limits);
    let silent = bed.socket();
    let negotiating = bed.greeted();
    let idle = bed.simple();
    let mut half = bed.simple();
    half.request(1, 0, 0, 4096);
    let mut deaf = bed.simple();
    deaf.send(&(0..64).flat_map(|i| encode(0, 0, i, 0, 4 << 20)).collect::<Vec<_>>());
    bed.await_connections(5);
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    bed.stop().unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    drop((silent, negotiating, idle, half, deaf));
}

#[test]
fn a_device_that_hangs_does_not_hang_the_shutdown_and_is_reported() {
    let limits = Limits { drain: Duration::from_millis(200), ..limits() };
    let mut bed = Bed::with(Ram::new(16, 4096), limits);
    bed.ram.slow.store(3_000_000, SeqCst);
    let mut client = bed.simple();
    client.request(0, 0, 0, 4096);
    std::thread::sleep(Duration::from_millis(100));
    let error = bed.stop().unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    assert!(!bed.path.exists());
}

#[test]
fn a_failed_last_flush_is_reported() {
    let mut bed = Bed::new(Ram::new(16, 4096));
    let other = Arc::new(Ram::new(16, 4096));
    bed.exports.add("other", "", other.clone()).unwrap();
    bed.ram.flush_fails.store(true, SeqCst);
    let error = bed.stop().unwrap_err();
    assert!(error.kind() == Kind::Io && error.to_string().contains("\"ram\""), "{error}");
    assert_eq!(other.calls(), ["flush"], "the others are flushed all the same");
}

#[test]
fn a_server_that_was_stopped_before_it_ran_ends_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = unix(&directory.path().join("s")).unwrap();
    server.handle().shutdown();
    server.run().unwrap();
}

#[test]
fn an_export_can_be_added_and_removed_while_it_is_used() {
    let bed = Bed::with(Ram::new(16, 4096), Limits { stall: Duration::from_secs(60), ..limits() });
    let mut client = bed.structured(&[]);
    let mut idle = bed.simple();
    let mut other = bed.greeted();
    let second = Arc::new(Ram::new(16, 4096));
    bed.exports.add("second", "", second.clone()).unwrap();
    other.go("second").unwrap();

    bed.ram.slow.store(1_000_000, SeqCst);
    // Only the first has begun when the export goes.
    let first = client.request(0, 0, 0, 4096);
    std::thread::sleep(Duration::from_millis(300));
    let later = client.request(0, 0, 0, 4096);
    let write = client.request(1, 0, 0, 4096);
    client.send(&[1; 4096]);
    let device = bed.exports.remove("ram").unwrap();
    assert!(Arc::ptr_eq(&(bed.ram.clone() as Arc<dyn nvstack_block::BlockDevice>), &device));
    assert_eq!(client.chunks(first).len(), 1);
    for cookie in [later, write] {
        let chunks = client.chunks(cookie);
        assert!(
            matches!(&chunks[..], [common::Chunk::Error(108, text)] if text.contains("removed")),
            "{chunks:?}"
        );
    }
    client.assert_ended();
    idle.assert_ended();
    bed.await_connections(1);
    drop(device);
    assert_eq!(Arc::strong_count(&bed.ram), 1, "nobody holds the device any more");
    assert_eq!(other.write(0, 0, &[1; 4096]), 0, "the other export is untouched");

    assert_eq!(bed.greeted().go("ram"), Err(0x8000_0006));
    let mut client = bed.greeted();
    client.go("").unwrap();
    assert_eq!(client.read(0, 4096), Ok(vec![1; 4096]), "the second is the default now");
    bed.exports.add("ram", "", bed.ram.clone()).unwrap();
    bed.ram.slow.store(0, SeqCst);
    assert_eq!(bed.simple().flush(), 0);
}

/// The child's part: serves the socket that it was passed until a client flushes.
fn serve_passed() {
    let ram = Arc::new(Ram::new(16, 4096));
    let exports = Arc::new(Exports::new());
    exports.add("x", "", ram.clone()).unwrap();
    let server = Server::bind(&Listen::Passed, exports, limits()).unwrap();
    println!("uri {}", server.uri("x"));
    let handle = server.handle();
    std::thread::spawn(move || {
        while !ram.calls().contains(&"flush".to_owned()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        handle.shutdown();
    });
    server.run().unwrap();
}

#[test]
fn a_passed_socket_is_served() {
    if std::env::var_os("NBD_TEST_PASSED").is_some() {
        return serve_passed();
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("passed.sock");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let unix = UnixListener::bind(&path).unwrap();
    let cases: [(std::os::fd::OwnedFd, String); 2] = [
        (unix.into(), format!("uri nbd+unix:///x?socket={}", path.display())),
        (tcp.into(), format!("uri nbd://{address}/x")),
    ];
    for (socket, uri) in cases {
        // A shell does what a service manager does: the socket as descriptor 3, and whom it is for.
        let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" --exact a_passed_socket_is_served --nocapture";
        let child = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .env("NBD_TEST_PASSED", "1")
            .stdin(socket)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        if uri.contains("unix") {
            let mut client = Client::greeted(UnixStream::connect(&path).unwrap());
            client.go("x").unwrap();
            assert_eq!(client.flush(), 0);
        } else {
            let mut client = Client::greeted(TcpStream::connect(address).unwrap());
            client.go("x").unwrap();
            assert_eq!(client.flush(), 0);
        }
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.lines().any(|line| line.ends_with(&uri)), "{said}");
    }
    assert!(path.exists(), "whoever made the socket removes it");
}
