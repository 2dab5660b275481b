//! Updates of the parameters of a model by an optimiser, with one launch for all of them: `kernels/optimizer.cu`.

use crate::context::Context;
use crate::driver::Element::{Bf16, F32};
use crate::driver::{Address, Result};
use crate::launch::{THREADS, launch, to_i32};
use crate::lists::{BLOCK_SUM_BYTES, Chunks};
use crate::matrix::{Matrix, MatrixMut};
use crate::packed::Packed;
use crate::rows::invalid;
use bytemuck::{Pod, Zeroable};
pub use vlct_kernels::optimizer::Betas;
use vlct_kernels::optimizer::bias_corrections;

/// An update rule. The functions of [`vlct_kernels::optimizer`] define them.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// [`adamw`](vlct_kernels::optimizer::adamw): as in Hugging Face Transformers.
    AdamW(Betas),
    /// [`adam`](vlct_kernels::optimizer::adam): as in PyTorch.
    Adam(Betas),
    /// [`adamw_pytorch`](vlct_kernels::optimizer::adamw_pytorch): as in PyTorch.
    AdamWPyTorch(Betas),
    /// [`sgd`](vlct_kernels::optimizer::sgd), with this momentum.
    Sgd(f32),
    /// [`lars`](vlct_kernels::optimizer::lars), with this momentum. Parameters with more than one row are adapted.
    Lars(f32),
}

impl Rule {
    /// The number of running averages of each parameter.
    pub fn moments(self) -> usize {
        match self {
            Self::AdamW(_) | Self::Adam(_) | Self::AdamWPyTorch(_) => 2,
            Self::Sgd(_) | Self::Lars(_) => 1,
        }
    }
}

/// The update of one parameter. All matrices have the shape of `values` and are f32, except `rounded`.
#[derive(Debug)]
pub struct ParameterUpdate<'a> {
    /// The parameter.
    pub values: MatrixMut<'a>,
    /// Its gradient.
    pub gradient: Matrix<'a>,
    /// Running averages, as many as [`Rule::moments`].
    pub moments: Vec<MatrixMut<'a>>,
    /// The new values, rounded to bfloat16.
    pub rounded: Option<MatrixMut<'a>>,
    /// Learning rate, already multiplied by the factors of the schedule and the layer.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// The number of updates of the parameter, this one included.
    pub step: u64,
}

/// The norm of the gradients, and the largest norm that an update may use.
#[derive(Clone, Copy, Debug)]
pub struct Clip<'a> {
    /// The L2 norm of all gradients, `[1, 1]`.
    pub norm: Matrix<'a>,
    /// Gradients are multiplied by `min(1, limit / (norm + 1e-6))`; by 1 if the norm is NaN.
    pub limit: f32,
}

/// A parameter, as in `optimizer.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Parameter {
    values: u64,
    gradient: u64,
    m: u64,
    v: u64,
    rounded: u64,
    length: i64,
    rate: f32,
    decay: f32,
    kept: f32,
    v_factor: f32,
    momentum: f32,
    adapts: i32,
}

/// Updates parameters. The results have the bits of [`vlct_kernels::optimizer`], except that the norms of LARS are summed in another order.
///
/// # Errors
/// Those of the driver, or if shapes, types or numbers of moments do not fit.
pub fn update(context: &Context, rule: Rule, clip: Option<Clip>, updates: &mut [ParameterUpdate]) -> Result<()> {
    const OPERATION: &str = "update of parameters";
    let (norm, limit) = match clip {
        Some(clip) => {
            clip.norm.expect(OPERATION, "norm", [1, 1], F32)?;
            (clip.norm.address(), clip.limit)
        }
        None => (Address::NULL, 0.0),
    };
    for update in &*updates {
        update.check(OPERATION, rule)?;
    }
    let chunks = Chunks::new(OPERATION, updates.iter().map(|update| update.values.len()))?;
    if chunks.count() == 0 {
        return Ok(());
    }
    let parameters: Vec<Parameter> = updates.iter().map(|update| update.parameter(rule)).collect();
    let mut arrays = Packed::default();
    let (parameters, first_chunks) = (arrays.push(&parameters), arrays.push(&chunks.first));
    let arrays = arrays.upload(context)?;
    let (parameters, first_chunks) = (arrays.address(parameters), arrays.address(first_chunks));
    let count = to_i32(OPERATION, updates.len())?;
    let (grid, block) = ([chunks.count(), 1, 1], [THREADS, 1, 1]);
    let adam = |kernel: &str, b: Betas| {
        let (beta1, beta2) = (b.beta1 as f32, b.beta2 as f32);
        // SAFETY: the list has all parameters, whose matrices have the same length, and their chunks.
        unsafe {
            launch!(
                context,
                kernel,
                grid,
                block,
                0,
                [parameters, first_chunks, count, norm, limit, beta1, beta2, b.epsilon]
            )
        }
    };
    let momentum = |trusts: Address| {
        // SAFETY: as for `adam`, and there is a factor for each parameter.
        unsafe {
            launch!(
                context,
                "momentum_f32",
                grid,
                block,
                0,
                [parameters, first_chunks, count, norm, limit, trusts]
            )
        }
    };
    match rule {
        Rule::AdamW(betas) => adam("adamw_f32", betas),
        Rule::Adam(betas) | Rule::AdamWPyTorch(betas) => adam("adam_f32", betas),
        Rule::Sgd(_) => momentum(Address::NULL),
        Rule::Lars(_) => {
            let sums = context.allocate(2 * chunks.count() as usize * size_of::<f64>())?;
            let trusts = context.allocate(updates.len() * F32.bytes())?;
            let (sums, trusts) = (sums.address(), trusts.address());
            // SAFETY: as for `adam`, and there are two sums for each chunk and a factor for each parameter.
            unsafe {
                launch!(
                    context,
                    "lars_sums_f32",
                    grid,
                    block,
                    2 * BLOCK_SUM_BYTES,
                    [parameters, first_chunks, count, norm, limit, sums]
                )?;
                launch!(
                    context,
                    "lars_trusts_f32",
                    [count.unsigned_abs(), 1, 1],
                    block,
                    2 * BLOCK_SUM_BYTES,
                    [parameters, first_chunks, sums, trusts]
                )?;
            }
            momentum(trusts)
        }
    }
}

impl ParameterUpdate<'_> {
    fn check(&self, operation: &'static str, rule: Rule) -> Result<()> {
        let shape = [self.values.rows(), self.values.columns()];
        self.values.expect(operation, "values", shape, F32)?;
        self.gradient.expect(operation, "gradient", shape, F32)?;
        for moment in &self.moments {
            moment.expect(operation, "a moment", shape, F32)?;
        }
        if let Some(rounded) = &self.rounded {
            rounded.expect(operation, "rounded", shape, Bf16)?;
        }
        if self.moments.len() != rule.moments() {
            let reason = format!("{} moments instead of {}", self.moments.len(), rule.moments());
            return Err(invalid(operation, reason));
        }
        Ok(())
    }

    /// The parameter with its scalars, computed in double precision and rounded as on the CPU.
    fn parameter(&self, rule: Rule) -> Parameter {
        let moment = |i: usize| self.moments.get(i).map_or(0, |moment| moment.address().0);
        let plain = Parameter {
            values: self.values.address().0,
            gradient: self.gradient.address().0,
            m: moment(0),
            v: moment(1),
            rounded: self.rounded.as_ref().map_or(0, |rounded| rounded.address().0),
            length: self.values.len() as i64,
            rate: self.learning_rate as f32,
            decay: self.weight_decay as f32,
            kept: 1.0,
            v_factor: 1.0,
            momentum: 0.0,
            adapts: 0,
        };
        let adam = |betas: Betas| {
            let (c1, c2) = bias_corrections(self.step, betas);
            Parameter {
                rate: (self.learning_rate / c1) as f32,
                v_factor: (1.0 / c2.sqrt()) as f32,
                ..plain
            }
        };
        match rule {
            Rule::AdamW(betas) => {
                let (c1, c2) = bias_corrections(self.step, betas);
                Parameter {
                    rate: (self.learning_rate * c2.sqrt() / c1) as f32,
                    decay: (self.learning_rate * self.weight_decay) as f32,
                    ..plain
                }
            }
            Rule::Adam(betas) => adam(betas),
            Rule::AdamWPyTorch(betas) => Parameter {
                decay: 0.0,
                kept: (1.0 - self.learning_rate * self.weight_decay) as f32,
                ..adam(betas)
            },
            Rule::Sgd(momentum) => Parameter {
                momentum: if self.step == 1 { 0.0 } else { momentum },
                ..plain
            },
            Rule::Lars(momentum) => {
                let adapts = self.values.rows() > 1;
                Parameter {
                    momentum,
                    decay: if adapts { plain.decay } else { 0.0 },
                    adapts: i32::from(adapts),
                    ..plain
                }
            }
        }
    }
}
