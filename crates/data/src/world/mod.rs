//! The generated picture world: scenes of coloured shapes, drawn and described.
//!
//! It stands in for real data where none is at hand: pictures with captions, questions and answers, statements about
//! pairs, and classes, written through the same Arrow writers as the real datasets.
//!
//! * A [`Scene`] is drawn from (seed, number) alone: one to four objects of one to three kinds on a background.
//!   Colours, shapes, sizes, fills, counts and places are independent and uniform, so a word that names one of them
//!   cannot be guessed from its neighbours ([`TextBaseline`] measures how far guessing gets).
//! * [`render`] draws it; [`captions`], [`questions`], [`statements`] and [`class_of`] describe it.
//! * Nothing ever says "left" or "right": training mirrors pictures, which must not make a caption false. For the
//!   same reason slanting stripes are just "striped". "Above", "below", "beside", "in front of" and "behind" survive.
//! * A size is named only where either size would have fitted, a height ("near the top") only where all objects of
//!   the kind lie clearly in one third.

mod render;
mod scene;
mod shapes;
mod words;

pub use render::render;
pub use scene::{Backdrop, Background, Kind, Object, Scene};
pub use words::{Colour, Height, Pattern, Relation, Shape, Size, content_words, vocabulary};

#[cfg(test)]
mod sheet {
    #[test]
    #[ignore = "writes a contact sheet to look at"]
    fn contact_sheet() {
        let (side, columns, rows) = (64u32, 16u32, 12u32);
        let mut sheet = image::RgbImage::new((side + 2) * columns, (side + 2) * rows);
        let start = std::time::Instant::now();
        for i in 0..columns * rows {
            let picture = super::render(&super::Scene::generate(1, u64::from(i)), side);
            let (x, y) = (i % columns * (side + 2), i / columns * (side + 2));
            image::imageops::replace(&mut sheet, &picture, i64::from(x), i64::from(y));
        }
        println!("{:?}", start.elapsed() / (columns * rows));
        sheet.save("/tmp/world.png").unwrap();
    }
}
