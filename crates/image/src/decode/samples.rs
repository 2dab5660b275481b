//! Decoded samples before they become RGB.

use image::ColorType;

/// Decoded samples of an image, interleaved, 16-bit ones in native byte order.
pub(super) struct Samples {
    pub(super) values: Vec<u8>,
    pub(super) layout: ColorType,
    pub(super) width: u32,
    pub(super) height: u32,
}

impl Samples {
    /// Removes the opacities from 8-bit pixels.
    pub(super) fn drop_alpha(&mut self) {
        if self.layout == ColorType::Rgba8 {
            self.values = self
                .values
                .as_chunks::<4>()
                .0
                .iter()
                .flat_map(|p| [p[0], p[1], p[2]])
                .collect();
            self.layout = ColorType::Rgb8;
        }
    }

    /// Places an 8-bit image on a canvas that is black and, if the canvas has opacities, transparent.
    pub(super) fn on_canvas(self, (left, top): (u32, u32), (width, height): (u32, u32), has_alpha: bool) -> Self {
        let from = usize::from(self.layout.channel_count());
        let to = if has_alpha { 4 } else { 3 };
        let mut values = vec![0; width as usize * height as usize * to];
        for (y, row) in self.values.chunks_exact(from * self.width as usize).enumerate() {
            let start = ((top as usize + y) * width as usize + left as usize) * to;
            let targets = values[start..start + to * self.width as usize].chunks_exact_mut(to);
            for (target, pixel) in targets.zip(row.chunks_exact(from)) {
                target.fill(255);
                target[..from.min(to)].copy_from_slice(&pixel[..from.min(to)]);
            }
        }
        Self {
            values,
            layout: if has_alpha { ColorType::Rgba8 } else { ColorType::Rgb8 },
            width,
            height,
        }
    }
}

/// A palette of 256 colours.
pub(super) struct Palette([[u8; 3]; 256]);

impl Palette {
    /// Returns the palette of greys.
    pub(super) fn grey() -> Self {
        Self(std::array::from_fn(|i| [i as u8; 3]))
    }

    /// Returns a colour.
    pub(super) fn get(&self, index: u8) -> [u8; 3] {
        self.0[usize::from(index)]
    }

    /// Returns whether this is the palette of greys.
    pub(super) fn is_grey(&self) -> bool {
        self.0.iter().enumerate().all(|(i, colour)| *colour == [i as u8; 3])
    }

    /// Returns a palette of `colours`, of which those after the 256th are ignored. As for Pillow, indices without a colour are black,
    /// except that a palette of greys in order continues with greys.
    pub(super) fn of(colours: impl Iterator<Item = [u8; 3]> + Clone) -> Self {
        if colours.clone().enumerate().all(|(i, colour)| colour == [i as u8; 3]) {
            return Self::grey();
        }
        let mut palette = [[0; 3]; 256];
        for (entry, colour) in palette.iter_mut().zip(colours) {
            *entry = colour;
        }
        Self(palette)
    }

    /// Replaces indices by colours. Pixels of the index `transparent` have no opacity.
    pub(super) fn expand(&self, indices: &[u8], transparent: Option<u8>, width: u32, height: u32) -> Samples {
        let is_transparent = transparent.is_some_and(|transparent| indices.contains(&transparent));
        let (values, layout) = if is_transparent {
            let pixels = indices.iter().flat_map(|&index| {
                let [red, green, blue] = self.get(index);
                [red, green, blue, if Some(index) == transparent { 0 } else { 255 }]
            });
            (pixels.collect(), ColorType::Rgba8)
        } else {
            (
                indices.iter().flat_map(|&index| self.get(index)).collect(),
                ColorType::Rgb8,
            )
        };
        Samples {
            values,
            layout,
            width,
            height,
        }
    }
}
