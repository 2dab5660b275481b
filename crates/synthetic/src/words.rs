//! The attributes of scenes and the words for them.

/// Defines an enum with the list of its variants and a word for each variant.
macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// All variants.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// Returns the word for the variant in texts.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }
    };
}

word_enum! {
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

word_enum! {
    /// Outlines that are recognisable at a width of 14 pixels.
    Shape {
        /// A disc.
        Circle = "circle",
        /// A square with horizontal and vertical sides.
        Square = "square",
        /// A triangle with its tip at the top.
        Triangle = "triangle",
        /// A rhombus that is higher than wide.
        Diamond = "diamond",
        /// A five-pointed star.
        Star = "star",
        /// An upright cross with four equal arms.
        Cross = "cross",
        /// A circle with a hole.
        Ring = "ring",
        /// A crescent that is open to the right.
        Crescent = "crescent",
        /// A heart.
        Heart = "heart",
    }
}

word_enum! {
    /// The width of an object.
    Size {
        /// About a quarter of the image's side.
        Small = "small",
        /// About two fifths of the image's side; more than half for an object behind another.
        Big = "big",
    }
}

word_enum! {
    /// The fill of an object or a background: uniform, or a pattern in a tint of the same colour.
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

word_enum! {
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

word_enum! {
    /// The relation of a kind of objects to another kind. Mirroring the image does not change it.
    Relation {
        /// Higher in the image, without a common row of pixels.
        Above = "above",
        /// Lower in the image, without a common row of pixels.
        Below = "below",
        /// At about the same height, without a common column of pixels.
        Beside = "beside",
        /// In front of the middle of the other kind.
        InFront = "in front of",
        /// Partly covered by the other kind.
        Behind = "behind",
    }
}

impl Relation {
    /// Returns the inverse relation.
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
    /// Returns red, green and blue.
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

    /// Returns the brightness from 0 to 255 (ITU-R 601 luma).
    pub fn luma(self) -> f32 {
        let [r, g, b] = self.rgb().map(f32::from);
        0.299 * r + 0.587 * g + 0.114 * b
    }
}

impl Shape {
    /// Returns the plural of the word.
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

/// Words and punctuation marks of the texts other than [`content_words`].
const OTHER_WORDS: &[&str] = &[
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

/// Special tokens at the beginning of the vocabulary.
const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Returns the lines of `vocab.txt` for all synthetic texts: the special tokens, then every word and punctuation mark as one token.
pub fn vocabulary() -> Vec<String> {
    let mut words: Vec<&str> = content_words();
    words.extend(OTHER_WORDS);
    words.sort_unstable();
    words.dedup();
    SPECIAL_TOKENS.iter().copied().chain(words).map(str::to_owned).collect()
}

/// Returns the words for colours, shapes, sizes, patterns, heights and counts, and the relations that are one word. Most of the
/// words that are not in this list can be predicted from the text.
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
