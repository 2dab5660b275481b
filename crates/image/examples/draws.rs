//! Prints random decisions of the transforms of classifiers as CSV, to compare their distributions with those of other
//! implementations.
//!
//! ```text
//! cargo run -p vlct-image --example draws -- 10000 0 > draws.csv      # number of draws, seed
//! ```
//!
//! Each line is the name of a decision and its result. The seed is 0 by default. Crops are those of an image of 500 × 375 pixels, erased
//! boxes those of 224 × 224.

use std::io::{self, BufWriter, Write};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vlct_image::augment::{Drawn, Erasing, ErasingMode, Jitter, Policy};
use vlct_image::transform::{random_area_crop, random_resized_crop};
use vlct_image::{CropBox, RgbImage, Transform, TransformSpec};

/// Size of the images that are cropped.
const WIDTH: u32 = 500;
const HEIGHT: u32 = 375;
/// Side of the images that are erased.
const SIZE: u32 = 224;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let count: u32 = std::env::args().nth(1).map_or(Ok(10_000), |text| text.parse())?;
    let mut out = BufWriter::new(io::stdout().lock());
    let seed = std::env::args().nth(2).map_or(Ok(0), |text| text.parse())?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    writeln!(out, "decision,result")?;
    for _ in 0..count {
        print_box(&mut out, "crop", random_resized_crop(WIDTH, HEIGHT, 0.08, &mut rng))?;
        print_box(&mut out, "area_crop", random_area_crop(WIDTH, HEIGHT, &mut rng))?;
    }
    for (text, images) in [
        // Each of 15 operations is applied to one image of 15.
        ("rand-m9-mstd0.5-inc1", 15 * count),
        ("rand-m5-n3-mstd2", count),
        ("rand-w0", count),
        ("original", count),
        ("v0r-mstd0.5", count),
    ] {
        let policy: Policy = text.parse()?;
        for _ in 0..images {
            let drawn = policy.draw(&mut rng);
            writeln!(out, "{text} count,{}", drawn.len())?;
            for Drawn { operation, value } in drawn {
                writeln!(out, "{text} operation,{operation:?}")?;
                writeln!(out, "{text} {operation:?},{value}")?;
            }
        }
    }
    for (name, probability, boxes) in [("erasing", 0.25, 1), ("erasing always", 1.0, 1), ("erasing 3", 0.25, 3)] {
        let erasing = Erasing::new(probability, ErasingMode::Pixel, boxes)?;
        for _ in 0..count {
            let drawn = erasing.draw(SIZE, SIZE, &mut rng);
            writeln!(out, "{name} count,{}", drawn.len())?;
            // The boxes of several may overlap, so only single ones can be measured elsewhere.
            if let &[area] = drawn.as_slice() {
                print_box(&mut out, name, area)?;
            }
        }
    }
    let mut values = vec![0.0; 3 * (SIZE * SIZE) as usize];
    let erasing = Erasing::new(1.0, ErasingMode::Pixel, 1)?;
    let mut noise = 0;
    while noise < count {
        values.fill(0.0);
        erasing.erase(&mut values, SIZE, &mut rng);
        for value in values
            .iter()
            .filter(|value| **value != 0.0)
            .take((count - noise) as usize)
        {
            noise += 1;
            writeln!(out, "noise,{value}")?;
        }
    }
    let jitter = Jitter::new(0.4)?;
    for _ in 0..count {
        let drawn = jitter.draw(&mut rng);
        let order: Vec<String> = drawn.iter().map(|drawn| format!("{:?}", drawn.operation)).collect();
        writeln!(out, "jitter order,{}", order.join(" "))?;
        for Drawn { operation, value } in drawn {
            writeln!(out, "jitter {operation:?},{value}")?;
        }
    }
    // An image that is darkest on the left shows which results were mirrored.
    let ramp = RgbImage::from_fn(64, 64, |x, _| vlct_image::Rgb([4 * x as u8; 3]));
    let plain = TransformSpec::ClassificationTrain(Box::default());
    for (name, spec) in [("flip", plain), ("probe flip", TransformSpec::LinearProbeTrain)] {
        let transform = Transform::from_spec(&spec, 8)?;
        for _ in 0..count {
            let values = transform.apply(ramp.clone(), &mut rng)?;
            writeln!(out, "{name},{}", values[0] > values[7])?;
        }
    }
    Ok(())
}

/// Prints area, logarithm of the aspect ratio (width / height) and position of a box.
fn print_box(out: &mut impl Write, name: &str, area: CropBox) -> io::Result<()> {
    let [left, top, width, height] = [area.left, area.top, area.width, area.height].map(f64::from);
    writeln!(out, "{name} area,{}", width * height)?;
    writeln!(out, "{name} aspect,{}", (width / height).ln())?;
    writeln!(out, "{name} left,{left}")?;
    writeln!(out, "{name} top,{top}")
}
