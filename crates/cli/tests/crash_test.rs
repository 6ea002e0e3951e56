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
    told(ran)["models"].as_array().unwrap().last().unwrap()["violations"][0]["seed"]
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
        told["models"].as_array().unwrap().iter().map(|model| model["model"].as_str().unwrap()).collect();
    assert_eq!(models, ["x86", "arm", "adversarial", "pages"]);
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

#[test]
fn what_can_be_left_out_is_listed() {
    let ran = run(["crash-test", "--list-mutants"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    for name in ["lane-race ", "two-fence ", "flog-first ", "info-first ", "rtt-fence ", "group-seal "] {
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
    ] {
        assert_eq!(run([&["crash-test"], args].concat()).status, 129, "{args:?}");
    }
}
