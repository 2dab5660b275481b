//! Operations that copy or add rows of matrices, and the extraction of patches.

use super::Cuda;
use super::memory::{CudaTensor, empty};
use crate::cuda::complete;
use crate::tensor::{Order, Planes, Tensor};
use std::collections::HashMap;
use vlct_cuda::driver::Element::F32;
use vlct_cuda::patches::Images;
use vlct_cuda::rows::{self, Pick};

fn picks<'a>(picks: &[(&'a Tensor, &'a [u32])]) -> Vec<Pick<'a>> {
    let pick = |(from, rows): &(&'a Tensor, &'a [u32])| Pick {
        from: from.matrix(),
        rows,
    };
    picks.iter().map(pick).collect()
}

impl Cuda {
    /// Copies each row of the result from one of the given matrices, which have the same type.
    pub(super) fn gather_rows(&self, from: &[(&Tensor, &[u32])]) -> Tensor {
        let (first, indices) = from[0];
        let mut out = empty(&self.context, indices.len(), first.columns(), first.element());
        complete(rows::gather(&self.context, &picks(from), out.overwritten()));
        out
    }

    /// Returns a matrix whose row `i` is the sum of row `i` of `base` and one row of each table.
    pub(super) fn sum_of_rows(&self, base: Option<&Tensor>, tables: &[(&Tensor, &[u32])]) -> Tensor {
        let (rows, width) = match base {
            Some(base) => (base.rows(), base.columns()),
            None => (tables[0].1.len(), tables[0].0.columns()),
        };
        let mut out = empty(&self.context, rows, width, F32);
        let base = base.map(CudaTensor::matrix);
        complete(rows::lookup(&self.context, base, &picks(tables), out.overwritten()));
        out
    }

    /// Returns patches of images, one per row. An image that is listed several times is copied to the device once.
    pub(super) fn extract_patches(&self, images: &[(Planes, &[u32])], side: usize, order: Order) -> Tensor {
        let mut planes: Vec<Planes> = Vec::new();
        let mut known = HashMap::new();
        let picks = images.iter().map(|(image, patches)| {
            let place = (image.values.as_ptr(), image.height, image.width);
            let index = *known.entry(place).or_insert_with(|| {
                planes.push(*image);
                planes.len() - 1
            });
            (index, *patches)
        });
        let picks: Vec<(usize, &[u32])> = picks.collect();
        let count = picks.iter().map(|(_, patches)| patches.len()).sum();
        let images = complete(Images::upload(&self.context, &planes));
        self.build(count, 3 * side * side, |out| {
            images.extract(&self.context, &picks, side, order, out)
        })
    }
}
