//! Probabilities of logits.

/// Returns the softmax of `logits`.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f64> = logits.iter().map(|x| f64::from(x - max).exp()).collect();
    let total: f64 = exp.iter().sum();
    exp.into_iter().map(|x| (x / total) as f32).collect()
}

/// Returns the logistic sigmoid of each logit.
pub fn sigmoid(logits: &[f32]) -> Vec<f32> {
    logits
        .iter()
        .map(|x| (1.0 / (1.0 + (-f64::from(*x)).exp())) as f32)
        .collect()
}

/// Returns the indices of the `count` largest values, the largest first. Of equal values, the lower index is first. NaN counts as the
/// smallest value.
pub fn top(values: &[f32], count: usize) -> Vec<usize> {
    let key = |i: usize| {
        if values[i].is_nan() {
            f32::NEG_INFINITY
        } else {
            values[i]
        }
    };
    let descending = |a: &usize, b: &usize| key(*b).total_cmp(&key(*a)).then(a.cmp(b));
    let mut order: Vec<usize> = (0..values.len()).collect();
    if count < order.len() && count > 0 {
        order.select_nth_unstable_by(count - 1, descending);
    }
    order.truncate(count);
    order.sort_unstable_by(descending);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn softmax_and_sigmoid_of_large_logits_are_finite() {
        assert_eq!(softmax(&[1000.0, 0.0]), [1.0, 0.0]);
        assert_eq!(sigmoid(&[1000.0, -1000.0, 0.0]), [1.0, 0.0, 0.5]);
    }

    #[test]
    fn top_orders_equal_values_by_index_and_nan_last() {
        assert_eq!(top(&[0.5, f32::NAN, 1.0, 1.0], 3), [2, 3, 0]);
        assert_eq!(top(&[0.5], 5), [0]);
        assert!(top(&[0.5], 0).is_empty());
    }

    proptest! {
        #[test]
        fn top_is_a_prefix_of_the_sorted_order(values in prop::collection::vec(-3i8..3, 0..40), count in 0usize..50) {
            let values: Vec<f32> = values.into_iter().map(f32::from).collect();
            let mut all: Vec<usize> = (0..values.len()).collect();
            all.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
            all.truncate(count);
            prop_assert_eq!(top(&values, count), all);
        }
    }
}
