//! Compares forward and backward passes with the reference.

use super::*;
use crate::aligned::AlignedVec;
use crate::reference;

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n)
        .map(|i| Bf16::from_f32((((i + seed) * 7919) % 1009) as f32 / 400.0 - 1.25).to_f32())
        .collect()
}

fn to_blocks(x: &[f32], rows: usize, columns: usize) -> AlignedVec<Bf16> {
    let mut out = AlignedVec::zeroed(blocks::len(rows, columns));
    blocks::from_f32(x, rows, columns, out.as_mut_slice());
    out
}

/// Returns the root mean square of the difference, relative to the root mean square of `want`.
fn relative_error(got: &[f32], want: &[f32]) -> f32 {
    let squares = |f: &dyn Fn(usize) -> f32| (0..got.len()).map(|i| (f(i) as f64).powi(2)).sum::<f64>();
    assert!(got.iter().all(|v| v.is_finite()));
    (squares(&|i| got[i] - want[i]) / squares(&|i| want[i])).sqrt() as f32
}

#[test]
fn forward_and_backward_equal_the_reference_up_to_rounding() {
    for (head_width, heads, offsets) in [
        (64, 2, vec![0, 245, 245, 250, 300]),
        (32, 3, vec![0, 70]),
        (16, 3, vec![0, 33, 90]),
        (80, 2, vec![0, 40]),
        (128, 1, vec![0, 65]),
        (12, 5, vec![0, 50, 51]),
        (64, 1, vec![0, 1100]), // several groups of key blocks
    ] {
        let (tokens, width) = (offsets[offsets.len() - 1], head_width * heads);
        let (qkv, d_out) = (values(tokens * 3 * width, 1), values(tokens * width, 2));
        let (mut want, mut want_lse) = (vec![0f32; tokens * width], vec![0f32; tokens * heads]);
        reference::attention_forward(&mut want, &mut want_lse, &qkv, &offsets, &offsets, heads);
        let mut want_d = vec![0f32; qkv.len()];
        reference::attention_backward(&mut want_d, &d_out, &qkv, &offsets, &offsets, heads);
        let varlen = Varlen::full(&offsets);

        let qkv = to_blocks(&qkv, tokens, 3 * width);
        let qkv = Blocks::new(qkv.as_slice(), tokens, 3 * width);
        let d_out = to_blocks(&d_out, tokens, width);
        let d_out = Blocks::new(d_out.as_slice(), tokens, width);
        let nans = |columns| to_blocks(&vec![f32::NAN; tokens * columns], tokens, columns);
        let (mut out, mut lse) = (nans(width), vec![f32::NAN; tokens * heads]);
        forward(qkv, varlen, heads, out.as_mut_slice(), &mut lse);
        let mut got = vec![0f32; tokens * width];
        blocks::to_f32(Blocks::new(out.as_slice(), tokens, width), &mut got);
        assert!(
            relative_error(&got, &want) < Bf16::EPSILON,
            "head width {head_width}: {}",
            relative_error(&got, &want)
        );
        for (got, want) in lse.iter().zip(&want_lse) {
            assert!((got - want).abs() < 1e-3 * want.abs().max(1.0));
        }
        let mut d_qkv = nans(3 * width);
        let out = Blocks::new(out.as_slice(), tokens, width);
        backward(d_out, qkv, out, &lse, varlen, heads, d_qkv.as_mut_slice());
        let mut got = vec![0f32; tokens * 3 * width];
        blocks::to_f32(Blocks::new(d_qkv.as_slice(), tokens, 3 * width), &mut got);
        // One error per part, because the gradients of queries, keys and values differ in magnitude.
        for part in 0..3 {
            let columns = |x: &[f32]| -> Vec<f32> {
                x.chunks_exact(3 * width)
                    .flat_map(|row| row[part * width..][..width].to_vec())
                    .collect()
            };
            let error = relative_error(&columns(&got), &columns(&want_d));
            assert!(
                error < 3.0 * Bf16::EPSILON,
                "head width {head_width}, part {part}: {error}"
            );
        }
    }
}

#[test]
fn results_of_query_tokens_do_not_depend_on_other_queries() {
    let (head_width, heads, offsets) = (32, 2, [0, 40, 41, 110]);
    let (tokens, width) = (110, head_width * heads);
    let qkv = values(tokens * 3 * width, 1);
    let qkv = to_blocks(&qkv, tokens, 3 * width);
    let qkv = Blocks::new(qkv.as_slice(), tokens, 3 * width);
    let run = |varlen: Varlen, d_out: &[f32]| {
        let rows = varlen.total_q();
        let (mut out, mut lse) = (
            to_blocks(&vec![0.0; rows * width], rows, width),
            vec![0f32; rows * heads],
        );
        forward(qkv, varlen, heads, out.as_mut_slice(), &mut lse);
        let out = Blocks::new(out.as_slice(), rows, width);
        let mut values = vec![0f32; rows * width];
        blocks::to_f32(out, &mut values);
        let (d_out, mut d_qkv) = (
            to_blocks(d_out, rows, width),
            to_blocks(&vec![f32::NAN; tokens * 3 * width], tokens, 3 * width),
        );
        let d_out = Blocks::new(d_out.as_slice(), rows, width);
        backward(d_out, qkv, out, &lse, varlen, heads, d_qkv.as_mut_slice());
        let mut d = vec![0f32; tokens * 3 * width];
        blocks::to_f32(Blocks::new(d_qkv.as_slice(), tokens, 3 * width), &mut d);
        (values, d)
    };
    for cu_seqlens_q in [[0, 1, 2, 3], [0, 35, 35, 76], [0, 0, 1, 65]] {
        let d_prefix = values(cu_seqlens_q[3] * width, 2);
        // Ranges of the query tokens of sequence `s`: in the outputs of all tokens, and in the outputs of the query tokens.
        let ranges = |s: usize| {
            let count = (cu_seqlens_q[s + 1] - cu_seqlens_q[s]) * width;
            (
                offsets[s] * width..offsets[s] * width + count,
                cu_seqlens_q[s] * width..cu_seqlens_q[s] * width + count,
            )
        };
        let mut d_all = vec![0f32; tokens * width];
        for (in_all, in_prefix) in (0..3).map(ranges) {
            d_all[in_all].copy_from_slice(&d_prefix[in_prefix]);
        }
        let (all, want) = run(Varlen::full(&offsets), &d_all);
        let (prefix, got) = run(Varlen::prefix_queries(&offsets, &cu_seqlens_q), &d_prefix);
        for (in_all, in_prefix) in (0..3).map(ranges) {
            assert_eq!(prefix[in_prefix], all[in_all]);
        }
        let error = relative_error(&got, &want);
        assert!(error < 1e-6, "{cu_seqlens_q:?}: {error}");
    }
}

#[test]
fn first_scores_may_be_far_below_the_row_maximum() {
    let (tokens, head_width) = (70, 16);
    let row = |i: usize| -> Vec<f32> {
        let key = if i == 40 { 8.0 } else { -8.0 };
        [[8.0f32; 16], [key; 16], [i as f32; 16]].concat()
    };
    let qkv = to_blocks(&(0..tokens).flat_map(row).collect::<Vec<_>>(), tokens, 3 * head_width);
    let (mut out, mut lse) = (
        to_blocks(&vec![0.0; tokens * head_width], tokens, head_width),
        vec![0f32; tokens],
    );
    forward(
        Blocks::new(qkv.as_slice(), tokens, 3 * head_width),
        Varlen::full(&[0, tokens]),
        1,
        out.as_mut_slice(),
        &mut lse,
    );
    let mut values = vec![0f32; tokens * head_width];
    blocks::to_f32(Blocks::new(out.as_slice(), tokens, head_width), &mut values);
    assert!(values.iter().all(|v| *v == 40.0), "{values:?}");
    let largest = 8.0 * 8.0 * 16.0 / 4.0 * std::f32::consts::LOG2_E;
    assert!(lse.iter().all(|v| (v - largest).abs() < 1e-3), "{lse:?}");
}

#[test]
fn large_scores_do_not_overflow() {
    let row = |q: f32, v: f32| -> Vec<f32> { [[q; 16], [1e18; 16], [v; 16]].concat() };
    let qkv = to_blocks(&[row(1e18, 1.0), row(-1e18, 2.0)].concat(), 2, 48);
    let qkv = Blocks::new(qkv.as_slice(), 2, 48);
    let (mut out, mut lse) = (to_blocks(&[0.0; 32], 2, 16), [0f32; 2]);
    forward(qkv, Varlen::full(&[0, 2]), 1, out.as_mut_slice(), &mut lse);
    let mut values = [0f32; 32];
    blocks::to_f32(Blocks::new(out.as_slice(), 2, 16), &mut values);
    assert!(values.iter().all(|v| *v == 1.5), "{values:?}");
}
