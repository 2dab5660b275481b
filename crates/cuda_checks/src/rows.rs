//! Rows of matrices by index.

use crate::device::{random, random_bf16};
use crate::{Device, Outcome};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vlct_cuda::driver::Element::{Bf16, F32};
use vlct_cuda::driver::{Element, Error};
use vlct_cuda::rows::{self, NONE, Pick};
use vlct_kernels::gather;
use vlct_kernels::mat::Beta;

/// Number of rows of the tables.
const TABLE_ROWS: usize = 5;

/// Random indices below `rows`, of which every fourth is [`NONE`] if `with_none`.
pub(crate) fn indices(count: usize, rows: usize, with_none: bool, seed: u64) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut index = || {
        let row = rng.random_range(0..rows as u32);
        let is_none = rng.random_range(0..4) == 0;
        if with_none && is_none { NONE } else { row }
    };
    (0..count).map(|_| index()).collect()
}

/// Rows by index: copies, sums and gradients of tables.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn gather_lookup_and_scatter_add(device: &Device) -> Outcome {
    device.for_all(check)
}

fn check(device: &Device, shape: [usize; 2]) -> Outcome {
    let [rows, _] = shape;
    gathers(device, shape, F32).map_err(|e| e.to_string())??;
    gathers(device, shape, Bf16).map_err(|e| e.to_string())??;
    for (has_base, tables) in [(true, 2), (false, 2), (true, 0), (false, 1)] {
        looks_up(device, shape, has_base, tables).map_err(|e| e.to_string())??;
    }
    // Different rows; no row; and the last row only, which has more than one block of gradients if there are 300.
    let last = TABLE_ROWS as u32 - 1;
    for indices in [indices(rows, TABLE_ROWS, true, 5), vec![NONE; rows], vec![last; rows]] {
        for beta in [Beta::Zero, Beta::One] {
            scatters(device, shape, &indices, beta).map_err(|e| e.to_string())??;
        }
    }
    Ok(())
}

fn gathers(device: &Device, [rows, width]: [usize; 2], element: Element) -> Result<Outcome, Error> {
    let tables: [Vec<f32>; 3] = std::array::from_fn(|i| random_bf16(TABLE_ROWS * width, 10 + i as u64));
    // The third matrix gives no row.
    let first = indices(rows, TABLE_ROWS, true, 1);
    let second: Vec<u32> = first
        .iter()
        .zip(indices(rows, TABLE_ROWS, false, 2))
        .map(|(first, other)| if *first == NONE { other } else { NONE })
        .collect();
    let lists = [first, second, vec![NONE; rows]];
    let upload = |values: &[f32]| device.upload(values, element);
    let buffers = [upload(&tables[0])?, upload(&tables[1])?, upload(&tables[2])?];
    let picks: [Pick; 3] = std::array::from_fn(|i| Pick {
        from: buffers[i].matrix(TABLE_ROWS, width, element),
        rows: &lists[i],
    });
    let mut out = device.empty(rows * width, element)?;
    rows::gather(&device.context, &picks, out.matrix_mut(rows, width, element))?;
    let out = device.read(&out, element)?;
    let mut want = vec![0f32; rows * width];
    for (table, list) in tables.iter().zip(&lists) {
        vlct_kernels::reference::gather(&mut want, table, list, width);
    }
    Ok(device.compare("gathered rows", &out, &want, |_| 0.0))
}

fn looks_up(device: &Device, [rows, width]: [usize; 2], has_base: bool, count: usize) -> Result<Outcome, Error> {
    let base = random(rows * width, 1);
    let tables: Vec<Vec<f32>> = (0..count).map(|i| random(TABLE_ROWS * width, 2 + i as u64)).collect();
    let lists: Vec<Vec<u32>> = (0..count)
        .map(|i| indices(rows, TABLE_ROWS, true, 7 + i as u64))
        .collect();
    let base_device = device.f32(&base)?;
    let buffers = tables
        .iter()
        .map(|table| device.f32(table))
        .collect::<Result<Vec<_>, _>>()?;
    let picks: Vec<Pick> = buffers
        .iter()
        .zip(&lists)
        .map(|(buffer, rows)| Pick {
            from: buffer.matrix(TABLE_ROWS, width, F32),
            rows,
        })
        .collect();
    let base_view = has_base.then(|| base_device.matrix(rows, width, F32));
    let mut out = device.empty(rows * width, F32)?;
    rows::lookup(&device.context, base_view, &picks, out.matrix_mut(rows, width, F32))?;
    let mut want = if has_base { base } else { vec![0.0; rows * width] };
    for (table, list) in tables.iter().zip(&lists) {
        gather::add_rows(table, width, list, &mut want);
    }
    Ok(device.compare("sums of rows", &device.read_f32(&out)?, &want, |_| 0.0))
}

fn scatters(device: &Device, [rows, width]: [usize; 2], indices: &[u32], beta: Beta) -> Result<Outcome, Error> {
    let (d_out, before) = (random(rows * width, 1), random(TABLE_ROWS * width, 2));
    let mut d_table = match beta {
        Beta::Zero => device.empty(before.len(), F32)?,
        Beta::One => device.f32(&before)?,
    };
    let d_out_device = device.f32(&d_out)?;
    rows::scatter_add(
        &device.context,
        d_out_device.matrix(rows, width, F32),
        indices,
        d_table.matrix_mut(TABLE_ROWS, width, F32),
        beta,
    )?;
    let mut want = match beta {
        Beta::Zero => vec![0.0; before.len()],
        Beta::One => before,
    };
    gather::scatter_add(&d_out, width, indices, &mut want);
    // The sums have the order of the CPU.
    Ok(device.compare("gradients of a table", &device.read_f32(&d_table)?, &want, |_| 0.0))
}
