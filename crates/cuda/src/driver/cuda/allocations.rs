//! The allocations of a device, to check that functions of the host access only them.

use crate::driver::{Address, Error, Result};
use std::collections::BTreeMap;

/// The length of each allocation, by its first byte.
#[derive(Debug, Default)]
pub(super) struct Allocations(BTreeMap<u64, usize>);

impl Allocations {
    /// Adds an allocation.
    pub fn insert(&mut self, address: u64, bytes: usize) {
        self.0.insert(address, bytes);
    }

    /// Removes an allocation.
    pub fn remove(&mut self, address: Address) -> Result<()> {
        match self.0.remove(&address.0) {
            Some(_) => Ok(()),
            None => Err(Error::InvalidRange {
                operation: "free",
                address: address.0,
                bytes: 0,
            }),
        }
    }

    /// Removes all allocations.
    pub fn drain(&mut self) -> impl Iterator<Item = u64> + use<> {
        std::mem::take(&mut self.0).into_keys()
    }

    /// Fails unless the range is within one allocation. A range without bytes may be anywhere.
    pub fn check(&self, operation: &'static str, address: Address, bytes: usize) -> Result<()> {
        let end = address.0.checked_add(bytes as u64);
        let inside = self.0.range(..=address.0).next_back();
        if bytes == 0 || inside.is_some_and(|(start, len)| end.is_some_and(|end| end <= start + *len as u64)) {
            return Ok(());
        }
        Err(Error::InvalidRange {
            operation,
            address: address.0,
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_must_be_within_one_allocation() {
        let mut allocations = Allocations::default();
        allocations.insert(1024, 100);
        allocations.insert(1124, 50);
        let check =
            |allocations: &Allocations, address, bytes| allocations.check("copy", Address(address), bytes).is_ok();
        assert!(check(&allocations, 1024, 100) && check(&allocations, 1100, 24) && check(&allocations, 1124, 50));
        assert!(check(&allocations, 0, 0));
        for (address, bytes) in [(1023, 2), (1024, 101), (1123, 2), (1170, 5), (0, 1), (u64::MAX, 2)] {
            assert!(!check(&allocations, address, bytes), "{address} {bytes}");
        }
        allocations.remove(Address(1024)).expect("it exists");
        assert!(!check(&allocations, 1024, 1));
        let error = allocations.remove(Address(1024)).expect_err("freed twice").to_string();
        assert_eq!(error, "free: 0 bytes at 0x400 are not within one allocation");
        assert_eq!(allocations.drain().collect::<Vec<_>>(), [1124]);
    }
}
