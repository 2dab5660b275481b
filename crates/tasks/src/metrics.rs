//! Measures of a step, their sums over an epoch or a split, and what is reported of them.
//!
//! A measure has a key, `TASK/NAME`; its names in logs are `TASK/PHASE/NAME` for a step and `TASK/PHASE/NAME_epoch` for a
//! sum, as in the original.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vlct_tensor::Tensor;

/// A loss or a count of a micro-batch. The sum stays on the device until [`Meters::close`]; the count is known on the host.
#[derive(Clone, Debug)]
pub struct Measure {
    /// `TASK/NAME`.
    pub key: &'static str,
    /// A scalar.
    pub sum: Tensor,
    /// Factor of the sum: the weight of a loss.
    pub scale: f32,
    /// Number of decisions or losses in the sum.
    pub count: u64,
}

impl Measure {
    /// Reads the sum from the device.
    pub fn read(&self) -> f32 {
        self.scale * self.sum.item()
    }
}

/// A sum over a number of decisions or losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    // The other names are those of checkpoints before there were tasks.
    #[serde(alias = "right")]
    sum: f64,
    #[serde(alias = "total")]
    count: u64,
}

impl Ratio {
    /// `sum` over `count`.
    pub fn new(sum: f64, count: u64) -> Self {
        Self { sum, count }
    }

    /// Adds another sum.
    pub fn add(&mut self, other: Self) {
        self.sum += other.sum;
        self.count += other.count;
    }

    /// The mean; NaN if nothing was counted.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// Number of decisions or losses.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// Sums by key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, Ratio>", into = "BTreeMap<String, Ratio>")]
pub struct Tally {
    sums: BTreeMap<String, Ratio>,
}

impl From<BTreeMap<String, Ratio>> for Tally {
    /// Accepts the names of older checkpoints too (`itm_wpa_loss` for `itm/wpa_loss`); these hold empty sums.
    fn from(sums: BTreeMap<String, Ratio>) -> Self {
        let counted = sums.into_iter().filter(|(_, ratio)| ratio.count > 0);
        let key = |key: String| {
            if key.contains('/') {
                key
            } else {
                key.replacen('_', "/", 1)
            }
        };
        Self {
            sums: counted.map(|(name, ratio)| (key(name), ratio)).collect(),
        }
    }
}

impl From<Tally> for BTreeMap<String, Ratio> {
    fn from(tally: Tally) -> Self {
        tally.sums
    }
}

impl Tally {
    /// Adds a sum. One over nothing leaves no trace.
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

    /// Adds a measure of a batch, read from the device.
    pub fn measure(&mut self, measure: &Measure) {
        self.add(measure.key, Ratio::new(measure.read() as f64, measure.count));
    }

    /// The sum of a key, if anything was counted.
    pub fn get(&self, key: &str) -> Option<Ratio> {
        self.sums.get(key).copied()
    }
}

/// Training or validation, as they stand in the names of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Training.
    Train,
    /// Validation; test runs use the same names, as in the original.
    Val,
}

impl Phase {
    /// The name of a key in this phase.
    pub fn name(self, key: &str) -> String {
        let phase = match self {
            Phase::Train => "train",
            Phase::Val => "val",
        };
        match key.split_once('/') {
            Some((task, name)) => format!("{task}/{phase}/{name}"),
            None => format!("{phase}/{key}"),
        }
    }
}

/// The loss of a key, without the word: `mlm/loss` is `mlm`, `itm/wpa_loss` is `wpa`.
pub fn short_name(key: &str) -> &str {
    match key.split_once('/') {
        Some((task, "loss")) => task,
        Some((_, name)) => name.strip_suffix("_loss").unwrap_or(name),
        None => key,
    }
}

/// What was measured over an epoch or a split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Names and values, in the order in which they are logged.
    pub values: Vec<(String, f64)>,
    /// Terms of the value by which the best checkpoint is chosen, in the order in which they are added.
    pub selection: Vec<f64>,
}

impl Report {
    /// Means of sums, by key, and the keys that choose the best checkpoint. Keys over nothing are left out.
    pub fn of(phase: Phase, tally: &Tally, keys: &[&str], selection: &[&str]) -> Self {
        let mean = |key: &&str| tally.get(key).map(|ratio| ratio.mean());
        let named = |key: &&str| Some((phase.name(&format!("{key}_epoch")), mean(key)?));
        Self {
            values: keys.iter().filter_map(named).collect(),
            selection: selection.iter().filter_map(mean).collect(),
        }
    }

    /// The value by which the best checkpoint is chosen.
    pub fn the_metric(&self) -> f64 {
        self.selection.iter().fold(0.0, |sum, term| sum + term)
    }

    /// Adds what another evaluator reports.
    pub fn extend(&mut self, other: Self) {
        self.values.extend(other.values);
        self.selection.extend(other.selection);
    }

    /// All values; the last is that by which the best checkpoint is chosen.
    pub fn into_values(self, phase: Phase) -> Vec<(String, f64)> {
        let last = (phase.name("the_metric"), self.the_metric());
        self.values.into_iter().chain([last]).collect()
    }
}

/// A loss that is NaN or infinite.
#[derive(Clone, Debug, PartialEq)]
pub struct NonFinite {
    /// Short name of the loss.
    pub loss: &'static str,
    /// Its value.
    pub value: f32,
    /// The items of its micro-batch.
    pub items: Vec<usize>,
}

/// Measures that are not read yet: those of the micro-batches of one optimiser step.
#[derive(Default)]
pub struct Meters {
    pending: Vec<(Vec<usize>, Vec<Measure>)>,
}

impl Meters {
    /// Keeps the measures of a micro-batch. Nothing is read from the device.
    pub fn add(&mut self, items: &[usize], measures: Vec<Measure>) {
        self.pending.push((items.to_vec(), measures));
    }

    /// Reads what was added since the last call and adds it to `epoch`. Returns the values of the last micro-batch, by key;
    /// those over nothing are left out.
    ///
    /// # Errors
    /// Returns the first value that is not finite; `epoch` is then as it was.
    pub fn close(&mut self, epoch: &mut Tally) -> Result<Vec<(&'static str, f64)>, NonFinite> {
        let mut read: Vec<Vec<(&'static str, Ratio)>> = Vec::with_capacity(self.pending.len());
        for (items, measures) in std::mem::take(&mut self.pending) {
            let mut values = Vec::with_capacity(measures.len());
            for measure in &measures {
                let value = measure.read();
                if !value.is_finite() {
                    return Err(NonFinite {
                        loss: short_name(measure.key),
                        value,
                        items,
                    });
                }
                values.push((measure.key, Ratio::new(value as f64, measure.count)));
            }
            read.push(values);
        }
        for (key, ratio) in read.iter().flatten() {
            epoch.add(key, *ratio);
        }
        let last = read.pop().unwrap_or_default();
        let counted = last.into_iter().filter(|(_, ratio)| ratio.count() > 0);
        Ok(counted.map(|(key, ratio)| (key, ratio.mean())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_tensor::Device;

    fn measure(key: &'static str, sum: f32, scale: f32, count: u64) -> Measure {
        Measure {
            key,
            sum: Device::default().tensor(1, 1, &[sum]),
            scale,
            count,
        }
    }

    #[test]
    fn a_step_has_the_last_values_and_an_epoch_has_the_sums() {
        let (mut meters, mut epoch) = (Meters::default(), Tally::default());
        meters.add(
            &[3],
            vec![measure("a/loss", 1.0, 1.0, 1), measure("a/accuracy", 1.0, 1.0, 4)],
        );
        meters.add(
            &[4],
            vec![measure("a/loss", 4.0, 0.5, 1), measure("a/accuracy", 0.0, 1.0, 0)],
        );
        assert_eq!(meters.close(&mut epoch).unwrap(), [("a/loss", 2.0)]);
        assert_eq!(epoch.get("a/loss").unwrap().mean(), 1.5);
        assert_eq!(epoch.get("a/accuracy").unwrap(), Ratio::new(1.0, 4));
        assert!(epoch.get("b/loss").is_none());
        assert!(meters.close(&mut epoch).unwrap().is_empty());
        assert!(Ratio::default().mean().is_nan());
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_reported_with_its_items() {
        let (mut meters, mut epoch) = (Meters::default(), Tally::default());
        meters.add(&[3], vec![measure("mlm/loss", 1.0, 1.0, 1)]);
        let wrong = [("itm/wpa_loss", f32::INFINITY), ("mlm/loss", f32::NAN)];
        meters.add(&[5, 6], wrong.map(|(key, sum)| measure(key, sum, 1.0, 1)).to_vec());
        let error = meters.close(&mut epoch).unwrap_err();
        assert_eq!(
            (error.loss, error.value, error.items),
            ("wpa", f32::INFINITY, vec![5, 6])
        );
        assert_eq!(epoch, Tally::default());
    }

    #[test]
    fn names_have_the_phase_inside() {
        assert_eq!(Phase::Train.name("itm/wpa_loss"), "itm/train/wpa_loss");
        assert_eq!(Phase::Val.name("the_metric"), "val/the_metric");
        assert_eq!(
            ["mlm/loss", "itm/wpa_loss", "mlm/accuracy"].map(short_name),
            ["mlm", "wpa", "accuracy"]
        );
    }

    #[test]
    fn sums_are_read_from_older_checkpoints_too() {
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
