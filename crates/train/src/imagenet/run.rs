//! The run that settings describe.

use std::path::PathBuf;

use vlct_config::{Config, ConfigError, DecayPower, ValCheckInterval, Warmup};
use vlct_image::augment::{Erasing, ErasingMode, Jitter, Policy};
use vlct_image::{ClassificationAugment, ColourAugment, TransformSpec};
use vlct_model::{ModelConfig, VitConfig, sizes};
use vlct_tasks::TaskSpec;
use vlct_tasks::images::ImagesSpec;
use vlct_tasks::mixup::MixupSpec;
use vlct_tensor::optimizer::Rule;

use super::settings::{Augmentation, HFLIP, MIN_CROP_AREA, Settings, Sizes};
use crate::error::Result;
use crate::plan::Length;
use crate::spec::{
    self, DataSpec, EmaSpec, FreezeSpec, GroupRule, HalfCosine, OptimizerSpec, PublishedSpec, RunSpec, ValidationSpec,
    WeightsSpec,
};

impl Settings {
    /// Returns the run of these settings on images with these classes.
    ///
    /// # Errors
    /// Returns an error if a value is out of range or not known, or contradicts linear probing.
    pub fn run_spec(&self, classes: Vec<String>) -> Result<RunSpec> {
        self.check_probe()?;
        self.check_ranges()?;
        let (rule, layer_decay) = match self.linear_probe {
            true => (Rule::Lars, 1.0),
            false => (Rule::AdamWPyTorch, self.optimisation.layer_decay),
        };
        let base = Config {
            device: self.device.to_string(),
            ..Config::default()
        };
        Ok(RunSpec {
            seed: self.seed,
            test_only: false,
            trial: None,
            experiment: PathBuf::new(),
            tag: self
                .finetune
                .as_ref()
                .map(|path| spec::tag(&path.to_string_lossy()))
                .unwrap_or_default(),
            compute: spec::compute(&base)?,
            model: ModelConfig::Vit(self.vit(classes.len())?),
            weights: WeightsSpec {
                pretrain_path: None,
                load_path: self.finetune.clone(),
                vocabulary: None,
                averages: false,
                skip_heads: false,
                partial: false,
                resume_from: None,
            },
            task: TaskSpec::Images(ImagesSpec {
                names: classes,
                smoothing: self.augmentation.smoothing as f32,
                mixup: self.mixup(),
            }),
            data: DataSpec {
                classes: Some(self.data_path.clone()),
                root: PathBuf::new(),
                datasets: Vec::new(),
                rules: self.rules(),
                tokenizer: base.tokenizer.clone(),
                max_text_len: base.max_text_len,
                image_size: self.input_size,
                size_divisor: None,
                normalisation: None,
                max_patches: None,
                // The published probe has fixed crops and mirroring.
                train_transform: match self.linear_probe
                    && self.augmentation.min_crop_area == MIN_CROP_AREA
                    && self.augmentation.hflip == HFLIP
                {
                    true => TransformSpec::LinearProbeTrain,
                    false => TransformSpec::ClassificationTrain(Box::new(self.augment()?)),
                },
                val_transform: TransformSpec::ClassificationEval,
                workers: self.num_workers.max(1),
            },
            optimizer: OptimizerSpec {
                rule,
                weight_decay: self.optimisation.weight_decay,
                groups: GroupRule::ClassifierLayers { layer_decay },
                learning_rate: self.learning_rate(),
                end_lr: self.optimisation.min_lr,
                decay: DecayPower::Cosine,
                half_cosine: Some(HalfCosine {
                    learning_rate: self.learning_rate(),
                    min_lr: self.optimisation.min_lr,
                    warmup_epochs: self.optimisation.warmup_epochs,
                    epochs: self.epochs as f64,
                }),
                clip_norm: self.optimisation.clip_grad,
            },
            ema: self.optimisation.ema_decay.map(|decay| EmaSpec {
                decay,
                evaluation: true,
            }),
            freeze: FreezeSpec::default(),
            length: Length {
                batch_size: self.samples_per_step(),
                micro_batch: self.batch_size,
                max_steps: None,
                max_epoch: self.epochs,
                warmup: Warmup::Steps(0),
                validation: ValCheckInterval::Fraction(1.0),
                validation_epochs: 1,
                whole_windows: true,
            },
            validation: ValidationSpec {
                batches: 0,
                sanity_batches: 0,
                patience: None,
                recalls: None,
                annotations: None,
            },
            answers: None,
            checkpoint_every: 0,
            keep_checkpoints: 0,
            published: Some(PublishedSpec { keep: self.keep }),
            start_epoch: self.start_epoch,
            log_every: 1,
            config: self.to_toml()?,
        })
    }

    /// Checks that linear probing has no settings that only fine-tuning has, and batches with a variance.
    fn check_probe(&self) -> std::result::Result<(), ConfigError> {
        if !self.linear_probe {
            return Ok(());
        }
        let augmentation = &self.augmentation;
        let not_used = [
            ("drop_path", self.drop_path > 0.0),
            ("aa", !self.has_no_policy()),
            ("color_jitter", augmentation.color_jitter.is_some()),
            ("smoothing", augmentation.smoothing > 0.0),
            ("reprob", augmentation.reprob > 0.0),
            ("mixup and cutmix", self.mixup().is_some()),
        ];
        if let Some((flags, _)) = not_used.iter().find(|(_, is_set)| *is_set) {
            return Err(ConfigError::Contradiction(format!(
                "linear probing trains the head on cropped and mirrored images only: leave out {flags}"
            )));
        }
        if self.batch_size < 2 {
            return Err(ConfigError::Contradiction(
                "the batch norm of linear probing needs a batch size of at least 2".into(),
            ));
        }
        Ok(())
    }

    /// Checks settings whose values are in range but contradict each other.
    fn check_ranges(&self) -> std::result::Result<(), ConfigError> {
        if let Some([min, max]) = self.augmentation.cutmix_minmax
            && min > max
        {
            return Err(ConfigError::Contradiction(format!(
                "cutmix_minmax={min},{max}: the smallest side is larger than the largest"
            )));
        }
        if self.start_epoch >= self.epochs {
            return Err(ConfigError::Contradiction(format!(
                "start_epoch={} is not before the end of a run of epochs={}: epochs counts from 0 and includes those before start_epoch",
                self.start_epoch, self.epochs
            )));
        }
        Ok(())
    }

    /// Returns warnings of settings that are possible but not sensible.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let (epochs, optimisation) = (self.epochs as f64, &self.optimisation);
        if optimisation.warmup_epochs >= epochs {
            warnings.push(format!(
                "warmup_epochs={} is not less than epochs={epochs}: the learning rate does not reach its peak",
                optimisation.warmup_epochs
            ));
        }
        let rate = self.learning_rate();
        if optimisation.min_lr > rate {
            warnings.push(format!(
                "min_lr={} is larger than the learning rate {rate}: the rate grows to the end of the run",
                optimisation.min_lr
            ));
        }
        warnings
    }

    fn has_no_policy(&self) -> bool {
        matches!(self.augmentation.aa.as_str(), "" | "none")
    }

    /// Returns the width of the model and the number of its values.
    ///
    /// # Errors
    /// Returns an error if a size is out of range.
    pub fn model_size(&self, classes: usize) -> Result<(usize, usize)> {
        let config = self.vit(classes)?;
        let values = |(_, shape, _): &(String, Vec<usize>, bool)| shape.iter().product::<usize>();
        Ok((config.width, config.parameters().iter().map(values).sum()))
    }

    /// Returns the sizes of the model.
    pub(super) fn vit(&self, classes: usize) -> std::result::Result<VitConfig, ConfigError> {
        let Some(named) = VitConfig::from_name(&self.model, self.input_size, classes) else {
            return Err(ConfigError::Contradiction(format!(
                "unknown model {:?}: vit_base_patch16, vit_large_patch16 and vit_huge_patch14 are known",
                self.model
            )));
        };
        let Sizes {
            patch_size,
            width,
            depth,
            heads,
            layer_norm_eps,
        } = self.sizes;
        let config = VitConfig {
            patch_size: patch_size.unwrap_or(named.patch_size),
            width: width.unwrap_or(named.width),
            depth: depth.unwrap_or(named.depth),
            heads: heads.unwrap_or(named.heads),
            layer_norm_eps: layer_norm_eps.unwrap_or(named.layer_norm_eps),
            global_pool: self.global_pool,
            drop_path: self.drop_path as f32,
            linear_probe: self.linear_probe,
            ..named
        };
        spec::size::check_image_size("input_size", config.image_size, config.patch_size.max(1))?;
        sizes::check_vit(&config).map_err(|error| ConfigError::Contradiction(error.to_string()))?;
        Ok(config)
    }

    /// Returns mixup and CutMix; `None` if images are not mixed.
    fn mixup(&self) -> Option<MixupSpec> {
        let augmentation = &self.augmentation;
        let spec = MixupSpec {
            mixup_alpha: augmentation.mixup,
            cutmix_alpha: augmentation.cutmix,
            cutmix_minmax: augmentation.cutmix_minmax,
            probability: augmentation.mixup_prob,
            switch_probability: augmentation.mixup_switch_prob,
            mode: augmentation.mixup_mode,
        };
        spec.is_active().then_some(spec)
    }

    fn augment(&self) -> Result<ClassificationAugment> {
        let Augmentation {
            color_jitter,
            aa,
            reprob,
            remode,
            recount,
            min_crop_area,
            hflip,
            ..
        } = &self.augmentation;
        let colour = match (self.has_no_policy(), color_jitter) {
            (true, None) => ColourAugment::None,
            (true, Some(strength)) => ColourAugment::Jitter(Jitter::new(*strength)?),
            (false, _) => ColourAugment::Policy(aa.parse::<Policy>()?),
        };
        let mode: ErasingMode = remode.parse()?;
        let erasing = match *reprob > 0.0 {
            true => Some(Erasing::new(*reprob, mode, *recount)?),
            false => None,
        };
        Ok(ClassificationAugment {
            colour,
            erasing,
            min_area: *min_crop_area,
            mirroring: *hflip,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::published;
    use super::*;

    #[test]
    fn the_published_command_gives_the_published_values() {
        let settings = published();
        assert!((settings.learning_rate() - 2e-3).abs() < 1e-12);
        let spec = settings.run_spec(vec!["a".into(), "b".into()]).unwrap();
        let ModelConfig::Vit(model) = &spec.model else {
            panic!("a classifier")
        };
        assert_eq!((model.patches(), model.classes, model.depth), (576, 2, 12));
        assert_eq!(spec.length.batch_size, 1024);
        let TaskSpec::Images(task) = &spec.task else {
            panic!("images")
        };
        assert!(task.mixup.as_ref().is_some_and(|mixup| mixup.cutmix_alpha == 1.0));
        let text: Settings = toml::from_str(&spec.config).unwrap();
        assert_eq!(text, settings);
    }

    #[test]
    fn values_that_do_not_fit_are_errors() {
        let changed = |change: fn(&mut Settings)| {
            let mut settings = published();
            change(&mut settings);
            let spec = settings.run_spec(vec!["a".into(), "b".into()]);
            spec.map(drop).map_err(|error| error.to_string())
        };
        for (change, part) in [
            (
                (|s| s.model = "resnet50".into()) as fn(&mut Settings),
                "vit_base_patch16",
            ),
            (|s| s.input_size = 225, "multiple of the patch size 16"),
            (
                |s| s.sizes.heads = Some(7),
                "7 attention heads do not divide the width 768",
            ),
            (|s| s.sizes.depth = Some(0), "depth 0"),
            (
                |s| s.augmentation.cutmix_minmax = Some([0.75, 0.5]),
                "cutmix_minmax=0.75,0.5",
            ),
            (|s| s.start_epoch = 100, "start_epoch=100"),
            (|s| s.augmentation.aa = "augmix-m5".into(), "augmix"),
            (|s| s.augmentation.remode = "noise".into(), "noise"),
        ] {
            let message = changed(change).expect_err(part);
            assert!(message.contains(part) && !message.contains('\n'), "{message}");
        }
    }

    /// The settings of linear probing, which has no augmentation but crops.
    fn probe() -> Settings {
        let mut settings = published();
        settings.linear_probe = true;
        settings.drop_path = 0.0;
        settings.augmentation.aa = String::new();
        (settings.augmentation.smoothing, settings.augmentation.reprob) = (0.0, 0.0);
        (settings.augmentation.mixup, settings.augmentation.cutmix) = (0.0, 0.0);
        settings
    }

    #[test]
    fn linear_probing_trains_the_head_alone_by_lars() {
        let spec = probe().run_spec(vec!["a".into(), "b".into()]).unwrap();
        assert_eq!(spec.optimizer.rule, Rule::Lars);
        assert_eq!(spec.data.train_transform, TransformSpec::LinearProbeTrain);
        assert!(matches!(&spec.model, ModelConfig::Vit(model) if model.linear_probe));
        let mut digits = probe();
        digits.augmentation.hflip = 0.0;
        let spec = digits.run_spec(vec!["a".into(), "b".into()]).unwrap();
        let expected = ClassificationAugment {
            colour: ColourAugment::None,
            erasing: None,
            min_area: MIN_CROP_AREA,
            mirroring: 0.0,
        };
        assert_eq!(
            spec.data.train_transform,
            TransformSpec::ClassificationTrain(Box::new(expected))
        );
        for (change, part) in [
            ((|s| s.augmentation.mixup = 0.8) as fn(&mut Settings), "mixup"),
            (|s| s.augmentation.aa = "rand-m9".into(), "leave out aa"),
            (|s| s.drop_path = 0.1, "drop_path"),
            (|s| s.batch_size = 1, "at least 2"),
        ] {
            let mut settings = probe();
            change(&mut settings);
            let error = settings.run_spec(vec!["a".into()]).map(drop).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
    }
}
