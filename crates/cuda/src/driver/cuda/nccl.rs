//! NCCL: sums and copies between the devices of several ranks.
//!
//! The declarations follow `nccl.h` of NCCL 2.30. The communicator is a blocking one: [`Cuda::communicator`] returns when all ranks have called
//! it. The first call of a function may wait for the other ranks too, and cannot be aborted then.

use super::bindings::{Handle, describe, functions, text_at};
use super::devices::{Unavailable, version_text};
use super::search::{self, Environment, Loaded, NCCL};
use super::{Cuda, lock};
use crate::driver::{Address, Communicator, Error, Result, Stream, UniqueId};
use libloading::Library;
use std::ffi::{c_char, c_int};
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex};

functions! {
    /// NCCL: `libnccl`.
    NcclApi, "libnccl":
    ncclGetVersion(*mut c_int) -> c_int;
    ncclGetErrorString(c_int) -> *const c_char;
    ncclGetLastError(Handle) -> *const c_char;
    ncclGetUniqueId(*mut UniqueId) -> c_int;
    ncclCommInitRank(*mut Handle, c_int, UniqueId, c_int) -> c_int;
    ncclCommAbort(Handle) -> c_int;
    ncclCommGetAsyncError(Handle, *mut c_int) -> c_int;
    ncclAllReduce(u64, u64, usize, c_int, c_int, Handle, Handle) -> c_int;
    ncclBroadcast(u64, u64, usize, c_int, c_int, Handle, Handle) -> c_int;
}

/// `ncclSuccess`.
const SUCCESS: c_int = 0;
/// `ncclInProgress`, a state of communicators that do not block.
const IN_PROGRESS: c_int = 7;
/// `ncclFloat32`.
const FLOAT_32: c_int = 7;
/// `ncclSum`.
const SUM: c_int = 0;

impl NcclApi {
    /// Turns a status into a result. NCCL's text of the last error says more than that of the status.
    fn check(&self, function: &'static str, status: c_int) -> Result<()> {
        if status == SUCCESS {
            return Ok(());
        }
        // SAFETY: both functions return static strings; the second one accepts no communicator.
        let (text, last) = unsafe {
            (
                text_at((self.ncclGetErrorString)(status)),
                text_at((self.ncclGetLastError)(0)),
            )
        };
        let last = last.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        Err(Error::Driver {
            function,
            message: describe(status, Some(text), Some(last)),
        })
    }
}

/// Loads NCCL, and describes it: version, file, and which part of the search has found it.
fn load() -> std::result::Result<(NcclApi, String), Unavailable> {
    let loaded = search::open(&NCCL, &Environment::current()).map_err(|errors| Unavailable::NoNccl { errors })?;
    let found = loaded.found.to_string();
    let api = NcclApi::load(loaded)?;
    let mut version: c_int = 0;
    // SAFETY: the address is valid.
    api.check("ncclGetVersion", unsafe { (api.ncclGetVersion)(&raw mut version) })?;
    let version = version_text(version.unsigned_abs() as usize);
    Ok((api, format!("NCCL {version}: {found}")))
}

/// Returns a line about the NCCL of this machine: its version, its file, and which part of the search has found it. This needs no driver.
///
/// # Errors
/// Why there is none.
pub fn nccl() -> std::result::Result<String, Unavailable> {
    load().map(|(_, description)| description)
}

/// Makes what identifies the communicators of a run. Rank 0 calls this, and sends it to the other ranks.
///
/// # Errors
/// Returns an error if there is no NCCL, or it finds no network interface.
pub fn unique_id() -> std::result::Result<UniqueId, Unavailable> {
    let (api, _) = load()?;
    let mut id = UniqueId([0; 128]);
    // SAFETY: the address is valid.
    api.check("ncclGetUniqueId", unsafe { (api.ncclGetUniqueId)(&raw mut id) })?;
    Ok(id)
}

/// A communicator of NCCL.
pub struct Nccl {
    cuda: Arc<Cuda>,
    api: NcclApi,
    /// `None` after the abort.
    communicator: Mutex<Option<Handle>>,
    rank: usize,
    ranks: usize,
}

impl Cuda {
    /// Makes the communicator of this device. Returns when all ranks have called this function.
    ///
    /// # Errors
    /// Returns an error if there is no NCCL, two ranks have the same device, or the ranks cannot reach each other.
    pub fn communicator(
        self: &Arc<Self>,
        id: &UniqueId,
        rank: usize,
        ranks: usize,
    ) -> std::result::Result<Nccl, Unavailable> {
        let (api, _) = load()?;
        self.make_current()?;
        let mut communicator = 0;
        // SAFETY: the context is current, and the address is valid. Wrong numbers are errors.
        let status = unsafe { (api.ncclCommInitRank)(&raw mut communicator, ranks as c_int, *id, rank as c_int) };
        api.check("ncclCommInitRank", status)?;
        Ok(Nccl {
            cuda: Arc::clone(self),
            api,
            communicator: Mutex::new(Some(communicator)),
            rank,
            ranks,
        })
    }
}

impl Nccl {
    /// Calls `function` with the communicator and the handle of the stream, after the checks of all functions.
    fn submit(
        &self,
        name: &'static str,
        values: Address,
        count: usize,
        stream: Stream,
        function: impl FnOnce(Handle, Handle) -> c_int,
    ) -> Result<()> {
        self.cuda.check(name, values, count.saturating_mul(4))?;
        let (stream, _) = self.cuda.stream(stream)?;
        match *lock(&self.communicator) {
            Some(communicator) => self.api.check(name, function(communicator, stream)),
            None => Err(aborted(name)),
        }
    }
}

fn aborted(function: &'static str) -> Error {
    Error::Driver {
        function,
        message: "the communicator was aborted".into(),
    }
}

impl Communicator for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn all_reduce(&self, values: Address, count: usize, stream: Stream) -> Result<()> {
        self.submit("ncclAllReduce", values, count, stream, |communicator, stream| {
            // SAFETY: the context is current, the range was checked, and communicator and stream exist.
            unsafe { (self.api.ncclAllReduce)(values.0, values.0, count, FLOAT_32, SUM, communicator, stream) }
        })
    }

    fn broadcast(&self, values: Address, count: usize, stream: Stream) -> Result<()> {
        self.submit("ncclBroadcast", values, count, stream, |communicator, stream| {
            // SAFETY: the context is current, the range was checked, and communicator and stream exist.
            unsafe { (self.api.ncclBroadcast)(values.0, values.0, count, FLOAT_32, 0, communicator, stream) }
        })
    }

    fn check(&self) -> Result<()> {
        let name = "ncclCommGetAsyncError";
        let Some(communicator) = *lock(&self.communicator) else {
            return Err(aborted(name));
        };
        let mut status: c_int = SUCCESS;
        // SAFETY: the communicator exists, and the address is valid.
        let called = unsafe { (self.api.ncclCommGetAsyncError)(communicator, &raw mut status) };
        self.api.check(name, called)?;
        match status {
            IN_PROGRESS => Ok(()),
            status => self.api.check(name, status),
        }
    }

    fn abort(&self) {
        // An error means that the context cannot be used any more.
        if self.cuda.make_current().is_err() {
            return;
        }
        if let Some(communicator) = lock(&self.communicator).take() {
            // SAFETY: the communicator existed until now. Its failure changes nothing: it is not used any more.
            let _ = unsafe { (self.api.ncclCommAbort)(communicator) };
        }
    }
}

impl Drop for Nccl {
    /// Frees the communicator. `ncclCommDestroy` would wait for other ranks, which may have ended; results of submitted work are not needed.
    fn drop(&mut self) {
        self.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a machine without NCCL, the reason says how to get it; with it, the version is known.
    #[test]
    fn the_library_is_described_or_the_reason_is_given() {
        match nccl() {
            Ok(line) => assert!(line.starts_with("NCCL 2."), "{line}"),
            Err(reason) => assert!(reason.to_string().contains("pip install nvidia-nccl-cu13"), "{reason}"),
        }
    }
}
