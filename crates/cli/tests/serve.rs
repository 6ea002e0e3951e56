// SPDX-License-Identifier: MIT OR Apache-2.0
//! `serve`: readiness, its endings, and what is behind the exports.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "common/nbd.rs"]
mod nbd;
#[path = "common/serving.rs"]
mod serving;

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Dir, command, run};
use nbd::Client;
use rustix::process::Signal;
use serde_json::Value;
use serving::Serving;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn one_command_makes_an_image_serves_it_and_keeps_what_was_flushed() {
    let dir = Dir::new();
    let image = dir.path("demo.img");
    let args = [text(&image), "--create", "64M"];
    let serving = Serving::start(&args);
    assert_eq!(serving.ready.as_object().unwrap().keys().collect::<Vec<_>>(), ["uri", "size", "sector_size"]);
    // 64M - 128K holds three steps of 16M.
    assert_eq!((&serving.ready["size"], &serving.ready["sector_size"]), (&49_205_248.into(), &4096.into()));
    assert!(serving.uri().starts_with("nbd+unix:///namespace0.0?socket=/"), "{}", serving.uri());
    let socket = serving.socket();
    let (mut client, size) = Client::open(&socket, "");
    assert_eq!(size, 49_205_248);
    let data: Vec<u8> = (0..8192u32).map(|i| (i / 7).to_le_bytes()[0]).collect();
    client.write(4096 * 5, &data).unwrap();
    client.flush();
    // Not even a flush stands between this and the end.
    client.write(0, &[0xee; 4096]).unwrap();
    let (status, err) = serving.end(Signal::TERM);
    assert_eq!(status, Some(0), "{err}");
    assert!(
        err.contains("persistence ") && err.contains("namespace0.0: sector mode, 4096-byte sectors"),
        "{err}"
    );
    assert!(!socket.exists() && !socket.parent().unwrap().exists(), "the socket is left behind");

    // The image is there now, and --create makes nothing, whatever size it says.
    let before = image.metadata().unwrap().len();
    let serving = Serving::start(&[args[0], args[1], "1G"]);
    let (mut client, _) = Client::open(&serving.socket(), "namespace0.0");
    assert_eq!(client.read(4096 * 5, 8192).unwrap(), data);
    assert_eq!(client.read(0, 4096).unwrap(), [0xee; 4096]);
    assert_eq!(client.read(4096 * 9, 4096).unwrap(), [0; 4096]);
    assert_eq!(serving.end(Signal::INT).0, Some(0));
    assert_eq!(image.metadata().unwrap().len(), before);
}

#[test]
fn run_owns_stdout_finds_the_device_and_gives_its_status() {
    let dir = Dir::new();
    let image = dir.path("demo.img");
    let run_of = |args: &[&str], script: &str| {
        let mut all = vec!["serve", text(&image), "--create", "32M"];
        all.extend(args);
        all.extend(["--run", script]);
        run(&all)
    };
    let ran = run_of(&[], "echo uri=$uri; test -S \"$unixsocket\" && echo socket; exit 3");
    assert_eq!(ran.status, 3);
    assert!(
        ran.out.starts_with("uri=nbd+unix:///namespace0.0?socket=/") && ran.out.ends_with("\nsocket\n"),
        "{ran:?}"
    );
    assert_eq!(run_of(&[], "true").status, 0);
    assert_eq!(run_of(&[], "kill -9 $$").status, 137);
    assert_eq!(run_of(&[], "no-such-command-anywhere").status, 127);
    let ran = run_of(&["--nbd", "tcp:0"], "echo $port $uri");
    let (port, uri) = ran.out.trim().split_once(' ').unwrap();
    assert_ne!(port, "0");
    assert_eq!(uri, format!("nbd://127.0.0.1:{port}/namespace0.0"));
    let socket = dir.path("s p.sock");
    let ran = run_of(&["--nbd", &format!("unix:{}", text(&socket))], "echo \"$uri\"");
    assert!(ran.out.trim().ends_with("/s%20p.sock"), "{ran:?}");
    assert!(!socket.exists());
}

#[test]
fn a_signal_ends_the_command_of_run_too() {
    let dir = Dir::new();
    let image = dir.path("demo.img");
    let args = ["serve", text(&image), "--create", "32M", "--run", "echo '{}'; exec sleep 60"];
    let serving = Serving::spawn(command(args));
    let begun = std::time::Instant::now();
    let (status, err) = serving.end(Signal::TERM);
    assert_eq!(status, Some(128 + 15), "{err}");
    assert!(begun.elapsed().as_secs() < 30);
}

#[test]
fn a_file_descriptor_can_be_told_when_it_is_ready() {
    let dir = Dir::new();
    let image = dir.path("demo.img");
    let script = format!(
        "exec 3>{out}; exec {nvstack} serve {image} --create 32M --ready-fd 3 --run true",
        out = text(&dir.path("ready")),
        nvstack = env!("CARGO_BIN_EXE_nvstack"),
        image = text(&image),
    );
    let status = Command::new("sh").arg("-c").arg(script).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    let line = std::fs::read_to_string(dir.path("ready")).unwrap();
    assert!(
        line.ends_with('\n') && serde_json::from_str::<Value>(&line).unwrap()["size"] == 15_683_584,
        "{line}"
    );
    let ran = run(["serve", text(&image), "--ready-fd", "77", "--run", "true"]);
    assert_eq!(ran.status, 254, "{ran:?}");
}

#[test]
fn a_passed_socket_is_taken() {
    let dir = Dir::new();
    let (image, socket) = (dir.path("demo.img"), dir.path("passed.sock"));
    let listener = UnixListener::bind(&socket).unwrap();
    // As systemd does it: descriptor 3, and the number of the process itself.
    let script = format!(
        "export LISTEN_FDS=1 LISTEN_PID=$$; exec {} serve {} --create 32M 3<&0 0</dev/null",
        env!("CARGO_BIN_EXE_nvstack"),
        text(&image)
    );
    let mut sh = Command::new("sh");
    sh.arg("-c").arg(script).stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    let serving = Serving::spawn(sh);
    assert_eq!(serving.socket(), socket);
    assert_eq!(Client::list(&socket), ["namespace0.0"]);
    assert_eq!(serving.end(Signal::TERM).0, Some(0));

    // What was passed to another process is none of ours.
    let mut other = command(["serve", text(&image), "--run", "true"]);
    other.envs([("LISTEN_FDS", "1"), ("LISTEN_PID", "1")]);
    assert_eq!(other.stderr(Stdio::null()).status().unwrap().code(), Some(0));
}

#[test]
fn every_healthy_namespace_is_an_export_and_a_named_one_is_alone() {
    let dir = Dir::new();
    let image = dir.fixture("golden/multi4-v1.2");
    let serving = Serving::start(&[text(&image), "--read-only"]);
    let names = ["namespace0.0", "namespace0.1", "namespace0.2", "namespace0.3"];
    assert_eq!(Client::list(&serving.socket()), names);
    let sizes = names.map(|n| Client::open(&serving.socket(), n).1);
    assert_eq!(sizes, [33_554_432, 49_205_248, 65_011_712, 65_011_712]);
    // fsdax data begins behind its page map.
    let bytes = std::fs::read(&image).unwrap();
    let (mut gamma, _) = Client::open(&serving.socket(), names[2]);
    let at = 83_886_080 + 2_097_152;
    assert!(gamma.read(0, 65536).unwrap() == bytes[at..at + 65536]);
    assert_eq!(gamma.write(0, &[0; 512]), Err(1), "read-only is EPERM");
    assert_eq!(serving.end(Signal::TERM).0, Some(0));
    assert!(std::fs::read(&image).unwrap() == bytes);

    let serving = Serving::start(&[&format!("{}#namespace0.1", text(&image)), "--read-only"]);
    assert_eq!(Client::list(&serving.socket()), ["namespace0.1"]);
    assert_eq!(serving.ready["size"], 49_205_248);
}

#[test]
fn a_damaged_namespace_does_not_keep_its_neighbours_from_being_served() {
    let dir = Dir::new();
    let image = dir.fixture("golden/multi3-v1.1");
    let mut bytes = std::fs::read(&image).unwrap();
    // The flog of the first namespace: without one nothing of it can be trusted.
    let logoff = 4096 + 33_529_856;
    bytes[logoff..logoff + 16384].fill(0);
    std::fs::write(&image, &bytes).unwrap();
    let serving = Serving::start(&[text(&image)]);
    assert_eq!(Client::list(&serving.socket()), ["namespace0.1", "namespace0.2"]);
    assert!(serving.uri().contains("/namespace0.1?"), "{}", serving.uri());
    let (status, err) = serving.end(Signal::TERM);
    assert_eq!(status, Some(0));
    assert!(err.contains("namespace0.0 is left out") && err.contains("flog"), "{err}");
    let ran = run(["serve", &format!("{}#namespace0.0", text(&image)), "--run", "true"]);
    assert_eq!(ran.status, 250, "{ran:?}");
    assert!(ran.err.contains("--raw"), "{ran:?}");
}

#[test]
fn a_whole_backup_is_read_where_the_first_info_block_is_lost() {
    let dir = Dir::new();
    let good = dir.fixture("golden/base-nolabel");
    let damaged = dir.fixture("probes/p1-primary-zeroed");
    let contents = |image: &Path| {
        let serving = Serving::start(&[text(image), "--read-only"]);
        let (mut client, size) = Client::open(&serving.socket(), "");
        (0..size / 32768).map(|i| client.read(i * 32768, 32768).unwrap()).collect::<Vec<_>>().concat()
    };
    assert!(contents(&good) == contents(&damaged));
    let ran = run(["serve", text(&damaged), "--run", "true"]);
    assert_eq!(ran.status, 250, "{ran:?}");
    assert!(ran.err.contains("--read-only"), "{ran:?}");
}

#[test]
fn raw_serves_the_bytes_and_writes_them() {
    let dir = Dir::new();
    let image = dir.fixture("golden/base-v1.2");
    let serving = Serving::start(&[text(&image), "--raw", "--cache", "writethrough"]);
    let (mut client, size) = Client::open(&serving.socket(), "");
    // The label's lbasize is that of the raw device.
    assert_eq!((size, &serving.ready["sector_size"]), (33_554_432, &4096.into()));
    assert!(client.read(0, 4096).unwrap().starts_with(b"BTT_ARENA_INFO\0\0"));
    client.write(8192, &[0x5a; 4096]).unwrap();
    assert_eq!(serving.end(Signal::TERM).0, Some(0));
    assert_eq!(std::fs::read(&image).unwrap()[8192..8192 + 4096], [0x5a; 4096]);
}

#[test]
fn memory_is_served_without_a_file() {
    let serving = Serving::start(&["mem:32M"]);
    let (mut client, size) = Client::open(&serving.socket(), "namespace0.0");
    assert_eq!((size, &serving.ready["sector_size"]), (32_440_320, &4096.into()));
    client.write(size - 4096, &[9; 4096]).unwrap();
    assert_eq!(client.read(size - 4096, 4096).unwrap(), [9; 4096]);
    let (status, err) = serving.end(Signal::TERM);
    assert_eq!(status, Some(0));
    assert!(err.contains("gone when it ends"), "{err}");
    let ran = run(["serve", "mem:1M", "--run", "true"]);
    assert_eq!(ran.status, 234, "{ran:?}");
    assert!(ran.err.contains("16777216 or more"), "{ran:?}");
    assert_eq!(run(["serve", "mem:1M", "--raw", "--run", "true"]).status, 0);
    assert_eq!(run(["serve", "mem:32M#namespace0.1", "--run", "true"]).status, 254);
}

#[test]
fn one_writer_or_many_readers() {
    let dir = Dir::new();
    let image = dir.fixture("golden/base-v1.2");
    let writer = Serving::start(&[text(&image)]);
    for verb in ["list", "read-labels", "read-infoblock", "serve"] {
        let ran = run([verb, text(&image)]);
        assert_eq!((ran.status, ran.out.as_str()), (240, ""), "{verb}: {ran:?}");
        let pid = writer.child.id().to_string();
        assert!(ran.err.contains(&pid) && ran.err.contains("nvstack"), "{verb} does not tell who: {ran:?}");
    }
    assert_eq!(writer.end(Signal::TERM).0, Some(0));

    let reader = Serving::start(&[text(&image), "--read-only"]);
    assert_eq!(run(["list", text(&image)]).status, 0);
    assert_eq!(run(["serve", text(&image), "--read-only", "--run", "true"]).status, 0);
    assert_eq!(run(["serve", text(&image), "--run", "true"]).status, 240);
    assert_eq!(reader.end(Signal::TERM).0, Some(0));
}

#[test]
fn killed_without_a_word_it_leaves_nothing_that_is_in_the_way() {
    let dir = Dir::new();
    let (image, socket) = (dir.path("demo.img"), dir.path("demo.sock"));
    let nbd = format!("unix:{}", text(&socket));
    let args = [text(&image), "--create", "32M", "--nbd", &nbd];
    let serving = Serving::start(&args);
    let (mut client, _) = Client::open(&socket, "");
    client.write(4096, &[1; 4096]).unwrap();
    client.flush();
    serving.end(Signal::KILL);
    assert!(socket.exists());
    let serving = Serving::start(&args);
    let (mut client, _) = Client::open(&socket, "");
    assert_eq!(client.read(4096, 4096).unwrap(), [1; 4096]);
    assert_eq!(serving.end(Signal::TERM).0, Some(0));
    assert!(!socket.exists());
}

#[test]
fn an_address_that_is_taken_or_makes_no_sense_is_refused() {
    let dir = Dir::new();
    let (image, socket) = (dir.path("demo.img"), dir.path("demo.sock"));
    let nbd = format!("unix:{}", text(&socket));
    let _serving = Serving::start(&["mem:32M", "--nbd", &nbd]);
    for (address, status) in [(nbd.as_str(), 240), ("udp:1", 234), ("tcp:300.1.1.1:1", 251)] {
        let ran = run(["serve", text(&image), "--create", "32M", "--nbd", address, "--run", "true"]);
        assert_eq!(ran.status, status, "{address}: {ran:?}");
    }
    let file = dir.path("file");
    std::fs::write(&file, "x").unwrap();
    let ran = run(["serve", "mem:32M", "--nbd", &format!("unix:{}", text(&file)), "--run", "true"]);
    assert_eq!((ran.status, std::fs::read_to_string(&file).unwrap().as_str()), (239, "x"), "{ran:?}");
    assert!(Client::list(&socket) == ["namespace0.0"]);
}

#[test]
fn a_client_that_stays_does_not_keep_the_server_from_ending() {
    let dir = Dir::new();
    let image = dir.path("demo.img");
    let serving = Serving::start(&[text(&image), "--create", "32M"]);
    let (mut client, _) = Client::open(&serving.socket(), "");
    client.write(0, &[3; 4096]).unwrap();
    let (_idle, _) = Client::open(&serving.socket(), "");
    let begun = std::time::Instant::now();
    assert_eq!(serving.end(Signal::TERM).0, Some(0));
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}
