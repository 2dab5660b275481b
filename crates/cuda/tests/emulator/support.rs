//! Devices, random values and comparisons for the tests.

use crate::{Outcome, sanitizers};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use vlct_cuda::context::{Allocation, Buffer, Context};
use vlct_cuda::driver::emulator::{Compiler, Emulator, Schedule, Source};
use vlct_cuda::driver::{Driver, Element, Result};
use vlct_kernels::bf16::Bf16;

/// Memory of the emulated device.
const MEMORY: usize = 1 << 30;

/// Numbers of rows, and widths, of matrices in tests: empty, single, smaller and larger than a warp, even and odd, usual.
pub const SHAPES: [[usize; 2]; 13] = [
    [0, 8],
    [0, 768],
    [1, 1],
    [1, 768],
    [2, 17],
    [3, 8],
    [4, 7],
    [5, 770],
    [9, 64],
    [33, 1],
    [40, 17],
    [67, 768],
    [300, 64],
];

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

/// An emulated device.
pub struct Device {
    pub context: Context,
    pub emulator: Arc<Emulator>,
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
        Ok(Self { context, emulator })
    }

    /// A device with a kernel of the directory of tests.
    pub fn with_test_kernel(source: Source) -> std::result::Result<Self, String> {
        Self::with_sources(&[source])
    }

    /// Copies f32 values to the device.
    pub fn f32(&self, values: &[f32]) -> Result<Buffer> {
        self.context.upload(values)
    }

    /// Copies bfloat16 values to the device.
    pub fn bf16(&self, values: &[f32]) -> Result<Buffer> {
        let values: Vec<Bf16> = values.iter().map(|v| Bf16::from_f32(*v)).collect();
        self.context.upload(&values)
    }

    /// A buffer that was not written.
    pub fn empty(&self, count: usize, element: Element) -> Result<Buffer> {
        self.context.allocate(count * element.bytes())
    }

    /// Copies all values of a buffer to the host.
    pub fn read_f32(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        let mut values = vec![0f32; buffer.bytes() / 4];
        self.context.download(buffer, &mut values)?;
        Ok(values)
    }

    /// Copies all values of a buffer to the host and widens them.
    pub fn read_bf16(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        let mut values = vec![Bf16::default(); buffer.bytes() / 2];
        self.context.download(buffer, &mut values)?;
        Ok(values.iter().map(|v| v.to_f32()).collect())
    }

    /// Runs a check for every shape in every schedule. Stops at the first difference.
    pub fn for_all(&self, check: impl Fn(&Self, [usize; 2]) -> Outcome) -> Outcome {
        for schedule in Schedule::ALL {
            self.emulator.set_schedule(schedule);
            for shape in SHAPES {
                check(self, shape).map_err(|e| format!("{schedule:?}, {shape:?}: {e}"))?;
            }
        }
        Ok(())
    }
}

/// A source in the directory of test kernels.
pub fn test_kernel(name: &str) -> Source {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/emulator/kernels")
        .join(name);
    Source::read(&path).expect("a test kernel")
}

/// Returns random values in [−1, 1).
pub fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// Returns random bfloat16 numbers in [−1, 1).
pub fn random_bf16(count: usize, seed: u64) -> Vec<f32> {
    random(count, seed)
        .iter()
        .map(|v| Bf16::from_f32(*v).to_f32())
        .collect()
}

/// The largest difference of two sums of `terms` f32 terms in different orders, relative to the sum of magnitudes: each has an error of at
/// most `terms` unit roundoffs, and ε is twice the unit roundoff. Eight more terms allow for the operations around the sum.
pub fn sum_bound(terms: usize) -> f32 {
    (terms + 8) as f32 * f32::EPSILON
}

/// The error of rounding to bfloat16: half a unit in the last place.
pub fn bf16_bound(value: f32) -> f32 {
    value.abs() * Bf16::EPSILON
}

/// Fails if a value differs by more than its bound; NaN always differs.
pub fn compare(name: &str, got: &[f32], want: &[f32], bound: impl Fn(usize) -> f32) -> Outcome {
    if got.len() != want.len() {
        return Err(format!("{name}: {} values instead of {}", got.len(), want.len()));
    }
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let within = (got - want).abs() <= bound(i);
        if !within {
            return Err(format!("{name}[{i}]: {got} instead of {want}, bound {}", bound(i)));
        }
    }
    Ok(())
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
