//! The predictions of an image classifier for the images of a split, as CSV files: `predictions.csv` and `confusion.csv`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use vlct_data::DataError;
use vlct_data::datasets::Dataset;
use vlct_util::{IoError, at, atomic};

use crate::confusion::Confusion;
use crate::error::Result;
use crate::images::TOP;
use crate::rows::{Row, Rows};

/// Name of the file with a row for each image.
pub const PREDICTIONS_FILE: &str = "predictions.csv";
/// Name of the file with the confusion matrix.
pub const CONFUSION_FILE: &str = "confusion.csv";

/// Largest number of classes for which the confusion matrix is written. That of ImageNet-21K would take a gigabyte.
const MATRIX_CLASSES: usize = 5000;

/// The column with the class of an image.
const CLASS: &str = "class";
/// The column with the class of the largest probability.
const PREDICTED: &str = "predicted";

/// Writes `predictions.csv` and `confusion.csv` to `directory`. `names` are the names of the classes by id, `rows` the results of the images
/// of `data`. Each file appears under its name when it is complete. There is no `confusion.csv` for more than 5,000 classes.
///
/// # Errors
/// Returns an error if the directory does not exist or a file cannot be written.
pub fn write(directory: &Path, names: &[String], data: &dyn Dataset, rows: &Rows) -> Result<()> {
    let path = directory.join(PREDICTIONS_FILE);
    atomic::write(&path, |out| write_predictions(out, names, data, rows)).map_err(at::<IoError>(&path))?;
    if names.len() <= MATRIX_CLASSES {
        let path = directory.join(CONFUSION_FILE);
        atomic::write(&path, |out| Confusion::of_rows(names, rows).write(out)).map_err(at::<IoError>(&path))?;
    }
    Ok(())
}

/// Writes a row for each image: its file and row, its class, the predicted class, the probability of that class, whether it is correct,
/// the next classes with their probabilities, and what is wrong with an image that could not be read.
fn write_predictions(out: &mut impl io::Write, names: &[String], data: &dyn Dataset, rows: &Rows) -> io::Result<()> {
    let mut out = csv::Writer::from_writer(out);
    let shown = TOP.min(names.len());
    let mut header: Vec<String> = ["image", CLASS, PREDICTED, "probability", "correct"]
        .map(String::from)
        .into();
    for rank in 2..=shown {
        header.extend([format!("predicted_{rank}"), format!("probability_{rank}")]);
    }
    header.push("error".into());
    out.write_record(&header)?;
    let columns = header.len();
    let name = |class: u32| names[class as usize].clone();
    let mut cells: Vec<String> = Vec::with_capacity(columns);
    for (item, row) in rows {
        cells.clear();
        cells.push(data.image_name(*item));
        match row {
            Row::Class { class, top } => {
                cells.push(name(*class));
                for (rank, (predicted, probability)) in top.iter().enumerate() {
                    cells.extend([name(*predicted), format!("{probability:.6}")]);
                    if rank == 0 {
                        cells.push((predicted == class).to_string());
                    }
                }
                cells.push(String::new());
            }
            Row::Unreadable { class, reason } => {
                cells.push(class.map(name).unwrap_or_default());
                cells.resize(columns - 1, String::new());
                cells.push(reason.clone());
            }
            _ => continue,
        }
        out.write_record(&cells)?;
    }
    out.flush()
}

/// Reads the confusion matrix of the rows of a file `predictions.csv`. Its classes are those that occur, sorted by name.
///
/// # Errors
/// Returns an error if the file cannot be read, or is not CSV with the columns `class` and `predicted`.
pub fn read_confusion(path: &Path) -> Result<Confusion> {
    let format = |reason: String| DataError::format(path, reason);
    let file = std::fs::File::open(path).map_err(at::<IoError>(path))?;
    let mut reader = csv::Reader::from_reader(io::BufReader::new(file));
    let header = reader.headers().map_err(|error| format(error.to_string()))?;
    let column = |name: &str| {
        let index = header.iter().position(|column| column == name);
        index.ok_or_else(|| format(format!("it has no column {name}; it is not a file of predictions")))
    };
    let (class, predicted) = (column(CLASS)?, column(PREDICTED)?);
    let mut ids: BTreeMap<String, u32> = BTreeMap::new();
    let mut pairs: Vec<[String; 2]> = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| format(error.to_string()))?;
        // An image that could not be read has no prediction.
        if record[predicted].is_empty() {
            continue;
        }
        let pair = [record[class].to_string(), record[predicted].to_string()];
        for name in &pair {
            ids.insert(name.clone(), 0);
        }
        pairs.push(pair);
    }
    for (id, (_, value)) in (0..).zip(ids.iter_mut()) {
        *value = id;
    }
    let pairs: Vec<(u32, u32)> = pairs
        .iter()
        .map(|[class, predicted]| (ids[class], ids[predicted]))
        .collect();
    Ok(Confusion::new(ids.into_keys().collect(), pairs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::Range;
    use vlct_data::datasets::Example;

    /// Images that have only names.
    struct Names(Vec<&'static str>);

    impl Dataset for Names {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn example(&self, item: usize) -> vlct_data::Result<Example<'_>> {
            Err(self.error(item, "has no image"))
        }

        fn rows(&self) -> usize {
            self.len()
        }

        fn items_of(&self, row: usize) -> vlct_data::Result<Range<usize>> {
            Ok(row..row + 1)
        }

        fn peers(&self, _item: usize) -> Range<usize> {
            0..self.len()
        }

        fn subset(&self, _item: usize) -> &str {
            ""
        }

        fn describe(&self, item: usize) -> String {
            self.0[item].into()
        }

        fn error(&self, item: usize, reason: &str) -> DataError {
            DataError::format(self.0[item], reason)
        }
    }

    fn write_to(directory: &Path) -> Vec<String> {
        let names = ["cat", "a, \"b\"", "line\nbreak"].map(String::from).to_vec();
        let data = Names(vec!["val/1.png", "val/b,2.png", "val/3.png", "val/4.png"]);
        let predicted = |class, top: [u32; 3]| Row::Class {
            class,
            top: top.into_iter().zip([0.75, 0.125, 0.125]).collect(),
        };
        let rows: Rows = [
            (0, predicted(0, [0, 1, 2])),
            (1, predicted(1, [2, 1, 0])),
            (
                2,
                Row::Unreadable {
                    class: Some(2),
                    reason: "val/3.png: no image".into(),
                },
            ),
            (3, predicted(2, [2, 0, 1])),
        ]
        .into();
        write(directory, &names, &data, &rows).unwrap();
        names
    }

    #[test]
    fn every_image_has_a_row_and_unreadable_ones_a_reason() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path();
        write_to(out);
        let text = std::fs::read_to_string(out.join(PREDICTIONS_FILE)).unwrap();
        assert_eq!(
            text,
            "image,class,predicted,probability,correct,predicted_2,probability_2,predicted_3,probability_3,error\n\
             val/1.png,cat,cat,0.750000,true,\"a, \"\"b\"\"\",0.125000,\"line\nbreak\",0.125000,\n\
             \"val/b,2.png\",\"a, \"\"b\"\"\",\"line\nbreak\",0.750000,false,\"a, \"\"b\"\"\",0.125000,cat,0.125000,\n\
             val/3.png,\"line\nbreak\",,,,,,,,val/3.png: no image\n\
             val/4.png,\"line\nbreak\",\"line\nbreak\",0.750000,true,cat,0.125000,\"a, \"\"b\"\"\",0.125000,\n"
        );
        assert!(out.join(CONFUSION_FILE).is_file());
    }

    #[test]
    fn the_confusion_matrix_is_read_from_the_predictions() {
        let directory = tempfile::tempdir().unwrap();
        let names = write_to(directory.path());
        let confusion = read_confusion(&directory.path().join(PREDICTIONS_FILE)).unwrap();
        let [a, cat, line] = [0, 1, 2].map(|class| confusion.name(class).to_string());
        assert_eq!([cat, a, line].to_vec(), names);
        let classes: Vec<(u32, u64, u64)> = confusion
            .classes()
            .iter()
            .map(|c| (c.class, c.correct, c.images))
            .collect();
        assert_eq!(classes, [(0, 0, 1), (1, 1, 1), (2, 1, 1)]);
        assert_eq!(confusion.images(0, 2), 1);

        let other = directory.path().join("other.csv");
        std::fs::write(&other, "class,image\na,b\n").unwrap();
        let error = read_confusion(&other).unwrap_err().to_string();
        assert!(error.contains("other.csv: it has no column predicted"), "{error}");
    }

    #[test]
    fn the_matrix_of_a_thousand_classes_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..1000).map(|class| format!("n{class:08}")).collect();
        let data = Names(vec!["val/1.png"; 50_000]);
        let rows: Rows = (0..50_000u32)
            .map(|item| {
                let class = item % 1000;
                let top = (0..5).map(|rank| ((class * 7 + rank) % 1000, 0.2)).collect();
                (item as usize, Row::Class { class, top })
            })
            .collect();
        write(directory.path(), &names, &data, &rows).unwrap();
        let matrix = std::fs::read_to_string(directory.path().join(CONFUSION_FILE)).unwrap();
        assert_eq!(matrix.lines().count(), 1001);
        let cells = matrix.lines().skip(1).flat_map(|line| line.split(',').skip(1));
        let counts: Vec<u64> = cells.map(|cell| cell.parse().unwrap()).collect();
        assert_eq!((counts.len(), counts.iter().sum::<u64>()), (1_000_000, 50_000));
    }
}
