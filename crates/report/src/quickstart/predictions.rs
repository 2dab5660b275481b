//! Held-out images on the disk, on which users can try the models.

use std::io::Write;
use std::path::{Path, PathBuf};

use vlct_config::Config;
use vlct_data::datasets::{Dataset, Split};
use vlct_synthetic::Colour;
use vlct_train::spec::RunSpec;
use vlct_train::{TrainError, data};
use vlct_util::{at, atomic};

use super::classes::Classifier;
use super::error::Result;
use super::fine_tuning::FineTuned;

/// What a [`Trial`] predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialTask {
    /// The answer to a question.
    Answer,
    /// The truth of a statement about two images.
    Truth,
    /// A label.
    Label,
    /// The class of an image.
    Class,
    /// The word at a mask.
    Fill,
}

/// A model with inputs for a prediction.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What to predict.
    pub task: TrialTask,
    /// The run directory of the model.
    pub run: PathBuf,
    /// The files of the images.
    pub images: Vec<PathBuf>,
    /// The question, statement, text or caption with a mask; empty for a class.
    pub text: String,
}

/// Writes held-out images to `directory` and returns a trial for each fine-tuned task with a text, one of the pre-trained model, and one of
/// the image classifier if there is one.
///
/// # Errors
/// Returns an error if the data cannot be read or an image cannot be written.
pub(super) fn trials(
    directory: &Path,
    pretrained: (&Config, &Path),
    fine_tuned: &[FineTuned],
    classifier: Option<&Classifier>,
) -> Result<Vec<Trial>> {
    std::fs::create_dir_all(directory).map_err(at::<TrainError>(directory))?;
    let mut trials = Vec::new();
    for result in fine_tuned {
        let task = match result.task.name {
            "vqa" => TrialTask::Answer,
            "nlvr2" => TrialTask::Truth,
            "labels" => TrialTask::Label,
            _ => continue,
        };
        let (images, text) = example(&directory.join(result.task.name), &result.config)?;
        trials.push(Trial {
            task,
            run: result.run.clone(),
            images,
            text,
        });
    }
    let (config, run) = pretrained;
    let (images, caption) = example(&directory.join("caption"), config)?;
    trials.push(Trial {
        task: TrialTask::Fill,
        run: run.to_path_buf(),
        images,
        text: mask_word(&caption),
    });
    if let Some(classifier) = classifier {
        let path = directory.join("class.png");
        atomic::write(&path, |out| out.write_all(&classifier.image)).map_err(at::<TrainError>(&path))?;
        trials.push(Trial {
            task: TrialTask::Class,
            run: classifier.run.clone(),
            images: vec![path],
            text: String::new(),
        });
    }
    Ok(trials)
}

/// Writes the images of the first held-out item that has a text. Returns their paths and the text. Names begin with `prefix`.
fn example(prefix: &Path, config: &Config) -> Result<(Vec<PathBuf>, String)> {
    let spec = RunSpec::resolve(config)?;
    let held_out = data::open(&spec, Split::Test)?;
    for item in 0..held_out.len() {
        let example = held_out.example(item).map_err(TrainError::from)?;
        let Some(text) = example.text else { continue };
        let mut paths = Vec::new();
        for (index, bytes) in example.images.iter().flatten().enumerate() {
            let mut path = prefix.to_path_buf().into_os_string();
            path.push(if index == 0 { ".png" } else { "-2.png" });
            let path = PathBuf::from(path);
            atomic::write(&path, |out| out.write_all(bytes)).map_err(at::<TrainError>(&path))?;
            paths.push(path);
        }
        return Ok((paths, text.into_owned()));
    }
    Ok((Vec::new(), String::new()))
}

/// Replaces the first word of a caption that names a colour by `[MASK]`.
fn mask_word(caption: &str) -> String {
    let is_colour = |word: &str| Colour::ALL.iter().any(|colour| colour.word() == word);
    let mut words: Vec<&str> = caption.split(' ').collect();
    if let Some(word) = words.iter_mut().find(|word| is_colour(word)) {
        *word = "[MASK]";
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_the_first_colour() {
        assert_eq!(
            mask_word("a big triangle on a red square above a blue ring"),
            "a big triangle on a [MASK] square above a blue ring"
        );
    }
}
