// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes of a medium, cheap to copy: copies share what they do not change.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

const PAGE: usize = 4096;

#[derive(Clone)]
pub struct Image {
    base: Arc<Vec<u8>>,
    pages: BTreeMap<usize, Arc<[u8; PAGE]>>,
}

impl From<Vec<u8>> for Image {
    fn from(bytes: Vec<u8>) -> Image {
        Image { base: Arc::new(bytes), pages: BTreeMap::new() }
    }
}

impl Image {
    pub fn len(&self) -> usize {
        self.base.len()
    }

    fn page(&self, page: usize) -> &[u8] {
        let end = (page * PAGE + PAGE).min(self.len());
        match self.pages.get(&page) {
            Some(bytes) => &bytes[..end - page * PAGE],
            None => &self.base[page * PAGE..end],
        }
    }

    pub fn read(&self, at: usize, into: &mut [u8]) {
        let mut done = 0;
        while done < into.len() {
            let (page, offset) = ((at + done) / PAGE, (at + done) % PAGE);
            let len = (PAGE - offset).min(into.len() - done);
            into[done..done + len].copy_from_slice(&self.page(page)[offset..offset + len]);
            done += len;
        }
    }

    pub fn write(&mut self, at: usize, from: &[u8]) {
        let mut done = 0;
        while done < from.len() {
            let (page, offset) = ((at + done) / PAGE, (at + done) % PAGE);
            let len = (PAGE - offset).min(from.len() - done);
            if !self.pages.contains_key(&page) {
                let mut bytes = [0; PAGE];
                let old = self.page(page);
                bytes[..old.len()].copy_from_slice(old);
                self.pages.insert(page, Arc::new(bytes));
            }
            let bytes = self.pages.get_mut(&page).unwrap();
            Arc::make_mut(bytes)[offset..offset + len].copy_from_slice(&from[done..done + len]);
            done += len;
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut all = vec![0; self.len()];
        self.read(0, &mut all);
        all
    }

    /// Tells images of one base apart.
    pub fn digest(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        for (page, bytes) in &self.pages {
            if bytes[..] != self.base[page * PAGE..][..PAGE] {
                (page, &bytes[..]).hash(&mut hash);
            }
        }
        hash.finish()
    }
}
