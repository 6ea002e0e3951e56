// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that meet at one place: where a claim is bound, and where its disk is opened while it is unbound.

use std::sync::Arc;

use nvstack_media::{Anon, Domain, Extent, Media, MediaOffset, Result};
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::thread;

use crate::threads::{CLAIM, CLAIMED, bind, furnish, image, in_order, machine, unbind, used};
use crate::{OpenOptions, Tree, sync};

/// Binds and unbinds that were answered with success.
#[derive(Default)]
struct Counts {
    bound: AtomicUsize,
    unbound: AtomicUsize,
}

impl Counts {
    fn act(&self, tree: &Tree, binds: bool) {
        let (done, count) =
            if binds { (bind(tree, CLAIM), &self.bound) } else { (unbind(tree, CLAIM), &self.unbound) };
        if done.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
        in_order(&done);
    }
}

/// Several bind and unbind one claim. Whatever their order, it was bound once more than it was unbound if it is bound in
/// the end, and as often if it is not: nobody's hold was written over by another's.
pub(crate) fn binders() {
    sync::begin();
    let media: Arc<dyn Media> = Arc::new(image());
    let (stack, bus, tree) = machine(&media);
    furnish(&tree);
    let counts = Arc::new(Counts::default());
    counts.bound.fetch_add(1, Ordering::SeqCst);
    let threads: Vec<_> = [[false, true], [true, false], [true, true]]
        .map(|acts| {
            let (tree, counts) = (tree.clone(), Arc::clone(&counts));
            thread::spawn(move || acts.into_iter().for_each(|binds| counts.act(&tree, binds)))
        })
        .into();
    for thread in threads {
        thread.join().unwrap();
    }
    let is_bound = unbind(&tree, CLAIM).is_ok();
    let [bound, unbound] = [&counts.bound, &counts.unbound].map(|count| count.load(Ordering::SeqCst));
    assert_eq!(bound, unbound + usize::from(is_bound), "{bound} binds and {unbound} unbinds were answered");
    stack.unregister(bus).unwrap();
    assert_eq!(Arc::strong_count(&media), 1, "the medium is kept by somebody");
}

/// A medium that tells when it is used after it should not be.
struct Watched {
    inner: Anon,
    /// Whether its bytes may be looked at.
    open: AtomicBool,
}

impl Watched {
    fn used(&self) -> &Anon {
        thread::yield_now();
        assert!(self.open.load(Ordering::SeqCst), "the bytes of a device that was let go");
        &self.inner
    }
}

impl Media for Watched {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn read_only(&self) -> bool {
        self.inner.read_only()
    }
    fn domain(&self) -> Domain {
        self.inner.domain()
    }
    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        self.used().read(at, into)
    }
    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.used().store(at, from)
    }
    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.used().stream(at, from)
    }
    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.used().zero(at, len)
    }
    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.inner.load_u32(at)
    }
    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.used().store_u32(at, value)
    }
    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.inner.load_u64(at)
    }
    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.used().store_u64(at, value)
    }
    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.inner.flush(at, len)
    }
    fn drain(&self) -> Result<()> {
        self.inner.drain()
    }
    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        self.inner.badblocks(at, len)
    }
    fn extent(&self, at: MediaOffset, len: u64) -> Result<Extent> {
        self.inner.extent(at, len)
    }
    fn name(&self) -> String {
        self.inner.name()
    }
}

/// Two open the disk of a claim while it is unbound. Once the unbind is answered nobody looks at its bytes any more: whoever
/// binds it next would have them changed under him.
pub(crate) fn openers() {
    sync::begin();
    let watched = Arc::new(Watched { inner: image(), open: AtomicBool::new(true) });
    let media: Arc<dyn Media> = Arc::<Watched>::clone(&watched);
    let (stack, bus, tree) = machine(&media);
    furnish(&tree);
    let openers: Vec<_> = (0..2)
        .map(|_| {
            let stack = stack.clone();
            thread::spawn(move || match stack.open(CLAIMED, &OpenOptions::default()) {
                Ok(disk) => used(&*disk),
                Err(e) => in_order(&Err(e)),
            })
        })
        .collect();
    unbind(&tree, CLAIM).unwrap();
    watched.open.store(false, Ordering::SeqCst);
    for opener in openers {
        opener.join().unwrap();
    }
    watched.open.store(true, Ordering::SeqCst);
    stack.unregister(bus).unwrap();
}
