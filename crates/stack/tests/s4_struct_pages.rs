// SPDX-License-Identifier: MIT OR Apache-2.0
//! S4: drivers that keep a descriptor of each page stack as the BTT does.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use common::{MIB, create, get, image, open, read, refused, write};
use nvstack_block::BlockDevice;
use nvstack_media::{Kind, MediaOffset};
use nvstack_stack::{Entry, Stack};

#[test]
fn s4_fsdax_and_devdax_stack_as_the_btt_does() {
    let (stack, media) = (Stack::new(), image(256 * MIB));
    stack.register(common::bus(&media));
    stack.settle();
    let tree = stack.tree();
    for (n, mode, kind) in [(1u8, "fsdax", "memory"), (2, "devdax", "dax")] {
        let (ns, claim) = create(&tree, "region0", mode, n.into(), 64 * MIB);
        let claim = claim.unwrap();
        assert_eq!(get(&tree, &format!("{ns}/holder")), claim);
        assert_eq!(get(&tree, &format!("{ns}/mode")), kind);
        let disk = open(&stack, &claim);
        write(&*disk, 5, n).unwrap();
        // Its bytes lie where its resource says.
        let number = |path: String| -> u64 {
            let text = get(&tree, &path);
            text.strip_prefix("0x").map_or_else(|| text.parse(), |h| u64::from_str_radix(h, 16)).unwrap()
        };
        let at = number(format!("{claim}/resource")) - number("region0/resource".into());
        let mut byte = [0];
        media.read(MediaOffset(at + 5 * 512), &mut byte).unwrap();
        assert_eq!(byte, [n]);
        assert_eq!(disk.geometry().bytes(), number(format!("{claim}/size")));
        assert!(number(format!("{claim}/size")) < 64 * MIB);
    }
    // An fsdax has a disk that can be mapped, a devdax none: it is memory.
    assert_eq!(get(&tree, "block/pmem0/queue/dax"), "1");
    assert!(matches!(tree.entry("bus/dax/devices/dax0.1"), Ok(Entry::Link { .. })));
    refused(
        stack.open("pmem0.1", &nvstack_stack::OpenOptions::default()).map(|_| ()),
        Kind::NotFound,
        &["pmem0.1"],
    );
    // Both are found again.
    let again = Stack::new();
    again.register(common::bus(&media));
    again.settle();
    for (n, claim) in [(1u8, "pfn0.1"), (2, "dax0.2")] {
        assert_eq!(read(&*open(&again, claim), 5).unwrap()[511], n);
    }
}
