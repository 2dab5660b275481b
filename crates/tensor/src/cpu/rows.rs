//! Operations that copy or add rows of matrices, and the extraction of patches.

use super::memory::{CpuTensor, Format, build, build_blocks};
use crate::backend::{Beta, SparseMatrix};
use crate::tensor::{Order, Planes, Tensor};
use std::ops::Range;
use vlct_kernels::bf16::blocks;
use vlct_kernels::parallel::over_rows;
use vlct_kernels::{gather, patches, segments, sparse};

/// Copies each row of the result from one of the given matrices, which have the same format.
pub(super) fn gather(picks: &[(&Tensor, &[u32])]) -> Tensor {
    let (rows, width) = (picks[0].1.len(), picks[0].0.columns());
    if picks[0].0.format() == Format::Bf16 {
        let picks: Vec<_> = picks.iter().map(|(from, rows)| (from.blocks(), *rows)).collect();
        return build_blocks(rows, width, |out| blocks::gather_rows(&picks, out));
    }
    build(rows, width, |out| {
        for (from, indices) in picks {
            gather::copy_rows(from.data(), width, indices, out);
        }
    })
}

/// Returns a matrix whose row `i` is the sum of row `i` of `base` and one row of each table.
pub(super) fn lookup(base: Option<&Tensor>, tables: &[(&Tensor, &[u32])]) -> Tensor {
    let (rows, width) = match base {
        Some(base) => (base.rows(), base.columns()),
        None => (tables[0].1.len(), tables[0].0.columns()),
    };
    build(rows, width, |out| {
        match base {
            Some(base) => out.copy_from_slice(base.data()),
            None => out.fill(0.0),
        }
        for (table, indices) in tables {
            gather::add_rows(table.data(), width, indices, out);
        }
    })
}

/// Computes `d_table = β·d_table`, then `d_table[rows[i]] += d_out[i]` for each row `i` of `d_out`.
pub(super) fn scatter_add(d_out: &Tensor, rows: &[u32], d_table: &mut Tensor, beta: Beta) {
    let width = d_table.columns();
    let d_table = d_table.data_mut();
    if beta == Beta::Zero {
        over_rows(d_table, width, |_, chunk| chunk.fill(0.0));
    }
    gather::scatter_add(d_out.data(), width, rows, d_table);
}

/// Computes `out = β·out + matrix·x`.
pub(super) fn sparse_product(matrix: &SparseMatrix, x: &Tensor, out: &mut Tensor, beta: Beta) {
    let width = x.columns();
    let out = out.data_mut();
    if beta == Beta::Zero {
        over_rows(out, width, |_, chunk| chunk.fill(0.0));
    }
    sparse::add_product(matrix, x.data(), width, out);
}

/// Returns the mean of the rows of each segment.
pub(super) fn segment_mean(x: &Tensor, segments: &[Range<usize>]) -> Tensor {
    build(segments.len(), x.columns(), |out| {
        segments::mean(x.data(), x.columns(), segments, out)
    })
}

/// Computes `dx = β·dx`, then adds the gradient of [`segment_mean`].
pub(super) fn segment_mean_gradient(d_out: &Tensor, segments: &[Range<usize>], dx: &mut Tensor, beta: Beta) {
    let width = dx.columns();
    let dx = dx.data_mut();
    if beta == Beta::Zero {
        over_rows(dx, width, |_, chunk| chunk.fill(0.0));
    }
    segments::mean_backward(d_out.data(), width, segments, dx);
}

/// Returns patches of images, one per row.
pub(super) fn extract_patches(images: &[(Planes, &[u32])], side: usize, order: Order) -> Tensor {
    let (rows, width) = (images.iter().map(|(_, p)| p.len()).sum(), 3 * side * side);
    build(rows, width, |mut out| {
        for (image, patches) in images {
            let (head, rest) = out.split_at_mut(patches.len() * width);
            patches::extract(*image, side, patches, order, head);
            out = rest;
        }
    })
}
