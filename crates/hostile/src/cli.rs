// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the command reads from strangers: lines on its control socket, the state file beside an image. Its files are compiled here
//! a second time, as a binary has no library.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nvstack_format::label::Version;
use nvstack_label::LabelArea;
use nvstack_media::{Media, MediaOffset, Part};
use nvstack_stack::Stack;
use nvstack_stack::provider::ImageProvider;

use crate::Sparse;

#[path = "../../cli/src/control.rs"]
#[allow(dead_code, reason = "the other end")]
mod control;
#[path = "../../cli/src/state.rs"]
#[allow(dead_code, reason = "writing it")]
mod state;
#[path = "../../cli/src/sys.rs"]
#[allow(dead_code, reason = "disks in use")]
mod sys;

/// Requests, and names in the tree.
pub(crate) const WORDS: &[&str] = &[
    "{\"op\":\"read\",\"path\":\"",
    "{\"op\":\"write\",\"path\":\"",
    "{\"op\":\"list\",\"path\":\"",
    "{\"op\":\"link\",\"path\":\"",
    "{\"op\":\"read_dev\",\"dev\":\"pmem0\",\"at\":",
    "{\"op\":\"write_dev\",\"dev\":\"pmem0\",\"at\":",
    "{\"op\":\"label_size\",\"dimm\":\"nmem0\"}",
    "{\"op\":\"label_read\",\"dimm\":\"nmem0\",\"at\":",
    "{\"op\":\"label_write\",\"dimm\":\"nmem0\",\"at\":",
    "{\"op\":\"inject_error\",\"region\":\"region0\",\"at\":",
    "{\"op\":\"clear_error\",\"region\":\"region0\",\"at\":",
    "\"}\n",
    "\",\"text\":\"",
    ",\"len\":",
    ",\"data\":\"",
    "00ff",
    "namespace0.0",
    "region0",
    "nmem0",
    "btt0.0",
    "pfn0.0",
    "dax0.0",
    "bus/nd/devices",
    "bus/nd/drivers",
    "/size",
    "/uuid",
    "/alt_name",
    "/sector_size",
    "/holder_class",
    "/namespace",
    "/driver/unbind",
    "/bind",
    "/force_raw",
    "/read_only",
    "/align",
    "/mode",
    "18446744073709551615",
    "0x1000000",
    "16777216",
    "\\n",
    "\\u0000",
    "..",
    "/",
];

/// A machine with one DIMM of 32 MiB, its label area initialised.
fn machine() -> Stack {
    let image = Sparse::new(32 << 20);
    let at = (32 << 20) - (128 << 10);
    let area = Part::new(&image, MediaOffset(at), 128 << 10).expect("a part");
    LabelArea::init(area, Version::V1_2).expect("an area");
    let image: Arc<dyn Media> = Arc::new(image);
    let stack = Stack::with_workers(1);
    stack.register(ImageProvider::new(image, Some(128 << 10)).expect("an image").bus());
    stack.settle_within(Duration::from_secs(20)).expect("probes end");
    stack
}

/// Lines on a control socket: each gets one answer that is JSON, until one is too long or is none.
pub fn control_lines(data: &[u8]) {
    let stack = machine();
    let sys = sys::LocalSys::new(stack.clone(), true);
    let (mut client, server) = UnixStream::pair().expect("sockets");
    let heard = std::thread::scope(|scope| {
        let mut listener = client.try_clone().expect("a socket");
        let heard = scope.spawn(move || {
            let mut heard = Vec::new();
            let _ = listener.read_to_end(&mut heard);
            heard
        });
        scope.spawn(move || {
            let _ = client.write_all(data);
            let _ = client.shutdown(std::net::Shutdown::Write);
        });
        control::serve(&server, &sys, &|| {});
        drop(server);
        heard.join().expect("a reader")
    });
    let heard = String::from_utf8(heard).expect("text");
    let answers =
        heard.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count();
    assert_eq!(answers, heard.lines().count(), "an answer that is no JSON");
    // Lines up to the first that is no text are answered, each with one.
    let lines = data.split_inclusive(|byte| *byte == b'\n');
    let wanted = lines.take_while(|line| line.ends_with(b"\n") && std::str::from_utf8(line).is_ok()).count();
    assert_eq!(answers, wanted, "lines and answers");
    // And the machine is there.
    stack.settle_within(Duration::from_secs(20)).expect("probes end");
    crate::image::walk(&stack);
}

/// Any state file: refused with its place, or a machine that comes up with it.
pub fn state_file(data: &[u8]) {
    let Ok(state) = state::State::parse(&String::from_utf8_lossy(data), std::path::Path::new("image.state"))
    else {
        return;
    };
    let image = Sparse::new(32 << 20);
    let provider = ImageProvider::new(Arc::new(image), Some(128 << 10)).expect("an image");
    let mut buses = vec![provider.bus()];
    if state.apply(&mut buses).is_err() {
        return;
    }
    let stack = Stack::with_workers(1);
    for bus in buses {
        stack.register(bus);
    }
    stack.settle_within(Duration::from_secs(20)).expect("probes end");
    let _ = state.restore(&stack);
    let kept = state::State::of(&stack);
    let text = serde_json::to_string(&kept).expect("text");
    let again = state::State::parse(&text, std::path::Path::new("image.state")).expect("what we wrote");
    assert_eq!(again, kept);
}
