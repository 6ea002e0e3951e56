// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each model allows, against a plain reading of its rule.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use nvstack_media::{Kind, Media, MediaOffset};
use nvstack_sim::{Image, Model, SimMedium};
use proptest::prelude::*;

fn images(medium: &SimMedium) -> BTreeSet<Vec<u8>> {
    let cuts = medium.cuts();
    let mut found = BTreeSet::new();
    let (given, _) = cuts.each(1 << 20, 1, |choice, image| {
        assert!(cuts.image(choice) == *image);
        assert!(Image::from_bytes(&image.to_bytes()).hash() == image.hash(), "the hash follows the bytes");
        assert!(found.insert(image.to_bytes()), "given twice");
        ControlFlow::<()>::Continue(())
    });
    assert_eq!(u128::from(given), cuts.count());
    found
}

fn word(n: u8) -> [u8; 8] {
    [n; 8]
}

fn medium(model: Model) -> SimMedium {
    SimMedium::new(Image::zeros(8192), model)
}

#[test]
fn a_line_persists_a_prefix_on_x86_and_any_part_elsewhere() {
    for (model, expected) in [(Model::X86, 3), (Model::Arm, 4), (Model::Adversarial, 4), (Model::Pages, 3)] {
        let m = medium(model);
        m.store(MediaOffset(0), &word(1)).unwrap();
        m.store(MediaOffset(8), &word(2)).unwrap();
        assert_eq!(images(&m).len(), expected, "{model}");
    }
}

#[test]
fn what_is_streamed_has_no_order_and_lines_have_none_among_them() {
    for (model, expected) in [(Model::X86, 4), (Model::Arm, 4), (Model::Adversarial, 4), (Model::Pages, 3)] {
        let m = medium(model);
        m.stream(MediaOffset(0), &[3; 16]).unwrap();
        assert_eq!(images(&m).len(), expected, "{model}: streamed");
        let m = medium(model);
        m.store(MediaOffset(0), &word(1)).unwrap();
        m.store(MediaOffset(4096), &word(2)).unwrap();
        assert_eq!(images(&m).len(), 4, "{model}: apart");
    }
}

#[test]
fn a_drain_covers_what_was_flushed_or_streamed_and_on_pages_everything() {
    for model in Model::ALL {
        let m = medium(model);
        m.store(MediaOffset(0), &word(1)).unwrap();
        m.store(MediaOffset(64), &word(2)).unwrap();
        m.flush(MediaOffset(0), 8).unwrap();
        m.drain().unwrap();
        let left = images(&m);
        assert!(left.iter().all(|i| i[..8] == word(1)), "{model}");
        assert_eq!(left.len(), if model == Model::Pages { 1 } else { 2 }, "{model}");
    }
}

#[test]
fn a_store_that_was_drained_does_not_give_way_to_what_was_before_it() {
    for model in Model::ALL {
        let m = medium(model);
        m.store(MediaOffset(0), &word(1)).unwrap();
        m.store(MediaOffset(0), &word(2)).unwrap();
        m.persist(MediaOffset(0), 8).unwrap();
        m.store(MediaOffset(0), &word(3)).unwrap();
        let values: Vec<u8> = images(&m).iter().map(|i| i[0]).collect();
        assert_eq!(values, [2, 3], "{model}");
    }
}

#[test]
fn lost_blocks_are_refused_until_they_are_overwritten_and_a_cut_keeps_them() {
    let m = medium(Model::X86);
    m.inject_poison(MediaOffset(700), 1).unwrap();
    assert_eq!(m.read(MediaOffset(512), &mut [0; 8]).unwrap_err().kind(), Kind::Poison);
    assert_eq!(m.store(MediaOffset(512), &[1; 100]).unwrap_err().kind(), Kind::Poison);
    assert_eq!(m.badblocks(MediaOffset(0), 8192), [(1, 1)]);
    let again = SimMedium::new(m.cuts().image(&[]), Model::X86);
    assert!(again.is_poisoned(MediaOffset(512), 512));
    again.stream(MediaOffset(512), &[2; 512]).unwrap();
    assert!(!again.is_poisoned(MediaOffset(0), 8192));
}

#[derive(Clone, Debug)]
enum Step {
    Store(u64, u8),
    Stream(u64, u8),
    Flush(u64),
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    // Two lines, two words in each.
    let at = (0u64..4).prop_map(|n| n / 2 * 64 + n % 2 * 8);
    prop_oneof![
        (at.clone(), 1u8..5).prop_map(|(at, n)| Step::Store(at, n)),
        (at.clone(), 1u8..5).prop_map(|(at, n)| Step::Stream(at, n)),
        at.prop_map(Step::Flush),
        Just(Step::Drain),
    ]
}

proptest! {
    /// The weaker the model, the more it allows; what readers see is always allowed.
    #[test]
    fn models_contain_each_other(steps in prop::collection::vec(step(), 0..8)) {
        let sets: Vec<BTreeSet<Vec<u8>>> = [Model::X86, Model::Arm, Model::Adversarial].into_iter().map(|model| {
            let m = medium(model);
            for step in &steps {
                match step {
                    Step::Store(at, n) => m.store(MediaOffset(*at), &word(*n)).unwrap(),
                    Step::Stream(at, n) => m.stream(MediaOffset(*at), &word(*n)).unwrap(),
                    Step::Flush(at) => m.flush(MediaOffset(*at), 8).unwrap(),
                    Step::Drain => m.drain().unwrap(),
                }
            }
            let found = images(&m);
            assert!(found.contains(&m.image().to_bytes()));
            found
        }).collect();
        prop_assert!(sets[0].is_subset(&sets[1]));
        prop_assert!(sets[1].is_subset(&sets[2]));
    }
}
