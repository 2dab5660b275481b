//! Models whose sizes differ from those of the recorded models, and batches for them. Sizes, weights and batches are drawn from a seed.

use super::{nlvr2, pretrain, unmasked_sequence};
use rand::{Rng, RngExt};
use vlct_data::loader::{Pixels, Position};
use vlct_data::random::{Purpose, stream};
use vlct_model::config::{Backbone, Heads};
use vlct_model::initialise::initialise_model;
use vlct_model::{Model, ModelConfig, PatchMask, Sequence, VitConfig, VlcConfig};
use vlct_tasks::images::{Images, ImagesSpec};
use vlct_tasks::labels::{Labels, LabelsSpec};
use vlct_tasks::mixup::{MixupMode, MixupSpec};
use vlct_tasks::pretrain::{MATCHING, MODELLING};
use vlct_tasks::retrieval::{Retrieval, RetrievalSpec};
use vlct_tasks::{Batch, Sample, Target, Task, Text};

/// Draws one of `choices`.
fn choose<T: Copy>(choices: &[T], random: &mut impl Rng) -> T {
    choices[random.random_range(0..choices.len())]
}

/// Draws the sizes of a model. Texts and images are small, so that a step takes milliseconds.
fn draw_config(seed: u64) -> VlcConfig {
    let random = &mut stream(seed, Purpose::Synthetic, 0, 0);
    let (width, encoder_heads) = choose(&[(24, 2), (32, 4), (48, 3), (64, 4), (96, 6), (128, 2)], random);
    let (decoder_width, decoder_heads) = choose(&[(16, 2), (32, 2), (48, 4), (64, 8)], random);
    let backbone = Backbone {
        patch_size: choose(&[4, 8, 14], random),
        width,
        depth: random.random_range(1..=6),
        heads: encoder_heads,
        decoder_width,
        decoder_depth: random.random_range(1..=3),
        decoder_heads,
    };
    VlcConfig {
        image_size: backbone.patch_size * random.random_range(2..=6),
        backbone,
        vocab_size: random.random_range(40..400),
        max_text_len: random.random_range(6..24),
        token_types: 2,
        variant: vlct_model::config::Variant::VLC,
        drop_rate: 0.0,
        heads: Heads::default(),
    }
}

/// Draws a model. The weights are those at the beginning of a training run plus noise with standard deviation 0, 0.01 or 0.05. Noise
/// is added to every trainable parameter, including biases, norms, the class token and the mask token.
fn draw_model(seed: u64, heads: Heads) -> Model {
    draw_model_with(seed, |config| VlcConfig { heads, ..config })
}

/// Draws a model like [`draw_model`], with sizes that `change` has changed.
fn draw_model_with(seed: u64, change: impl Fn(VlcConfig) -> VlcConfig) -> Model {
    draw_weights(Model::new(ModelConfig::Vlc(change(draw_config(seed)))), seed)
}

/// Draws the weights of a model.
fn draw_weights(mut model: Model, seed: u64) -> Model {
    initialise_model(&mut model, |i| stream(seed, Purpose::Initialisation, 0, i));
    let deviation = choose(&[0.0, 0.01, 0.05], &mut stream(seed, Purpose::Synthetic, 0, 1));
    let initial: Vec<Vec<f32>> = model
        .parameters()
        .iter()
        .map(|(id, _)| model.parameters().tensor(id).to_host().into_owned())
        .collect();
    model.parameters_mut().fill(|id, parameter, values| {
        values.copy_from_slice(&initial[id.index()]);
        if parameter.trainable {
            let random = &mut stream(seed, Purpose::Initialisation, 1, id.index() as u64);
            values.iter_mut().for_each(|v| *v += deviation * draw_noise(random));
        }
    });
    model
}

/// Draws a value with mean 0 and variance 1: the sum of three uniform values in ±1.
fn draw_noise(random: &mut impl Rng) -> f32 {
    (0..3).map(|_| random.random_range(-1.0..1.0f32)).sum()
}

/// Draws a text of random length, with token ids from the whole vocabulary.
fn draw_text(config: &VlcConfig, random: &mut impl Rng) -> Vec<u32> {
    let length = random.random_range(3..=config.max_text_len);
    (0..length)
        .map(|_| random.random_range(0..config.vocab_size as u32))
        .collect()
}

/// Draws the values of an image `[3, image_size, image_size]`.
fn draw_image(config: &VlcConfig, random: &mut impl Rng) -> Pixels {
    draw_pixels(config.image_size, random)
}

fn draw_pixels(image_size: usize, random: &mut impl Rng) -> Pixels {
    let values = 3 * image_size * image_size;
    Pixels::square((0..values).map(|_| draw_noise(random)).collect::<Vec<f32>>())
}

/// Draws a model and a batch for pre-training with all objectives.
pub(super) fn draw_pretraining(seed: u64) -> (Model, Batch) {
    let model = draw_model(seed, pretrain::HEADS);
    let (config, random) = (model.vlc().config(), &mut stream(seed, Purpose::Synthetic, 1, 0));
    let mask_ratio = choose(&[0.3, 0.6, 0.75], random);
    let samples = 2 * random.random_range(1..=3);
    let sample = |i: usize| {
        let mut sequence = |group, text, image| {
            let noise: Vec<f32> = (0..config.patches()).map(|_| random.random()).collect();
            Sequence {
                group,
                text: Some(text),
                image: Some(image),
                token_type: 1,
                mask: Some(PatchMask::from_noise(&noise, mask_ratio)),
            }
        };
        let matched = i.is_multiple_of(2);
        let sequences = vec![sequence(MODELLING, 0, 0), sequence(MATCHING, 1, !matched as u32)];
        let images = (0..2 - matched as usize).map(|_| draw_image(config, random)).collect();
        let plain = Text::unmasked(draw_text(config, random));
        let mut masked = plain.clone();
        masked.labels = plain.ids.iter().map(|id| (id % 3 == 0).then_some(*id)).collect();
        masked.labels[1] = Some(plain.ids[1]);
        Sample {
            item: i,
            images,
            texts: vec![masked, plain],
            sequences,
            target: Target::Class(matched as u32),
        }
    };
    let batch = Batch::collate(Position::default(), (0..samples).map(sample).collect());
    (model, batch)
}

/// Draws a model and a batch for question answering.
pub(super) fn draw_answering(seed: u64) -> (Model, Batch) {
    let random = &mut stream(seed, Purpose::Synthetic, 2, 0);
    let answers = random.random_range(5..60);
    let heads = Heads {
        vqa: Some(answers),
        ..Heads::default()
    };
    let model = draw_model(seed, heads);
    let samples = random.random_range(2..=6);
    let sample = |i: usize| Sample {
        item: i,
        images: vec![draw_image(model.vlc().config(), random)],
        texts: vec![Text::unmasked(draw_text(model.vlc().config(), random))],
        sequences: vec![unmasked_sequence(0)],
        target: Target::Scores(vec![(
            random.random_range(0..answers as u32),
            choose(&[0.3, 0.6, 1.0], random),
        )]),
    };
    let batch = Batch::collate(Position::default(), (0..samples).map(sample).collect());
    (model, batch)
}

/// Draws a model, a task that ranks captions, and a batch for the task.
pub(super) fn draw_ranking(seed: u64) -> (Model, Retrieval, Batch) {
    let heads = Heads {
        itm: true,
        rank: true,
        ..Heads::default()
    };
    let model = draw_model(seed, heads);
    let random = &mut stream(seed, Purpose::Synthetic, 3, 0);
    let false_texts = random.random_range(1..=5);
    let task = Retrieval {
        spec: RetrievalSpec { false_texts },
    };
    let samples = random.random_range(1..=4);
    let captions = 1 + false_texts;
    let sample = |i: usize| Sample {
        item: i,
        images: vec![draw_image(model.vlc().config(), random)],
        texts: (0..captions)
            .map(|_| Text::unmasked(draw_text(model.vlc().config(), random)))
            .collect(),
        sequences: (0..captions as u32).map(unmasked_sequence).collect(),
        target: Target::Class(0),
    };
    let batch = Batch::collate(Position::default(), (0..samples).map(sample).collect());
    (model, task, batch)
}

/// Draws a model and a batch for statements about pairs of images.
pub(super) fn draw_pairs(seed: u64) -> (Model, Batch) {
    let model = draw_model_with(seed, nlvr2::with_pairs);
    let random = &mut stream(seed, Purpose::Synthetic, 4, 0);
    let samples = random.random_range(2..=5);
    let sample = |i: usize| {
        let images = [
            draw_image(model.vlc().config(), random),
            draw_image(model.vlc().config(), random),
        ];
        nlvr2::sample(
            i,
            draw_text(model.vlc().config(), random),
            images,
            random.random_bool(0.5),
        )
    };
    let batch = Batch::collate(Position::default(), (0..samples).map(sample).collect());
    (model, batch)
}

/// Draws a model, a task of labels and a batch. Some samples have no image, and some have only `[CLS]` and `[SEP]` as their text.
pub(super) fn draw_labels(seed: u64) -> (Model, Labels, Batch) {
    let random = &mut stream(seed, Purpose::Synthetic, 5, 0);
    let (labels, several) = (random.random_range(2..20), random.random_bool(0.5));
    let heads = Heads {
        labels: Some(labels),
        ..Heads::default()
    };
    let model = draw_model(seed, heads);
    let samples = random.random_range(3..=6);
    let sample = |i: usize| {
        let images: Vec<Pixels> = (0..usize::from(i % 3 != 1))
            .map(|_| draw_image(model.vlc().config(), random))
            .collect();
        let mut text = draw_text(model.vlc().config(), random);
        text.truncate(if i % 3 == 2 { 2 } else { text.len() });
        let mut label = || random.random_range(0..labels as u32);
        Sample {
            item: i,
            sequences: vec![Sequence {
                image: (!images.is_empty()).then_some(0),
                ..unmasked_sequence(0)
            }],
            images,
            texts: vec![Text::unmasked(text)],
            target: match several {
                true => Target::Scores(vec![(label(), 1.0), (label(), 1.0)]),
                false => Target::Class(label()),
            },
        }
    };
    let batch = Batch::collate(Position::default(), (0..samples).map(sample).collect());
    let names = (0..labels).map(|i| i.to_string()).collect();
    (model, Labels::new(LabelsSpec { names, several }), batch)
}

/// Draws an image classifier, its task, and a batch as in training: mixed images, smoothed targets, and sublayers that are left out.
pub(super) fn draw_classifier(seed: u64) -> (Model, Images, Batch) {
    let random = &mut stream(seed, Purpose::Synthetic, 6, 0);
    let (width, heads) = choose(&[(24, 2), (32, 4), (48, 3)], random);
    let patch_size = choose(&[4, 8], random);
    let config = VitConfig {
        image_size: patch_size * random.random_range(2..=4),
        patch_size,
        width,
        depth: random.random_range(2..=4),
        heads,
        classes: random.random_range(3..40),
        global_pool: random.random_bool(0.5),
        drop_path: 0.3,
        layer_norm_eps: 1e-6,
        linear_probe: false,
    };
    let spec = ImagesSpec {
        names: (0..config.classes).map(|i| i.to_string()).collect(),
        smoothing: 0.1,
        mixup: Some(MixupSpec {
            mixup_alpha: 0.8,
            cutmix_alpha: 1.0,
            cutmix_minmax: None,
            probability: 1.0,
            switch_probability: 0.5,
            mode: MixupMode::Elem,
        }),
    };
    let samples = 2 * random.random_range(1..=2);
    let sample = |i: usize| Sample {
        item: i,
        images: vec![draw_pixels(config.image_size, random)],
        texts: Vec::new(),
        sequences: vec![Sequence::FIRST_IMAGE],
        target: Target::Class(random.random_range(0..config.classes as u32)),
    };
    let mut batch = Batch::collate(Position::default(), (0..samples).map(sample).collect());
    let task = Images::new(spec);
    task.finish_batch(seed, &mut batch);
    batch.dropout = Some([seed, 0, 0, 0]);
    (draw_weights(Model::new(ModelConfig::Vit(config)), seed), task, batch)
}
