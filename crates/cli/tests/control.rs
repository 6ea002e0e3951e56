// SPDX-License-Identifier: MIT OR Apache-2.0
//! `serve --control`: the verbs on what is being served, while clients go on.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "common/nbd.rs"]
mod nbd;
#[path = "common/serving.rs"]
mod serving;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Dir, Ran, run};
use nbd::Client;
use rustix::process::Signal;
use serving::Serving;

const ESHUTDOWN: u32 = 108;

/// A lab of one DIMM of 256 MiB with labels 1.2, served, and what its verbs need.
struct Served {
    serving: Serving,
    control: PathBuf,
    dir: Dir,
}

impl Served {
    fn new() -> Served {
        let dir = Dir::quick();
        let (lab, file) = (dir.path("lab.toml"), dir.path("a.img"));
        let ran = run(["lab", "init", text(&lab), text(&file), "--size", "256M", "-V", "1.2"]);
        assert_eq!(ran.status, 0, "{ran:?}");
        Served::again(dir)
    }

    fn again(dir: Dir) -> Served {
        let control = dir.path("control");
        let serving = Serving::start(&[text(&dir.path("lab.toml")), "--control", text(&control)]);
        Served { serving, control, dir }
    }

    fn verb(&self, verb: &str, args: &[&str]) -> Ran {
        let target = format!("unix:{}", self.control.display());
        run([&[verb, &target], args].concat())
    }

    /// A verb that is obeyed.
    fn done(&self, verb: &str, args: &[&str]) -> Ran {
        let ran = self.verb(verb, args);
        assert_eq!(ran.status, 0, "{verb} {args:?}: {ran:?}");
        ran
    }

    fn create(&self, mode: &str) -> String {
        let made = self.done("create-namespace", &["-m", mode, "-s", "32M"]).json();
        let name = made["dev"].as_str().unwrap().to_owned();
        self.wait_for(&name, true);
        name
    }

    /// Waits until a namespace is an export, or is none any more.
    fn wait_for(&self, name: &str, there: bool) {
        let begun = Instant::now();
        while Client::list(&self.serving.socket()).iter().any(|export| export == name) != there {
            assert!(begun.elapsed() < Duration::from_secs(10), "{name} is an export: {}", !there);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn open(&self, name: &str) -> Client {
        Client::open(&self.serving.socket(), name).0
    }

    /// Sends lines to the control socket; gives the answers until it is closed.
    fn say(&self, bytes: &[u8]) -> Vec<String> {
        let mut stream = UnixStream::connect(&self.control).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // A server that has heard enough closes, and what is left is not sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answers = Vec::new();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|len| len > 0) {
            answers.push(std::mem::take(&mut line));
        }
        answers
    }

    /// Stores into an attribute, as `echo` does on Linux.
    fn store(&self, path: &str, text: &str) {
        let line = serde_json::json!({ "op": "write", "path": path, "text": text });
        assert_eq!(self.say(format!("{line}\n").as_bytes()), ["\"done\"\n"]);
    }
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn namespaces_come_and_go_while_clients_of_others_go_on() {
    let served = Served::new();
    assert_eq!(Client::list(&served.serving.socket()), [""; 0], "nothing is there yet");
    let first = served.create("sector");
    let stop = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let io = scope.spawn(|| {
            let mut client = served.open(&first);
            let mut rounds = 0u32;
            while !stop.load(Ordering::Relaxed) || rounds < 10 {
                let data = [rounds.to_le_bytes()[0]; 4096];
                let at = u64::from(rounds % 100) * 4096;
                client.write(at, &data).unwrap();
                assert_eq!(client.read(at, 4096).unwrap(), data);
                rounds += 1;
            }
            client.flush();
            rounds
        });
        for _ in 0..3 {
            let second = served.create("raw");
            let third = served.create("fsdax");
            // Several exports on one socket, each with its own bytes.
            let (mut two, mut three) = (served.open(&second), served.open(&third));
            two.write(0, &[2; 512]).unwrap();
            three.write(0, &[3; 512]).unwrap();
            assert_eq!(
                (two.read(0, 512).unwrap(), three.read(0, 512).unwrap()),
                (vec![2; 512], vec![3; 512])
            );
            drop((two, three));
            wait_idle(&served, &third, "disable-namespace");
            served.wait_for(&third, false);
            served.done("enable-namespace", &[&third]);
            served.wait_for(&third, true);
            assert_eq!(served.open(&third).read(0, 512).unwrap(), [3; 512]);
            for name in [&second, &third] {
                wait_idle(&served, name, "destroy-namespace");
                served.wait_for(name, false);
            }
        }
        stop.store(true, Ordering::Relaxed);
        io.join().unwrap()
    });
    let list = served.done("list", &[]).json();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    // What was flushed is on the image.
    let Served { serving, dir, .. } = served;
    let (status, err) = serving.end(Signal::TERM);
    assert_eq!(status, Some(0), "{err}");
    let again = Served::again(dir);
    let last = (0..rounds).rfind(|round| round % 100 == 9).unwrap();
    assert_eq!(again.open("").read(4096 * 9, 4096).unwrap(), [last.to_le_bytes()[0]; 4096]);
}

/// Does a verb to a namespace whose last client has gone a moment ago.
fn wait_idle(served: &Served, name: &str, verb: &str) {
    let force: &[&str] = if verb == "destroy-namespace" { &["-f"] } else { &[] };
    let begun = Instant::now();
    loop {
        let ran = served.verb(verb, &[&[name], force].concat());
        if ran.status == 0 {
            return;
        }
        assert_eq!(ran.status, 240, "{ran:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{ran:?}");
    }
}

#[test]
fn what_clients_use_is_busy_and_stays() {
    let served = Served::new();
    let name = served.create("sector");
    let mut client = served.open(&name);
    client.write(0, &[7; 4096]).unwrap();
    for (verb, args) in [
        ("disable-namespace", &[name.as_str()][..]),
        ("destroy-namespace", &[&name, "-f"]),
        ("create-namespace", &["-e", &name, "-m", "raw", "-f"]),
    ] {
        let ran = served.verb(verb, args);
        assert_eq!(ran.status, 240, "{verb}: {ran:?}");
        assert!(ran.err.contains("accepted"), "{verb}: {ran:?}");
    }
    // ndctl ends with 0 here, and says that it has done nothing.
    for region in ["region0", "all"] {
        let ran = served.done("disable-region", &[region]);
        assert!(ran.err.contains("disabled 0 regions") && ran.err.contains("accepted"), "{ran:?}");
    }
    let ran = served.verb("disable-dimm", &["nmem0"]);
    assert!(ran.status == 1 && ran.err.contains("active"), "{ran:?}");
    // Label areas of what is in use are left alone, too.
    for verb in ["zero-labels", "init-labels"] {
        let ran =
            served.verb(verb, &[&["nmem0"][..], if verb == "init-labels" { &["-f"] } else { &[] }].concat());
        assert_eq!(ran.status, 1, "{verb}: {ran:?}");
        assert!(ran.err.contains("accepted a DIMM whose regions are disabled"), "{verb}: {ran:?}");
    }
    assert_eq!(client.read(0, 4096).unwrap(), [7; 4096], "the client has noticed nothing");
    assert_eq!(served.done("list", &[]).json()[0]["mode"], "sector");
}

/// Linux lets a driver be unbound whoever has the disk open.
#[test]
fn the_client_of_what_goes_away_gets_an_error_and_others_go_on() {
    let served = Served::new();
    let (gone, stays) = (served.create("raw"), served.create("raw"));
    let (mut lost, mut other) = (served.open(&gone), served.open(&stays));
    lost.write(0, &[1; 512]).unwrap();
    served.store(&format!("bus/nd/devices/{gone}/driver/unbind"), &gone);
    // Told, and then hung up on; or hung up on at once.
    assert!(matches!(lost.try_write(0, &[1; 512]), Err(_) | Ok(ESHUTDOWN)));
    served.wait_for(&gone, false);
    other.write(0, &[9; 512]).unwrap();
    assert_eq!(other.read(0, 512).unwrap(), [9; 512]);
    served.done("destroy-namespace", &[&gone]);
    assert_eq!(other.read(0, 512).unwrap(), [9; 512]);
}

#[test]
fn what_is_disabled_on_a_server_stays_so() {
    let served = Served::new();
    let (first, second) = (served.create("sector"), served.create("raw"));
    served.done("disable-namespace", &[&second]);
    let state = served.dir.path("lab.toml.state");
    assert!(state.exists(), "kept at once, and not when the server ends");
    let Served { serving, dir, control } = served;
    assert_eq!(serving.end(Signal::INT).0, Some(0));
    assert!(!control.exists(), "the socket is left behind");
    let served = Served::again(dir);
    assert_eq!(Client::list(&served.serving.socket()), [first]);
    served.done("enable-namespace", &[&second]);
    served.wait_for(&second, true);
    assert!(!state.exists(), "nothing is to be kept any more");
}

#[test]
fn odd_lines_get_an_answer_and_do_no_harm() {
    let served = Served::new();
    let name = served.create("sector");
    for line in [
        "",
        "{}",
        "null",
        "[1,2",
        "{\"op\":\"fly\"}",
        "{\"op\":\"read\"}",
        "{\"op\":\"read\",\"path\":\"x\",\"more\":1}",
        "{\"op\":\"read\",\"path\":\"../../../etc/passwd\"}",
        "{\"op\":\"read_dev\",\"dev\":\"pmem0s\",\"at\":18446744073709551615,\"len\":4096}",
        "{\"op\":\"read_dev\",\"dev\":\"pmem0s\",\"at\":0,\"len\":1048577}",
        "{\"op\":\"read_dev\",\"dev\":\"none\",\"at\":0,\"len\":1}",
        "{\"op\":\"write_dev\",\"dev\":\"pmem0s\",\"at\":0,\"data\":\"zz\"}",
        "{\"op\":\"write_dev\",\"dev\":\"pmem0s\",\"at\":0,\"data\":\"é0\"}",
        "{\"op\":\"write_dev\",\"dev\":\"pmem0s\",\"at\":18446744073709551615,\"data\":\"00\"}",
        "{\"op\":\"label_read\",\"dimm\":\"nmem0\",\"at\":18446744073709551615,\"len\":8}",
        "{\"op\":\"label_read\",\"dimm\":\"nmem9\",\"at\":0,\"len\":8}",
        "{\"op\":\"inject_error\",\"region\":\"region0\",\"at\":18446744073709551615,\"len\":2}",
        "{\"op\":\"write\",\"path\":\"bus/nd/devices/region0/read_only\",\"text\":\"perhaps\"}",
    ] {
        // Twice on one connection: it goes on after an error.
        let answers = served.say(format!("{line}\n{line}\n").as_bytes());
        assert_eq!(answers.len(), 2, "{line}: {answers:?}");
        for answer in answers {
            assert!(answer.starts_with("{\"error\":{\"kind\":"), "{line}: {answer}");
        }
    }
    // A line without end, one that is too long, bytes that are no text.
    assert!(served.say(b"{\"op\":\"list\"").is_empty());
    assert!(served.say(&vec![b'x'; 3 << 20]).is_empty());
    assert!(served.say(&[0xff, 0xfe, b'\n']).is_empty());
    let peak = std::fs::read_to_string(format!("/proc/{}/status", served.serving.child.id())).unwrap();
    let peak = peak.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    assert!(peak.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() < 128 << 10, "{peak}");
    let mut client = served.open(&name);
    client.write(0, &[1; 4096]).unwrap();
    assert_eq!(served.done("list", &[]).json()[0]["dev"], name);
}

#[test]
fn many_connections_do_no_harm() {
    let served = Served::new();
    let name = served.create("raw");
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", served.serving.child.id())).unwrap().count();
    let before = descriptors();
    // As many as it takes. That of the last verb may be one of them for a while.
    let begun = Instant::now();
    let mut all = Vec::new();
    while all.len() < 64 {
        let mut one = BufReader::new(UnixStream::connect(&served.control).unwrap());
        // Who is refused has the answer already, and nobody to ask.
        let _ = one.get_mut().write_all(b"{\"op\":\"list\",\"path\":\"bus/nd/devices\"}\n");
        let mut answer = String::new();
        one.read_line(&mut answer).unwrap();
        if answer.contains("namespace0.0") {
            all.push(one);
        } else {
            assert!(answer.contains("\"Busy\"") && answer.contains("at most 64"), "{answer}");
            assert!(begun.elapsed() < Duration::from_secs(10), "{} are taken", all.len());
        }
    }
    // Who comes too late is told.
    let ran = served.verb("list", &[]);
    assert!(ran.status == 240 && ran.err.contains("at most 64"), "{ran:?}");
    drop(all);
    // Many one after the other; they are forgotten.
    for _ in 0..300 {
        drop(UnixStream::connect(&served.control).unwrap());
    }
    let begun = Instant::now();
    while served.verb("list", &[]).status != 0 || descriptors() > before {
        assert!(begun.elapsed() < Duration::from_secs(10), "{} descriptors, {before} before", descriptors());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(served.open(&name).read(0, 512).unwrap(), [0; 512]);
}

#[test]
fn the_socket_is_its_owners_and_goes_with_the_server() {
    let served = Served::new();
    assert_eq!(served.control.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // A second server finds the images locked; with other images the socket taken.
    let ran =
        run(["serve", text(&served.dir.path("lab.toml")), "--control", text(&served.dir.path("other"))]);
    assert_eq!(ran.status, 240, "{ran:?}");
    assert!(ran.err.contains("a.img") && !served.dir.path("other").exists(), "{ran:?}");
    let ran = run(["serve", "mem:64M", "--control", text(&served.control)]);
    assert_eq!(ran.status, 239, "EEXIST: {ran:?}");
    assert!(served.control.exists(), "another's socket was removed");
    // An open connection does not keep the server.
    let mut idle = UnixStream::connect(&served.control).unwrap();
    let Served { serving, control, dir } = served;
    assert_eq!(serving.end(Signal::TERM).0, Some(0));
    assert!(!control.exists());
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    let ran = run(["list", &format!("unix:{}", dir.path("control").display())]);
    assert_eq!(ran.status, 254, "{ran:?}");
    assert!(ran.err.contains("control") && ran.err.contains("No such file"), "{ran:?}");
}
