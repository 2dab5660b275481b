//! The operations of the policies: what a level means for each of them, and how they are applied.

use image::RgbImage;

use crate::augment::bicubic::{Affine, shear_x_map, shear_y_map, transform_bicubic, translation_map};
use crate::augment::geometry::rotation_map;
use crate::augment::{
    add_to_dark, auto_contrast, brightness, color, contrast, equalize, invert, posterize, sharpness, solarize,
};
use crate::normalise::Normalisation;

/// The highest level of an operation.
pub(super) const MAX_LEVEL: f64 = 10.0;

/// An operation of a [`Policy`](super::Policy). `Increasing` variants change the image more as the level increases; the plain variants
/// of posterize and solarize change it less, and those of the enhancers weaken below level 5 and strengthen above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(
    missing_docs,
    reason = "the names are those of timm; `amount` has the meaning of their values"
)]
pub enum PolicyOperation {
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    PosterizeIncreasing,
    PosterizeOriginal,
    Solarize,
    SolarizeIncreasing,
    SolarizeAdd,
    Color,
    ColorIncreasing,
    Contrast,
    ContrastIncreasing,
    Brightness,
    BrightnessIncreasing,
    Sharpness,
    SharpnessIncreasing,
    ShearX,
    ShearY,
    TranslateXRel,
    TranslateYRel,
}

use PolicyOperation::*;

impl PolicyOperation {
    /// Returns the value at a level of 0..=10, with the random sign: degrees (rotation), bits kept (posterize), threshold
    /// (solarize), amount added (solarize-add), factor (enhancers, shears), fraction of the side (translations); 0 if the operation has
    /// no value.
    pub fn value(self, level: f64, negative: bool) -> f64 {
        let part = level / MAX_LEVEL;
        let signed = |value: f64| if negative { -value } else { value };
        match self {
            AutoContrast | Equalize | Invert => 0.0,
            Rotate => signed(part * 30.0),
            Posterize => (part * 4.0).trunc(),
            PosterizeIncreasing => 4.0 - (part * 4.0).trunc(),
            PosterizeOriginal => (part * 4.0).trunc() + 4.0,
            Solarize => (part * 256.0).trunc(),
            SolarizeIncreasing => 256.0 - (part * 256.0).trunc(),
            SolarizeAdd => (part * 110.0).trunc(),
            Color | Contrast | Brightness | Sharpness => part * 1.8 + 0.1,
            ColorIncreasing | ContrastIncreasing | BrightnessIncreasing | SharpnessIncreasing => {
                1.0 + signed(part * 0.9)
            }
            ShearX | ShearY => signed(part * 0.3),
            TranslateXRel | TranslateYRel => signed(part * 0.45),
        }
    }

    /// Returns whether [`Self::value`] has a random sign.
    pub fn is_signed(self) -> bool {
        self.value(MAX_LEVEL, true) != self.value(MAX_LEVEL, false)
    }

    /// Applies the operation with a value, in place. Pixels without a source get ImageNet's mean colour.
    pub fn apply(self, image: &mut RgbImage, value: f64) {
        match self {
            AutoContrast => auto_contrast(image),
            Equalize => equalize(image),
            Invert => invert(image),
            Posterize | PosterizeIncreasing | PosterizeOriginal => posterize(image, value as u32),
            Solarize | SolarizeIncreasing => solarize(image, value),
            SolarizeAdd => add_to_dark(image, value as u8),
            Color | ColorIncreasing => color(image, value),
            Contrast | ContrastIncreasing => contrast(image, value),
            Brightness | BrightnessIncreasing => brightness(image, value),
            Sharpness | SharpnessIncreasing => sharpness(image, value),
            Rotate => transform(image, &rotation_map(value, image.dimensions())),
            ShearX => transform(image, &shear_x_map(value)),
            ShearY => transform(image, &shear_y_map(value)),
            TranslateXRel => transform(image, &translation_map(value * f64::from(image.width()), 0.0)),
            TranslateYRel => transform(image, &translation_map(0.0, value * f64::from(image.height()))),
        }
    }
}

fn transform(image: &mut RgbImage, map: &Affine) {
    let fill = Normalisation::IMAGENET
        .mean
        .map(|mean| (255.0 * mean).round_ties_even() as u8);
    transform_bicubic(image, map, fill);
}

/// The operations of `rand`, in timm's order.
pub(super) const RAND: [PolicyOperation; 15] = [
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    Solarize,
    SolarizeAdd,
    Color,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateXRel,
    TranslateYRel,
];

/// The operations of `rand` with `inc`.
pub(super) const RAND_INCREASING: [PolicyOperation; 15] = [
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    PosterizeIncreasing,
    SolarizeIncreasing,
    SolarizeAdd,
    ColorIncreasing,
    ContrastIncreasing,
    BrightnessIncreasing,
    SharpnessIncreasing,
    ShearX,
    ShearY,
    TranslateXRel,
    TranslateYRel,
];

/// The weights of the operations of `rand` with `w0`.
pub(super) const WEIGHTS: [f64; 15] = [
    0.025, 0.005, 0.0, 0.3, 0.0, 0.005, 0.005, 0.025, 0.005, 0.005, 0.025, 0.2, 0.2, 0.1, 0.1,
];

/// A sub-policy of a searched policy: two operations, each with its probability and level.
pub(super) type Pair = [(PolicyOperation, f64, u32); 2];

/// The ImageNet policy of AutoAugment (arXiv 1805.09501), with `posterize` as its variant of this operation.
pub(super) fn original(posterize: PolicyOperation) -> [Pair; 25] {
    let p = posterize;
    [
        [(p, 0.4, 8), (Rotate, 0.6, 9)],
        [(Solarize, 0.6, 5), (AutoContrast, 0.6, 5)],
        [(Equalize, 0.8, 8), (Equalize, 0.6, 3)],
        [(p, 0.6, 7), (p, 0.6, 6)],
        [(Equalize, 0.4, 7), (Solarize, 0.2, 4)],
        [(Equalize, 0.4, 4), (Rotate, 0.8, 8)],
        [(Solarize, 0.6, 3), (Equalize, 0.6, 7)],
        [(p, 0.8, 5), (Equalize, 1.0, 2)],
        [(Rotate, 0.2, 3), (Solarize, 0.6, 8)],
        [(Equalize, 0.6, 8), (p, 0.4, 6)],
        [(Rotate, 0.8, 8), (Color, 0.4, 0)],
        [(Rotate, 0.4, 9), (Equalize, 0.6, 2)],
        [(Equalize, 0.0, 7), (Equalize, 0.8, 8)],
        [(Invert, 0.6, 4), (Equalize, 1.0, 8)],
        [(Color, 0.6, 4), (Contrast, 1.0, 8)],
        [(Rotate, 0.8, 8), (Color, 1.0, 2)],
        [(Color, 0.8, 8), (Solarize, 0.8, 7)],
        [(Sharpness, 0.4, 7), (Invert, 0.6, 8)],
        [(ShearX, 0.6, 5), (Equalize, 1.0, 9)],
        [(Color, 0.4, 0), (Equalize, 0.6, 3)],
        [(Equalize, 0.4, 7), (Solarize, 0.2, 4)],
        [(Solarize, 0.6, 5), (AutoContrast, 0.6, 5)],
        [(Invert, 0.6, 4), (Equalize, 1.0, 8)],
        [(Color, 0.6, 4), (Contrast, 1.0, 8)],
        [(Equalize, 0.8, 8), (Equalize, 0.6, 3)],
    ]
}

/// The ImageNet policy of EfficientNet's implementation for TPUs, with `posterize` as its variant of this operation.
pub(super) fn v0(posterize: PolicyOperation) -> [Pair; 25] {
    let p = posterize;
    [
        [(Equalize, 0.8, 1), (ShearY, 0.8, 4)],
        [(Color, 0.4, 9), (Equalize, 0.6, 3)],
        [(Color, 0.4, 1), (Rotate, 0.6, 8)],
        [(Solarize, 0.8, 3), (Equalize, 0.4, 7)],
        [(Solarize, 0.4, 2), (Solarize, 0.6, 2)],
        [(Color, 0.2, 0), (Equalize, 0.8, 8)],
        [(Equalize, 0.4, 8), (SolarizeAdd, 0.8, 3)],
        [(ShearX, 0.2, 9), (Rotate, 0.6, 8)],
        [(Color, 0.6, 1), (Equalize, 1.0, 2)],
        [(Invert, 0.4, 9), (Rotate, 0.6, 0)],
        [(Equalize, 1.0, 9), (ShearY, 0.6, 3)],
        [(Color, 0.4, 7), (Equalize, 0.6, 0)],
        [(p, 0.4, 6), (AutoContrast, 0.4, 7)],
        [(Solarize, 0.6, 8), (Color, 0.6, 9)],
        [(Solarize, 0.2, 4), (Rotate, 0.8, 9)],
        [(Rotate, 1.0, 7), (TranslateYRel, 0.8, 9)],
        [(ShearX, 0.0, 0), (Solarize, 0.8, 4)],
        [(ShearY, 0.8, 0), (Color, 0.6, 4)],
        [(Color, 1.0, 0), (Rotate, 0.6, 2)],
        [(Equalize, 0.8, 4), (Equalize, 0.0, 8)],
        [(Equalize, 1.0, 4), (AutoContrast, 0.6, 2)],
        [(ShearY, 0.4, 7), (SolarizeAdd, 0.6, 7)],
        [(p, 0.8, 2), (Solarize, 0.6, 10)],
        [(Solarize, 0.6, 8), (Equalize, 0.6, 1)],
        [(Color, 0.8, 6), (Rotate, 0.4, 5)],
    ]
}
