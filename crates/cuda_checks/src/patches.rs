//! Patches of images.

use crate::device::random;
use crate::{Device, Outcome};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::patches::{Images, Order, Planes};
use vlct_kernels::reference;

/// Patches of images in both orders of their values.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn both_orders(device: &Device) -> Outcome {
    device.in_all_schedules(|device| {
        for side in [1, 2, 4, 7, 13, 16] {
            for order in [Order::ChannelFirst, Order::ChannelLast] {
                check(device, side, order)
                    .map_err(|e| e.to_string())
                    .flatten()
                    .map_err(|e| format!("side {side}, {order:?}: {e}"))?;
            }
        }
        Ok(())
    })
}

fn check(device: &Device, side: usize, order: Order) -> Result<Outcome, Error> {
    // Sizes that are no multiples of the side, and an image without patches.
    let sizes = [
        [2 * side, 3 * side],
        [3 * side + side / 2, 2 * side + 1],
        [side - 1, side],
    ];
    let values: Vec<Vec<f32>> = (0..3)
        .map(|i| random(3 * sizes[i][0] * sizes[i][1], 1 + i as u64))
        .collect();
    let planes: Vec<Planes> = (0..3)
        .map(|i| Planes::new(&values[i], sizes[i][0], sizes[i][1]))
        .collect();
    let images = Images::upload(&device.context, &planes)?;
    // Patches of the last row and column, twice the same image, no patches, and repeated patches.
    let lists: [&[(usize, &[u32])]; 4] = [
        &[(0, &[0, 1, 2, 3, 4, 5]), (1, &[5, 0])],
        &[(1, &[3]), (0, &[5, 5]), (2, &[]), (1, &[1])],
        &[(2, &[]), (0, &[])],
        &[],
    ];
    let width = 3 * side * side;
    let mut outcome = Ok(());
    for picks in lists {
        let count = picks.iter().map(|(_, patches)| patches.len()).sum();
        let mut out = device.empty(count * width, F32)?;
        images.extract(&device.context, picks, side, order, out.matrix_mut(count, width, F32))?;
        let mut want = Vec::new();
        for (image, patches) in picks {
            let mut rows = vec![0f32; patches.len() * width];
            reference::patches(&mut rows, planes[*image], side, patches, order);
            want.extend(rows);
        }
        outcome = outcome.and(device.compare("patches", &device.read_f32(&out)?, &want, |_| 0.0));
    }
    Ok(outcome)
}
