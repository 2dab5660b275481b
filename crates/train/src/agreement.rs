//! Comparison of a run with the description of the weights that it begins with: images and layer norms.

use std::path::Path;

use log::warn;
use vlct_image::Normalisation;
use vlct_model::files::WeightIndex;
use vlct_model::sizes::{GivenHeads, Part};
use vlct_tasks::description::{DescribedWeights, WeightsError};

use crate::error::{Result, TrainError};
use crate::spec::RunSpec;

/// Compares the images and the layer norms of a run with those that the weight file `path` was trained with. Training warns of
/// differences. Files that describe no whole vision-language model are not compared.
///
/// # Errors
/// Returns [`TrainError::OtherImages`] in a test, whose results would be wrong.
pub fn check(path: &Path, index: &WeightIndex, spec: &RunSpec) -> Result<()> {
    let described = match DescribedWeights::read(path, index, GivenHeads::default()) {
        Ok(described) => described,
        // Loading names the tensor.
        Err(WeightsError::Sizes { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let differences = differences(&described, spec);
    if spec.test_only && !differences.is_empty() {
        return Err(TrainError::OtherImages {
            path: path.to_path_buf(),
            differences: differences.join("; "),
        });
    }
    for difference in differences {
        warn!("{}: {difference}", path.display());
    }
    Ok(())
}

/// Returns what differs, each with the keys that change it.
fn differences(weights: &DescribedWeights, spec: &RunSpec) -> Vec<String> {
    let mut differences = Vec::new();
    let format = spec.data.format();
    match (weights.transform.keeps_proportions(), spec.data.val_transform.keeps_proportions()) {
        (true, false) => differences.push(
            "the weights are those of ViLT, whose images keep their proportions, but the run makes squares of them: set \
             vit='vit_base_patch32_384', train_transform_keys=pixelbert and val_transform_keys=pixelbert"
                .to_owned(),
        ),
        (false, true) => differences.push(
            "the images of the weights are squares, but those of the run keep their proportions: set \
             train_transform_keys=mae and val_transform_keys=mae_test"
                .to_owned(),
        ),
        (true, true) if weights.format.multiple != format.multiple => differences.push(format!(
            "the sides of the images of the weights are multiples of {0} pixels, those of the run of {1}: set size_divisor={0}",
            weights.format.multiple, format.multiple
        )),
        _ if weights.format.normalisation != format.normalisation => {
            let text = |Normalisation { mean, deviation }| format!("mean {mean:?} and deviation {deviation:?}");
            let theirs = weights.format.normalisation;
            differences.push(format!(
                "the images of the weights are normalised with {}, those of the run with {}: set image_mean={:?} and image_std={:?}",
                text(theirs),
                text(format.normalisation),
                theirs.mean,
                theirs.deviation
            ));
        }
        _ => {}
    }
    let (theirs, ours) = (weights.model.backbone.heads, spec.model.vlc().backbone.heads);
    let is_assumed = weights
        .assumptions
        .iter()
        .any(|assumption| assumption.part == Part::Encoder);
    if theirs != ours && !is_assumed {
        differences.push(format!(
            "the weights are those of {theirs} attention heads, the run has {ours}: set heads={theirs}"
        ));
    }
    let (theirs, ours) = (weights.model.variant, spec.model.vlc().variant);
    for (key, theirs, ours) in [
        ("layer_norm_eps", theirs.layer_norm_eps, ours.layer_norm_eps),
        (
            "text_layer_norm_eps",
            theirs.text_layer_norm_eps,
            ours.text_layer_norm_eps,
        ),
    ] {
        if theirs != ours {
            differences.push(format!(
                "the layer norms of the weights have an epsilon of {theirs:e}, those of the run {ours:e}: set {key}={theirs:e}"
            ));
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_config::resolve;
    use vlct_model::files;

    fn check_with(path: &Path, words: &[&str]) -> Result<()> {
        let spec = RunSpec::resolve(&resolve(words).unwrap().config).unwrap();
        let file = files::map(path).unwrap();
        check(file.path(), &files::index(&file).unwrap(), &spec)
    }

    #[test]
    fn a_test_with_other_images_than_those_of_the_weights_is_an_error() {
        for root in vlct_golden::vilt_directories("hf") {
            let sizes = vlct_golden::json(root.join("../sizes.json"));
            let size = |key: &str| sizes["vilt"][key].as_u64().expect("a number");
            let words: Vec<String> = [
                ("hidden_size", "dim"),
                ("depth", "depth"),
                ("heads", "heads"),
                ("patch_size", "patch"),
                ("image_size", "shortest_edge"),
                ("position_size", "image_size"),
                ("vocab_size", "vocab_size"),
            ]
            .map(|(key, size_of)| format!("{key}={}", size(size_of)))
            .into();
            let mut right: Vec<&str> = words.iter().map(String::as_str).collect();
            right.extend([
                "task_finetune_vqa",
                "data_root=x",
                "per_gpu_batchsize=1",
                "test_only=True",
            ]);
            right.extend(["layer_norm_eps=1e-12", "text_layer_norm_eps=1e-12"]);
            let with = |others: &[&'static str]| [right.as_slice(), others].concat();
            let path = root.join("vqa");
            check_with(&path, &with(&[])).unwrap();
            for (others, parts) in [
                (
                    &["train_transform_keys=mae", "val_transform_keys=mae_test"][..],
                    &["keep their proportions", "val_transform_keys=pixelbert"][..],
                ),
                (&["heads=6"], &["3 attention heads", "set heads=3"]),
                (&["layer_norm_eps=1e-6"], &["layer_norm_eps=1e-12", "1e-6"]),
                (&["layer_norm_eps=None"], &["an epsilon of 1e-12"]),
            ] {
                // In training it is a warning.
                check_with(&path, &with(&[others, &["test_only=False"]].concat())).unwrap();
                let text = check_with(&path, &with(others)).unwrap_err().to_string();
                assert!(
                    parts.iter().all(|part| text.contains(part)) && !text.contains('\n'),
                    "{text}"
                );
            }
        }
    }
}
