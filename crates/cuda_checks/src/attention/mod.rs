//! Attention, forward and backward, with all kernels.

mod cases;

use crate::{Device, Outcome};
use cases::{CASES, Case, Expected, LONG_CASES};
use vlct_cuda::attention::{self, Attention, Kernel, Plan, Saved, kernel_for};
use vlct_cuda::driver::Element::{Bf16, F32};
use vlct_cuda::driver::{Element, Error};

/// The kernels for every head, in f32 and bfloat16.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn plain(device: &Device) -> Outcome {
    check(device, Kernel::Plain, &[F32, Bf16], &CASES)
}

/// The kernels with tensor cores.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn mma(device: &Device) -> Outcome {
    mma_up_to(device, usize::MAX)
}

/// The kernels with tensor cores, for heads of up to `max_width` columns.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn mma_up_to(device: &Device, max_width: usize) -> Outcome {
    check(device, Kernel::Mma, &[Bf16], &supported((8, 0), Kernel::Mma, max_width))
}

/// The kernels with products of warpgroups, which Hopper has.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn wgmma(device: &Device) -> Outcome {
    wgmma_up_to(device, usize::MAX)?;
    check(device, Kernel::Wgmma, &[Bf16], &LONG_CASES)
}

/// The kernels with products of warpgroups, for heads of up to `max_width` columns.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn wgmma_up_to(device: &Device, max_width: usize) -> Outcome {
    check(
        device,
        Kernel::Wgmma,
        &[Bf16],
        &supported((9, 0), Kernel::Wgmma, max_width),
    )
}

/// The cases that a kernel of this compute capability supports, with heads of up to `max_width` columns.
fn supported(capability: (u32, u32), kernel: Kernel, max_width: usize) -> Vec<Case> {
    let is_supported =
        |case: &Case| case.head_width <= max_width && kernel_for(capability, Bf16, case.head_width) == kernel;
    CASES.into_iter().filter(is_supported).collect()
}

/// Compares a kernel with the plain loops, in every schedule. All schedules must have equal bits.
fn check(device: &Device, kernel: Kernel, elements: &[Element], cases: &[Case]) -> Outcome {
    for case in cases.iter().copied() {
        let want = Expected::new(case);
        for element in elements {
            let bounds = want.bounds(kernel, *element);
            let mut first: Option<Results> = None;
            let run_and_compare = |device: &Device| {
                let got = run(device, kernel, *element, case, &want).map_err(|e| e.to_string())?;
                device.compare("out", &got.out, &want.out, |i| bounds.out[i])?;
                device.compare("log-sum-exp", &got.log_sum_exp, &want.log_sum_exp, |i| {
                    bounds.log_sum_exp[i]
                })?;
                device.compare("d_qkv", &got.d_qkv, &want.d_qkv, |i| bounds.d_qkv[i])?;
                let first = first.get_or_insert_with(|| got.clone());
                device.compare("out of two runs", &got.out, &first.out, |_| 0.0)?;
                device.compare("d_qkv of two runs", &got.d_qkv, &first.d_qkv, |_| 0.0)
            };
            device
                .repeatedly(run_and_compare)
                .map_err(|e| format!("{kernel:?}, {element:?}, {case:?}: {e}"))?;
        }
    }
    Ok(())
}

#[derive(Clone)]
struct Results {
    out: Vec<f32>,
    log_sum_exp: Vec<f32>,
    d_qkv: Vec<f32>,
}

/// Runs the forward pass, and the backward pass with its results.
fn run(device: &Device, kernel: Kernel, element: Element, case: Case, want: &Expected) -> Result<Results, Error> {
    let context = &device.context;
    let plan = Plan::new(context, &want.cu_seqlens_k, &want.cu_seqlens_q)?;
    let (tokens, queries, width) = (plan.tokens(), plan.queries(), case.heads * case.head_width);
    let upload = |values: &[f32]| device.upload(values, element);
    let [qkv, d_out] = [upload(&want.qkv)?, upload(&want.d_out)?];
    let [mut out, mut d_qkv] = [queries * width, tokens * 3 * width].map(|count| device.empty(count, element));
    let (out, d_qkv) = (
        out.as_mut().map_err(|e| e.clone())?,
        d_qkv.as_mut().map_err(|e| e.clone())?,
    );
    let mut lse = device.empty(case.heads * queries, F32)?;
    let attention = Attention {
        plan: &plan,
        heads: case.heads,
        kernel,
    };
    let qkv = qkv.matrix(tokens, 3 * width, element);
    attention::forward(
        context,
        &attention,
        qkv,
        out.matrix_mut(queries, width, element),
        lse.matrix_mut(case.heads, queries, F32),
    )?;
    let saved = Saved {
        qkv,
        out: out.matrix(queries, width, element),
        log_sum_exp: lse.matrix(case.heads, queries, F32),
    };
    attention::backward(
        context,
        &attention,
        d_out.matrix(queries, width, element),
        saved,
        d_qkv.matrix_mut(tokens, 3 * width, element),
    )?;
    let read = |buffer| device.read(buffer, element);
    Ok(Results {
        out: read(out)?,
        log_sum_exp: device.read_f32(&lse)?,
        d_qkv: read(d_qkv)?,
    })
}
