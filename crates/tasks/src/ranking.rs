//! Metrics of label scores: macro F1, area under the ROC curve, average precision.

use crate::rows::{Row, Rows};

/// Returns the macro F1: the mean over labels of the F1 of decisions. With one label per item, the label with the largest score is
/// decided for; with `several`, each label whose score is greater than 0.5. A label without items and without decisions is left out.
/// Returns NaN if there is no other label.
pub fn macro_f1(rows: &Rows, labels: usize, several: bool) -> f64 {
    // True positives, decisions and items of each label.
    let mut counts = vec![[0u64; 3]; labels];
    for row in rows.values() {
        let Row::Labels { scores, labels } = row else { continue };
        let decisions: Vec<usize> = if several {
            (0..scores.len()).filter(|i| scores[*i] > 0.5).collect()
        } else {
            crate::probabilities::top(scores, 1)
        };
        for label in labels {
            counts[*label as usize][2] += 1;
        }
        for decision in decisions {
            counts[decision][1] += 1;
            counts[decision][0] += u64::from(labels.contains(&(decision as u32)));
        }
    }
    let f1: Vec<f64> = counts
        .iter()
        .filter(|[_, decisions, items]| decisions + items > 0)
        .map(|[hits, decisions, items]| 2.0 * *hits as f64 / (decisions + items) as f64)
        .collect();
    f1.iter().sum::<f64>() / f1.len() as f64
}

/// Returns the area under the ROC curve of (score, whether the item has the label): the probability that a random item with the label
/// has a larger score than a random item without it, where equal scores count one half. Returns `None` unless there are items of both
/// kinds.
pub fn auroc(scores: &[(f32, bool)]) -> Option<f64> {
    let positives = scores.iter().filter(|(_, is_label)| *is_label).count() as f64;
    let negatives = scores.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return None;
    }
    let mut area = 0.0;
    let mut negatives_above = 0.0;
    for group in groups_of_equal_scores(scores) {
        let group_positives = group.iter().filter(|(_, is_label)| *is_label).count() as f64;
        let group_negatives = group.len() as f64 - group_positives;
        area += group_positives * (negatives - negatives_above - 0.5 * group_negatives);
        negatives_above += group_negatives;
    }
    Some(area / (positives * negatives))
}

/// Returns the average precision of (score, whether the item has the label), as scikit-learn defines it: the sum over thresholds of
/// the precision times the increase of the recall. Returns `None` if no item has the label.
pub fn average_precision(scores: &[(f32, bool)]) -> Option<f64> {
    let positives = scores.iter().filter(|(_, is_label)| *is_label).count() as f64;
    if positives == 0.0 {
        return None;
    }
    let (mut hits, mut total, mut sum) = (0.0, 0.0, 0.0);
    for group in groups_of_equal_scores(scores) {
        let group_hits = group.iter().filter(|(_, is_label)| *is_label).count() as f64;
        (hits, total) = (hits + group_hits, total + group.len() as f64);
        sum += group_hits / positives * (hits / total);
    }
    Some(sum)
}

/// Returns groups of equal scores, those with the largest score first.
fn groups_of_equal_scores(scores: &[(f32, bool)]) -> Vec<Vec<(f32, bool)>> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    sorted.chunk_by(|a, b| a.0 == b.0).map(<[_]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Values of scikit-learn's `roc_auc_score` and `average_precision_score`.
    #[test]
    fn areas_equal_those_of_scikit_learn() {
        let scores = [(0.1, false), (0.4, false), (0.35, true), (0.8, true)];
        assert_eq!(auroc(&scores), Some(0.75));
        assert!((average_precision(&scores).unwrap() - 0.833_333_333).abs() < 1e-8);
        let equal = [(0.5, true), (0.5, false), (0.5, false)];
        assert_eq!(auroc(&equal), Some(0.5));
        assert!((average_precision(&equal).unwrap() - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(auroc(&[(0.5, true)]), None);
        assert_eq!(average_precision(&[(0.5, false)]), None);
    }

    #[test]
    fn macro_f1_averages_over_labels() {
        let row = |scores: [f32; 3], labels: &[u32]| Row::Labels {
            scores: scores.to_vec(),
            labels: labels.to_vec(),
        };
        let rows = Rows::from([
            (0, row([0.9, 0.1, 0.0], &[0])),
            (1, row([0.6, 0.4, 0.0], &[1])),
            (2, row([0.2, 0.8, 0.0], &[1])),
        ]);
        // Label 0: 1 hit, 2 decisions, 1 item. Label 1: 1 hit, 1 decision, 2 items. Label 2 is left out.
        assert!((macro_f1(&rows, 3, false) - 2.0 / 3.0).abs() < 1e-12);
        let rows = Rows::from([(0, row([0.9, 0.8, 0.1], &[0, 2]))]);
        // Label 0: F1 1. Label 1: 0. Label 2: 0.
        assert!((macro_f1(&rows, 3, true) - 1.0 / 3.0).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn auroc_is_the_probability_of_a_correct_order(scores in prop::collection::vec((0i8..5, any::<bool>()), 2..30)) {
            let scores: Vec<(f32, bool)> = scores.into_iter().map(|(s, p)| (f32::from(s), p)).collect();
            let (mut sum, mut pairs) = (0.0, 0.0);
            for (positive, _) in scores.iter().filter(|(_, p)| *p) {
                for (negative, _) in scores.iter().filter(|(_, p)| !*p) {
                    pairs += 1.0;
                    sum += if positive > negative { 1.0 } else if positive == negative { 0.5 } else { 0.0 };
                }
            }
            match auroc(&scores) {
                Some(area) => prop_assert!((area - sum / pairs).abs() < 1e-12),
                None => prop_assert_eq!(pairs, 0.0),
            }
        }
    }
}
