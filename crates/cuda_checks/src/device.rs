//! A device under test, random values, and comparisons.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::atomic::{AtomicU32, Ordering};
use vlct_cuda::context::{Buffer, Context};
use vlct_cuda::driver::{Element, Result};
use vlct_kernels::bf16::Bf16;

/// The result of a check: an error is a difference, or a message of the driver.
pub type Outcome = std::result::Result<(), String>;

/// Numbers of rows, and widths, of matrices in checks: empty, single, smaller and larger than a warp, even and odd, usual.
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

/// The orders in which a device runs the threads of a kernel, if they can be chosen.
struct Schedules {
    names: Vec<String>,
    choose: Box<dyn Fn(usize) + Send + Sync>,
}

/// A device under test.
pub struct Device {
    /// The context in which checks launch kernels and allocate memory.
    pub context: Context,
    schedules: Option<Schedules>,
    /// The bits of the largest ratio of an error to its bound.
    worst: AtomicU32,
}

impl Device {
    /// Number of times that a check runs on a device whose schedules cannot be chosen, where the results of two runs are compared.
    const REPETITIONS: usize = 2;

    /// Largest relative error of `tanh.approx.f32` (PTX ISA, section 9.7.3.22), by which cuBLASLt may compute the GELU.
    const TANH_APPROX_ERROR: f32 = 1.0 / 2048.0;

    /// A device that orders threads as it likes.
    pub fn new(context: Context) -> Self {
        Self {
            context,
            schedules: None,
            worst: AtomicU32::new(0),
        }
    }

    /// A device on which checks run in each of these schedules. `choose` sets the schedule of later launches by its index.
    pub fn with_schedules(
        context: Context,
        names: Vec<String>,
        choose: impl Fn(usize) + Send + Sync + 'static,
    ) -> Self {
        Self {
            schedules: Some(Schedules {
                names,
                choose: Box::new(choose),
            }),
            ..Self::new(context)
        }
    }

    /// The largest ratio of an error to its bound of all comparisons so far; 0 if all values were equal.
    pub fn worst_ratio(&self) -> f32 {
        f32::from_bits(self.worst.load(Ordering::Relaxed))
    }

    /// The largest relative error of the hyperbolic tangent in products of the device.
    pub(crate) fn tanh_error(&self) -> f32 {
        match self.schedules {
            // The emulator uses the C library.
            Some(_) => 0.0,
            None => Self::TANH_APPROX_ERROR,
        }
    }

    /// Copies f32 values to the device.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn f32(&self, values: &[f32]) -> Result<Buffer> {
        self.context.upload(values)
    }

    /// Copies values to the device, rounded to bfloat16.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn bf16(&self, values: &[f32]) -> Result<Buffer> {
        let values: Vec<Bf16> = values.iter().map(|v| Bf16::from_f32(*v)).collect();
        self.context.upload(&values)
    }

    /// Copies values to the device.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn upload(&self, values: &[f32], element: Element) -> Result<Buffer> {
        match element {
            Element::F32 => self.f32(values),
            Element::Bf16 => self.bf16(values),
        }
    }

    /// A buffer that was not written.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn empty(&self, count: usize, element: Element) -> Result<Buffer> {
        self.context.allocate(count * element.bytes())
    }

    /// Copies all values of a buffer to the host.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn read_f32(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        let mut values = vec![0f32; buffer.bytes() / 4];
        self.context.download(buffer, &mut values)?;
        Ok(values)
    }

    /// Copies all values of a buffer to the host and widens them.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn read_bf16(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        let mut values = vec![Bf16::default(); buffer.bytes() / 2];
        self.context.download(buffer, &mut values)?;
        Ok(values.iter().map(|v| v.to_f32()).collect())
    }

    /// Copies all values of a buffer to the host.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn read(&self, buffer: &Buffer, element: Element) -> Result<Vec<f32>> {
        match element {
            Element::F32 => self.read_f32(buffer),
            Element::Bf16 => self.read_bf16(buffer),
        }
    }

    /// Runs a check in every schedule. Stops at the first difference. The error names the schedule.
    ///
    /// # Errors
    /// That of the check.
    pub fn in_all_schedules(&self, mut check: impl FnMut(&Self) -> Outcome) -> Outcome {
        let Some(Schedules { names, choose }) = &self.schedules else {
            return check(self);
        };
        for (i, name) in names.iter().enumerate() {
            choose(i);
            check(self).map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(())
    }

    /// Runs a check whose results must not depend on the schedule: in every schedule, or twice if they cannot be chosen.
    ///
    /// # Errors
    /// That of the check.
    pub fn repeatedly(&self, mut check: impl FnMut(&Self) -> Outcome) -> Outcome {
        let repetitions = if self.schedules.is_some() { 1 } else { Self::REPETITIONS };
        (0..repetitions).try_for_each(|_| self.in_all_schedules(&mut check))
    }

    /// Runs a check for every shape of [`SHAPES`] in every schedule. Stops at the first difference.
    ///
    /// # Errors
    /// That of the check.
    pub fn for_all(&self, check: impl Fn(&Self, [usize; 2]) -> Outcome) -> Outcome {
        self.in_all_schedules(|device| {
            SHAPES
                .into_iter()
                .try_for_each(|shape| check(device, shape).map_err(|e| format!("{shape:?}: {e}")))
        })
    }

    /// Fails if a value differs by more than its bound; NaN always differs.
    ///
    /// # Errors
    /// The first value that differs.
    pub fn compare(&self, name: &str, got: &[f32], want: &[f32], bound: impl Fn(usize) -> f32) -> Outcome {
        if got.len() != want.len() {
            return Err(format!("{name}: {} values instead of {}", got.len(), want.len()));
        }
        let mut worst = 0f32;
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let (error, bound) = ((got - want).abs(), bound(i));
            let within = error <= bound;
            if !within {
                return Err(format!("{name}[{i}]: {got} instead of {want}, bound {bound}"));
            }
            if error > 0.0 {
                worst = worst.max(error / bound);
            }
        }
        // The bits of positive numbers have the order of the numbers.
        self.worst.fetch_max(worst.to_bits(), Ordering::Relaxed);
        Ok(())
    }
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
