//! Operations that copy or add rows of matrices, and the extraction of patches.

use super::Cuda;
use super::memory::{CudaTensor, empty};
use super::uploads::Distinct;
use crate::cuda::complete;
use crate::tensor::{Order, Planes, Tensor};
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

    /// Returns patches of images, one per row. Images that were not copied to the device before are copied now, each once.
    pub(super) fn extract_patches(&self, images: &[(Planes, &[u32])], side: usize, order: Order) -> Tensor {
        let count = images.iter().map(|(_, patches)| patches.len()).sum();
        let extract = |from: &Images, index_of: &dyn Fn(&Planes) -> Option<usize>| {
            let picks = images.iter().map(|(image, patches)| {
                let index = index_of(image).unwrap_or_else(|| panic!("the image was copied"));
                (index, *patches)
            });
            let picks: Vec<(usize, &[u32])> = picks.collect();
            self.build(count, 3 * side * side, |out| {
                from.extract(&self.context, &picks, side, order, out)
            })
        };
        if let Some(uploaded) = self.uploads.find(images.iter().map(|(image, _)| image)) {
            complete(uploaded.wait(&self.context));
            return extract(&uploaded.images, &|image| uploaded.index_of(image));
        }
        let distinct = Distinct::of(images.iter().map(|(image, _)| *image));
        let copied = complete(Images::upload(&self.context, &distinct.images));
        extract(&copied, &|image| distinct.index_of(image))
    }
}
