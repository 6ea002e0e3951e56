// SPDX-License-Identifier: MIT OR Apache-2.0
//! Damaged and odd info blocks: each is taken as Linux took it, or refused with its cause.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Sim, describe, image, json, read};
use nvstack_block::BlockDevice;
use nvstack_media::Kind as ErrorKind;
use nvstack_pfn::{Kind, Mode, OpenOptions, Pages, Place, Probe, probe};
use uuid::Uuid;

#[test]
fn each_image_is_taken_as_linux_took_it() {
    let golden = json("golden.json");
    let parent: Uuid = golden["base-v1.2-fsdax"]["labels"][0]["uuid"].as_str().unwrap().parse().unwrap();
    let mut seen = [0; 4];
    for (name, case) in json("probes.json").as_object().unwrap() {
        if case["kind"] != "pfn" {
            continue;
        }
        let mut bytes = image(case["file"].as_str().unwrap());
        bytes.truncate(32 << 20);
        let place = Place { start: Some(1 << 32), size: 32 << 20 };
        let linux = case["kernel"]["attach"].as_str().unwrap();
        let media = Sim::memory(bytes.clone());
        let found = probe(&media, Kind::Fsdax, parent, place).unwrap();
        let opened = Pages::open(media, OpenOptions::new("pmem0", Kind::Fsdax, parent, place));
        let (want, kind) = match (&found, linux) {
            (Probe::Found(_), "pfn") => (0, None),
            (Probe::Absent(_), "raw") => (1, Some(ErrorKind::Unrecognised)),
            (Probe::Unsupported(_), "none") => (2, Some(ErrorKind::Unsupported)),
            (Probe::Corrupt(_), "claimed, probe failed") => (3, Some(ErrorKind::Corrupt)),
            // Linux tests an alignment of 3 with a mask, and lets it pass.
            (Probe::Unsupported(finding), "pfn") if name == "p7a-align-3" => {
                assert_eq!(finding.field, "align");
                (2, Some(ErrorKind::Unsupported))
            }
            other => panic!("{name}: {other:?}"),
        };
        seen[want] += 1;
        let pages = match (opened, kind) {
            (Ok(pages), None) => pages,
            (Err(e), Some(kind)) => {
                assert_eq!(e.kind(), kind, "{name}: {e}");
                assert!(e.offset().is_some() && e.to_string().contains("accepted"), "{name}: {e}");
                continue;
            }
            (Ok(_), Some(_)) => panic!("{name} opened"),
            (Err(e), None) => panic!("{name}: {e}"),
        };
        let disk = pages.disk().unwrap();
        assert_eq!(disk.geometry().bytes(), case["kernel"]["size"].as_u64().unwrap(), "{name}");
        assert_eq!(u64::from(disk.geometry().sector_size), case["kernel"]["sector"].as_u64().unwrap());
        for op in case["kernel"]["ops"].as_array().unwrap() {
            let (lba, said) =
                op.as_str().unwrap().strip_prefix("read lba ").unwrap().split_once(" -> ").unwrap();
            let data: Vec<u8> =
                (0..8).flat_map(|i| read(&disk, lba.parse::<u64>().unwrap() * 8 + i).unwrap()).collect();
            assert_eq!(describe(&data), said, "{name}");
        }
        assert_eq!(
            pages.truncated().is_some(),
            name == "p7b-npfns-big" || name.contains("start_pad"),
            "{name}"
        );
        assert_eq!(pages.npfns() * 4096, disk.geometry().bytes(), "{name}");
        assert_eq!(pages.info().mode, if name == "p7a-mode-1" { Mode::Ram } else { Mode::Pmem });
        assert!(pages.media().bytes() == bytes, "{name}: changed by reading");
    }
    assert_eq!(seen, [10, 2, 5, 1]);
}
