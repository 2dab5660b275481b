use super::*;

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n)
        .map(|i| (((i + seed) * 7919) % 1009) as f32 / 500.0 - 1.0)
        .collect()
}

/// Checks that `gradient` is close to the central differences of `loss`.
fn assert_gradient(x: &[f32], gradient: &[f32], loss: impl Fn(&[f32]) -> f64) {
    const STEP: f32 = 1e-2;
    let mut x = x.to_vec();
    for i in 0..x.len() {
        let value = x[i];
        x[i] = value + STEP;
        let plus = loss(&x);
        x[i] = value - STEP;
        let want = (plus - loss(&x)) / (2.0 * STEP as f64);
        x[i] = value;
        let got = gradient[i] as f64;
        assert!(
            (got - want).abs() < 2e-3 * want.abs().max(1.0),
            "{i}: {got} instead of {want}"
        );
    }
}

fn dot(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(x, y)| *x as f64 * *y as f64).sum()
}

#[test]
fn attention_gradient_equals_finite_differences() {
    let (heads, width, k, q) = (2, 6, [0, 3, 3, 8], [0, 2, 2, 7]);
    let (qkv, d_out) = (values(8 * 3 * width, 1), values(7 * width, 2));
    let mut d_qkv = vec![f32::NAN; qkv.len()];
    attention_backward(&mut d_qkv, &d_out, &qkv, &k, &q, heads);
    assert_gradient(&qkv, &d_qkv, |qkv| {
        let (mut out, mut lse) = (vec![0f32; 7 * width], vec![0f32; 7 * heads]);
        attention_forward(&mut out, &mut lse, qkv, &k, &q, heads);
        dot(&out, &d_out)
    });
}

#[test]
fn layer_norm_gradients_equal_finite_differences() {
    let (rows, width) = (3, 20);
    let (x, w, b, d_out) = (
        values(rows * width, 1),
        values(width, 2),
        values(width, 3),
        values(rows * width, 4),
    );
    let run = |x: &[f32], w: &[f32], b: &[f32]| {
        let (mut y, mut mean, mut rstd) = (vec![0f32; rows * width], vec![0f32; rows], vec![0f32; rows]);
        layer_norm_forward(&mut y, &mut mean, &mut rstd, x, w, b, 1e-6);
        (y, mean, rstd)
    };
    let (_, mean, rstd) = run(&x, &w, &b);
    let (mut d_x, mut d_w, mut d_b) = (vec![0f32; x.len()], vec![0f32; width], vec![0f32; width]);
    layer_norm_backward(&mut d_x, &mut d_w, &mut d_b, &d_out, &x, &w, &mean, &rstd);
    assert_gradient(&x, &d_x, |x| dot(&run(x, &w, &b).0, &d_out));
    assert_gradient(&w, &d_w, |w| dot(&run(&x, w, &b).0, &d_out));
    assert_gradient(&b, &d_b, |b| dot(&run(&x, &w, b).0, &d_out));
}

#[test]
fn gelu_and_loss_gradients_equal_finite_differences() {
    let (x, targets) = (
        values(12, 1),
        values(12, 2).iter().map(|v| v * 0.5 + 0.5).collect::<Vec<_>>(),
    );
    let mut d = vec![0f32; 12];
    gelu_backward(&mut d, &x, &targets);
    assert_gradient(&x, &d, |x| {
        let mut out = [0f32; 12];
        gelu_forward(&mut out, x);
        dot(&out, &targets)
    });
    binary_cross_entropy_backward(&mut d, &x, &targets, 3, 1.5);
    assert_gradient(&x, &d, |x| 1.5 * binary_cross_entropy_forward(x, &targets, 3) as f64);
    patch_loss_backward(&mut d, &x, &targets, 1.5);
    assert_gradient(&x, &d, |x| 1.5 * patch_loss_forward(x, &targets) as f64);
    let (classes, mut loss, mut probs) = ([2, 0, 1, 1], [0f32; 4], [0f32; 12]);
    cross_entropy_forward(&mut loss, &mut probs, &x, &classes);
    cross_entropy_backward(&mut d, &probs, &classes, 0.5);
    assert_gradient(&x, &d, |x| {
        let (mut loss, mut probs) = ([0f32; 4], [0f32; 12]);
        cross_entropy_forward(&mut loss, &mut probs, x, &classes);
        0.5 * loss.iter().map(|v| *v as f64).sum::<f64>()
    });
}

#[test]
fn transport_gradient_equals_finite_differences_at_a_fixed_plan() {
    let (width, n, m) = (5, 3, 4);
    let (text, image) = (values(n * width, 1), values(m * width, 2));
    let distance = |text: &[f32], image: &[f32], plan: &mut [f32], fixed: bool| {
        let mut cosine = vec![0f32; n * m];
        cosines(&mut cosine, text, image, width);
        if !fixed {
            transport_plan(plan, &cosine, n, m, 0.5, 50);
        }
        2.0 * transport_distance(&cosine, plan) as f64
    };
    let mut plan = vec![0f32; n * m];
    distance(&text, &image, &mut plan, false);
    assert!((plan.iter().sum::<f32>() - 1.0).abs() < 1e-4);
    let (mut d_text, mut d_image) = (vec![0f32; text.len()], vec![0f32; image.len()]);
    transport_backward(&mut d_text, &mut d_image, &plan, &text, &image, width, 2.0);
    assert_gradient(&text, &d_text, |text| distance(text, &image, &mut plan.clone(), true));
    assert_gradient(&image, &d_image, |image| {
        distance(&text, image, &mut plan.clone(), true)
    });
}
