// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random schedules of the whole engine; and that what it relies on is missed where it is left out.

use nvstack_btt_shuttle::sync::Break;
use nvstack_btt_shuttle::{Kind, check, notices};

#[test]
fn sectors_are_whole_and_kept_where_each_write_is_durable() {
    check("engine, direct", Kind::Direct, 16_000);
}

#[test]
fn sectors_are_whole_and_kept_where_groups_are_committed() {
    check("engine, grouped", Kind::Grouped, 16_000);
}

#[test]
fn what_is_left_out_is_missed_where_each_write_is_durable() {
    for what in [Break::TryLock, Break::Claim, Break::Look, Break::Unseen] {
        notices("engine, direct", Kind::Direct, what, 20_000);
    }
}

#[test]
fn what_is_left_out_is_missed_where_groups_are_committed() {
    for what in [Break::Turn, Break::Claim, Break::Share] {
        notices("engine, grouped", Kind::Grouped, what, 20_000);
    }
}
