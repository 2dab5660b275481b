//! Example images on the disk, and commands that use the models on them.

use std::path::{Path, PathBuf};

use vlct_data::datasets::{Dataset, Split};
use vlct_train::config::Config;
use vlct_train::spec::RunSpec;
use vlct_train::{TrainError, data};
use vlct_util::at;

use super::error::Result;
use super::fine_tuning::FineTuned;

/// Writes held-out images to `directory` and returns commands that predict from them: the answer to a question, the truth of a statement
/// and a label, as far as these tasks were fine-tuned, and the word at a mask.
///
/// # Errors
/// Returns an error if the data cannot be read or an image cannot be written.
pub(super) fn commands(
    directory: &Path,
    pretrained: (&Config, &Path),
    fine_tuned: &[FineTuned],
) -> Result<Vec<String>> {
    std::fs::create_dir_all(directory).map_err(at::<TrainError>(directory))?;
    let mut commands = Vec::new();
    for result in fine_tuned {
        let command = match result.task.name {
            "vqa" => "vqa",
            "nlvr2" => "nlvr2",
            "labels" => "classify",
            _ => continue,
        };
        let (images, text) = example(&directory.join(result.task.name), &result.config)?;
        commands.push(command_line(command, &result.run, &images, &text));
    }
    let (config, run) = pretrained;
    let (images, caption) = example(&directory.join("caption"), config)?;
    let masked = mask_word(&caption);
    commands.push(command_line("fill", run, &images, &masked));
    Ok(commands)
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
            std::fs::write(&path, bytes).map_err(at::<TrainError>(&path))?;
            paths.push(path);
        }
        return Ok((paths, text.into_owned()));
    }
    Ok((Vec::new(), String::new()))
}

/// Replaces the longest word of a caption by `[MASK]`.
fn mask_word(caption: &str) -> String {
    let longest = caption.split(' ').max_by_key(|word| word.len()).unwrap_or_default();
    caption.replacen(longest, "[MASK]", 1)
}

fn command_line(command: &str, run: &Path, images: &[PathBuf], text: &str) -> String {
    let images: Vec<String> = images.iter().map(|path| path.display().to_string()).collect();
    format!(
        "vlct predict {command} --load {} {} {text:?}",
        run.display(),
        images.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_the_longest_word() {
        assert_eq!(
            mask_word("a big triangle on a red square"),
            "a big [MASK] on a red square"
        );
    }

    #[test]
    fn command_lines_quote_the_text() {
        let images = [PathBuf::from("a.png"), PathBuf::from("b.png")];
        let line = command_line("nlvr2", Path::new("run-nlvr2"), &images, "both pictures show a star");
        assert_eq!(
            line,
            "vlct predict nlvr2 --load run-nlvr2 a.png b.png \"both pictures show a star\""
        );
    }
}
