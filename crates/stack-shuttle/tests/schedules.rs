// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random schedules of the device model.

#[test]
fn devices_come_and_go_under_their_users() {
    nvstack_stack_shuttle::check("claims and teardown", 2000);
}
