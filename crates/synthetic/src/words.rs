//! The attributes of scenes and the words for them.

/// Defines an enumeration with the list of its variants and a word for each.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// All variants.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word in texts.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }
    };
}

named! {
    /// Colours that are distinguishable in images of 64×64 pixels.
    Colour {
        /// Red.
        Red = "red",
        /// Orange.
        Orange = "orange",
        /// Yellow.
        Yellow = "yellow",
        /// Green.
        Green = "green",
        /// Between green and blue.
        Turquoise = "turquoise",
        /// Blue.
        Blue = "blue",
        /// Purple.
        Purple = "purple",
        /// Pink.
        Pink = "pink",
        /// Brown.
        Brown = "brown",
        /// White.
        White = "white",
        /// Grey.
        Gray = "gray",
        /// Black.
        Black = "black",
    }
}

named! {
    /// Outlines that are recognisable at a width of 14 pixels.
    Shape {
        /// A disc.
        Circle = "circle",
        /// A square on its side.
        Square = "square",
        /// A triangle, tip up.
        Triangle = "triangle",
        /// A rhombus, higher than wide.
        Diamond = "diamond",
        /// A five-pointed star.
        Star = "star",
        /// An upright cross with four equal arms.
        Cross = "cross",
        /// A circle with a hole.
        Ring = "ring",
        /// A waxing or waning moon.
        Crescent = "crescent",
        /// A heart.
        Heart = "heart",
    }
}

named! {
    /// How large an object is.
    Size {
        /// About a quarter of the image's side.
        Small = "small",
        /// About two fifths of the image's side.
        Big = "big",
    }
}

named! {
    /// The fill of an area: uniform, or a pattern in a tint of the same colour.
    Pattern {
        /// Uniform.
        Plain = "plain",
        /// With parallel stripes.
        Striped = "striped",
        /// With round dots on a grid.
        Dotted = "dotted",
        /// With the squares of a chess board.
        Checkered = "checkered",
    }
}

named! {
    /// The vertical position of an object.
    Height {
        /// In the upper third.
        Top = "top",
        /// In the middle third.
        Middle = "middle",
        /// In the lower third.
        Bottom = "bottom",
    }
}

named! {
    /// The relation of two kinds of objects. None of them changes when the image is mirrored left to right.
    Relation {
        /// Higher in the image, without common rows.
        Above = "above",
        /// Lower in the image, without common rows.
        Below = "below",
        /// At about the same height, without common columns.
        Beside = "beside",
        /// Covering the middle of the other.
        InFront = "in front of",
        /// Partly covered by the other.
        Behind = "behind",
    }
}

impl Relation {
    /// The inverse relation.
    pub const fn reversed(self) -> Relation {
        match self {
            Relation::Above => Relation::Below,
            Relation::Below => Relation::Above,
            Relation::Beside => Relation::Beside,
            Relation::InFront => Relation::Behind,
            Relation::Behind => Relation::InFront,
        }
    }
}

impl Colour {
    /// Red, green and blue of the colour.
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Colour::Red => [214, 42, 44],
            Colour::Orange => [245, 137, 28],
            Colour::Yellow => [250, 215, 58],
            Colour::Green => [48, 152, 70],
            Colour::Turquoise => [66, 200, 194],
            Colour::Blue => [44, 92, 208],
            Colour::Purple => [128, 62, 168],
            Colour::Pink => [248, 156, 196],
            Colour::Brown => [122, 76, 44],
            Colour::White => [246, 245, 240],
            Colour::Gray => [140, 144, 150],
            Colour::Black => [30, 31, 36],
        }
    }

    /// Brightness from 0 to 255 (ITU-R 601 luma).
    pub fn luma(self) -> f32 {
        let [r, g, b] = self.rgb().map(f32::from);
        0.299 * r + 0.587 * g + 0.114 * b
    }
}

impl Shape {
    /// The plural.
    pub const fn plural(self) -> &'static str {
        match self {
            Shape::Circle => "circles",
            Shape::Square => "squares",
            Shape::Triangle => "triangles",
            Shape::Diamond => "diamonds",
            Shape::Star => "stars",
            Shape::Cross => "crosses",
            Shape::Ring => "rings",
            Shape::Crescent => "crescents",
            Shape::Heart => "hearts",
        }
    }
}

/// Number words from 0; a scene has at most four objects.
pub(super) const COUNTS: [&str; 5] = ["none", "one", "two", "three", "four"];

/// Words of captions, questions and statements that name no attribute of the image.
const FUNCTION_WORDS: &[&str] = &[
    ",",
    "?",
    "a",
    "an",
    "and",
    "are",
    "background",
    "backgrounds",
    "both",
    "color",
    "colors",
    "different",
    "do",
    "does",
    "each",
    "exactly",
    "fades",
    "fading",
    "first",
    "from",
    "front",
    "half",
    "have",
    "how",
    "in",
    "is",
    "many",
    "more",
    "near",
    "neither",
    "object",
    "objects",
    "of",
    "on",
    "or",
    "pattern",
    "picture",
    "pictures",
    "same",
    "second",
    "shape",
    "show",
    "shows",
    "than",
    "the",
    "there",
    "to",
    "together",
    "what",
    "where",
    "with",
];

/// The special tokens at the beginning of the vocabulary.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// The lines of a `vocab.txt` for all synthetic texts: the special tokens, then every word and punctuation mark as one token.
pub fn vocabulary() -> Vec<String> {
    let mut words: Vec<&str> = content_words();
    words.extend(FUNCTION_WORDS);
    words.sort_unstable();
    words.dedup();
    SPECIAL.iter().copied().chain(words).map(str::to_owned).collect()
}

/// The words that name attributes of the image: colours, shapes, sizes, counts, patterns, positions, relations. The rest of the
/// vocabulary is grammar, much of which can be predicted from the text.
pub fn content_words() -> Vec<&'static str> {
    let mut words = Vec::new();
    words.extend(Colour::ALL.iter().map(|c| c.word()));
    words.extend(Shape::ALL.iter().map(|s| s.word()));
    words.extend(Shape::ALL.iter().map(|s| s.plural()));
    words.extend(Size::ALL.iter().map(|s| s.word()));
    words.extend(Pattern::ALL.iter().map(|p| p.word()));
    words.extend(Height::ALL.iter().map(|h| h.word()));
    words.extend(["above", "below", "beside", "behind"]);
    words.extend(&COUNTS[1..]);
    words
}
