// SPDX-License-Identifier: MIT OR Apache-2.0
//! What ndctl refuses is refused here, with its exit status and better words; what it does is done, with its output.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

#[path = "common/compare.rs"]
mod compare;
#[path = "common/scene.rs"]
mod scene;
#[path = "common/serving.rs"]
mod serving;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use common::Ran;
use compare::same;
use scene::{Attempt, Scene};
use serde_json::Value;
use serving::Serving;

/// Where we end otherwise than ndctl: the case, our status, and why.
const OTHERWISE: [(&str, i32, &str); 10] = [
    ("zero-size", 234, "a size of 0 is a slip, and not the wish for all there is"),
    (
        "align-in-sector-mode",
        234,
        "an option that does not fit is EINVAL; ndctl goes on to look for another region, and finds none",
    ),
    ("align-in-raw-mode", 234, "the same"),
    (
        "read-labels-unknown",
        254,
        "who names a DIMM wants that one; an empty answer would hide that it is not there",
    ),
    ("write-labels-active", 1, "what was not written is not told as written"),
    (
        "init-labels-bad-version",
        129,
        "a word that is none of the option's is a command line that makes no sense",
    ),
    ("read-infoblock-active", 0, "an image that nobody serves is disabled for the moment of reading"),
    ("inject-error", 0, "QEMU's DIMMs can't; ours can"),
    ("inject-error-status", 0, "the same"),
    ("clear-errors", 0, "the same"),
];

/// Verbs that are not there.
const ABSENT: [&str; 3] = ["check-namespace", "start-scrub", "wait-scrub"];

/// Runs a recorded command, which must end as it did, and if it is refused say what would have been accepted.
fn attempt(scene: &Scene, attempt: &Attempt) -> Ran {
    let ran = scene.replay(&attempt.argv);
    let otherwise = OTHERWISE.iter().find(|(case, ..)| *case == attempt.case);
    let wanted = otherwise.map_or(attempt.status, |(_, status, _)| *status);
    let what =
        format!("{} {} {:?}: {ran:?}\nndctl: {}", scene.name, attempt.case, attempt.argv, attempt.stderr);
    assert_eq!(ran.status, wanted, "{what}");
    assert!(otherwise.is_none() || wanted != attempt.status, "no exception any more: {what}");
    if ran.status != 0 && ran.status != 1 {
        assert_eq!(ran.out, "", "{what}");
        let named = [
            "accepted",
            "is not one of",
            "possible values",
            "bytes free in one piece",
            "is disabled",
            "read-only",
            "Usage:",
            "its namespace is in use",
        ];
        assert!(named.iter().any(|words| ran.err.contains(words)), "says nothing of what would do: {what}");
    }
    ran
}

/// What ndctl printed, for what we print: JSON key by key, but for uuids that are made anew.
fn same_words(scene: &Scene, attempt: &Attempt, ran: &Ran) {
    // Which region is the first comes by chance of a boot. With -c ndctl 76.1 makes one namespace in each region, where its
    // manual and we say as many as there is room for.
    let chance = ["default", "continue", "version"].contains(&attempt.case.as_str());
    if chance || attempt.stdout.is_empty() || ran.status != attempt.status {
        return;
    }
    let what = format!("{} {}", scene.name, attempt.case);
    let parse = |text: &str| -> Value {
        let documents = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        documents.map(|d| masked(d.unwrap_or_else(|e| panic!("{what}: {e}: {text}")))).collect()
    };
    same(&what, &parse(&ran.out), &parse(&attempt.stdout));
}

/// Uuids that no script gave are random.
fn masked(mut value: Value) -> Value {
    match &mut value {
        Value::Array(values) => values.iter_mut().for_each(|v| *v = masked(v.take())),
        Value::Object(keys) => {
            // Told from each other by what they are.
            let what = format!("a random one, {:?} {:?}", keys.get("mode"), keys.get("size"));
            for (key, value) in keys.iter_mut() {
                let random = value.as_str().is_some_and(|uuid| !uuid.starts_with("01ab000"));
                if (key == "uuid" || key == "raw_uuid") && random {
                    *value = what.clone().into();
                } else {
                    *value = masked(value.take());
                }
            }
        }
        _ => {}
    }
    value
}

/// The DIMMs of a scene with labels 1.2 and nothing in them.
fn labelled(name: &str) -> Scene {
    let scene = Scene::blank(name);
    assert_eq!(scene.run("init-labels", &["all", "-V", "1.2"]).status, 0);
    scene
}

fn make(scene: &Scene, args: &[&str]) {
    let ran = scene.run("create-namespace", args);
    assert_eq!(ran.status, 0, "{ran:?}");
}

/// Has the verbs of a scene work on a server.
fn serve(scene: &mut Scene) -> Serving {
    let socket = scene.dir.path("control");
    let serving = Serving::start(&[scene.lab.to_str().unwrap(), "--control", socket.to_str().unwrap()]);
    scene.target = format!("unix:{}", socket.display());
    serving
}

/// Stores into an attribute of what is served, as `echo` does on Linux.
fn store(scene: &Scene, path: &str, text: &str) {
    let mut stream = UnixStream::connect(scene.target.strip_prefix("unix:").unwrap()).unwrap();
    let line = serde_json::json!({ "op": "write", "path": path, "text": text });
    writeln!(stream, "{line}").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert_eq!(answer.trim(), "\"done\"");
}

fn glance(scene: &Scene, state: &str) {
    let plain = |list| {
        let mut list = masked(list);
        if ["missing-label", "one-zeroed"].contains(&state) {
            // Linux leaves a region disabled whose only namespace lacks a label; here it comes up, and says what is missing.
            list[0]["regions"].as_array_mut().unwrap().retain(|region| region["size"] == 128 << 20);
        }
        for region in list[0]["regions"].as_array_mut().unwrap() {
            let keys = region.as_object_mut().unwrap();
            if state == "empty" {
                // How many idle ones are left depends on what has been, which nobody but Linux's memory keeps.
                keys.remove("namespaces");
            }
            if state == "missing-label" {
                // Linux adds up what is free on each DIMM, though no namespace can have what is free on some of them alone.
                keys.remove("available_size");
            }
            for namespace in keys.get_mut("namespaces").and_then(Value::as_array_mut).into_iter().flatten() {
                // A deleted namespace leaves its name to the idle one in Linux's memory.
                if namespace["size"] == 0 {
                    namespace.as_object_mut().unwrap().remove("name");
                }
            }
        }
        list
    };
    let wanted = plain(scene.wanted(&format!("{state}/list-BDRNXi.json")));
    same(state, &plain(scene.list(&["-BDRNXi"])), &wanted);
}

/// The whole table on a machine that stays up, as Linux does: what is served.
#[test]
fn what_ndctl_refuses_is_refused() {
    let mut scene = labelled("refusals");
    make(
        &scene,
        &["-r", "region0", "-m", "sector", "-s", "32M", "-u", "01ab0001-0000-4000-8000-000000000001"],
    );
    make(&scene, &["-r", "region0", "-m", "raw", "-s", "32M", "-u", "01ab0002-0000-4000-8000-000000000002"]);
    make(
        &scene,
        &["-r", "region1", "-m", "fsdax", "-s", "64M", "-u", "01ab0003-0000-4000-8000-000000000003"],
    );
    let serving = serve(&mut scene);
    for tried in scene.attempts() {
        match tried.case.as_str() {
            "write-labels-active" => {
                let saved = scene.dir.path("saved");
                let target = format!("{}#nmem0", scene.target);
                assert_eq!(common::run(["read-labels", &target, "-o", saved.to_str().unwrap()]).status, 0);
            }
            "create-in-read-only-region" => store(&scene, "region1/read_only", "1"),
            "disable-region" => store(&scene, "region1/read_only", "0"),
            _ => {}
        }
        if ABSENT.contains(&tried.argv[1].as_str()) {
            continue;
        }
        let ran = attempt(&scene, &tried);
        same_words(&scene, &tried, &ran);
        match tried.case.as_str() {
            "create-in-read-only-region" => glance(&scene, "read-only"),
            "enable-regions-missing-label" => glance(&scene, "missing-label"),
            "enable-regions" => glance(&scene, "restored"),
            "enable-regions-zeroed" => glance(&scene, "one-zeroed"),
            _ => {}
        }
        if tried.argv[1] == "create-namespace" && tried.case != "name-63" && !tried.case.starts_with("reconf")
        {
            scene.tidy();
        }
    }
    drop(serving);
}

/// Each command on images that nobody has open, as it is used most.
#[test]
fn what_ndctl_does_is_done_with_its_words() {
    let scene = labelled("accepted");
    for tried in scene.attempts() {
        if tried.case == "list-namespaces" {
            make(
                &scene,
                &["-r", "region0", "-m", "sector", "-s", "32M", "-u", "01ab0001-0000-4000-8000-000000000001"],
            );
            make(
                &scene,
                &["-r", "region0", "-m", "raw", "-s", "32M", "-u", "01ab0002-0000-4000-8000-000000000002"],
            );
            make(
                &scene,
                &[
                    "-r",
                    "region1",
                    "-m",
                    "fsdax",
                    "-s",
                    "64M",
                    "-n",
                    "kept",
                    "-u",
                    "01ab0003-0000-4000-8000-000000000003",
                ],
            );
        }
        let ran = attempt(&scene, &tried);
        same_words(&scene, &tried, &ran);
        if tried.argv[1] == "create-namespace" && !tried.case.starts_with("reconfigure") {
            scene.tidy();
        }
    }
    glance(&scene, "empty");
}

#[test]
fn dimms_without_labels_refuse_what_ndctl_refuses() {
    for name in ["no-labels", "blank"] {
        let scene = Scene::blank(name);
        for tried in scene.attempts() {
            let ran = attempt(&scene, &tried);
            same_words(&scene, &tried, &ran);
        }
    }
}
