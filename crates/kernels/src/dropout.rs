//! Dropout (Srivastava et al. 2014). The mask is a function of a key and is not saved for the backward pass. The plain version is
//! [`reference::dropout`](crate::reference::dropout).

use crate::parallel::over_rows;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Returns the number of 32-bit words, of all 2³², for which a value is zeroed with probability `p`: those below this number.
pub fn threshold(p: f32) -> u32 {
    (p as f64 * 2f64.powi(32)) as u32
}

/// Zeroes each value with probability `p` and divides the other values by `1 − p`. Rows have `width` values. The mask of row `r` is a
/// function of `key` and `r`.
///
/// Calling the function with the same key on the gradient is the backward pass.
pub fn apply_in_place(x: &mut [f32], width: usize, p: f32, key: [u64; 4]) {
    let seed: [u8; 32] = std::array::from_fn(|i| key[i / 8].to_le_bytes()[i % 8]);
    let threshold = threshold(p);
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
    use crate::reference;

    #[test]
    fn equals_the_reference_and_depends_on_the_key() {
        let (rows, width, p, key) = (1000, 64, 0.1, [1, 2, 3, 4]);
        let x: Vec<f32> = (0..rows * width).map(|i| (i % 13) as f32 + 1.0).collect();
        let mut got = x.clone();
        apply_in_place(&mut got, width, p, key);
        let keep: Vec<bool> = got.iter().map(|v| *v != 0.0).collect();
        let mut want = vec![0f32; x.len()];
        reference::dropout(&mut want, &x, &keep, p);
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= f32::EPSILON * want, "{got} instead of {want}");
        }
        let kept_share = keep.iter().filter(|keep| **keep).count() as f32 / x.len() as f32;
        assert!((kept_share - 0.9).abs() < 0.01);
        let mut same_key = x.clone();
        apply_in_place(&mut same_key, width, p, key);
        assert_eq!(got, same_key);
        let mut other_key = x;
        apply_in_place(&mut other_key, width, p, [1, 2, 3, 5]);
        assert_ne!(got, other_key);
    }
}
