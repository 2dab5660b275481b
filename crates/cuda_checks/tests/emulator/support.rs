//! Emulated devices, and what tests expect of them.

use crate::{Outcome, Test, sanitizers};
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use vlct_cuda::context::{Allocation, Context};
use vlct_cuda::driver::Driver;
use vlct_cuda::driver::emulator::{Compiler, Emulator, Schedule, Source};

/// Memory of the emulated device.
const MEMORY: usize = 1 << 30;

/// Finds a compiler, once.
pub fn compiler() -> std::result::Result<Compiler, String> {
    static COMPILER: OnceLock<std::result::Result<Compiler, String>> = OnceLock::new();
    let find = || {
        let compiler = Compiler::find(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-emulator"))?;
        Ok(if std::env::var_os(sanitizers::VARIABLE).is_some() {
            compiler.with_options(&sanitizers::OPTIONS)
        } else {
            compiler
        })
    };
    COMPILER.get_or_init(find).clone()
}

/// An emulated device, on which checks run in every schedule.
pub struct Device {
    inner: vlct_cuda_checks::Device,
    pub emulator: Arc<Emulator>,
}

impl Deref for Device {
    type Target = vlct_cuda_checks::Device;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl Device {
    /// A device with the kernels of the crate.
    pub fn new() -> std::result::Result<Self, String> {
        Self::with_sources(&Source::all().map_err(|e| e.to_string())?)
    }

    /// A device with these kernels.
    pub fn with_sources(sources: &[Source]) -> std::result::Result<Self, String> {
        Self::compiled_by(&compiler()?, sources)
    }

    /// A device with these kernels, compiled by this compiler.
    pub fn compiled_by(compiler: &Compiler, sources: &[Source]) -> std::result::Result<Self, String> {
        let emulator = Emulator::new(compiler, sources, MEMORY).map_err(|e| e.to_string())?;
        let emulator = if std::env::var_os(sanitizers::VARIABLE).is_some() {
            emulator.without_guards()
        } else {
            emulator
        };
        let emulator = Arc::new(emulator);
        let driver: Arc<dyn Driver> = emulator.clone();
        let context = Context::new(driver, Allocation::Separate).map_err(|e| e.to_string())?;
        let names = Schedule::ALL.iter().map(|schedule| format!("{schedule:?}")).collect();
        let scheduled = Arc::clone(&emulator);
        let inner = vlct_cuda_checks::Device::with_schedules(context, names, move |i| {
            scheduled.set_schedule(Schedule::ALL[i]);
        });
        Ok(Self { inner, emulator })
    }

    /// A device with a kernel of the directory of tests.
    pub fn with_test_kernel(source: Source) -> std::result::Result<Self, String> {
        Self::with_sources(&[source])
    }
}

/// A source in the directory of test kernels.
pub fn test_kernel(name: &str) -> Source {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/emulator/kernels")
        .join(name);
    Source::read(&path).expect("a test kernel")
}

/// Fails unless the check of a device with a faulty kernel, which was compiled before, finds the fault.
pub fn expect_fault(outcome: Outcome) -> Outcome {
    match outcome {
        Ok(()) => Err("the planted fault is not found".into()),
        Err(_) => Ok(()),
    }
}

/// Fails unless the error contains all of these texts.
pub fn expect_error(outcome: Outcome, texts: &[&str]) -> Outcome {
    match outcome {
        Ok(()) => Err("there is no error".into()),
        Err(error) if texts.iter().all(|text| error.contains(text)) => Ok(()),
        Err(error) => Err(format!("the error does not contain {texts:?}: {error}")),
    }
}

/// A test `MODULE::finds_NAME`: `check` must fail if `from` is replaced by `to` in a kernel file. `others` are unchanged kernel files that the
/// check needs, too.
pub fn planted_fault(
    name: String,
    [file, from, to]: [&'static str; 3],
    others: &'static [&'static str],
    check: impl Fn(&vlct_cuda_checks::Device) -> Outcome + Send + 'static,
) -> Test {
    Test::new(name, move || {
        let read = |name: &str| Source::kernel_file(name).map_err(|e| e.to_string());
        let mut sources = vec![read(file)?.with_fault(from, to)];
        for other in others {
            sources.push(read(other)?);
        }
        expect_fault(check(&*Device::with_sources(&sources)?))
    })
}
