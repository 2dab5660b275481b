//! Page-locked memory through which data is copied to a device, so that the host need not wait for earlier work of the stream.
//!
//! The memory is a ring: a copy occupies a part of it until the event after the copy has happened.

use super::bindings::{CU_EVENT_DISABLE_TIMING, DriverApi, Handle, call};
use crate::driver::{Address, Result};
use rayon::prelude::*;
use std::collections::VecDeque;
use std::ffi::c_void;

/// Bytes of the ring: more than the indices of a step and the images of 32 samples, little page-locked memory.
const RING_BYTES: usize = 64 << 20;

/// Larger copies are cut, so that one part is copied to the ring while the device reads another.
const MAX_PART_BYTES: usize = RING_BYTES / 8;

/// Bytes that a thread copies to the ring at once: long enough that starting a thread costs little.
const BYTES_PER_THREAD: usize = 512 << 10;

/// Copies bytes with all threads: one copies about 10 GB/s, a fifth of PCIe 5.
fn copy_in_parallel(from: &[u8], to: &mut [u8]) {
    if from.len() <= BYTES_PER_THREAD {
        to.copy_from_slice(from);
        return;
    }
    let parts = to
        .par_chunks_mut(BYTES_PER_THREAD)
        .zip(from.par_chunks(BYTES_PER_THREAD));
    parts.for_each(|(to, from)| to.copy_from_slice(from));
}

/// Parts of the ring in use, the oldest first. Each is contiguous.
#[derive(Debug)]
struct Ring {
    bytes: usize,
    parts: VecDeque<std::ops::Range<usize>>,
}

impl Ring {
    /// Occupies a part of `bytes` bytes, at most the size of the ring. `None` if no such part is free before the oldest one is released.
    fn reserve(&mut self, bytes: usize) -> Option<usize> {
        let start = match (self.parts.front(), self.parts.back()) {
            (Some(oldest), Some(newest)) => {
                let (tail, head) = (oldest.start, newest.end);
                // The newest part is before the oldest one if the parts have wrapped around.
                if newest.start < tail {
                    (tail - head >= bytes).then_some(head)
                } else if self.bytes - head >= bytes {
                    Some(head)
                } else {
                    (tail >= bytes).then_some(0)
                }
            }
            _ => (bytes <= self.bytes).then_some(0),
        }?;
        self.parts.push_back(start..start + bytes);
        Some(start)
    }

    fn release_oldest(&mut self) {
        self.parts.pop_front();
    }
}

/// The ring and the events after its copies.
pub(super) struct Staging {
    memory: *mut c_void,
    ring: Ring,
    /// The event after each part's copy, in the order of the parts.
    events: VecDeque<Handle>,
    /// Events that are not in use.
    spare: Vec<Handle>,
}

// SAFETY: the memory may be used by any thread, and only a mutable borrow writes it.
unsafe impl Send for Staging {}

impl Staging {
    /// Allocates the ring in the current context.
    pub fn new(api: &DriverApi) -> Result<Self> {
        let mut memory = std::ptr::null_mut();
        // SAFETY: the address is valid.
        unsafe { call!(api, cuMemAllocHost_v2(&raw mut memory, RING_BYTES)) }?;
        Ok(Self {
            memory,
            ring: Ring {
                bytes: RING_BYTES,
                parts: VecDeque::new(),
            },
            events: VecDeque::new(),
            spare: Vec::new(),
        })
    }

    /// Copies to the device. When the function returns, `from` may be changed.
    ///
    /// # Safety
    /// The context is current, `to` has the bytes, and the stream belongs to the context.
    pub unsafe fn copy(&mut self, api: &DriverApi, to: Address, from: &[u8], stream: Handle) -> Result<()> {
        for (index, part) in from.chunks(MAX_PART_BYTES).enumerate() {
            let event = self.event(api)?;
            let start = loop {
                match self.ring.reserve(part.len()) {
                    Some(start) => break start,
                    None => self.wait_for_oldest(api)?,
                }
            };
            self.events.push_back(event);
            let destination = to.offset(index * MAX_PART_BYTES).0;
            // SAFETY: the part of the ring is not in use, the destination is valid (caller).
            unsafe {
                let staged = self.memory.cast::<u8>().add(start);
                copy_in_parallel(part, std::slice::from_raw_parts_mut(staged, part.len()));
                call!(
                    api,
                    cuMemcpyHtoDAsync_v2(destination, staged.cast(), part.len(), stream)
                )?;
                call!(api, cuEventRecord(event, stream))?;
            }
        }
        Ok(())
    }

    fn event(&mut self, api: &DriverApi) -> Result<Handle> {
        if let Some(event) = self.spare.pop() {
            return Ok(event);
        }
        let mut event = 0;
        // SAFETY: the address is valid.
        unsafe { call!(api, cuEventCreate(&raw mut event, CU_EVENT_DISABLE_TIMING)) }?;
        Ok(event)
    }

    fn wait_for_oldest(&mut self, api: &DriverApi) -> Result<()> {
        if let Some(event) = self.events.pop_front() {
            self.ring.release_oldest();
            self.spare.push(event);
            // SAFETY: the event exists.
            unsafe { call!(api, cuEventSynchronize(event)) }?;
        }
        Ok(())
    }

    /// Waits for all copies and frees the ring. Errors concern work whose results are not needed any more.
    pub fn destroy(mut self, api: &DriverApi) {
        while !self.events.is_empty() {
            let _ = self.wait_for_oldest(api);
        }
        for event in self.spare {
            // SAFETY: the event is not used any more.
            let _ = unsafe { call!(api, cuEventDestroy_v2(event)) };
        }
        // SAFETY: no copy reads the memory any more.
        let _ = unsafe { call!(api, cuMemFreeHost(self.memory)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> Ring {
        Ring {
            bytes: 100,
            parts: VecDeque::new(),
        }
    }

    #[test]
    fn parts_follow_each_other_and_wrap_around() {
        let mut ring = ring();
        assert_eq!(ring.reserve(40), Some(0));
        assert_eq!(ring.reserve(40), Some(40));
        assert_eq!(
            ring.reserve(30),
            None,
            "20 bytes are left at the end, and none before the oldest part"
        );
        ring.release_oldest();
        assert_eq!(ring.reserve(30), Some(0));
        assert_eq!(ring.reserve(11), None, "10 bytes are left before the oldest part");
        assert_eq!(ring.reserve(10), Some(30));
        ring.release_oldest();
        assert_eq!(ring.reserve(60), Some(40));
    }

    #[test]
    fn the_whole_ring_can_be_one_part() {
        let mut ring = ring();
        assert_eq!(ring.reserve(101), None);
        assert_eq!(ring.reserve(100), Some(0));
        assert_eq!(ring.reserve(1), None);
        ring.release_oldest();
        assert_eq!(ring.reserve(100), Some(0));
    }

    /// Random sizes: parts in use never overlap.
    #[test]
    fn parts_in_use_do_not_overlap() {
        let (mut ring, mut state) = (ring(), 1u64);
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bytes = 1 + (state >> 33) as usize % 100;
            while ring.reserve(bytes).is_none() {
                ring.release_oldest();
            }
            let mut parts: Vec<_> = ring.parts.iter().cloned().collect();
            parts.sort_by_key(|part| part.start);
            assert!(parts.windows(2).all(|pair| pair[0].end <= pair[1].start), "{parts:?}");
            assert!(parts.iter().all(|part| part.end <= ring.bytes), "{parts:?}");
        }
    }
}
