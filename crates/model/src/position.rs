//! Position tables: sine-cosine initialisation, bicubic resizing, bilinear interpolation.
//!
//! A table has one row for the class token followed by one row per patch, patches in row-major order:
//! `[1 + grid², width]`.

/// Coefficient of the cubic convolution kernel, as in PyTorch's `interpolate(mode="bicubic")`.
const CUBIC_A: f64 = -0.75;

/// Base of the frequencies of the sine-cosine table, as in "Attention is all you need".
const FREQUENCY_BASE: f64 = 10_000.0;

/// Returns the two-dimensional sine-cosine table of MAE (`util/pos_embed.py`), `[1 + grid², width]`.
///
/// The class token's row is zero. The row of the patch at (y, x) is `[sin(x·ω), cos(x·ω), sin(y·ω), cos(y·ω)]`, each part
/// `width / 4` long with `ω_k = 10000^(-4k / width)`. Values are computed in double precision and rounded once.
///
/// # Panics
/// Panics if `width` is not a multiple of four.
pub fn sine_cosine(width: usize, grid: usize) -> Vec<f32> {
    assert!(
        width.is_multiple_of(4),
        "the width of a sine-cosine table must be a multiple of 4, not {width}"
    );
    let quarter = width / 4;
    // `[grid, width / 2]`: sines, then cosines; the same for x and y.
    let waves: Vec<f32> = (0..grid)
        .flat_map(|position| {
            let angle = move |k: usize| position as f64 * FREQUENCY_BASE.powf(-(k as f64) / quarter as f64);
            let sines = (0..quarter).map(move |k| angle(k).sin() as f32);
            sines.chain((0..quarter).map(move |k| angle(k).cos() as f32))
        })
        .collect();
    let wave = |position: usize| &waves[position * 2 * quarter..(position + 1) * 2 * quarter];
    let mut table = Vec::with_capacity((1 + grid * grid) * width);
    table.resize(width, 0.0);
    for y in 0..grid {
        for x in 0..grid {
            table.extend_from_slice(wave(x));
            table.extend_from_slice(wave(y));
        }
    }
    table
}

/// Resizes a table `[1 + from_grid², width]` to `[1 + to_grid², width]`. The class token's row is copied. The rows of the patches
/// are interpolated as by PyTorch's `interpolate(mode="bicubic", align_corners=False)`, without antialiasing.
///
/// # Panics
/// Panics if `table` does not have `(1 + from_grid²) · width` values or `from_grid` is zero.
pub fn resize(table: &[f32], width: usize, from_grid: usize, to_grid: usize) -> Vec<f32> {
    assert!(from_grid > 0, "a position table without patches cannot be resized");
    assert_eq!(
        table.len(),
        (1 + from_grid * from_grid) * width,
        "length of the position table"
    );
    let (class_token, patches) = table.split_at(width);
    let taps = taps(from_grid, to_grid);

    // The patches after horizontal interpolation: `[from_grid, to_grid, width]`.
    let mut horizontal = vec![0f32; from_grid * to_grid * width];
    for (row, out_row) in patches
        .chunks_exact(from_grid * width)
        .zip(chunks_mut(&mut horizontal, to_grid * width))
    {
        for (out, taps) in chunks_mut(out_row, width).zip(&taps) {
            add_taps(out, taps, |column| &row[column * width..(column + 1) * width]);
        }
    }

    let mut resized = vec![0f32; (1 + to_grid * to_grid) * width];
    resized[..width].copy_from_slice(class_token);
    for (out, taps) in chunks_mut(&mut resized[width..], to_grid * width).zip(&taps) {
        let row_size = to_grid * width;
        add_taps(out, taps, |row| &horizontal[row * row_size..(row + 1) * row_size]);
    }
    resized
}

/// Returns the rows of a table of `from · from` patches, with weights, of which each patch of a grid `[rows, columns]` is interpolated: as by
/// PyTorch's `interpolate(mode="bilinear", align_corners=True)`. Row 0 of the table is that of the class token.
///
/// # Panics
/// Panics if `from` is zero.
pub(crate) fn bilinear(from: usize, [rows, columns]: [usize; 2]) -> impl Iterator<Item = Vec<(u32, f32)>> {
    assert!(from > 0, "a position table without patches cannot be interpolated");
    // The two input positions of each output position, with weights. The first and last positions of both coincide.
    let taps = move |to: usize| -> Vec<[(usize, f64); 2]> {
        let scale = if to > 1 {
            (from - 1) as f64 / (to - 1) as f64
        } else {
            0.0
        };
        let tap = |i: usize| {
            let source = i as f64 * scale;
            let first = (source as usize).min(from - 1);
            let weight = source - first as f64;
            [(first, 1.0 - weight), ((first + 1).min(from - 1), weight)]
        };
        (0..to).map(tap).collect()
    };
    let (vertical, horizontal) = (taps(rows), taps(columns));
    vertical.into_iter().flat_map(move |vertical| {
        let row = |horizontal: &[(usize, f64); 2]| {
            let pairs = vertical.iter().flat_map(|v| horizontal.iter().map(move |h| (v, h)));
            let entries = pairs.map(|((y, v), (x, h))| ((1 + y * from + x) as u32, (v * h) as f32));
            entries.filter(|(_, weight)| *weight != 0.0).collect()
        };
        horizontal.iter().map(row).collect::<Vec<_>>()
    })
}

/// Indices and weights of the four input positions of one output position.
type Taps = [(usize, f32); 4];

/// Returns chunks of `size` values. If `size` is 0, `values` is empty, and so is the iterator; `chunks_exact_mut` alone would panic.
fn chunks_mut(values: &mut [f32], size: usize) -> std::slice::ChunksExactMut<'_, f32> {
    values.chunks_exact_mut(size.max(1))
}

fn add_taps<'a>(out: &mut [f32], taps: &Taps, source: impl Fn(usize) -> &'a [f32]) {
    for &(index, weight) in taps {
        for (out, value) in out.iter_mut().zip(source(index)) {
            *out += weight * value;
        }
    }
}

/// Returns the taps of each output position. There are `from` input positions, to which indices are clamped, and `to` output
/// positions.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    // The kernel at distances up to 1, and from 1 to 2.
    let near = |x: f64| ((CUBIC_A + 2.0) * x - (CUBIC_A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((CUBIC_A * x - 5.0 * CUBIC_A) * x + 8.0 * CUBIC_A) * x - 4.0 * CUBIC_A;
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|i| {
            let source = (i as f64 + 0.5) * scale - 0.5;
            let floor = source.floor();
            let t = source - floor;
            let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
            std::array::from_fn(|k| {
                let index = (floor as i64 + k as i64 - 1).clamp(0, from as i64 - 1);
                (index as usize, weights[k] as f32)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;

    fn assert_near(got: f32, want: f32) {
        assert!((got - want).abs() < 2e-6 * want.abs().max(1.0), "{got} against {want}");
    }

    #[test]
    fn sine_cosine_tables_have_the_values_of_mae() {
        let table = sine_cosine(768, 24);
        assert_eq!(table.len(), 577 * 768);
        assert!(table[..768].iter().all(|v| *v == 0.0));
        let row = &table[(1 + 24 + 2) * 768..][..768];
        for (index, want) in [
            (0, 0.9092974),
            (1, 0.9442368),
            (192, -0.4161468),
            (383, 1.0),
            (384, 0.841471),
            (385, 0.8152506),
            (576, 0.5403023),
            (577, 0.5791083),
        ] {
            assert_near(row[index], want);
        }
        let table = sine_cosine(512, 24);
        let row = &table[(1 + 3 * 24 + 5) * 512..][..512];
        for (index, want) in [(0, -0.9589243), (128, 0.2836622), (256, 0.14112), (384, -0.9899925)] {
            assert_near(row[index], want);
        }
    }

    #[test]
    fn taps_from_14_to_24_positions_have_the_weights_of_pytorch() {
        let taps = taps(14, 24);
        let indices = |i: usize| taps[i].map(|t| t.0);
        assert_eq!(indices(0), [0, 0, 0, 1]);
        assert_eq!(indices(1), [0, 0, 1, 2]);
        for (i, want) in [
            (0, [-0.02577, 0.210051, 0.913647, -0.097928]),
            (1, [-0.109863, 0.749512, 0.42627, -0.065918]),
        ] {
            for (tap, want) in taps[i].iter().zip(want) {
                assert!((tap.1 - want).abs() < 1e-6, "{tap:?} against {want}");
            }
        }
    }

    /// The table has width 1. The patch at (y, x) has the value x².
    #[test]
    fn resizing_from_14_to_24_interpolates_as_pytorch() {
        let mut table = vec![7.0];
        table.extend((0..14).flat_map(|_| (0..14).map(|k| (k * k) as f32)));
        let resized = resize(&table, 1, 14, 24);
        assert_eq!(resized[0], 7.0);
        for row in resized[1..].chunks(24) {
            for (got, want) in row[..4].iter().zip([-0.0979, 0.1626, 0.8814, 2.2216]) {
                assert!((got - want).abs() < 1e-4, "{got} against {want}");
            }
            for (got, want) in row[21..].iter().zip([145.473, 161.5073, 171.4482]) {
                assert!((got - want).abs() < 2e-4, "{got} against {want}");
            }
        }
    }

    /// The values are those of PyTorch for the table `x + 10·y` and for `x²`.
    #[test]
    fn bilinear_interpolation_aligns_the_corners() {
        let value = |table: &dyn Fn(usize, usize) -> f64, from: usize, taps: &[(u32, f32)]| -> f64 {
            let entry = |(row, weight): &(u32, f32)| {
                let patch = *row as usize - 1;
                table(patch / from, patch % from) * f64::from(*weight)
            };
            taps.iter().map(entry).sum()
        };
        let plane = |y: usize, x: usize| (x + 10 * y) as f64;
        let grid: Vec<Vec<(u32, f32)>> = bilinear(3, [2, 5]).collect();
        let values: Vec<f64> = grid.iter().map(|taps| value(&plane, 3, taps)).collect();
        let want = [0.0, 0.5, 1.0, 1.5, 2.0, 20.0, 20.5, 21.0, 21.5, 22.0];
        assert_eq!(values, want);
        let square = |_: usize, x: usize| (x * x) as f64;
        let row: Vec<f64> = bilinear(4, [1, 3]).map(|taps| value(&square, 4, &taps)).collect();
        assert_eq!(row, [0.0, 2.5, 9.0]);
        for (i, taps) in bilinear(5, [5, 5]).enumerate() {
            assert_eq!(taps, [(1 + i as u32, 1.0)], "the table's own grid");
        }
        assert_eq!(bilinear(1, [2, 1]).collect::<Vec<_>>(), [[(1, 1.0)], [(1, 1.0)]]);
    }

    #[test]
    fn resizing_to_the_same_size_changes_nothing() {
        let table = sine_cosine(8, 5);
        assert_eq!(resize(&table, 8, 5, 5), table);
    }

    #[test]
    fn resized_tables_equal_those_of_the_original() {
        for directory in vlct_golden::directories("model") {
            let source = files::read(&directory.join("mae.pth")).unwrap().state;
            let mut compared = 0;
            for entry in std::fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                if !path.file_name().unwrap().to_string_lossy().starts_with("pos_embed_") {
                    continue;
                }
                let want = vlct_golden::Tensors::open(&path);
                for name in want.names() {
                    let shape = source.get(&name).unwrap().shape.clone();
                    let grid = |rows: usize| (rows - 1).isqrt();
                    let table = source.f32(&name).unwrap();
                    let resized = resize(&table, shape[2], grid(shape[1]), grid(want.shape(&name)[1]));
                    vlct_golden::assert_close(&name, &resized, &want.f32(&name), 2e-6);
                    compared += 1;
                }
            }
            assert!(compared > 0, "no tables in {}", directory.display());
        }
    }
}
