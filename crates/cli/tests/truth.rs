// SPDX-License-Identifier: MIT OR Apache-2.0
//! On the media that Linux 6.1 and ndctl 76.1 made, `nvstack list` says what `ndctl list` said of them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

#[path = "common/compare.rs"]
mod compare;
#[path = "common/scene.rs"]
mod scene;

use common::run;
use compare::same;
use scene::Scene;
use serde_json::Value;

/// The options of each recorded list.
const LISTS: [(&str, &[&str]); 4] = [
    ("list-BDRNX.json", &["-BDRNX"]),
    ("list-BDRNXi.json", &["-BDRNXi"]),
    ("list-BDRNXvvv-u.json", &["-BDRNXvvv", "-u"]),
    ("list-R.json", &["-R"]),
];

/// Compares all lists of a scene's state that were recorded.
fn compare_lists(scene: &Scene, state: &str) {
    for (file, options) in LISTS {
        let file = format!("{state}{file}");
        if state.is_empty() || scene.from.join(&file).is_file() {
            let mut wanted = scene.wanted(&file);
            put_right(&mut wanted, scene);
            same(&format!("{} {file}", scene.name), &scene.list(options), &wanted);
        }
    }
}

/// Puts right what Linux and ndctl get wrong. For people ndctl 76.1 cuts numbers at 2^63 (later ones do not): this puts the cookie there that it printed as a number.
fn put_right(list: &mut Value, scene: &Scene) {
    match list {
        Value::Array(values) => values.iter_mut().for_each(|value| put_right(value, scene)),
        Value::Object(keys) => {
            // Of a disabled DIMM Linux forgets the version of its labels, and so gives the set the cookie of version 1.1.
            for (forgotten, kept) in [
                (10_398_864_455_508_821_764_u64.into(), 1_257_233_774_696_738_062_u64.into()),
                ("0x7fffffffffffffff".into(), "0x11729774fc6c2d0e".into()),
            ] {
                if scene.name == "interleaved" && keys.get("iset_id") == Some(&forgotten) {
                    keys.insert("iset_id".into(), kept);
                }
            }
            if keys.get("iset_id").is_some_and(|cookie| cookie == "0x7fffffffffffffff") {
                let regions = scene.wanted("list-R.json");
                let mut regions = regions.as_array().unwrap().iter();
                let region = regions.find(|region| region["dev"] == keys["dev"]).unwrap();
                let cookie = region["iset_id"].as_u64().unwrap();
                assert!(cookie >= 1 << 63, "{region}");
                keys.insert("iset_id".into(), format!("{cookie:#x}").into());
            }
            keys.values_mut().for_each(|value| put_right(value, scene));
        }
        _ => {}
    }
}

/// Compares the labels of each DIMM.
fn compare_labels(scene: &Scene) {
    let wanted = scene.wanted("read-labels.json");
    let dimms = scene.list(&["-D"]);
    let mut compared = 0;
    for dimm in dimms.as_array().unwrap() {
        let Some(wanted) = wanted.get(dimm["handle"].to_string()) else { continue };
        let target = format!("{}#{}", scene.lab.display(), dimm["dev"].as_str().unwrap());
        let found = run(["read-labels", &target, "-j"]).json();
        same(&format!("{} labels of {dimm}", scene.name), &found, wanted);
        compared += 1;
    }
    assert_eq!(compared, wanted.as_object().map_or(0, |all| all.len()), "{}", scene.name);
}

/// The first scene is the one by which this program is judged: four DIMMs, a two-way and a four-way set, 1.2 labels, one
/// namespace of each mode.
#[test]
fn every_list_of_every_scene_is_that_of_ndctl() {
    for name in ["interleaved", "interleaved-1.1", "plain-1.2", "plain-1.1", "blank"] {
        let scene = Scene::recorded(name);
        compare_lists(&scene, "");
        compare_labels(&scene);
    }
}

#[test]
fn what_is_disabled_is_listed_as_ndctl_lists_it() {
    let scene = Scene::recorded("interleaved");
    // In the recording and here the regions and namespaces happen to have the same numbers.
    scene.obeys("disable-namespace");
    scene.obeys("disable-region");
    compare_lists(&scene, "disabled/");
    scene.obeys("enable-region");
    scene.obeys("enable-namespace");
    // When ndctl looked, Linux had yet to make the idle namespace of the region that came up again.
    let seedless = |mut list: Value| {
        for region in list[0]["regions"].as_array_mut().unwrap() {
            region["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["size"] != 0);
        }
        list
    };
    let wanted = seedless(scene.wanted("enabled/list-BDRNXi.json"));
    same("enabled", &seedless(scene.list(&["-BDRNXi"])), &wanted);
    compare_lists(&scene, "");
    for case in ["disable-dimm-active", "disable-region-two", "disable-region-four", "disable-dimm"] {
        scene.obeys(case);
    }
    compare_lists(&scene, "dimm-disabled/");

    let scene = Scene::recorded("plain-1.2");
    for case in ["disable-devdax", "disable-fsdax", "disable-raw"] {
        scene.obeys(case);
    }
    compare_lists(&scene, "disabled/");
}

#[test]
fn info_blocks_are_shown_as_ndctl_shows_them() {
    let scene = Scene::recorded("plain-1.2");
    for case in ["disable-sector", "disable-sector-520"] {
        scene.obeys(case);
    }
    for n in 1..=5 {
        let case = format!("read-infoblock-{n}");
        let ran = scene.obeys(&case);
        let wanted: Value = serde_json::from_str(&scene.attempt(&case).stdout).unwrap();
        same(&case, &ran.json(), &wanted);
    }
}

/// A DIMM without a label area: raw as it comes, and after `create-namespace -f -e` with a BTT. The recorded media are those of
/// the end.
#[test]
fn a_dimm_without_labels_is_listed_as_ndctl_lists_it() {
    let blank = Scene::blank("no-labels");
    compare_lists(&blank, "");
    blank.obeys("create-without-force");
    compare_lists(&blank, "");
    let ran = blank.obeys("create-sector");
    let wanted: Value = serde_json::from_str(&blank.attempt("create-sector").stdout).unwrap();
    let mut made = ran.json();
    made["uuid"] = wanted["uuid"].clone();
    same("create-sector", &made, &wanted);
    compare_lists(&Scene::recorded("no-labels"), "sector/");
}
