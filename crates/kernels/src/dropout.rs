//! Dropout (Srivastava et al. 2014) whose mask is a function of a key, so that nothing needs to be saved.

use crate::parallel::over_rows;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// `x[i] = 0` with probability `p`, else `x[i] / (1 − p)`; row `r` of `width` values is decided by (`key`, `r`).
///
/// The same call on a gradient is the backward pass.
pub fn apply_in_place(x: &mut [f32], width: usize, p: f32, key: [u64; 4]) {
    let seed: [u8; 32] = std::array::from_fn(|i| key[i / 8].to_le_bytes()[i % 8]);
    let threshold = (p as f64 * 2f64.powi(32)) as u32;
    let scale = 1.0 / (1.0 - p);
    over_rows(x, width, |first, block| {
        for (i, row) in block.chunks_exact_mut(width).enumerate() {
            let mut random = ChaCha8Rng::from_seed(seed);
            random.set_stream((first + i) as u64);
            for v in row {
                *v = if random.next_u32() < threshold { 0.0 } else { *v * scale };
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_the_right_share_and_keeps_the_mean() {
        let mut x = vec![1f32; 1000 * 64];
        apply_in_place(&mut x, 64, 0.1, [1, 2, 3, 4]);
        let kept = x.iter().filter(|v| **v != 0.0).count() as f32 / x.len() as f32;
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        assert!((kept - 0.9).abs() < 0.01 && (mean - 1.0).abs() < 0.01);
        let mut again = vec![1f32; x.len()];
        apply_in_place(&mut again, 64, 0.1, [1, 2, 3, 4]);
        assert_eq!(x, again);
        apply_in_place(&mut again, 64, 0.1, [1, 2, 3, 5]);
        assert_ne!(x, again);
    }
}
