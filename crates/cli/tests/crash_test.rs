// SPDX-License-Identifier: MIT OR Apache-2.0
//! `crash-test`: what it says of an engine that is whole, and of one that lacks a part.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Dir, Ran, run};

const LANE_RACE: [&str; 5] = ["crash-test", "--mutant", "lane-race", "--model", "x86"];

/// The summary, also of a run that found something.
fn told(ran: &Ran) -> serde_json::Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

fn seed(ran: &Ran) -> String {
    told(ran)["runs"].as_array().unwrap().last().unwrap()["violations"][0]["seed"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn workloads_of_a_file_are_explored_under_each_model() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/crash-test.workloads");
    let ran = run(["crash-test", "--workload", file]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let told = ran.json();
    let models: Vec<&str> =
        told["runs"].as_array().unwrap().iter().map(|run| run["models"][0].as_str().unwrap()).collect();
    assert_eq!(models, ["x86", "arm", "adversarial", "pages"]);
    assert_eq!(told["parts"].as_array().unwrap().len(), 1, "no other part has workloads there");
    assert_eq!(
        (&told["violations"], &told["workloads"], &told["out_of_time"]),
        (&0.into(), &20.into(), &false.into())
    );
    let number = |key: &str| told[key].as_u64().unwrap();
    assert!(
        number("states") > 100 && number("images") > number("states") && number("recoveries") > 100,
        "{told}"
    );
    // The same however many threads share the work, and each image once.
    let mut again = run(["crash-test", "--workload", file, "--threads", "1"]).json();
    for key in ["states", "images", "recoveries"] {
        assert_eq!(again[key].take(), told[key], "{key}");
    }
}

#[test]
fn what_linux_did_is_found_shown_and_shown_again() {
    let dir = Dir::quick();
    let image = dir.path("cut.img");
    let image = image.to_str().unwrap();
    let ran = run([&LANE_RACE[..], &["--image", image]].concat());
    assert_eq!(ran.status, 1, "{ran:?}");
    assert_eq!(told(&ran)["mutant"], "lane-race");
    for words in ["is torn", "workload: w0 beside w0", "lost: 0x", "--replay", image] {
        assert!(ran.err.contains(words), "{words}: {ran:?}");
    }
    let seed = seed(&ran);
    let cut = std::fs::read(image).unwrap();
    assert!(!cut.is_empty());
    // The same again, whatever the number of threads, and from the seed alone.
    assert_eq!(self::seed(&run([&LANE_RACE[..], &["--threads", "1"]].concat())), seed);
    let other = dir.path("again.img");
    let ran = run(["crash-test", "--replay", &seed, "--image", other.to_str().unwrap()]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.out.contains("task 0 ") && ran.out.contains("task 1 ") && ran.err.contains("is torn"),
        "{ran:?}"
    );
    assert_eq!(std::fs::read(&other).unwrap(), cut);
    // With the lock in place these steps can't be taken, or do no harm.
    let ran = run(["crash-test", "--replay", &seed.replace("lane-race", "none")]);
    assert!(ran.status != 1, "{ran:?}");
    // A file that is there is not overwritten.
    let ran = run([&LANE_RACE[..], &["--image", image]].concat());
    assert_eq!((ran.status, ran.out.as_str()), (239, ""), "{ran:?}");
}

/// Each part has workloads of its own, counts, mutants and seeds.
#[test]
fn all_parts_are_explored_and_what_is_left_out_of_each_is_found() {
    let dir = Dir::quick();
    let file = dir.path("workloads");
    let lines = "2.near.fresh:w0/r0\n1.2/1x1024/turn0/beside0/rename\n1.1/2x1024/turn0/beside0/uuid # a set\ndescriptors/blank\n";
    std::fs::write(&file, lines).unwrap();
    let file = file.to_str().unwrap();
    let ran = run(["crash-test", "--workload", file]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let told = ran.json();
    let mut sums = [0; 4];
    for (part, workloads) in told["parts"].as_array().unwrap().iter().zip([4, 4, 8]) {
        assert_eq!(part["workloads"], workloads, "{part}");
        for (sum, key) in sums.iter_mut().zip(["workloads", "states", "images", "recoveries"]) {
            assert!(part[key].as_u64().unwrap() > 3, "{key}: {part}");
            *sum += part[key].as_u64().unwrap();
        }
    }
    let names: Vec<&str> =
        told["parts"].as_array().unwrap().iter().map(|part| part["part"].as_str().unwrap()).collect();
    assert_eq!(names, ["btt", "pfn", "labels"]);
    assert_eq!(["workloads", "states", "images", "recoveries"].map(|key| told[key].as_u64().unwrap()), sums);
    assert_eq!((&told["interrupted"], &told["violations"]), (&false.into(), &0.into()));

    for (mutant, words, dimms) in
        [("label-drain", "labels;", 1), ("delete-order", "labels;", 2), ("table-first", "pfn;", 1)]
    {
        let image = dir.path(mutant);
        let ran = run(["crash-test", "--mutant", mutant, "--image", image.to_str().unwrap()]);
        assert_eq!(ran.status, 1, "{ran:?}");
        let seed = seed(&ran);
        assert!(
            seed.starts_with(words) && ran.err.contains("again: ") && ran.err.contains("workload: "),
            "{ran:?}"
        );
        // Whatever the number of threads.
        assert_eq!(self::seed(&run(["crash-test", "--mutant", mutant, "--threads", "1"])), seed);
        let cut = std::fs::read(&image).unwrap();
        assert_eq!(ran.err.contains("DIMMs, one behind the other"), dimms > 1, "{ran:?}");
        let again = dir.path("again.img");
        let ran = run(["crash-test", "--replay", &seed, "--image", again.to_str().unwrap()]);
        assert!(
            ran.status == 1 && !ran.out.is_empty() && ran.err.contains("then the power is cut: "),
            "{ran:?}"
        );
        assert!(!cut.is_empty() && std::fs::read(&again).unwrap() == cut);
        std::fs::remove_file(&again).unwrap();
        let ran = run(["crash-test", "--replay", &seed.replace(mutant, "none")]);
        assert!(ran.status != 1, "{ran:?}");
    }
    let ran = run(["crash-test", "--part", "btt", "--mutant", "label-drain"]);
    assert!(ran.status == 234 && ran.err.contains("nothing to explore"), "{ran:?}");
}

/// Of each explorer, in the middle of something that takes minutes.
#[test]
fn an_interrupt_ends_it_with_what_was_found_so_far() {
    for part in ["btt", "labels"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nvstack"));
        command.args(["crash-test", "--part", part, "--depth", "3", "--no-prune"]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        // Before it catches the signal, that would end it without words.
        let caught = || {
            let text = std::fs::read_to_string(&status).unwrap();
            let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap() & 1 << (2 - 1) != 0
        };
        while !caught() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        let asked = std::time::Instant::now();
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let ran = child.wait_with_output().unwrap();
        assert!(asked.elapsed().as_secs() < 60, "{:?}", asked.elapsed());
        assert_eq!(ran.status.code(), Some(130), "{ran:?}");
        let told: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!((&told["interrupted"], &told["violations"]), (&true.into(), &0.into()), "{told}");
        assert_eq!(told["parts"][0]["part"], part);
        assert!(
            told["states"].as_u64().unwrap() > 0
                && String::from_utf8_lossy(&ran.stderr).contains("interrupted")
        );
    }
}

#[test]
fn what_can_be_left_out_is_listed() {
    let ran = run(["crash-test", "--list-mutants"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    for name in [
        "lane-race ",
        "two-fence ",
        "flog-first ",
        "info-first ",
        "rtt-fence ",
        "group-seal ",
        "label-drain ",
        "delete-order ",
        "version-first ",
    ] {
        assert!(ran.out.lines().any(|line| line.starts_with(name)), "{name}: {ran:?}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    let dir = Dir::quick();
    let file = dir.path("workloads");
    let name = file.to_str().unwrap();
    std::fs::write(&file, "# nothing\n2.near.fresh:w0\n  2.near.stale:w0\n").unwrap();
    let ran = run(["crash-test", "--workload", name]);
    assert_eq!((ran.status, ran.out.as_str()), (234, ""), "{ran:?}");
    for words in [&format!("{name}:3:3"), "2.near.stale:w0", "accepted"] {
        assert!(ran.err.contains(words), "{words}: {ran:?}");
    }
    std::fs::write(&file, "# nothing\n\n").unwrap();
    let ran = run(["crash-test", "--workload", name]);
    assert!(ran.status == 234 && ran.err.contains("no workload"), "{ran:?}");
    for args in [
        &["--mutant", "none-such"][..],
        &["--model", "vax"],
        &["--replay", "x"],
        &["--depth", "9"],
        &["--threads", "0"],
        &["--quick", "--list-mutants"],
        &["--part", "dax"],
        &["--replay", "labels;x86;none;1.2/2x2048/turn9/beside2/rename;1;0"],
        &["--replay", "pfn;x86;nobody;fsdax-dev/whole;1;0"],
    ] {
        assert_eq!(run([&["crash-test"], args].concat()).status, 129, "{args:?}");
    }
}
