//! Prints the probability that a caption belongs to an image, computed with weights of the base model:
//!
//!     cargo run --release --example match -- vlc_baseset.ckpt dog.jpg "a dog on a surfboard"

use vlct_data::random::{Purpose, stream};
use vlct_data::text::Tokenizer;
use vlct_image::{Transform, TransformKind, decode};
use vlct_model::{Vlc, config::Backbone, files};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, weights, image, caption] = arguments.as_slice() else {
        return Err("usage: match WEIGHTS IMAGE CAPTION".into());
    };
    // The evaluation transform takes a generator but draws nothing from it.
    let mut rng = stream(0, Purpose::Augmentation, 0, 0);
    let backbone = Backbone::from_name("mae_vit_base_patch16").ok_or("unknown backbone")?;
    let model = Vlc::from_weights(backbone, files::read(weights.as_ref())?.state)?;
    let text = Tokenizer::bert_base_uncased().encode(caption, model.config().max_text_len);
    let transform = Transform::new(TransformKind::MaeTest, model.config().image_size)?;
    let pixels = transform.apply(decode(&std::fs::read(image)?)?, &mut rng)?;
    println!("match: {:.1} %", 100.0 * model.match_probability(&text, &pixels));
    Ok(())
}
