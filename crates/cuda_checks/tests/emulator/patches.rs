//! Patches of images.

use crate::support::{Device, expect_error, planted_fault};
use crate::{Outcome, Test};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::patches::{Images, Order, Planes};
use vlct_cuda_checks::patches::both_orders;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from, to| {
        planted_fault(
            format!("patches::finds_{name}"),
            ["patches.cu", from, to],
            &[],
            both_orders,
        )
    };
    vec![
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
