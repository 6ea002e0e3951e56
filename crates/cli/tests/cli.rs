// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line itself: help, usage errors, exit status, completions, man pages.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Dir, run};

const VERBS: [&str; 7] = ["create", "list", "read-infoblock", "read-labels", "serve", "completions", "man"];

#[test]
fn version_and_help_go_to_stdout_and_succeed() {
    let ran = run(["--version"]);
    assert_eq!((ran.status, ran.out.as_str()), (0, concat!("nvstack ", env!("CARGO_PKG_VERSION"), "\n")));
    let ran = run(["--help"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    for verb in VERBS {
        assert!(ran.out.contains(&format!("\n  {verb} ")), "{verb} is not in {}", ran.out);
        let help = run([verb, "--help"]);
        assert_eq!((help.status, help.err.as_str()), (0, ""), "{verb}");
        assert!(
            help.out.contains("Example") && help.out.contains(&format!("nvstack {verb}")),
            "{}",
            help.out
        );
    }
}

#[test]
fn usage_errors_end_as_ndctl_s_do() {
    // No command: usage on stdout, 1. An unknown one: words on stderr, 1. Anything else wrong: 129.
    let ran = run([""; 0]);
    assert_eq!((ran.status, ran.err.as_str()), (1, ""));
    assert!(ran.out.contains("Usage: nvstack"), "{}", ran.out);
    let ran = run(["frobnicate"]);
    assert_eq!((ran.status, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("frobnicate"), "{}", ran.err);
    for args in [
        &["list"][..],
        &["list", "x.img", "--no-such"],
        &["list", "x.img", "--label-size", "12Q"],
        &["list", "mem:x"],
        &["create", "x.img"],
        &["create", "x.img", "--size", "1MB"],
        &["create", "x.img", "--size", "64M", "-m", "blk"],
        &["create", "x.img", "--size", "64M", "-u", "nonsense"],
        &["create", "x.img", "--size", "64M", "--dimm", "0"],
        &["read-labels", "x.img", "-j", "-s", "4"],
        &["read-infoblock", "x.img", "-i", "y.img"],
        &["read-infoblock"],
        &["serve", "x.img", "--cache", "none"],
        &["completions", "tcsh"],
        // No object is named to work on.
        &["destroy-namespace", "x.img"],
        &["enable-namespace", "x.img"],
        &["disable-namespace", "x.img"],
        &["clear-errors", "x.img"],
        &["enable-region", "x.img"],
        &["disable-region", "x.img"],
        &["enable-dimm", "x.img"],
        &["disable-dimm", "x.img"],
        // Words and options that fit no mode, or not this one.
        &["create-namespace", "x.img", "-m", "blk"],
        &["create-namespace", "x.img", "-m", "raw", "-M", "mem"],
        &["create-namespace", "x.img", "-m", "sector", "-M", "dev"],
        &["create-namespace", "x.img", "-m", "fsdax", "-M", "disk"],
        &["create-namespace", "x.img", "-a", "3000"],
        &["create-namespace", "x.img", "-u", "nonsense"],
        &["write-infoblock", "-c", "-m", "dax0"],
    ] {
        let ran = run(args);
        assert_eq!((ran.status, ran.out.as_str()), (129, ""), "{args:?}: {}", ran.err);
        assert!(!ran.err.is_empty(), "{args:?}");
    }
    // What is refused also names what is accepted.
    let ran = run(["create", "x.img", "--size", "64M", "-m", "blk"]);
    assert!(ran.err.contains("sector") && ran.err.contains("raw"), "{}", ran.err);
    let ran = run(["disable-region", "x.img"]);
    assert!(ran.err.contains("accepted TARGET#NAME of a region"), "{}", ran.err);
    let ran = run(["create-namespace", "x.img", "-m", "raw", "-M", "mem"]);
    assert!(ran.err.contains("accepted in fsdax and devdax mode"), "{}", ran.err);
}

#[test]
fn who_asks_for_a_region_or_a_dimm_that_is_not_there_is_told_which_are() {
    let dir = Dir::new();
    let image = dir.fixture("golden/base-v1.2");
    let path = image.to_str().unwrap();
    let ran = run(["create-namespace", path, "-r", "region9"]);
    assert_eq!((ran.status, ran.out.as_str()), (237, ""), "{}", ran.err);
    let words = "no region fits: found region region9, accepted region0 (bus ndbus0, type pmem)";
    assert!(ran.err.contains(words), "{}", ran.err);
    let no_dimm = format!("{path}#nmem9");
    let ran = run(["read-labels", &no_dimm]);
    assert_eq!((ran.status, ran.out.as_str()), (254, ""), "{}", ran.err);
    assert!(ran.err.contains("nmem9") && ran.err.contains("nmem0"), "{}", ran.err);
    // The verbs that change a DIMM count those that they have found, none, and tell of the name all the same.
    let ran = run(["zero-labels", &no_dimm]);
    assert!(ran.err.contains("nmem9") && ran.err.contains("nmem0"), "{}", ran.err);
}

#[test]
fn a_failure_is_one_line_with_the_verb_and_the_low_byte_of_the_errno() {
    let dir = Dir::new();
    let missing = dir.path("no.img");
    for (args, status) in [
        (vec!["list", missing.to_str().unwrap()], 254),
        (vec!["serve", missing.to_str().unwrap()], 254),
        (vec!["read-labels", missing.to_str().unwrap()], 254),
        (vec!["read-infoblock", "-i", missing.to_str().unwrap()], 254),
        (vec!["list", "no/lab.toml"], 254),
        (vec!["list", "unix:no.sock"], 254),
        (vec!["list", "mem:64M"], 161),
        (vec!["create", missing.to_str().unwrap(), "-s", "1000"], 234),
    ] {
        let ran = run(&args);
        assert_eq!((ran.status, ran.out.as_str()), (status, ""), "{args:?}: {}", ran.err);
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
        assert!(ran.err.starts_with(&format!("nvstack {}: ", args[0])), "{}", ran.err);
    }
    assert!(!missing.exists(), "a refused create left a file");
}

#[test]
fn long_options_may_be_abbreviated_and_short_ones_bundled() {
    let dir = Dir::new();
    let image = dir.fixture("golden/base-v1.2");
    let path = image.to_str().unwrap();
    let long = run(["list", path, "--buses", "--dimms", "--regions", "--namespaces", "--idle", "--human"]);
    assert_eq!(long.status, 0);
    assert_eq!(run(["list", path, "-BDRNiu"]).out, long.out);
    assert_eq!(
        run(["list", path, "--buse", "--dimms", "--regions", "--namespaces", "--id", "--hum"]).out,
        long.out
    );
}

#[test]
fn completions_and_man_pages_know_every_verb() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(["completions", shell]);
        assert_eq!(ran.status, 0);
        for verb in VERBS {
            assert!(ran.out.contains(verb), "{shell} lacks {verb}");
        }
    }
    let dir = Dir::new();
    let man = dir.path("man/man1");
    assert_eq!(run(["man", man.to_str().unwrap()]).status, 0);
    for verb in VERBS {
        let page = std::fs::read_to_string(man.join(format!("nvstack-{verb}.1"))).unwrap();
        for part in [".SH NAME", ".SH OPTIONS", ".SH EXAMPLES\n.nf\n  nvstack", ".fi"] {
            assert!(page.contains(part), "{verb} lacks {part:?}: {page}");
        }
    }
    assert!(std::fs::read_to_string(man.join("nvstack.1")).unwrap().contains("Exit status"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = common::command(["completions", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), out.stderr), (Some(0), Vec::new()));
}
