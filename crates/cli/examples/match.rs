//! Prints the probability that a caption belongs to an image, computed with any weights that have a matching head:
//!
//!     cargo run --release --example match -- vlc_baseset.ckpt dog.jpg "a dog on a surfboard"

use vlct_predict::matching::Matching;
use vlct_predict::{Item, OpenOptions, Predictor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, weights, image, caption] = arguments.as_slice() else {
        return Err("usage: match WEIGHTS IMAGE CAPTION".into());
    };
    let predictor = Predictor::open(weights.as_ref(), &[Matching::HEAD], &OpenOptions::default())?;
    let item = Item {
        image: Some(predictor.preparation().image(image.as_ref())?.values),
        text: predictor.preparation().text(caption)?,
    };
    let logits = Matching::new(&predictor)?.logits(&[item]);
    println!("match: {:.1} %", 100.0 * Matching::probability(logits[0]));
    Ok(())
}
