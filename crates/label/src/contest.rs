// SPDX-License-Identifier: MIT OR Apache-2.0
//! Labels of one DIMM that claim the same bytes.

use nvstack_format::Invalid;
use nvstack_format::label::Label;

/// For each label of a DIMM: what another one also says is its own.
///
/// Every valid label counts, whatever else is wrong with it: that is where somebody's data may be. Linux gives up all
/// labels of the DIMM and serves its bytes as one raw namespace; here what is contested is nobody's, and the rest stays.
pub(crate) fn contested(labels: &[&Label]) -> Vec<Option<Invalid>> {
    let mut out = vec![None; labels.len()];
    let mut order: Vec<(usize, &Label)> = labels.iter().copied().enumerate().collect();
    order.sort_by_key(|(_, label)| (label.dpa, label.slot));
    let mut clash = |mine: (usize, &Label), theirs: &Label| {
        if let Some(slot) = out.get_mut(mine.0) {
            slot.get_or_insert_with(|| overlap(mine.1, theirs));
        }
    };
    let mut furthest: Option<(usize, &Label)> = None;
    for this in order {
        if let Some(before) = furthest {
            if this.1.dpa < before.1.end() && this.1.rawsize > 0 {
                clash(before, this.1);
                clash(this, before.1);
            }
            if this.1.end() <= before.1.end() {
                continue;
            }
        }
        furthest = Some(this);
    }
    out
}

/// The finding about a label whose bytes another one has too.
pub(crate) fn overlap(mine: &Label, theirs: &Label) -> Invalid {
    Invalid::new(
        "label",
        "dpa",
        104,
        format_args!("bytes {} to {}", mine.dpa, mine.end()),
        format_args!(
            "bytes outside {} to {}, which the label in slot {} has",
            theirs.dpa,
            theirs.end(),
            theirs.slot
        ),
    )
}
