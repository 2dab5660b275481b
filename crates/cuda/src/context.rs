//! A device with a stream and an arena of its memory.

use crate::driver::{Address, Driver, Element, Error, Event, Result, Stream};
use crate::matrix::{Matrix, MatrixMut};
use bytemuck::Pod;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vlct_kernels::memory::{Arena, Piece, Region};

/// Alignment of buffers in bytes, that of `cuMemAlloc`.
const ALIGNMENT: usize = 256;

/// Rounds the size of a region up to an eighth of the power of two below it. Numbers of tokens differ from step to step, and regions of
/// exact sizes would seldom fit the buffers of the next step: in a simulation of steps with 78.7 GB in use, regions had 123 GB, and
/// rounded ones 85 GB.
fn rounded_region(bytes: usize) -> usize {
    let unit = (1usize << (usize::BITS - 1 - bytes.max(1).leading_zeros())) / 8;
    bytes.checked_next_multiple_of(unit.max(ALIGNMENT)).unwrap_or(bytes)
}

/// How a context allocates memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Buffers are parts of regions with this size in bytes. For a buffer larger than half a region, a region of about its size is allocated,
    /// which smaller buffers use later, too.
    Regions(usize),
    /// Each buffer is an allocation of the driver with its exact size, so that accesses outside of it can be found. Tests use it.
    Separate,
}

impl Default for Allocation {
    fn default() -> Self {
        // A base model with a few samples needs one or two.
        Self::Regions(512 << 20)
    }
}

/// Memory that was allocated from the driver, and is freed when it is dropped.
#[derive(Debug)]
struct DeviceRegion {
    owner: Arc<Owner>,
    range: Range<usize>,
}

impl Region for DeviceRegion {
    fn addresses(&self) -> Range<usize> {
        self.range.clone()
    }
}

impl Drop for DeviceRegion {
    fn drop(&mut self) {
        // Submitted work may use the memory. If the device has failed, its memory is lost, and so is the error.
        let _ = self.owner.driver.synchronize(self.owner.stream);
        let _ = self.owner.driver.free(Address(self.range.start as u64));
        self.owner.allocated.fetch_sub(self.range.len(), Ordering::Relaxed);
    }
}

/// A driver and its stream.
struct Owner {
    driver: Arc<dyn Driver>,
    stream: Stream,
    /// Bytes of all regions.
    allocated: AtomicUsize,
    /// The largest value of `allocated`.
    peak: AtomicUsize,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.driver.name(), self.stream)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // An error here concerns work whose results are not needed any more.
        let _ = self.driver.destroy_stream(self.stream);
    }
}

/// A point in the stream of a context.
pub struct Moment {
    owner: Arc<Owner>,
    event: Event,
}

impl Moment {
    /// Returns the time of the device between this point and a later one of the same context. Waits until the device has reached both.
    ///
    /// # Errors
    /// Those of the driver, and of the work before the later point.
    pub fn until(&self, later: &Self) -> Result<Duration> {
        self.owner.driver.elapsed(self.event, later.event)
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        // The event is not needed any more, whatever the error is.
        let _ = self.owner.driver.destroy_event(self.event);
    }
}

/// A device with a stream, on which all launchers submit their work, and an arena of its memory.
///
/// A clone is the same context. Memory is stream-ordered: a dropped buffer is reused by later launches at once.
#[derive(Clone, Debug)]
pub struct Context {
    owner: Arc<Owner>,
    pool: Arc<Pool>,
}

/// The memory of a context.
#[derive(Debug)]
struct Pool {
    arena: Mutex<Arena<DeviceRegion>>,
    allocation: Allocation,
}

impl Pool {
    fn arena(&self) -> MutexGuard<'_, Arena<DeviceRegion>> {
        self.arena.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    /// Makes a context with a new stream.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn new(driver: Arc<dyn Driver>, allocation: Allocation) -> Result<Self> {
        let stream = driver.create_stream()?;
        let region_bytes = match allocation {
            Allocation::Regions(bytes) => bytes.max(1),
            // Every buffer is larger than half a region.
            Allocation::Separate => 1,
        };
        Ok(Self {
            owner: Arc::new(Owner {
                driver,
                stream,
                allocated: AtomicUsize::new(0),
                peak: AtomicUsize::new(0),
            }),
            pool: Arc::new(Pool {
                arena: Mutex::new(Arena::new(ALIGNMENT, region_bytes)),
                allocation,
            }),
        })
    }

    /// The driver.
    pub fn driver(&self) -> &dyn Driver {
        &*self.owner.driver
    }

    /// The stream.
    pub fn stream(&self) -> Stream {
        self.owner.stream
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// Errors of this work.
    pub fn synchronize(&self) -> Result<()> {
        self.driver().synchronize(self.stream())
    }

    /// Returns a context of the same device with a stream and memory of its own.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn with_own_stream(&self) -> Result<Self> {
        Self::new(Arc::clone(&self.owner.driver), self.pool.allocation)
    }

    /// Makes work that is submitted later wait until the device has reached a point, which may be in the stream of another context of the
    /// same device.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn wait_for(&self, moment: &Moment) -> Result<()> {
        self.driver().wait(self.stream(), moment.event)
    }

    /// Records the point in the stream after all work that was submitted until now.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn record(&self) -> Result<Moment> {
        let event = self.driver().create_event()?;
        let moment = Moment {
            owner: Arc::clone(&self.owner),
            event,
        };
        self.driver().record(event, self.stream())?;
        Ok(moment)
    }

    /// Allocates a buffer with arbitrary content.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], after unused memory was returned to the device.
    pub fn allocate(&self, bytes: usize) -> Result<Buffer> {
        let mut arena = self.pool.arena();
        let piece = match arena.allocate_free(bytes) {
            Some(piece) => piece,
            None => {
                let region = self.new_region(&mut arena, bytes)?;
                arena.add(region);
                arena.allocate_free(bytes).ok_or_else(|| Error::Driver {
                    function: "allocation",
                    message: format!("a new region has no {bytes} bytes"),
                })?
            }
        };
        drop(arena);
        Ok(Buffer {
            piece: Some(piece),
            bytes,
            pool: Arc::clone(&self.pool),
        })
    }

    /// Allocates a region for a piece of `bytes` bytes from the driver. If there is too little memory, unused regions are freed first, and
    /// then the region is as small as it can be.
    fn new_region(&self, arena: &mut Arena<DeviceRegion>, bytes: usize) -> Result<DeviceRegion> {
        let [full, least] = arena.region_lens(bytes);
        let region = |requested: usize, usable: usize| {
            let start = self.driver().allocate(requested)?.0 as usize;
            let allocated = self.owner.allocated.fetch_add(usable, Ordering::Relaxed) + usable;
            self.owner.peak.fetch_max(allocated, Ordering::Relaxed);
            Ok(DeviceRegion {
                owner: Arc::clone(&self.owner),
                range: start..start + usable,
            })
        };
        if self.pool.allocation == Allocation::Separate {
            // The arena rounds sizes up. The bytes of a separate allocation after its end are never used, because it is not reused.
            return region(bytes, least);
        }
        let full = rounded_region(full);
        match region(full, full) {
            Err(Error::OutOfMemory { .. }) => {
                arena.release();
                region(full, full).or_else(|error| match error {
                    Error::OutOfMemory { .. } => region(least, least),
                    error => Err(error),
                })
            }
            region => region,
        }
    }

    /// Allocates a buffer of zeros.
    ///
    /// # Errors
    /// Those of [`Context::allocate`].
    pub fn zeros(&self, bytes: usize) -> Result<Buffer> {
        let buffer = self.allocate(bytes)?;
        self.driver().fill(buffer.address(), 0, bytes, self.stream())?;
        Ok(buffer)
    }

    /// Copies values from the host to a new buffer.
    ///
    /// # Errors
    /// Those of [`Context::allocate`].
    pub fn upload<T: Pod>(&self, values: &[T]) -> Result<Buffer> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let buffer = self.allocate(bytes.len())?;
        self.driver().copy_to_device(buffer.address(), bytes, self.stream())?;
        Ok(buffer)
    }

    /// Copies the first values of a buffer to the host. Waits for all submitted work.
    ///
    /// # Errors
    /// If the buffer is too small, or those of submitted work.
    pub fn download<T: Pod>(&self, from: &Buffer, to: &mut [T]) -> Result<()> {
        let to: &mut [u8] = bytemuck::cast_slice_mut(to);
        if to.len() > from.bytes {
            return Err(Error::InvalidRange {
                operation: "copy to the host",
                address: from.address().0,
                bytes: to.len(),
            });
        }
        self.driver().copy_to_host(to, from.address(), self.stream())
    }

    /// Returns the largest number of bytes that the context has allocated from the driver at once.
    pub fn peak_memory(&self) -> usize {
        self.owner.peak.load(Ordering::Relaxed)
    }

    /// Returns unused memory to the device.
    pub fn release_unused(&self) {
        self.pool.arena().release();
    }
}

/// Memory of a device with one owner. When it is dropped, it returns to the arena of its context.
#[derive(Debug)]
pub struct Buffer {
    /// `None` only while the buffer is dropped or split.
    piece: Option<Piece<DeviceRegion>>,
    bytes: usize,
    pool: Arc<Pool>,
}

impl Buffer {
    /// The first byte.
    pub fn address(&self) -> Address {
        Address(self.piece.as_ref().map_or(0, Piece::address) as u64)
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memory as a matrix `[rows, columns]`.
    ///
    /// # Panics
    /// If the buffer is too small.
    pub fn matrix(&self, rows: usize, columns: usize, element: Element) -> Matrix<'_> {
        self.assert_fits(rows, columns, element);
        Matrix::new(self.address(), rows, columns, element)
    }

    /// The memory as a mutable matrix `[rows, columns]`.
    ///
    /// # Panics
    /// If the buffer is too small.
    pub fn matrix_mut(&mut self, rows: usize, columns: usize, element: Element) -> MatrixMut<'_> {
        self.assert_fits(rows, columns, element);
        MatrixMut::new(self.address(), rows, columns, element)
    }

    fn assert_fits(&self, rows: usize, columns: usize, element: Element) {
        let needed = rows.checked_mul(columns).and_then(|n| n.checked_mul(element.bytes()));
        assert!(
            needed.is_some_and(|needed| needed <= self.bytes),
            "a buffer of {} bytes cannot hold a matrix [{rows}, {columns}] of {element:?}",
            self.bytes
        );
    }

    /// The bytes that a part of this size takes in a buffer that is split.
    pub fn part_bytes(bytes: usize) -> usize {
        bytes.max(1).next_multiple_of(ALIGNMENT)
    }

    /// Splits the buffer into buffers of these sizes, which are freed separately. Each begins at a multiple of 256 bytes.
    ///
    /// # Panics
    /// If the buffer is smaller than the sizes, each rounded up to a multiple of 256.
    #[must_use]
    pub fn split(mut self, sizes: &[usize]) -> Vec<Self> {
        let mut rest = self.piece.take();
        let parts = sizes.iter().map(|bytes| {
            let (piece, after) = rest
                .take()
                .map_or((None, None), |piece| piece.split_at(Self::part_bytes(*bytes)));
            rest = after;
            Self {
                piece,
                bytes: *bytes,
                pool: Arc::clone(&self.pool),
            }
        });
        let parts: Vec<Self> = parts.collect();
        self.piece = rest;
        assert!(
            parts.iter().all(|part| part.piece.is_some()),
            "a buffer is too small for its parts"
        );
        parts
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(piece) = self.piece.take() {
            let mut arena = self.pool.arena();
            arena.free(piece);
            if self.pool.allocation == Allocation::Separate {
                arena.release();
            }
        }
    }
}
