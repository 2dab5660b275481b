//! Patches of images.

use crate::support::{Device, compare, expect_error, expect_fault, random};
use crate::{Outcome, Test};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::driver::emulator::{Schedule, Source};
use vlct_cuda::patches::{Images, Order, Planes};
use vlct_kernels::reference;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("patches::finds_{name}"), move || {
            let source = Source::kernel_file("patches.cu").map_err(|e| e.to_string())?;
            expect_fault(check_all(&Device::with_sources(&[source.with_fault(from, to)])?))
        })
    };
    vec![
        Test::new("patches::both_orders", || check_all(&Device::new()?)),
        Test::new("patches::names_wrong_patches", names_wrong_patches),
        fault(
            "a_wrong_channel",
            "b = load4(from + 2ll * patch.channel",
            "b = load4(from + patch.channel",
        ),
        fault(
            "a_wrong_order",
            "make_float4(r.x, g.x, b.x, r.y)",
            "make_float4(r.x, r.y, g.x, b.x)",
        ),
        fault("a_write_behind_the_row", "store4(out, left, r);", "store4(out, 4, r);"),
        fault("a_wrong_width", "(long long)y * patch.row", "(long long)y * side"),
        fault("a_lost_pixel", "left = side - x;", "left = min(side - x, 3);"),
        fault(
            "a_missing_thread",
            "if (i >= threads) return;",
            "if (i + 1 >= threads) return;",
        ),
    ]
}

fn check_all(device: &Device) -> Outcome {
    for schedule in Schedule::ALL {
        device.emulator.set_schedule(schedule);
        for side in [1, 2, 4, 7, 13, 16] {
            for order in [Order::ChannelFirst, Order::ChannelLast] {
                check(device, side, order)
                    .map_err(|e| e.to_string())
                    .flatten()
                    .map_err(|e| format!("{schedule:?}, side {side}, {order:?}: {e}"))?;
            }
        }
    }
    Ok(())
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
        outcome = outcome.and(compare("patches", &device.read_f32(&out)?, &want, |_| 0.0));
    }
    Ok(outcome)
}

fn names_wrong_patches() -> Outcome {
    let device = Device::new()?;
    let run = |image: usize, patch: u32, side: usize| {
        let images = Images::upload(&device.context, &[Planes::new(&[0.0; 36], 3, 4)])?;
        let mut out = device.empty(3 * side * side, F32)?;
        let out = out.matrix_mut(1, 3 * side * side, F32);
        images.extract(&device.context, &[(image, &[patch])], side, Order::ChannelFirst, out)
    };
    let expect = |image, patch, side, text| {
        expect_error(
            run(image, patch, side).map_err(|e| e.to_string()),
            &["extraction of patches", text],
        )
    };
    expect(1, 0, 2, "there is no image 1 of 1")?;
    expect(0, 2, 2, "there is no patch 2 in an image of 3×4 pixels")?;
    expect(0, 0, 5, "there is no patch 0")?;
    expect(0, 0, 0, "patches cannot have 0×0 pixels")?;
    let short = Planes {
        values: &[0.0; 3],
        height: 1,
        width: 2,
    };
    let upload = Images::upload(&device.context, &[short]).map(|_| ());
    expect_error(upload.map_err(|e| e.to_string()), &["1×2 pixels has 3 values"])?;
    run(0, 1, 2).map_err(|e| e.to_string())
}
