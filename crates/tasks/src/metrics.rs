//! Measures and metrics. A measure is a loss or a number of correct predictions of one micro-batch. Its mean over an epoch or a split is a
//! metric.
//!
//! A measure has a key, `OBJECTIVE/NAME`. As in the original, logs name it `OBJECTIVE/PHASE/NAME` for a step and
//! `OBJECTIVE/PHASE/NAME_epoch` for the mean over an epoch or a split.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vlct_tensor::Tensor;

use crate::batch::Batch;

/// A sum and the number of its terms for one micro-batch: a loss with the count 1, or a sum of scores with the number of predictions. The
/// sum stays on the device until [`Measure::value`] reads it.
#[derive(Clone, Debug)]
pub struct Measure {
    /// `OBJECTIVE/NAME`, such as `mlm/loss`.
    pub key: &'static str,
    /// The sum, a scalar tensor.
    pub sum: Tensor,
    /// Factor of the sum: the weight of a loss, else 1.
    pub scale: f32,
    /// 1 for a loss, else the number of predictions.
    pub count: u64,
}

impl Measure {
    /// Reads the sum from the device and returns it times `scale`.
    pub fn value(&self) -> f32 {
        self.scale * self.sum.item()
    }
}

/// The values of the measures of a micro-batch by key, in the order in which they are logged.
pub type Values = Vec<(Cow<'static, str>, Ratio)>;

/// Reads measures from the device.
pub fn read_values(measures: &[Measure]) -> Values {
    let ratio = |measure: &Measure| Ratio::new(measure.value() as f64, measure.count);
    measures
        .iter()
        .map(|measure| (Cow::Borrowed(measure.key), ratio(measure)))
        .collect()
}

/// Returns the means of values by key. A measure without terms has no mean and is omitted.
pub fn means(values: &Values) -> Vec<(Cow<'static, str>, f64)> {
    let counted = values.iter().filter(|(_, ratio)| ratio.count() > 0);
    counted.map(|(key, ratio)| (key.clone(), ratio.mean())).collect()
}

/// Returns half the width of the 95 % interval of an accuracy that was measured on `items` items, by Agresti and Coull's formula. Both are
/// fractions.
pub fn accuracy_margin(accuracy: f64, items: u64) -> f64 {
    // The formula adds two correct and two wrong items.
    let items_and_four = items as f64 + 4.0;
    let centre = (accuracy * items as f64 + 2.0) / items_and_four;
    1.96 * (centre * (1.0 - centre) / items_and_four).sqrt()
}

/// A sum and the number of its terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    // The aliases are the names in older checkpoints.
    #[serde(alias = "right")]
    sum: f64,
    #[serde(alias = "total")]
    count: u64,
}

impl Ratio {
    /// Makes a ratio of a sum and the number of its terms.
    pub fn new(sum: f64, count: u64) -> Self {
        Self { sum, count }
    }

    /// Adds the sum and the count of `other`.
    pub fn add(&mut self, other: Self) {
        self.sum += other.sum;
        self.count += other.count;
    }

    /// Returns the mean, NaN if the count is 0.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// Returns the number of terms.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// Sums of measures, by key. Every sum has at least one term.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, Ratio>", into = "BTreeMap<String, Ratio>")]
pub struct Tally {
    sums: BTreeMap<String, Ratio>,
}

impl From<BTreeMap<String, Ratio>> for Tally {
    /// Accepts older checkpoints too, which have other names (`itm_wpa_loss` for `itm/wpa_loss`) and sums without terms.
    fn from(sums: BTreeMap<String, Ratio>) -> Self {
        let counted = sums.into_iter().filter(|(_, ratio)| ratio.count > 0);
        let current_key = |key: String| {
            if key.contains('/') {
                key
            } else {
                key.replacen('_', "/", 1)
            }
        };
        Self {
            sums: counted.map(|(name, ratio)| (current_key(name), ratio)).collect(),
        }
    }
}

impl From<Tally> for BTreeMap<String, Ratio> {
    fn from(tally: Tally) -> Self {
        tally.sums
    }
}

impl Tally {
    /// Adds a sum. A sum without terms changes nothing.
    pub fn add(&mut self, key: &str, ratio: Ratio) {
        if ratio.count == 0 {
            return;
        }
        match self.sums.get_mut(key) {
            Some(sum) => sum.add(ratio),
            None => {
                self.sums.insert(key.to_string(), ratio);
            }
        }
    }

    /// Adds the values of a batch.
    pub fn add_values(&mut self, values: &Values) {
        values.iter().for_each(|(key, ratio)| self.add(key, *ratio));
    }

    /// Returns the sum of a key, `None` if it has no terms.
    pub fn get(&self, key: &str) -> Option<Ratio> {
        self.sums.get(key).copied()
    }
}

/// The part of a metric's name that distinguishes training from validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// `train`.
    Train,
    /// `val`, also for test runs, as in the original.
    Val,
}

impl Phase {
    /// Inserts the phase into a key: `mlm/loss` becomes `mlm/train/loss`; a key without `/` gets the phase as its prefix.
    pub fn metric_name(self, key: &str) -> String {
        let phase = match self {
            Phase::Train => "train",
            Phase::Val => "val",
        };
        match key.split_once('/') {
            Some((objective, name)) => format!("{objective}/{phase}/{name}"),
            None => format!("{phase}/{key}"),
        }
    }
}

/// Shortens a key for the progress line: `mlm/loss` to `mlm`, `itm/wpa_loss` to `wpa`, `mlm/accuracy` to `accuracy`.
pub fn short_name(key: &str) -> &str {
    match key.split_once('/') {
        Some((objective, "loss")) => objective,
        Some((_, name)) => name.strip_suffix("_loss").unwrap_or(name),
        None => key,
    }
}

/// The metrics of an epoch or a split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Names and values, in the order in which they are logged.
    pub values: Vec<(String, f64)>,
    /// Names and values of parts of the metrics, such as those of single labels. They are logged, but not printed.
    pub details: Vec<(String, f64)>,
    /// Terms of the sum that selects the best checkpoint, in the order of summation.
    pub selection: Vec<f64>,
    /// Files to write after an evaluation of the test split.
    pub files: Vec<ReportFile>,
}

/// A file with the results of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportFile {
    /// The beginning of the file's name.
    pub stem: &'static str,
    /// The content.
    pub content: serde_json::Value,
}

impl Report {
    /// Makes a report of the means of `keys`. `selection` lists the keys whose means are added to select the best checkpoint. Keys
    /// that are not in the tally are left out.
    pub fn from_tally(phase: Phase, tally: &Tally, keys: &[&str], selection: &[&str]) -> Self {
        let mean = |key: &&str| tally.get(key).map(|ratio| ratio.mean());
        let value = |key: &&str| Some((phase.metric_name(&format!("{key}_epoch")), mean(key)?));
        Self {
            values: keys.iter().filter_map(value).collect(),
            selection: selection.iter().filter_map(mean).collect(),
            ..Self::default()
        }
    }

    /// Returns the value that selects the best checkpoint (higher is better).
    pub fn the_metric(&self) -> f64 {
        self.selection.iter().fold(0.0, |sum, term| sum + term)
    }

    /// Appends the content of another report.
    pub fn extend(&mut self, other: Self) {
        self.values.extend(other.values);
        self.details.extend(other.details);
        self.selection.extend(other.selection);
        self.files.extend(other.files);
    }

    /// Returns all values, followed by the value that selects the best checkpoint.
    pub fn values(&self, phase: Phase) -> Vec<(String, f64)> {
        let the_metric = (phase.metric_name("the_metric"), self.the_metric());
        self.values.iter().cloned().chain([the_metric]).collect()
    }
}

/// A loss that is NaN or infinite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NonFinite {
    /// Index of the micro-batch in the epoch.
    pub batch: u64,
    /// Short name of the loss.
    pub loss: String,
    /// NaN or an infinity.
    pub value: f32,
    /// Dataset indices of the items of the micro-batch.
    pub items: Vec<usize>,
}

/// Measures that are not yet read from the device, for each micro-batch of one optimiser step.
#[derive(Default)]
pub struct PendingMeasures {
    pending: Vec<(u64, Vec<usize>, Vec<Measure>)>,
}

impl PendingMeasures {
    /// Stores the measures of a micro-batch without reading them from the device.
    pub fn add(&mut self, batch: &Batch, measures: Vec<Measure>) {
        self.pending.push((batch.position.batch, batch.items.clone(), measures));
    }

    /// Reads all stored measures and removes them. Returns those of each micro-batch with its index in the epoch, in the order in which they
    /// were added.
    ///
    /// # Errors
    /// Returns the first value that is not finite.
    pub fn read(&mut self) -> Result<Vec<(u64, Values)>, NonFinite> {
        let pending = std::mem::take(&mut self.pending).into_iter();
        pending
            .map(|(batch, items, measures)| {
                let values = read_values(&measures);
                match values.iter().find(|(_, ratio)| !ratio.sum.is_finite()) {
                    None => Ok((batch, values)),
                    Some((key, ratio)) => Err(NonFinite {
                        batch,
                        loss: short_name(key).to_string(),
                        value: ratio.sum as f32,
                        items,
                    }),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_data::loader::Position;
    use vlct_tensor::Device;

    #[test]
    fn margins_shrink_with_the_root_of_the_items_and_are_never_zero() {
        let at_half = |items| accuracy_margin(0.5, items);
        assert!((at_half(10_000) - 0.0098).abs() < 1e-4);
        assert!((at_half(96) - 0.098).abs() < 1e-3);
        // All of 20 items, or of one, were right.
        assert!(accuracy_margin(1.0, 20) > 0.1);
        assert!(accuracy_margin(1.0, 1) > 0.3);
    }

    fn measure(key: &'static str, sum: f32, scale: f32, count: u64) -> Measure {
        Measure {
            key,
            sum: Device::default().tensor(1, 1, &[sum]),
            scale,
            count,
        }
    }

    fn batch(index: u64, items: &[usize]) -> Batch {
        let position = Position { epoch: 1, batch: index };
        Batch {
            items: items.to_vec(),
            ..Batch::collate(position, Vec::new())
        }
    }

    #[test]
    fn measures_are_read_micro_batch_by_micro_batch() {
        let (mut meters, mut epoch) = (PendingMeasures::default(), Tally::default());
        meters.add(
            &batch(6, &[3]),
            vec![measure("a/loss", 1.0, 1.0, 1), measure("a/accuracy", 1.0, 1.0, 4)],
        );
        meters.add(
            &batch(8, &[4]),
            vec![measure("a/loss", 4.0, 0.5, 1), measure("a/accuracy", 0.0, 1.0, 0)],
        );
        let read = meters.read().unwrap();
        assert_eq!(read.iter().map(|(batch, _)| *batch).collect::<Vec<_>>(), [6, 8]);
        assert_eq!(means(&read[1].1), [("a/loss".into(), 2.0)]);
        read.iter().for_each(|(_, values)| epoch.add_values(values));
        assert_eq!(epoch.get("a/loss").unwrap().mean(), 1.5);
        assert_eq!(epoch.get("a/accuracy").unwrap(), Ratio::new(1.0, 4));
        assert!(epoch.get("b/loss").is_none());
        assert!(meters.read().unwrap().is_empty());
        assert!(Ratio::default().mean().is_nan());
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_returned_with_its_items() {
        let mut meters = PendingMeasures::default();
        meters.add(&batch(0, &[3]), vec![measure("mlm/loss", 1.0, 1.0, 1)]);
        let non_finite = [("itm/wpa_loss", f32::INFINITY), ("mlm/loss", f32::NAN)];
        meters.add(
            &batch(2, &[5, 6]),
            non_finite.map(|(key, sum)| measure(key, sum, 1.0, 1)).to_vec(),
        );
        let error = meters.read().unwrap_err();
        assert_eq!(
            (error.batch, error.loss.as_str(), error.value, error.items),
            (2, "wpa", f32::INFINITY, vec![5, 6])
        );
    }

    #[test]
    fn metric_names_contain_the_phase() {
        assert_eq!(Phase::Train.metric_name("itm/wpa_loss"), "itm/train/wpa_loss");
        assert_eq!(Phase::Val.metric_name("the_metric"), "val/the_metric");
        assert_eq!(
            ["mlm/loss", "itm/wpa_loss", "mlm/accuracy"].map(short_name),
            ["mlm", "wpa", "accuracy"]
        );
    }

    #[test]
    fn reads_the_sums_of_older_checkpoints() {
        let mut tally = Tally::default();
        tally.add("itm/wpa_loss", Ratio::new(0.1 + 0.2, 3));
        tally.add("mlm/accuracy", Ratio::new(2.0, 5));
        let text = serde_json::to_string(&tally).unwrap();
        assert_eq!(serde_json::from_str::<Tally>(&text).unwrap(), tally);
        let older = r#"{"mlm_loss":{"sum":0.0,"count":0},"mlm_accuracy":{"right":2,"total":5},
            "itm_wpa_loss":{"sum":0.30000000000000004,"count":3}}"#;
        assert_eq!(serde_json::from_str::<Tally>(older).unwrap(), tally);
    }
}
