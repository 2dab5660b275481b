//! Enlargement of subsampled components as in libjpeg (`jdsample.c`, "fancy upsampling"): linear interpolation for factors of two,
//! repetition for others.

/// The samples of a component.
pub(super) struct Samples {
    pub(super) values: Vec<u8>,
    /// Distance between rows.
    pub(super) stride: usize,
    /// Size of the part that the image covers.
    pub(super) width: usize,
    pub(super) height: usize,
    /// By which factors the component is enlarged.
    pub(super) horizontal: usize,
    pub(super) vertical: usize,
}

impl Samples {
    fn row(&self, index: usize) -> &[u8] {
        &self.values[index * self.stride..][..self.width]
    }

    /// Computes row `y` of the enlarged component. `out` becomes at least as long as a row of the image.
    pub(super) fn enlarge_row(&self, y: usize, out: &mut Vec<u8>) {
        out.clear();
        let near = self.row((y / self.vertical).min(self.height - 1));
        // The row that contributes a quarter: the one above for even rows, the one below for odd rows.
        let far = match y % 2 {
            0 => (y / 2).saturating_sub(1),
            _ => (y / 2 + 1).min(self.height - 1),
        };
        match (self.horizontal, self.vertical) {
            (1, 1) => out.extend_from_slice(near),
            (2, 1) if self.width > 2 => double(near, out),
            (1, 2) => {
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                let sums = column_sums(near, self.row(far));
                out.extend(sums.map(|sum| ((sum + bias) >> 2) as u8));
            }
            (2, 2) if self.width > 2 => double_sums(column_sums(near, self.row(far)), out),
            (horizontal, _) => {
                for &value in near {
                    out.extend(std::iter::repeat_n(value, horizontal));
                }
            }
        }
    }
}

fn column_sums<'a>(near: &'a [u8], far: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
    near.iter().zip(far).map(|(&a, &b)| 3 * u32::from(a) + u32::from(b))
}

/// Doubles the width of a row.
fn double(row: &[u8], out: &mut Vec<u8>) {
    let last = row.len() - 1;
    for (i, &value) in row.iter().enumerate() {
        let threefold = 3 * u32::from(value);
        let left = if i == 0 {
            value
        } else {
            ((threefold + u32::from(row[i - 1]) + 1) >> 2) as u8
        };
        let right = if i == last {
            value
        } else {
            ((threefold + u32::from(row[i + 1]) + 2) >> 2) as u8
        };
        out.extend([left, right]);
    }
}

/// Doubles the width of a row of sums of four samples.
fn double_sums(sums: impl Iterator<Item = u32>, out: &mut Vec<u8>) {
    let (mut before, mut sums) = (None, sums.peekable());
    while let Some(sum) = sums.next() {
        let left = match before {
            None => 4 * sum,
            Some(before) => 3 * sum + before,
        };
        let right = match sums.peek() {
            None => 4 * sum,
            Some(after) => 3 * sum + after,
        };
        out.extend([((left + 8) >> 4) as u8, ((right + 7) >> 4) as u8]);
        before = Some(sum);
    }
}
