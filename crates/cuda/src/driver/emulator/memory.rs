//! The memory of the emulator: separate allocations on the host, with poison inside and guards around.

use crate::driver::{Address, Error, MemoryInfo, Result};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;

/// The byte of new memory and of guards. As f32 and as bf16, bytes of this value are a NaN.
pub(super) const POISON: u8 = 0xff;

/// Alignment of allocations, that of `cuMemAlloc`.
const ALIGNMENT: usize = 256;

/// Bytes of the guard on each side of an allocation; a multiple of the alignment. AddressSanitizer has its own guards, next to the
/// allocation, so it gets exact sizes.
const GUARD: usize = 256;

/// All allocations.
pub(super) struct Memory {
    /// Length and guard of each allocation, by its first byte.
    allocations: BTreeMap<usize, Allocation>,
    used: usize,
    total: usize,
}

#[derive(Clone, Copy)]
struct Allocation {
    bytes: usize,
    guard: usize,
}

impl Allocation {
    fn layout(self) -> Option<Layout> {
        Layout::from_size_align(self.bytes.checked_add(2 * self.guard)?, ALIGNMENT).ok()
    }
}

impl Memory {
    pub fn new(total: usize) -> Self {
        Self {
            allocations: BTreeMap::new(),
            used: 0,
            total,
        }
    }

    pub fn info(&self) -> MemoryInfo {
        MemoryInfo {
            free: self.total - self.used,
            total: self.total,
        }
    }

    /// Allocates memory and poisons it. With `guarded`, guards detect kernels that write outside.
    pub fn allocate(&mut self, bytes: usize, guarded: bool) -> Result<Address> {
        let allocation = Allocation {
            bytes: bytes.max(1),
            guard: if guarded { GUARD } else { 0 },
        };
        let MemoryInfo { free, total } = self.info();
        let out_of_memory = Error::OutOfMemory {
            requested: bytes,
            free,
            total,
        };
        let layout = allocation.layout().filter(|_| allocation.bytes <= free);
        let Some(layout) = layout else {
            return Err(out_of_memory);
        };
        // SAFETY: the size is not zero.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            return Err(out_of_memory);
        }
        // SAFETY: the allocation has `layout.size()` bytes, and the guard is a part of them.
        let first = unsafe {
            start.write_bytes(POISON, layout.size());
            start.add(allocation.guard).expose_provenance()
        };
        self.used += allocation.bytes;
        self.allocations.insert(first, allocation);
        Ok(Address(first as u64))
    }

    pub fn free(&mut self, address: Address) -> Result<()> {
        let first = address.0 as usize;
        let found = self.allocations.remove(&first);
        let Some((allocation, layout)) = found.and_then(|allocation| Some((allocation, allocation.layout()?))) else {
            return Err(Error::InvalidRange {
                operation: "free",
                address: address.0,
                bytes: 0,
            });
        };
        self.used -= allocation.bytes;
        // SAFETY: `allocate` has allocated the memory with this layout.
        unsafe { dealloc(pointer(address).sub(allocation.guard), layout) };
        Ok(())
    }

    /// Fails unless the range is within one allocation.
    pub fn check(&self, operation: &'static str, address: Address, bytes: usize) -> Result<()> {
        let first = address.0 as usize;
        let end = first.checked_add(bytes);
        let inside = self.allocations.range(..=first).next_back();
        if bytes == 0 || inside.is_some_and(|(start, a)| end.is_some_and(|end| end <= start + a.bytes)) {
            return Ok(());
        }
        Err(Error::InvalidRange {
            operation,
            address: address.0,
            bytes,
        })
    }

    /// Returns a description of the first allocation with a changed guard.
    pub fn damaged_guard(&self) -> Option<String> {
        self.allocations.iter().find_map(|(first, allocation)| {
            let start = pointer(Address(*first as u64));
            let is_intact = |guard: *const u8| {
                // SAFETY: the guard is a part of the allocation, and no kernel runs that may write it.
                let guard = unsafe { std::slice::from_raw_parts(guard, allocation.guard) };
                guard.iter().all(|byte| *byte == POISON)
            };
            let side = if !is_intact(start.wrapping_sub(allocation.guard)) {
                "before"
            } else if !is_intact(start.wrapping_add(allocation.bytes)) {
                "after"
            } else {
                return None;
            };
            Some(format!(
                "a thread wrote {side} an allocation of {} bytes",
                allocation.bytes
            ))
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let addresses: Vec<usize> = self.allocations.keys().copied().collect();
        for address in addresses {
            // Every key is an allocation.
            let _ = self.free(Address(address as u64));
        }
    }
}

/// The address as a pointer of the host.
pub(super) fn pointer(address: Address) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address.0 as usize)
}
