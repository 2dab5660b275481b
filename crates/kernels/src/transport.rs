//! Word-patch alignment by optimal transport (Chen et al. 2020, UNITER; Xie et al. 2020, IPOT).
//!
//! For a caption and an image, the cost is `C[i,j] = 1 − cos(text_i, image_j)`. The inexact proximal point method computes a transport plan
//! `T`, and the distance is `Σ C∘T`. The gradient flows through `C` only; `T` counts as constant. The plain versions are
//! [`reference::transport_plan`](crate::reference::transport_plan) and the functions next to it.

use crate::gemm::gemm;
use crate::mat::{Beta, MatRef};
use crate::parallel::Parallelism;
use vlct_simd::math::{exp, sum, sum2};
use vlct_simd::multiversion;

/// Lower bound of the norms that vectors are divided by.
const MIN_NORM: f32 = 1e-5;

/// Parameters of the inexact proximal point method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ipot {
    /// Weight of the proximal term. Larger values give smoother plans.
    pub beta: f32,
    /// Outer iterations, each with one inner iteration.
    pub iterations: usize,
}

impl Ipot {
    /// The parameters of UNITER, which pre-training uses.
    pub const TRAINING: Ipot = Ipot {
        beta: 0.5,
        iterations: 50,
    };
}

/// The alignment of a caption and an image, with the state for the backward pass.
pub struct Alignment {
    /// The transport plan `[text, image]`, whose sum is 1.
    pub plan: Vec<f32>,
    /// `Σ C∘T`.
    pub distance: f32,
    cosine: Vec<f32>,
    text: UnitRows,
    image: UnitRows,
}

/// Rows divided by their norms.
struct UnitRows {
    rows: Vec<f32>,
    norms: Vec<f32>,
}

impl UnitRows {
    fn new(x: &[f32], width: usize) -> Self {
        let mut rows = x.to_vec();
        let norms = rows.chunks_exact_mut(width).map(normalise).collect();
        Self { rows, norms }
    }

    /// Adds the gradient of the input: `dx += (du − u (u·du)) / norm`. The projection `u (u·du)` is left out if the norm is at its lower
    /// bound, because such a norm is constant.
    fn backward(&self, d_rows: &[f32], width: usize, dx: &mut [f32]) {
        for (((u, du), dx), norm) in self
            .rows
            .chunks_exact(width)
            .zip(d_rows.chunks_exact(width))
            .zip(dx.chunks_exact_mut(width))
            .zip(&self.norms)
        {
            let projection = if *norm > MIN_NORM {
                sum2(u, du, |a, b| a * b)
            } else {
                0.0
            };
            for i in 0..width {
                dx[i] += (du[i] - u[i] * projection) / norm;
            }
        }
    }
}

multiversion! {
/// Divides a row by its norm, at least [`MIN_NORM`], and returns this norm.
fn normalise(row: &mut [f32]) -> f32 {
    let norm = sum(row, |v| v * v).sqrt().max(MIN_NORM);
    for v in row {
        *v /= norm;
    }
    norm
}
}

/// Aligns the rows of `text [n, width]` with the rows of `image [m, width]`. Without text rows or image rows the distance is 0.
pub fn align(text: &[f32], image: &[f32], width: usize, ipot: Ipot) -> Alignment {
    let (n, m) = (text.len() / width, image.len() / width);
    let (text, image) = (UnitRows::new(text, width), UnitRows::new(image, width));
    let mut cosine = vec![0f32; n * m];
    let (a, b) = (
        MatRef::new(&text.rows, n, width, width),
        MatRef::new(&image.rows, m, width, width),
    );
    if n > 0 && m > 0 {
        gemm(&mut cosine, m, Beta::Zero, 1.0, a, b.transposed(), Parallelism::Serial);
    }
    let plan = transport_plan(&cosine, n, m, ipot);
    let distance = plan_cost(&cosine, &plan);
    Alignment {
        plan,
        distance,
        cosine,
        text,
        image,
    }
}

impl Alignment {
    /// The cosines `cos(text_i, image_j)`, `[text, image]`.
    pub fn cosine(&self) -> &[f32] {
        &self.cosine
    }

    /// Adds the gradient of `weight · distance` to `d_text [n, width]` and `d_image [m, width]`.
    pub fn backward(&self, weight: f32, width: usize, d_text: &mut [f32], d_image: &mut [f32]) {
        let (n, m) = (self.text.norms.len(), self.image.norms.len());
        if n == 0 || m == 0 {
            return;
        }
        let plan = MatRef::new(&self.plan, n, m, m);
        let mut d_rows = vec![0f32; n * width];
        gemm(
            &mut d_rows,
            width,
            Beta::Zero,
            -weight,
            plan,
            MatRef::new(&self.image.rows, m, width, width),
            Parallelism::Serial,
        );
        self.text.backward(&d_rows, width, d_text);
        let mut d_rows = vec![0f32; m * width];
        let text = MatRef::new(&self.text.rows, n, width, width);
        gemm(
            &mut d_rows,
            width,
            Beta::Zero,
            -weight,
            plan.transposed(),
            text,
            Parallelism::Serial,
        );
        self.image.backward(&d_rows, width, d_image);
    }
}

multiversion! {
fn plan_cost(cosine: &[f32], plan: &[f32]) -> f32 {
    sum2(cosine, plan, |c, t| (1.0 - c) * t)
}
}

multiversion! {
/// Returns the transport plan `[n, m]` between uniform distributions on `n` words and `m` patches.
fn transport_plan(cosine: &[f32], n: usize, m: usize, ipot: Ipot) -> Vec<f32> {
    let mut t = vec![1f32; n * m];
    if n == 0 || m == 0 {
        return t;
    }
    let proximal_kernel: Vec<f32> = cosine.iter().map(|c| exp((c - 1.0) / ipot.beta)).collect();
    let mut sigma = vec![1.0 / n as f32; n];
    let mut delta = vec![0f32; m];
    for _ in 0..ipot.iterations {
        delta.fill(0.0);
        for (i, (t, a)) in t.chunks_exact_mut(m).zip(proximal_kernel.chunks_exact(m)).enumerate() {
            let s = sigma[i];
            for j in 0..m {
                t[j] *= a[j];
                delta[j] += t[j] * s;
            }
        }
        for d in delta.iter_mut() {
            *d = 1.0 / (m as f32 * *d);
        }
        for (i, t) in t.chunks_exact_mut(m).enumerate() {
            let s = 1.0 / (n as f32 * sum2(t, &delta, |t, d| t * d));
            sigma[i] = s;
            for j in 0..m {
                t[j] *= delta[j] * s;
            }
        }
    }
    t
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    #[test]
    fn plans_equal_recorded_values() {
        let cost = [0.3f32, 0.9, 0.2, 0.5, 0.1, 0.4, 0.8, 0.6, 0.7, 0.2, 0.3, 1.1];
        let cosine: Vec<f32> = cost.iter().map(|c| 1.0 - c).collect();
        let full_plan = transport_plan(&cosine, 4, 3, Ipot::TRAINING);
        assert!((plan_cost(&cosine, &full_plan) - 0.299_996).abs() < 1e-5);
        assert!((full_plan[9] - 0.25).abs() < 1e-5 && (full_plan[2] - 0.200_009).abs() < 1e-5);
        // The cosines without words 0 and 3, and without patch 0.
        let part: Vec<f32> = [4, 5, 7, 8].map(|i| cosine[i]).to_vec();
        let t = transport_plan(&part, 2, 2, Ipot::TRAINING);
        assert!((plan_cost(&part, &t) - 0.400_005).abs() < 1e-5);
        assert!((t[0] - 0.499_977).abs() < 1e-5 && (t[2] - 0.000_023).abs() < 1e-5);
        let many_iterations = Ipot {
            beta: 0.1,
            iterations: 1000,
        };
        assert!((plan_cost(&part, &transport_plan(&part, 2, 2, many_iterations)) - 0.4).abs() < 1e-5);
    }

    #[test]
    fn forward_and_backward_equal_the_reference() {
        let (width, n, m) = (5, 3, 4);
        let text: Vec<f32> = (0..n * width).map(|i| ((i * 37) % 11) as f32 / 5.0 - 1.0).collect();
        let image: Vec<f32> = (0..m * width).map(|i| ((i * 53) % 13) as f32 / 6.0 - 1.0).collect();
        let alignment = align(&text, &image, width, Ipot::TRAINING);
        let assert_close = |got: &[f32], want: &[f32]| {
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-5, "{got} instead of {want}");
            }
        };
        let [mut cosine, mut plan] = [(); 2].map(|_| vec![0f32; n * m]);
        reference::cosines(&mut cosine, &text, &image, width);
        let Ipot { beta, iterations } = Ipot::TRAINING;
        reference::transport_plan(&mut plan, &cosine, n, m, beta, iterations);
        assert_close(alignment.cosine(), &cosine);
        assert_close(&alignment.plan, &plan);
        assert_close(&[alignment.distance], &[reference::transport_distance(&cosine, &plan)]);
        let [mut d_text, mut want_text] = [(); 2].map(|_| vec![1f32; text.len()]);
        let [mut d_image, mut want_image] = [(); 2].map(|_| vec![1f32; image.len()]);
        alignment.backward(2.0, width, &mut d_text, &mut d_image);
        reference::transport_backward(&mut want_text, &mut want_image, &plan, &text, &image, width, 2.0);
        assert_close(&d_text, &want_text);
        assert_close(&d_image, &want_image);
    }

    #[test]
    fn distance_without_text_is_zero() {
        let a = align(&[], &[1.0, 2.0], 2, Ipot::TRAINING);
        assert_eq!(a.distance, 0.0);
        let mut d = vec![0f32; 2];
        a.backward(1.0, 2, &mut [], &mut d);
        assert_eq!(d, [0.0, 0.0]);
    }
}
