//! Clusters of the patches of an image by their features: k-means (Lloyd 1982) from the initial centres of k-means++ (Arthur and
//! Vassilvitskii 2007), as in the published figure of the original.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Number of runs with other initial centres, of which the best is kept. The default of scikit-learn.
const RESTARTS: u64 = 10;
/// Maximum number of iterations of a run. The default of scikit-learn.
const MAX_ITERATIONS: usize = 300;

/// Assigns rows of `features [n, width]` to clusters. Returns the cluster of each row; clusters are numbered in the order of their first row.
/// There are fewer clusters than requested if there are fewer different rows. Equal seeds give equal results.
///
/// # Panics
/// Panics if `width` or `clusters` is 0, or `features` is not a whole number of rows.
pub fn k_means(features: &[f32], width: usize, clusters: usize, seed: u64) -> Vec<usize> {
    assert!(
        width > 0 && clusters > 0 && features.len().is_multiple_of(width),
        "rows of width {width}"
    );
    let rows: Vec<&[f32]> = features.chunks_exact(width).collect();
    let run = |restart| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(restart);
        lloyd(&rows, initial_centres(&rows, clusters, &mut rng))
    };
    let runs: Vec<(f64, Vec<usize>)> = (0..RESTARTS).into_par_iter().map(run).collect();
    // Of equal sums, that of the first run counts.
    let best = runs
        .into_iter()
        .reduce(|best, other| if other.0 < best.0 { other } else { best });
    best.map(|(_, labels)| in_order(&labels)).unwrap_or_default()
}

/// Returns colours for clusters: hues at equal distances, in random order.
pub fn colours(clusters: usize, seed: u64) -> Vec<[u8; 3]> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let start: f64 = rng.random();
    let mut hues: Vec<f64> = (0..clusters)
        .map(|i| (start + i as f64 / clusters as f64).fract())
        .collect();
    for i in (1..hues.len()).rev() {
        hues.swap(i, rng.random_range(0..=i));
    }
    // Full saturation and value: one channel is 255, one is 0, one is between.
    let channel = |hue: f64, shift: f64| {
        let distance = ((hue + shift).fract() * 6.0 - 3.0).abs();
        ((distance - 1.0).clamp(0.0, 1.0) * 255.0).round() as u8
    };
    hues.into_iter()
        .map(|hue| [0.0, 2.0 / 3.0, 1.0 / 3.0].map(|shift| channel(hue, shift)))
        .collect()
}

/// Draws initial centres: the first one uniformly, each further one with a probability proportional to the squared distance to the nearest
/// centre.
fn initial_centres(rows: &[&[f32]], clusters: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    let centre = |row: &[f32]| row.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
    let mut centres = Vec::with_capacity(clusters);
    if rows.is_empty() {
        return centres;
    }
    centres.push(centre(rows[rng.random_range(0..rows.len())]));
    let mut distances: Vec<f64> = rows.iter().map(|row| distance(row, &centres[0])).collect();
    while centres.len() < clusters {
        let total: f64 = distances.iter().sum();
        if total <= 0.0 || !total.is_finite() {
            break;
        }
        let mut rest = rng.random::<f64>() * total;
        let drawn = distances.iter().position(|d| {
            rest -= d;
            rest < 0.0
        });
        // Rounding may leave a rest after the last row.
        let drawn = drawn.or_else(|| distances.iter().rposition(|d| *d > 0.0)).unwrap_or(0);
        let new = centre(rows[drawn]);
        for (d, row) in distances.iter_mut().zip(rows) {
            *d = d.min(distance(row, &new));
        }
        centres.push(new);
    }
    centres
}

/// Moves centres to the means of their rows until no row changes its cluster. Returns the sum of squared distances, and the clusters.
fn lloyd(rows: &[&[f32]], mut centres: Vec<Vec<f64>>) -> (f64, Vec<usize>) {
    let mut labels = vec![usize::MAX; rows.len()];
    let mut sum = 0.0;
    for _ in 0..MAX_ITERATIONS {
        let mut changed = false;
        sum = 0.0;
        for (row, label) in rows.iter().zip(&mut labels) {
            let distances = centres.iter().map(|centre| distance(row, centre)).enumerate();
            let nearest = distances.reduce(|best, other| if other.1 < best.1 { other } else { best });
            let Some((nearest, distance)) = nearest else { continue };
            sum += distance;
            changed |= *label != nearest;
            *label = nearest;
        }
        if !changed {
            break;
        }
        let mut counts = vec![0usize; centres.len()];
        let mut means = vec![vec![0.0; centres.first().map_or(0, Vec::len)]; centres.len()];
        for (row, label) in rows.iter().zip(&labels) {
            counts[*label] += 1;
            means[*label]
                .iter_mut()
                .zip(*row)
                .for_each(|(mean, value)| *mean += f64::from(*value));
        }
        for ((centre, mean), count) in centres.iter_mut().zip(means).zip(counts) {
            // A cluster without rows keeps its centre.
            if count > 0 {
                *centre = mean.into_iter().map(|sum| sum / count as f64).collect();
            }
        }
    }
    (sum, labels)
}

fn distance(row: &[f32], centre: &[f64]) -> f64 {
    row.iter().zip(centre).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum()
}

/// Numbers clusters in the order of their first row.
fn in_order(labels: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    labels
        .iter()
        .map(|label| {
            order.iter().position(|known| known == label).unwrap_or_else(|| {
                order.push(*label);
                order.len() - 1
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separates_distant_groups() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let centres = [[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]];
        let order = [1, 0, 2, 1, 1, 0, 2, 2, 0, 1, 2, 0];
        let features: Vec<f32> = order
            .iter()
            .flat_map(|i| centres[*i].map(|v: f32| v + rng.random::<f32>()))
            .collect();
        let labels = k_means(&features, 2, 3, 1024);
        // Clusters are numbered by their first row: 1, 0, 2 become 0, 1, 2.
        assert_eq!(labels, order.map(|i| [1, 0, 2][i]));
        assert_eq!(k_means(&features, 2, 3, 1024), labels);
    }

    #[test]
    fn equal_rows_are_one_cluster_and_no_rows_are_none() {
        assert_eq!(k_means(&[1.0; 8], 2, 3, 0), [0; 4]);
        assert!(k_means(&[], 2, 3, 0).is_empty());
        assert_eq!(k_means(&[1.0, 5.0], 1, 8, 0), [0, 1]);
    }

    #[test]
    fn colours_are_different() {
        let all = colours(8, 1024);
        assert!((0..8).all(|i| (0..i).all(|j| all[i] != all[j])), "{all:?}");
        assert!(all.iter().all(|c| c.contains(&255) && c.contains(&0)));
        assert_eq!(colours(8, 1024), all);
    }
}
