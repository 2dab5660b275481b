//! The numbers of images by their class and their predicted class.

use std::collections::BTreeMap;
use std::io;

use crate::rows::{Row, Rows};

/// A confusion matrix. Only the pairs of classes that occur take memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    names: Vec<String>,
    /// Number of images by class and predicted class.
    counts: BTreeMap<(u32, u32), u64>,
}

/// The images of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassResult {
    /// Id of the class.
    pub class: u32,
    /// Number of images of the class.
    pub images: u64,
    /// Number of these whose class was predicted.
    pub correct: u64,
}

impl ClassResult {
    /// Returns the part of the images whose class was predicted.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.images as f64
    }
}

/// Images of one class for which another one was predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Id of the class.
    pub class: u32,
    /// Id of the predicted class.
    pub predicted: u32,
    /// Number of images.
    pub images: u64,
}

impl Confusion {
    /// Makes a matrix of pairs of a class and a predicted class. `names` are the names of the classes by id.
    pub fn new(names: Vec<String>, pairs: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut counts = BTreeMap::new();
        for pair in pairs {
            *counts.entry(pair).or_default() += 1;
        }
        Self { names, counts }
    }

    /// Makes the matrix of the predictions in `rows`. Images that could not be read are not counted.
    pub fn of_rows(names: &[String], rows: &Rows) -> Self {
        let pairs = rows.values().filter_map(|row| match row {
            Row::Class { class, top } => Some((*class, top.first()?.0)),
            _ => None,
        });
        Self::new(names.to_vec(), pairs)
    }

    /// Returns the names of the classes, by id.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the name of a class.
    ///
    /// # Panics
    /// Panics if there is no such class.
    pub fn name(&self, class: u32) -> &str {
        &self.names[class as usize]
    }

    /// Returns the number of images of `class` for which `predicted` was predicted.
    pub fn images(&self, class: u32, predicted: u32) -> u64 {
        self.counts.get(&(class, predicted)).copied().unwrap_or(0)
    }

    /// Returns the result of each class that has images, in the order of their ids.
    pub fn classes(&self) -> Vec<ClassResult> {
        let mut results: Vec<ClassResult> = Vec::new();
        for ((class, predicted), images) in &self.counts {
            let correct = if class == predicted { *images } else { 0 };
            match results.last_mut().filter(|last| last.class == *class) {
                Some(last) => {
                    last.images += images;
                    last.correct += correct;
                }
                None => results.push(ClassResult {
                    class: *class,
                    images: *images,
                    correct,
                }),
            }
        }
        results
    }

    /// Returns the result of each class that has images, the lowest accuracy first.
    pub fn worst_classes(&self) -> Vec<ClassResult> {
        let mut classes = self.classes();
        classes.sort_by(|a, b| a.accuracy().total_cmp(&b.accuracy()));
        classes
    }

    /// Returns the pairs of different classes that occur, the most frequent first.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let wrong = self.counts.iter().filter(|((class, predicted), _)| class != predicted);
        let mut mistakes: Vec<Mistake> = wrong
            .map(|((class, predicted), images)| Mistake {
                class: *class,
                predicted: *predicted,
                images: *images,
            })
            .collect();
        mistakes.sort_by_key(|mistake| std::cmp::Reverse(mistake.images));
        mistakes
    }

    /// Writes the matrix as CSV: a row for each class and a column for each predicted class, with the names in the first column and row.
    pub(crate) fn write(&self, out: &mut impl io::Write) -> io::Result<()> {
        let mut out = csv::Writer::from_writer(out);
        out.write_record(std::iter::once("class").chain(self.names.iter().map(String::as_str)))?;
        let ids = || 0..self.names.len() as u32;
        for class in ids() {
            out.write_field(self.name(class))?;
            for predicted in ids() {
                match self.images(class, predicted) {
                    0 => out.write_field("0")?,
                    images => out.write_field(images.to_string())?,
                }
            }
            out.write_record(None::<&[u8]>)?;
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confusion() -> Confusion {
        let names = ["a, b", "say \"x\"", "line\nbreak", "without images"].map(String::from);
        let pairs = [(0, 0), (0, 1), (0, 1), (1, 1), (2, 0), (2, 2)];
        Confusion::new(names.to_vec(), pairs)
    }

    #[test]
    fn the_worst_classes_and_the_most_frequent_mistakes_are_first() {
        let worst = confusion().worst_classes();
        let classes: Vec<(u32, u64, u64)> = worst.iter().map(|c| (c.class, c.correct, c.images)).collect();
        assert_eq!(classes, [(0, 1, 3), (2, 1, 2), (1, 1, 1)]);
        let mistakes = confusion().mistakes();
        let pairs: Vec<(u32, u32, u64)> = mistakes.iter().map(|m| (m.class, m.predicted, m.images)).collect();
        assert_eq!(pairs, [(0, 1, 2), (2, 0, 1)]);
    }

    #[test]
    fn names_are_quoted_in_the_matrix() {
        let mut written = Vec::new();
        confusion().write(&mut written).unwrap();
        assert_eq!(
            String::from_utf8(written).unwrap(),
            "class,\"a, b\",\"say \"\"x\"\"\",\"line\nbreak\",without images\n\
             \"a, b\",1,2,0,0\n\
             \"say \"\"x\"\"\",0,1,0,0\n\
             \"line\nbreak\",1,0,1,0\n\
             without images,0,0,0,0\n"
        );
    }
}
