// SPDX-License-Identifier: MIT OR Apache-2.0
//! `list` against what `ndctl` 76.1 printed for the same trees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{dump, fixture};
use nvstack_media::Kind;
use nvstack_ndctl::list::{ListOptions, list};
use nvstack_ndctl::{json, status};
use serde_json::Value;

/// The options of a command line; `ndctl` bundles short ones.
fn parse(args: &[&str]) -> ListOptions {
    let mut o = ListOptions::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        for flag in arg.strip_prefix('-').unwrap().chars() {
            let mut value = || Some((*args.next().unwrap()).to_owned());
            match flag {
                'B' => o.buses = true,
                'D' => o.dimms = true,
                'R' => o.regions = true,
                'N' => o.namespaces = true,
                'X' => o.device_dax = true,
                'i' => o.idle = true,
                'c' => o.configured = true,
                'M' => o.media_errors = true,
                'C' => o.capabilities = true,
                'u' => o.human = true,
                'v' => o.verbose += 1,
                // What they add needs firmware that none of these trees has.
                'H' | 'F' => {}
                'b' => o.filter.bus = value(),
                'r' => o.filter.region = value(),
                'd' => o.filter.dimm = value(),
                'n' => o.filter.namespace = value(),
                'm' => o.filter.mode = value(),
                't' => o.filter.kind = value(),
                'U' => o.filter.numa_node = value(),
                other => panic!("-{other}"),
            }
        }
    }
    o
}

/// What is compared: all but what `list` leaves out consciously, see there.
fn comparable(mut value: Value) -> Value {
    match &mut value {
        Value::Array(items) => {
            let key = |v: &Value| (v["dev"].as_str().map(str::to_owned), v["position"].as_u64());
            let mut all: Vec<Value> = items.drain(..).map(comparable).collect();
            if all.iter().all(|v| v.is_object() && v.get("offset").is_none_or(|_| v.get("dimm").is_some())) {
                all.sort_by_key(key);
            }
            *items = all;
        }
        Value::Object(fields) => {
            let disabled = fields.get("state").is_some_and(|s| s == "disabled");
            if disabled && fields.contains_key("mode") {
                fields.shift_remove("badblock_count");
                fields.shift_remove("badblocks");
            }
            if fields.get("capabilities").is_some_and(|c| c.as_array().unwrap().len() < 3) {
                fields.shift_remove("capabilities");
            }
            for field in fields.values_mut() {
                *field = comparable(field.take());
            }
        }
        _ => {}
    }
    value
}

#[test]
fn every_listing_is_that_of_ndctl() {
    let cases: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(fixture("expected.json")).unwrap()).unwrap();
    assert!(cases.len() > 200);
    let mut wrong = Vec::new();
    for case in &cases {
        let tree = dump(case["dump"].as_str().unwrap());
        let args: Vec<&str> = case["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
        let (got, code) = match list(&tree, &parse(&args)) {
            Ok(outcome) => (outcome.json.into_iter().next().unwrap_or_default(), outcome.status),
            Err(e) => (Value::Null, status(&e)),
        };
        // As text, since the order of the keys counts.
        let got = json::text(&comparable(got));
        let want = json::text(&comparable(case["stdout"].clone()));
        if got != want || u64::from(code) != case["status"] {
            wrong.push(format!("{} {args:?} {code}:\n{got}\ninstead of\n{want}", case["dump"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn the_text_is_what_ndctl_writes() {
    let options = parse(&["-u"]);
    let text = list(&dump("sysfs-sector"), &options).unwrap().text();
    assert_eq!(
        text,
        "{\n  \"dev\":\"namespace0.0\",\n  \"mode\":\"sector\",\n  \"size\":\"62.91 MiB (65.97 MB)\",\n  \
         \"uuid\":\"91755b80-2157-4923-b8f6-a1066974c539\",\n  \"sector_size\":4096,\n  \"blockdev\":\"pmem0s\"\n}\n"
    );
    assert_eq!(list(&dump("sysfs-seed"), &options).unwrap().text(), "");
}

#[test]
fn a_namespace_shows_the_bad_blocks_of_its_own_place() {
    let all = list(&dump("made-lab"), &parse(&["-NiM"])).unwrap().json.remove(0);
    let of = |name: &str| {
        let found = all.as_array().unwrap().iter().find(|n| n["dev"] == name).unwrap();
        found.get("badblocks").cloned()
    };
    assert_eq!(of("namespace1.0"), Some(serde_json::json!([{ "offset": 8, "length": 1 }])));
    // Two gigabytes further on, and nowhere at all.
    assert_eq!((of("namespace1.1"), of("namespace1.2")), (None, None));
    // From where the data begins, and only as far as it goes.
    let data = of("namespace0.0").unwrap();
    assert_eq!((&data[0]["offset"], &data[1]["length"]), (&4.into(), &8.into()));
}

#[test]
fn a_filter_that_makes_no_sense_says_what_would() {
    let refusal = |args: &[&str]| {
        let error = list(&dump("sysfs-raw"), &parse(args)).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        error.to_string()
    };
    assert_eq!(
        refusal(&["-m", "bogus"]),
        "invalid mode: found 'bogus', accepted raw, sector (or safe), fsdax (or memory), devdax (or dax)"
    );
    assert_eq!(refusal(&["-t", "x"]), "unknown type: found 'x', accepted pmem or blk");
}

#[test]
fn a_seed_alone_makes_a_capability() {
    let regions = list(&dump("made-lab"), &parse(&["-RC", "-r", "region3"])).unwrap().json.remove(0);
    assert_eq!(regions[0]["capabilities"][0]["mode"], "sector");
}
