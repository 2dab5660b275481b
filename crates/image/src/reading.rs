//! How the pixels of an image file become RGB: what stands behind transparent pixels, and which side is up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ImageError;

/// How the pixels of an image file become RGB. The default is that of the published models: alpha is dropped, and the image is as
/// stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reading {
    /// What stands behind transparent pixels.
    pub background: Background,
    /// Whether the orientation tag is applied.
    pub orientation: Orientation,
}

impl Reading {
    /// The default for custom images: on white, as web pages show them, and upright, as viewers show them.
    pub const CUSTOM: Self = Self {
        background: Background::WHITE,
        orientation: Orientation::Upright,
    };
}

/// What stands behind transparent pixels. As text, and in serialised form: `keep`, `white`, `black` or `#rrggbb`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Background {
    /// Nothing: alpha is dropped, as by Pillow's `convert("RGB")`, and the stored colour of a transparent pixel becomes visible.
    #[default]
    Keep,
    /// This colour (red, green, blue), over which the image is composited as by Pillow's `Image.alpha_composite`.
    Colour([u8; 3]),
}

impl Background {
    /// White.
    pub const WHITE: Self = Self::Colour([255; 3]);
    /// Black.
    pub const BLACK: Self = Self::Colour([0; 3]);
}

/// Whether the orientation tag (EXIF), by which a camera says how it was held, is applied. As text, and in serialised form:
/// `as_stored` or `upright`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Orientation {
    /// The tag is ignored, as by the original and by Pillow's `Image.open`. That of TIFF files is applied, as by Pillow.
    #[default]
    AsStored,
    /// The image is turned and mirrored as its tag says. An image without a readable tag is as stored.
    Upright,
}

impl fmt::Display for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            &Self::WHITE => f.write_str("white"),
            &Self::BLACK => f.write_str("black"),
            Self::Colour([red, green, blue]) => write!(f, "#{red:02x}{green:02x}{blue:02x}"),
        }
    }
}

impl FromStr for Background {
    type Err = ImageError;

    /// # Errors
    /// Returns [`ImageError::UnknownBackground`] if `text` is none of the forms.
    fn from_str(text: &str) -> Result<Self, ImageError> {
        let unknown = || ImageError::UnknownBackground(text.to_string());
        match text {
            "keep" => return Ok(Self::Keep),
            "white" => return Ok(Self::WHITE),
            "black" => return Ok(Self::BLACK),
            _ => {}
        }
        let digits = text.strip_prefix('#').ok_or_else(unknown)?;
        if digits.len() != 6 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let colour = u32::from_str_radix(digits, 16).map_err(|_| unknown())?;
        let [_, red, green, blue] = colour.to_be_bytes();
        Ok(Self::Colour([red, green, blue]))
    }
}

impl fmt::Display for Orientation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsStored => "as_stored",
            Self::Upright => "upright",
        })
    }
}

impl FromStr for Orientation {
    type Err = ImageError;

    /// # Errors
    /// Returns [`ImageError::UnknownOrientation`] if `text` is none of the forms.
    fn from_str(text: &str) -> Result<Self, ImageError> {
        match text {
            "as_stored" => Ok(Self::AsStored),
            "upright" => Ok(Self::Upright),
            _ => Err(ImageError::UnknownOrientation(text.to_string())),
        }
    }
}

/// Implements the conversions of the serialised form by `Display` and `FromStr`.
macro_rules! serialise_as_text {
    ($($type:ty),*) => {$(
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }

        impl TryFrom<String> for $type {
            type Error = ImageError;

            fn try_from(text: String) -> Result<Self, ImageError> {
                text.parse()
            }
        }
    )*};
}

serialise_as_text!(Background, Orientation);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backgrounds_have_a_text_form() {
        for (text, background) in [
            ("keep", Background::Keep),
            ("white", Background::WHITE),
            ("black", Background::BLACK),
            ("#01af7c", Background::Colour([1, 0xaf, 0x7c])),
        ] {
            assert_eq!(text.parse::<Background>().unwrap(), background);
            assert_eq!(background.to_string(), text);
        }
        assert_eq!("#FFffFF".parse::<Background>().unwrap(), Background::WHITE);
        for text in [
            "", "#", "#fff", "#12345g", "#+12345", "#1234567", "red", "White", "123456", "#é1234",
        ] {
            let message = text.parse::<Background>().unwrap_err().to_string();
            assert!(message.contains("#rrggbb"), "{message}");
        }
    }

    #[test]
    fn serialised_readings_are_texts_and_absent_parts_are_the_default() {
        let reading = Reading {
            background: Background::WHITE,
            orientation: Orientation::Upright,
        };
        let text = serde_json::to_string(&reading).unwrap();
        assert_eq!(text, r#"{"background":"white","orientation":"upright"}"#);
        assert_eq!(serde_json::from_str::<Reading>(&text).unwrap(), reading);
        assert_eq!(serde_json::from_str::<Reading>("{}").unwrap(), Reading::default());
        assert!(serde_json::from_str::<Reading>(r#"{"background":"red"}"#).is_err());
        assert!(serde_json::from_str::<Reading>(r#"{"orientation":"up"}"#).is_err());
    }
}
