// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random schedules of the device model.

use nvstack_stack_shuttle::{Scene, check};

#[test]
fn devices_come_and_go_under_their_users() {
    check("claims and teardown", Scene::All, 2000);
}

#[test]
fn a_claim_is_bound_by_one_at_a_time() {
    check("a claim bound by several", Scene::Binders, 2000);
}

#[test]
fn nobody_opens_what_was_let_go() {
    check("a disk opened while its device is unbound", Scene::Openers, 2000);
}
