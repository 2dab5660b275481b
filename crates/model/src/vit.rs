//! The image classifier of MAE's fine-tuning and linear probing: a vision transformer with a linear head.

use std::ops::Range;
use std::sync::Arc;

use crate::batch_norm::{BatchStatistics, RunningStatistics};
use crate::blocks::{BACKBONE_EPS, Block, ImageEmbedding, Linear, Norm, ParameterIds};
use crate::config::{Backbone, ParameterList};
use crate::files::mapping::AdaptError;
use crate::files::{LoadReport, Options, WeightIndex};
use crate::load;
use vlct_tensor::ops::{NONE, Pick, Table, Varlen};
use vlct_tensor::tensor::Order;
use vlct_tensor::{Compute, Parameters, Planes, Tape, Var};

/// Sizes of an image classifier.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct VitConfig {
    /// Side of the square input images, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Width.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Number of classes.
    pub classes: usize,
    /// Whether the head reads the mean of the patches. Otherwise it reads the class token.
    pub global_pool: bool,
    /// Probability that a sublayer of the last block is left out for an image in training. It grows linearly from 0 in the first block.
    pub drop_path: f32,
    /// ε of the layer norms.
    pub layer_norm_eps: f32,
    /// Whether the model is that of linear probing: a batch norm without scale and shift precedes the head, and only the head is trained.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub linear_probe: bool,
}

impl VitConfig {
    /// Returns the sizes of a published variant: `vit_base_patch16`, `vit_large_patch16` or `vit_huge_patch14`; `None` for other names.
    pub fn from_name(name: &str, image_size: usize, classes: usize) -> Option<Self> {
        let sizes = Backbone::from_name(&format!("mae_{name}"))?;
        Some(Self {
            image_size,
            patch_size: sizes.patch_size,
            width: sizes.width,
            depth: sizes.depth,
            heads: sizes.heads,
            classes,
            global_pool: true,
            drop_path: 0.0,
            layer_norm_eps: BACKBONE_EPS,
            linear_probe: false,
        })
    }

    /// Returns the number of patches of an image.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Returns name and shape of each parameter and whether it is trainable, in the order of the published state dict.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>, bool)> {
        let (d, side) = (self.width, self.patch_size);
        let mut list = ParameterList(Vec::new());
        list.add("cls_token", &[1, 1, d]);
        list.add("pos_embed", &[1, self.patches() + 1, d]);
        list.add("patch_embed.proj.weight", &[d, 3, side, side]);
        list.add("patch_embed.proj.bias", &[d]);
        (0..self.depth).for_each(|i| list.add_block(&format!("blocks.{i}"), d));
        if !self.global_pool {
            list.add_norm("norm", d);
        }
        if self.linear_probe {
            list.add("head.0.running_mean", &[d]);
            list.add("head.0.running_var", &[d]);
        }
        list.add_linear(self.head(), d, self.classes);
        if self.global_pool {
            list.add_norm("fc_norm", d);
        }
        if self.linear_probe {
            for (name, _, trainable) in &mut list.0 {
                *trainable = name.starts_with(self.head());
            }
        }
        list.0
    }

    /// Returns the name of the linear head.
    pub(crate) fn head(&self) -> &'static str {
        if self.linear_probe { "head.1" } else { "head" }
    }

    /// Returns the probability of leaving out a sublayer of block `block`.
    pub fn drop_rate(&self, block: usize) -> f32 {
        match self.depth {
            0 | 1 => self.drop_path,
            depth => self.drop_path * block as f32 / (depth - 1) as f32,
        }
    }
}

/// The factors of the sublayers for each image of a batch: 0 leaves a sublayer out.
#[derive(Clone, Debug, PartialEq)]
pub struct DropPath {
    /// A factor for each image, by block and sublayer (attention, MLP).
    pub factors: Vec<[Vec<f32>; 2]>,
}

/// An image classifier: its sizes, its weights and the layers that use them.
pub struct Vit {
    config: VitConfig,
    parameters: Parameters,
    compute: Compute,
    image: ImageEmbedding,
    blocks: Vec<Block>,
    norm: Norm,
    running: Option<RunningStatistics>,
    head: Linear,
}

impl Vit {
    /// Makes a classifier whose weights are all zero.
    pub fn new(config: VitConfig) -> Self {
        let parameters = Parameters::new(config.parameters(), Compute::default().device);
        Self::with_parameters(config, parameters)
    }

    /// Makes a classifier with the sizes `config` whose weights are those of a file.
    ///
    /// # Errors
    /// Returns the errors of [`Vit::load`], and [`AdaptError::Missing`] if the file lacks any tensor of the model.
    pub fn read(config: VitConfig, file: &WeightIndex) -> Result<(Self, LoadReport), AdaptError> {
        let (parameters, report) = load::read(config.parameters(), file)?;
        Ok((Self::with_parameters(config, parameters), report))
    }

    fn with_parameters(config: VitConfig, parameters: Parameters) -> Self {
        let ids = ParameterIds(&parameters);
        let norm = if config.global_pool { "fc_norm" } else { "norm" };
        Self {
            image: ImageEmbedding::new(&ids, ""),
            blocks: (0..config.depth)
                .map(|i| ids.block(&format!("blocks.{i}"), config.layer_norm_eps))
                .collect(),
            norm: ids.norm(norm),
            running: config.linear_probe.then(|| RunningStatistics::new(&ids, "head.0")),
            head: ids.linear(config.head()),
            compute: Compute::default(),
            config,
            parameters,
        }
    }

    /// Returns the sizes.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Returns the name of the head's weight matrix.
    pub fn head_weight(&self) -> String {
        format!("{}.weight", self.config.head())
    }

    /// Returns the weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Returns the weights for modification.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Returns the number format and other settings for tapes of this model.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Sets the device, the number format and other settings for tapes of this model, which are initially `Compute::default()`. The weights
    /// move to the device.
    ///
    /// # Panics
    /// Panics if a tape uses the weights and the device changes.
    pub fn set_compute(&mut self, compute: Compute) {
        self.parameters.move_to(compute.device);
        self.compute = compute;
    }

    /// Sets the parameters that a file has and leaves the others unchanged. The file can be that of a classifier, a MAE or a VLC model.
    ///
    /// # Errors
    /// Returns the errors of [`Vlc::load`](crate::Vlc::load).
    pub fn load(&mut self, file: &WeightIndex, options: Options) -> Result<LoadReport, AdaptError> {
        load::load(&mut self.parameters, file, options)
    }

    /// Returns the logits `[images, classes]` of normalised images `[3, size, size]`.
    ///
    /// # Panics
    /// Panics if an image does not have the side `image_size`.
    pub fn logits(&self, tape: &Tape, images: &[&[f32]]) -> Var {
        let features = self.features(tape, images, None);
        let features = match &self.running {
            Some(running) => running.read(&self.parameters).normalise(tape, &features),
            None => features,
        };
        self.head.forward(tape, &self.parameters, &features, None)
    }

    /// Returns the logits in training. In linear probing, the batch norm uses the statistics of this batch, which are returned for
    /// [`Vit::update_statistics`].
    ///
    /// # Panics
    /// Panics under the conditions of [`Vit::features`].
    pub fn training_logits(
        &self,
        tape: &Tape,
        images: &[&[f32]],
        drop_path: Option<&DropPath>,
    ) -> (Var, Option<BatchStatistics>) {
        let features = self.features(tape, images, drop_path);
        let statistics = self.running.is_some().then(|| BatchStatistics::of(&features));
        let features = match &statistics {
            Some(statistics) => statistics.normalise(tape, &features),
            None => features,
        };
        (self.head.forward(tape, &self.parameters, &features, None), statistics)
    }

    /// Adds the statistics of a batch to the running ones, which [`Vit::logits`] uses.
    ///
    /// # Panics
    /// Panics if the model is not that of linear probing.
    pub fn update_statistics(&mut self, batch: &BatchStatistics) {
        let Some(running) = &self.running else {
            panic!("only linear probing has running statistics")
        };
        running.update(&mut self.parameters, batch);
    }

    /// Returns the input `[images, width]` of the head: the normalised mean of the patches, or the normalised class token.
    ///
    /// # Panics
    /// Panics if an image does not have the side `image_size`, or `drop_path` does not have a factor for each image and sublayer.
    pub fn features(&self, tape: &Tape, images: &[&[f32]], drop_path: Option<&DropPath>) -> Var {
        let p = &self.parameters;
        let eps = self.config.layer_norm_eps;
        let tokens = 1 + self.config.patches();
        let offsets: Arc<[usize]> = (0..=images.len()).map(|i| i * tokens).collect();
        let mut x = self.embed(tape, images);
        let mut varlen = Varlen::full(&offsets);
        let mut rows_of_image = tokens;
        for (i, block) in self.blocks.iter().enumerate() {
            let mut input = x.clone();
            // The head reads the class token only.
            if i + 1 == self.blocks.len() && !self.config.global_pool {
                varlen = Varlen::prefix_queries(&offsets, images.iter().map(|_| 1));
                let class_rows: Vec<u32> = (0..images.len()).map(|image| (image * tokens) as u32).collect();
                input = tape.rows(&x, class_rows);
                rows_of_image = 1;
            }
            let factors = |sublayer: usize| {
                let factors = &drop_path?.factors[i][sublayer];
                assert_eq!(factors.len(), images.len(), "one factor per image");
                let repeated = factors.iter().flat_map(|f| std::iter::repeat_n(*f, rows_of_image));
                factors
                    .iter()
                    .any(|f| *f != 1.0)
                    .then(|| repeated.collect::<Arc<[f32]>>())
            };
            let drop = |input: &Var, output: Var, factors: Option<Arc<[f32]>>| match factors {
                Some(factors) => tape.drop_path(input, &output, factors),
                None => output,
            };
            let attended = drop(
                &input,
                block.attend(tape, p, &x, &varlen, self.config.heads),
                factors(0),
            );
            x = drop(&attended, block.mlp(tape, p, &attended), factors(1));
        }
        if !self.config.global_pool {
            return self.norm.forward(tape, p, &x, eps);
        }
        let patches: Vec<Range<usize>> = offsets.windows(2).map(|rows| rows[0] + 1..rows[1]).collect();
        let means = tape.segment_mean(&x, patches);
        self.norm.forward(tape, p, &means, eps)
    }

    /// Returns the embedded tokens of all images `[images · (1 + patches), width]`: class token and patches, with positions.
    fn embed(&self, tape: &Tape, images: &[&[f32]]) -> Var {
        let p = &self.parameters;
        let count = self.config.patches() as u32;
        let all: Vec<u32> = (0..count).collect();
        let (size, side) = (self.config.image_size, self.config.patch_size);
        let squares = images.iter().map(|image| Planes::square(image, size));
        let selected: Vec<(Planes, &[u32])> = squares.map(|image| (image, all.as_slice())).collect();
        let patches = Var::constant(tape.device().patches(&selected, side, Order::ChannelFirst));
        let projected = self.image.projection.forward(tape, p, &patches, None);
        let (mut from_class, mut from_patches, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for image in 0..images.len() as u32 {
            from_class.push(0);
            from_patches.push(NONE);
            from_class.extend(std::iter::repeat_n(NONE, count as usize));
            from_patches.extend(image * count..(image + 1) * count);
            positions.extend(0..=count);
        }
        let class_token = tape.parameter(p, self.image.class_token);
        let joined = tape.gather(&[
            Pick {
                from: &projected,
                rows: from_patches.into(),
            },
            Pick {
                from: &class_token,
                rows: from_class.into(),
            },
        ]);
        let table = tape.parameter(p, self.image.positions);
        tape.lookup(
            Some(&joined),
            &[Table {
                table: &table,
                rows: positions.into(),
                frozen_row: None,
            }],
        )
    }
}
