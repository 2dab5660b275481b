//! timm's language of augmentation policies, as of timm 0.3.2: `rand-m9-mstd0.5-inc1` and its relatives, and the AutoAugment policies
//! `original`, `originalr`, `v0` and `v0r`.
//!
//! | part | meaning | default |
//! | --- | --- | --- |
//! | `rand` | RandAugment: operations drawn uniformly with replacement, each applied with probability 1/2 | |
//! | `m9` | level, 0 to 10 (higher numbers count as 10) | 10 |
//! | `n2` | operations drawn per image | 2 |
//! | `mstd0.5` | standard deviation of the level, which is normal and clipped to 0..=10 | 0 |
//! | `inc1` | operations that change the image more as the level increases; any number, even 0 | absent |
//! | `w0` | operations drawn by timm's weights, without replacement | absent |
//! | `original`, `originalr`, `v0`, `v0r` | one of 25 pairs of operations; `r`: posterize by bits removed; only `mstd` may follow | |

use std::fmt;
use std::str::FromStr;

use image::RgbImage;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::normal::normal_pair;
use crate::{ImageError, Result};

mod operations;

pub use operations::PolicyOperation;
use operations::{MAX_LEVEL, Pair};

/// Maximum number of operations drawn per image.
const MAX_COUNT: u32 = 100;

/// An operation of a policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The operation.
    pub operation: PolicyOperation,
    /// The probability that it is applied when it is drawn.
    pub probability: f64,
    /// The mean of its level, 0..=10.
    pub level: f64,
}

/// An operation that [`Policy::draw`] has drawn to be applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// The operation.
    pub operation: PolicyOperation,
    /// Its value; see [`PolicyOperation::value`].
    pub value: f64,
}

/// An augmentation policy. As text, and in serialised form: the text from which it was parsed.
///
/// ```
/// use vlct_image::augment::Policy;
///
/// let policy: Policy = "rand-m9-mstd0.5-inc1".parse()?;
/// assert_eq!((policy.groups().len(), policy.count(), policy.deviation()), (15, 2, 0.5));
/// assert!("rand-m9-mst0.5".parse::<Policy>().is_err());
/// # Ok::<(), vlct_image::ImageError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Policy {
    text: String,
    groups: Vec<Vec<Step>>,
    count: usize,
    weights: Option<[f64; 15]>,
    deviation: f64,
}

impl Policy {
    /// Returns the groups of operations that are drawn together: single operations (`rand`), or pairs.
    pub fn groups(&self) -> &[Vec<Step>] {
        &self.groups
    }

    /// Returns the number of groups that are drawn per image.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the weights by which groups are drawn without replacement. If there are none, groups are drawn uniformly with
    /// replacement.
    pub fn weights(&self) -> Option<&[f64]> {
        self.weights.as_ref().map(|weights| weights.as_slice())
    }

    /// Returns the standard deviation of the levels.
    pub fn deviation(&self) -> f64 {
        self.deviation
    }

    /// Draws the operations to be applied to an image, in this order. Draws from `rng`: the groups; then for each operation whether it
    /// is applied, its level if it varies, and its sign if it has one.
    pub fn draw(&self, rng: &mut impl Rng) -> Vec<Drawn> {
        let mut drawn = Vec::new();
        for group in self.draw_groups(rng) {
            for step in &self.groups[group] {
                if !rng.random_bool(step.probability) {
                    continue;
                }
                let noise = if self.deviation > 0.0 {
                    self.deviation * normal_pair(rng)[0]
                } else {
                    0.0
                };
                let level = (step.level + noise).clamp(0.0, MAX_LEVEL);
                let negative = step.operation.is_signed() && rng.random_bool(0.5);
                drawn.push(Drawn {
                    operation: step.operation,
                    value: step.operation.value(level, negative),
                });
            }
        }
        drawn
    }

    fn draw_groups(&self, rng: &mut impl Rng) -> Vec<usize> {
        let Some(mut weights) = self.weights else {
            return (0..self.count)
                .map(|_| rng.random_range(0..self.groups.len()))
                .collect();
        };
        let mut groups = Vec::new();
        for _ in 0..self.count {
            let mut rest = rng.random::<f64>() * weights.iter().sum::<f64>();
            // Rounding may leave a rest beyond the last group, which then counts as that group.
            let mut chosen = None;
            for (group, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                chosen = Some(group);
                if rest < *weight {
                    break;
                }
                rest -= weight;
            }
            if let Some(group) = chosen {
                weights[group] = 0.0;
                groups.push(group);
            }
        }
        groups
    }

    /// Draws operations and applies them to an image, in place.
    pub fn augment(&self, image: &mut RgbImage, rng: &mut impl Rng) {
        for Drawn { operation, value } in self.draw(rng) {
            operation.apply(image, value);
        }
    }

    fn pairs(text: &str, pairs: [Pair; 25], pieces: &Pieces) -> Self {
        let group = |pair: Pair| {
            let step = |(operation, probability, level): (PolicyOperation, f64, u32)| Step {
                operation,
                probability,
                level: f64::from(level),
            };
            pair.map(step).to_vec()
        };
        Self {
            text: text.to_string(),
            groups: pairs.map(group).to_vec(),
            count: 1,
            weights: None,
            deviation: pieces.deviation.unwrap_or(0.0),
        }
    }

    fn rand(text: &str, pieces: &Pieces) -> Self {
        let level = f64::from(pieces.level.unwrap_or(MAX_LEVEL as u32)).min(MAX_LEVEL);
        let operations = match pieces.increasing {
            Some(()) => operations::RAND_INCREASING,
            None => operations::RAND,
        };
        let step = |operation| Step {
            operation,
            probability: 0.5,
            level,
        };
        Self {
            text: text.to_string(),
            groups: operations.map(|operation| vec![step(operation)]).to_vec(),
            count: pieces.count.unwrap_or(2) as usize,
            weights: pieces.weighted.map(|()| operations::WEIGHTS),
            deviation: pieces.deviation.unwrap_or(0.0),
        }
    }
}

/// The pieces that follow the name of a policy.
#[derive(Default)]
struct Pieces {
    level: Option<u32>,
    count: Option<u32>,
    deviation: Option<f64>,
    increasing: Option<()>,
    weighted: Option<()>,
}

impl Pieces {
    /// Parses a piece, if its key is in `known`.
    fn add(&mut self, piece: &str, known: &[&str]) -> Result<(), String> {
        let (key, number) = piece.split_at(piece.find(|c: char| c.is_ascii_digit()).unwrap_or(piece.len()));
        if !known.contains(&key) {
            let known = known.join(", ");
            return Err(format!(
                "unknown part {piece:?}, known here are {known}, each followed by a number"
            ));
        }
        let wrong = |what: &str| format!("part {piece:?} needs {what} after {key:?}");
        let whole = || number.parse::<u32>().map_err(|_| wrong("a whole number"));
        let is_repeated = match key {
            "m" => self.level.replace(whole()?).is_some(),
            "n" => {
                let count = whole().ok().filter(|count| *count <= MAX_COUNT);
                let count = count.ok_or_else(|| wrong("a whole number of at most 100"))?;
                self.count.replace(count).is_some()
            }
            "inc" => {
                whole()?;
                self.increasing.replace(()).is_some()
            }
            "w" if number == "0" => self.weighted.replace(()).is_some(),
            "w" => return Err(wrong("0, the only set of weights,")),
            _ => {
                let deviation = number.parse::<f64>().ok().filter(|value| value.is_finite());
                let deviation = deviation.ok_or_else(|| wrong("a number"))?;
                self.deviation.replace(deviation).is_some()
            }
        };
        if is_repeated {
            return Err(format!("{key:?} is given twice"));
        }
        Ok(())
    }
}

impl FromStr for Policy {
    type Err = ImageError;

    /// # Errors
    /// Returns [`ImageError::Policy`] if `text` is not a policy.
    fn from_str(text: &str) -> Result<Self> {
        let error = |reason: String| ImageError::Policy {
            text: text.to_string(),
            reason,
        };
        let (name, rest) = text
            .split_once('-')
            .map_or((text, None), |(name, rest)| (name, Some(rest)));
        let known: &[&str] = match name {
            "rand" => &["m", "n", "mstd", "inc", "w"],
            "original" | "originalr" | "v0" | "v0r" => &["mstd"],
            _ if name.starts_with("augmix") => {
                return Err(error(
                    "augmix is not supported; use rand-m9-mstd0.5-inc1 or another policy".into(),
                ));
            }
            _ => {
                return Err(error(
                    "use rand, original, originalr, v0 or v0r, for instance rand-m9-mstd0.5-inc1".into(),
                ));
            }
        };
        let mut pieces = Pieces::default();
        for piece in rest.into_iter().flat_map(|rest| rest.split('-')) {
            pieces.add(piece, known).map_err(error)?;
        }
        let drawable = operations::WEIGHTS.iter().filter(|weight| **weight > 0.0).count();
        if pieces.weighted.is_some() && pieces.count.is_some_and(|count| count as usize > drawable) {
            return Err(error(format!(
                "with w0 at most {drawable} operations can be drawn (n{drawable})"
            )));
        }
        Ok(match name {
            "original" => Self::pairs(text, operations::original(PolicyOperation::PosterizeOriginal), &pieces),
            "originalr" => Self::pairs(
                text,
                operations::original(PolicyOperation::PosterizeIncreasing),
                &pieces,
            ),
            "v0" => Self::pairs(text, operations::v0(PolicyOperation::Posterize), &pieces),
            "v0r" => Self::pairs(text, operations::v0(PolicyOperation::PosterizeIncreasing), &pieces),
            _ => Self::rand(text, &pieces),
        })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Policy> for String {
    fn from(policy: Policy) -> Self {
        policy.text
    }
}

impl TryFrom<String> for Policy {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

#[cfg(test)]
mod tests;
