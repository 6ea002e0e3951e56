// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images with crafted damage: each opens as Linux opens it, or is refused with a message that names the cause. Nothing
//! is written, and nothing that Linux would show raw by mistake is shown raw.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Dir, facts, harmless};
use serde_json::Value;

/// What differs from the kernel: the namespaces, and a word of the cause.
const REFUSED: &[(&str, &str, &str)] = &[
    ("p1-primary-zeroed", "disabled 33554432", "signature"),
    ("p2a-seq-0-0", "disabled 33554432", "seq"),
    ("p2a-seq-4-1", "disabled 33554432", "seq"),
    ("p2a-seq-7-1", "disabled 33554432", "seq"),
    ("p2b-flog-lba-oob", "disabled 33554432", "lba"),
    ("p2b-flog-old-oob", "disabled 33554432", "old_map"),
    ("p2b-mixed-pad", "disabled 33554432", "padding"),
    ("p3a-nl-ver-1.2", "disabled 33554432", "version"),
    ("p3a-nl-ver-2.0-at-0", "disabled 33554432", "a BTT info block"),
    ("p3a-nl-ver-2.0-at-4K", "disabled 33554432", "version"),
    ("p3b-nl-extlba-4100", "disabled 33554432", "external_lbasize"),
    ("p3b-nl-infosize-512", "disabled 33554432", "infosize"),
    ("p3b-nl-intnlba-small", "disabled 33554432", "internal_nlba"),
    ("p3b-nl-mapoff-garbage", "disabled 33554432", "mapoff"),
    ("p3b-nl-nextoff-garbage", "disabled 33554432", "nextoff"),
    ("p3b-nl-nfree-0", "disabled 33554432", "nfree"),
    ("p3b-nl-nfree-1", "disabled 33554432", "nfree"),
    ("p4a-v11-moved-to-0-as-2.0", "disabled 33554432", "a BTT info block"),
    ("p4a-v11-ver-2.0-at-4K", "disabled 33554432", "version"),
    ("p4a-v12-absguid-pfn", "disabled 33554432", "a BTT info block"),
    ("p4a-v12-parent-mismatch", "disabled 33554432", "parent_uuid"),
    ("p4a-v12-primary-bitflip", "disabled 33554432", "checksum"),
    ("p4a-v12-primary-zero", "disabled 33554432", "signature"),
    ("p4b-v12-label-csum-bad", "", "checksum"),
    ("p4c-v12-position-1", "", "position"),
    ("p4c-v12-rawsize-smaller", "disabled 16777216", "info2off"),
    ("p4c-v12-rawsize-unaligned", "disabled 25169920", "info2off"),
    ("p4c-v12-seq-0-both", "disabled 33554432", "seq"),
    ("p5b-both-slots-used", "", "dpa"),
    ("p5b-two-distinct-ok", "disabled 16777216, raw 16777216", "a BTT info block"),
    ("p5b-two-distinct-overlap", "", "dpa"),
    ("p7a-align-1G", "disabled 33554432", "align"),
    ("p7a-align-3", "disabled 33554432", "align"),
    ("p7a-csum-bad", "disabled 33554432", "checksum"),
    ("p7a-dataoff-0", "disabled 33554432", "dataoff"),
    ("p7a-dataoff-8K", "disabled 33554432", "dataoff"),
    ("p7a-sig-dax", "disabled 33554432", "a devdax info block"),
    ("p7b-dataoff-40M", "disabled 33554432", "dataoff"),
    ("p7c-end_trunc-4K", "disabled 33554432", "end_trunc"),
    ("p9-good+cookie", "raw 16777216", "isetcookie"),
    ("p9-good+dpa-oob", "raw 16777216", "rawsize"),
    ("p9-good+good", "disabled 16777216, raw 16777216", "a BTT info block"),
    ("p9-good+nlabel0", "raw 16777216", "nlabel"),
    ("p9-good+typeguid", "raw 16777216", "type_guid"),
];

fn summary(out: &str) -> String {
    if out.is_empty() {
        return String::new();
    }
    let list: Vec<Value> = serde_json::from_str(out).unwrap();
    let one = |n: &Value| {
        let state = n["state"].as_str().or(n["mode"].as_str()).unwrap();
        format!("{state} {}", n["size"])
    };
    list.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn every_probe_opens_as_in_linux_or_is_refused_by_cause_and_stays_as_it_is() {
    let dir = Dir::new();
    let all = facts("probes.json");
    for (name, ..) in REFUSED {
        assert!(all.contains_key(*name), "{name}");
    }
    for (name, facts) in all {
        let image = dir.fixture(&format!("probes/{name}"));
        let ran = harmless("list", &image, &[]);
        assert_eq!(ran.status, 0, "{name}: {ran:?}");
        let (found, refused) = (summary(&ran.out), REFUSED.iter().find(|(n, ..)| *n == name));
        match refused {
            Some((_, want, cause)) => {
                assert_eq!(&found, want, "{name}: {}", ran.err);
                assert!(
                    ran.err.contains(cause) && ran.err.contains("accepted"),
                    "{name}: {cause}: {}",
                    ran.err
                );
                assert!(ran.err.contains("at offset 0x"), "{name}: {}", ran.err);
            }
            None => {
                let kernel = &facts["kernel"];
                // A map that names a block twice: Linux serves it, and so may a reader.
                let (mode, size) = match kernel["attach"].as_str() {
                    Some("btt") => ("sector", &kernel["size"]),
                    Some("pfn") => ("fsdax", &kernel["size"]),
                    None => ("sector", &Value::from(32_440_320)),
                    Some("raw") if name == "p9-good+unaligned-dpa" => ("raw 8388608, raw", &kernel["size"]),
                    other => panic!("{name}: {other:?}"),
                };
                assert_eq!(found, format!("{mode} {size}"), "{name}: {}", ran.err);
                // That an update was cut is told, and no more than that.
                let told: Vec<&str> = ran.err.lines().filter(|line| !line.contains("UPDATING")).collect();
                assert_eq!(told, [""; 0], "{name}");
                let shown = &serde_json::from_str::<Value>(&ran.out).unwrap()[0]["name"];
                if let Some(label) = kernel["names"].as_array().and_then(|n| n.first()) {
                    // Linux prints what stands behind a name without a NUL.
                    assert!(label.as_str().unwrap().starts_with(shown.as_str().unwrap()), "{name}: {shown}");
                }
            }
        }
        for (verb, args) in
            [("list", &["-BDRNXiuv"][..]), ("read-labels", &["-j"]), ("read-infoblock", &["-j"])]
        {
            harmless(verb, &image, args);
        }
        serve(&name, &image, &found);
        std::fs::remove_file(image).unwrap();
    }
}

/// A namespace that is not healthy is never served for writing, and only from a whole backup for reading.
fn serve(name: &str, image: &std::path::Path, found: &str) {
    let read = harmless("serve", image, &["--read-only", "--run", "exit 7"]);
    let whole_backup = read.err.contains("from the backup info block");
    let healthy = found.split(", ").any(|n| !n.is_empty() && !n.starts_with("disabled"));
    assert_eq!(read.status == 7, healthy || whole_backup, "{name}: {read:?}");
    if !healthy {
        let write = harmless("serve", image, &["--run", "exit 7"]);
        assert!(write.status > 128, "{name}: {write:?}");
        assert_eq!(write.err.contains("backup"), whole_backup, "{name}: {write:?}");
    }
    if ["p1-primary-zeroed", "p4a-v12-primary-zero", "p4a-v12-primary-bitflip"].contains(&name) {
        assert!(whole_backup, "{name}: {read:?}");
    }
    if found.starts_with("disabled") && !healthy {
        // The explicit way round.
        assert_eq!(harmless("serve", image, &["--raw", "--run", "exit 7"]).status, 7, "{name}");
    }
}
