//! Tests of sequences that share an image, sequences without text or image, ranking, and decoding.

use super::Vlc;
use crate::config::{Backbone, Heads, Variant, VlcConfig};
use crate::initialise::initialise;
use crate::inputs::{Inputs, Sequence};
use crate::mask::PatchMask;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use vlct_golden::assert_close;
use vlct_tensor::{Gradients, Planes, Tape, Var};

pub(super) fn small_model(heads: Heads, depth: usize) -> Vlc {
    let backbone = Backbone {
        patch_size: 8,
        width: 16,
        depth,
        heads: 2,
        decoder_width: 8,
        decoder_depth: 1,
        decoder_heads: 2,
    };
    let mut model = Vlc::new(VlcConfig {
        image_size: 24,
        backbone,
        vocab_size: 50,
        max_text_len: 8,
        token_types: 3,
        variant: crate::config::Variant::VLC,
        drop_rate: 0.0,
        heads,
    });
    initialise(&mut model, ChaCha8Rng::seed_from_u64);
    model
}

pub(super) fn image(seed: usize) -> Vec<f32> {
    (0..3 * 24 * 24)
        .map(|i| ((i * 31 + seed * 77) % 101) as f32 / 50.0 - 1.0)
        .collect()
}

pub(super) fn inputs<'a>(images: &'a [Vec<f32>], texts: &'a [Vec<u32>], sequences: &'a [Sequence]) -> Inputs<'a> {
    Inputs {
        images: images.iter().map(|image| Planes::square(image, 24)).collect(),
        texts: texts.iter().map(Vec::as_slice).collect(),
        sequences,
    }
}

fn sequence(text: Option<u32>, image: Option<u32>, token_type: u32, kept: Option<&[u32]>) -> Sequence {
    Sequence {
        group: 0,
        text,
        image,
        token_type,
        mask: kept.map(|kept| PatchMask {
            kept: kept.to_vec(),
            removed: Vec::new(),
            ids_restore: Vec::new(),
        }),
    }
}

/// Returns the encoder's output and the gradients of a loss of its pooled sequences, in the order of the parameters.
fn features_and_gradients(model: &Vlc, inputs: &Inputs) -> (Vec<f32>, Vec<f32>) {
    let count = inputs.sequences.len();
    let tape = Tape::new(model.compute());
    let encoded = model.encode(&tape, inputs, None);
    let values = encoded.features.tensor().to_host().to_vec();
    let pooled = model.pool(&tape, &encoded, 0..count);
    let loss = tape.cross_entropy(&pooled, (0..count as u32).collect::<Vec<_>>());
    let mut gradients = Gradients::new(model.parameters());
    tape.backward(&loss, 1.0, &mut gradients);
    let all = model.parameters().iter().filter_map(|(id, _)| gradients.get(id));
    (values, all.flat_map(|g| g.to_host().into_owned()).collect())
}

#[test]
fn sharing_an_image_gives_the_values_and_gradients_of_copies() {
    let model = small_model(Heads::default(), 1);
    let texts: Vec<Vec<u32>> = (0..6).map(|i| (1..4 + i).map(|j| (7 * i + j) % 50).collect()).collect();
    // Image, token type and visible patches of each sequence. Image 0 is unmasked twice and masked three times, image 1 is unmasked.
    let (three_patches, two_patches) = ([4, 0, 7], [8, 2]);
    let cases = [
        (0, 1, None),
        (1, 1, None),
        (0, 1, Some(&three_patches[..])),
        (0, 2, None),
        (0, 1, Some(&two_patches[..])),
        (0, 1, Some(&three_patches[..])),
    ];
    let sequences = |image: &dyn Fn(usize) -> u32| -> Vec<Sequence> {
        (0..6)
            .map(|i| sequence(Some(i as u32), Some(image(i)), cases[i].1, cases[i].2))
            .collect()
    };
    let shared = sequences(&|i| cases[i].0);
    let images = [image(1), image(2)];
    let copied = sequences(&|i| i as u32);
    let copies = cases.map(|(image, ..)| images[image as usize].clone());
    let (shared, copied) = (inputs(&images, &texts, &shared), inputs(&copies, &texts, &copied));

    let tape = Tape::inference(model.compute());
    assert_eq!(
        model.project_patches(&tape, &shared).projected.rows(),
        2 * 9 + 2 * 3 + 2
    );
    assert_eq!(
        model.project_patches(&tape, &copied).projected.rows(),
        3 * 9 + 2 * 3 + 2
    );
    let (values, gradients) = features_and_gradients(&model, &shared);
    let (want_values, want_gradients) = features_and_gradients(&model, &copied);
    assert_close("features", &values, &want_values, 1e-6);
    assert_close("gradients", &gradients, &want_gradients, 1e-6);
}

#[test]
fn sequences_without_text_or_image_are_encoded_independently() {
    let model = small_model(Heads::default(), 1);
    let (images, texts) = ([image(1)], [vec![2, 7, 3]]);
    let all = [
        sequence(Some(0), None, 1, None),
        sequence(None, Some(0), 1, None),
        sequence(Some(0), Some(0), 1, None),
    ];
    let tape = Tape::new(model.compute());
    let together = model.encode(&tape, &inputs(&images, &texts, &all), None);
    assert_eq!(*together.offsets, [0, 3, 3 + 10, 2 * (3 + 10)]);
    let together = together.features.tensor().to_host().to_vec();
    let width = model.config().backbone.width;
    for (i, rows) in [0..3, 3..13, 13..26].into_iter().enumerate() {
        let (alone, gradients) = features_and_gradients(&model, &inputs(&images, &texts, &all[i..=i]));
        assert_close(
            "features",
            &together[rows.start * width..rows.end * width],
            &alone,
            1e-6,
        );
        assert!(gradients.iter().all(|g| g.is_finite()));
    }
}

#[test]
fn frozen_parts_have_no_gradients_and_do_not_change_those_of_other_parts() {
    let (images, texts) = ([image(1), image(2)], [vec![2, 7, 3], vec![5, 4]]);
    let sequences: Vec<Sequence> = (0..2).map(|i| sequence(Some(i), Some(i), 1, None)).collect();
    let inputs = inputs(&images, &texts, &sequences);
    // Returns the names of traced values that are constant, and the gradient of each parameter.
    let run = |is_frozen: &dyn Fn(&str) -> bool| {
        let mut model = small_model(Heads::default(), 3);
        model.parameters_mut().freeze(is_frozen);
        let tape = Tape::new(model.compute());
        let mut constants = Vec::new();
        let encoded = model.encode_tracing(&tape, &inputs, None, &mut |name, value| {
            if format!("{value:?}").contains("Constant") {
                constants.push(name.to_owned());
            }
        });
        let loss = tape.cross_entropy(&model.pool(&tape, &encoded, 0..2), vec![0, 1]);
        let mut gradients = Gradients::new(model.parameters());
        tape.backward(&loss, 1.0, &mut gradients);
        let gradients = model.parameters().iter().map(|(id, p)| {
            let gradient = gradients.get(id).map(|g| g.to_host().into_owned());
            (p.name.clone(), gradient)
        });
        (constants, gradients.collect::<Vec<_>>())
    };
    let (constants, all) = run(&|_| false);
    assert!(constants.is_empty());
    let is_block = |name: &str| {
        ["transformer.blocks.0.", "transformer.blocks.1."]
            .iter()
            .any(|b| name.starts_with(b))
    };
    let is_embedding = |name: &str| {
        [
            "text_embeddings.",
            "token_type_embeddings.",
            "transformer.patch_embed.",
            "transformer.cls_token",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
    };
    let is_block_or_embedding = |name: &str| is_block(name) || is_embedding(name);
    type IsFrozen<'a> = &'a dyn Fn(&str) -> bool;
    for (is_frozen, want) in [
        (&is_block as IsFrozen, &[][..]),
        (&is_embedding, &["text_embeddings"]),
        (&is_block_or_embedding, &["text_embeddings", "block0", "block1"]),
    ] {
        let (constants, gradients) = run(is_frozen);
        assert_eq!(constants, want);
        for ((name, gradient), (_, unfrozen)) in gradients.iter().zip(&all) {
            match is_frozen(name) {
                true => assert!(gradient.is_none(), "{name}"),
                false => assert!(gradient == unfrozen, "{name}"),
            }
        }
    }
}

#[test]
fn rank_scores_without_a_ranking_head_are_matching_logits() {
    let heads = Heads {
        itm: true,
        ..Heads::default()
    };
    let model = small_model(heads, 1);
    let tape = Tape::inference(model.compute());
    let pooled = Var::constant(tape.device().tensor(3, 16, &image(3)[..3 * 16]));
    let logits = model.itm_logits(&tape, &pooled).tensor().to_host().to_vec();
    let scores = model.rank_scores(&tape, &pooled);
    assert_eq!((scores.rows(), scores.columns()), (3, 1));
    assert_eq!(*scores.tensor().to_host(), [logits[1], logits[3], logits[5]]);
}

#[test]
fn predictions_of_patches_do_not_depend_on_the_selection() {
    let model = small_model(Heads::default(), 1);
    let (texts, images) = ([vec![3, 4, 5]], [image(1), image(2)]);
    let masks: [PatchMask; 2] = std::array::from_fn(|seed| {
        let noise: Vec<f32> = (0..9).map(|i| ((i * 5 + seed * 4) % 9) as f32).collect();
        PatchMask::from_noise(&noise, 0.5)
    });
    let sequences: Vec<Sequence> = (0..2)
        .map(|i| Sequence {
            mask: Some(masks[i].clone()),
            ..sequence(Some(0), Some(i as u32), 1, None)
        })
        .collect();
    let decode = |select: &dyn Fn(&PatchMask) -> Vec<u32>| {
        let tape = Tape::inference(model.compute());
        let encoded = model.encode(&tape, &inputs(&images, &texts, &sequences), None);
        let patches = model.decode(&tape, &encoded, 0..2, &masks.each_ref(), select);
        (patches.rows(), patches.tensor().to_host().to_vec())
    };
    let (rows, all) = decode(&|_| (0..9).collect());
    assert_eq!(rows, 18);
    let width = all.len() / rows;
    let (rows, masked) = decode(&|mask| mask.removed.clone());
    let want: Vec<f32> = (masks.iter().enumerate())
        .flat_map(|(i, mask)| mask.removed.iter().map(move |patch| 9 * i + *patch as usize))
        .flat_map(|row| all[row * width..][..width].to_vec())
        .collect();
    assert_eq!(rows, masks.iter().map(|mask| mask.removed.len()).sum::<usize>());
    assert_close("masked patches", &masked, &want, 1e-5);
    // Selects patch 8 of image 1 and no patch of image 0.
    let first = masks[0].removed.clone();
    let (rows, last) = decode(&|mask| if mask.removed == first { vec![] } else { vec![8] });
    assert_eq!(rows, 1);
    assert_close("last patch", &last, &all[17 * width..], 1e-5);
    assert_eq!(decode(&|_| vec![]).0, 0);
}

/// Two images of different proportions, of which one has the patches of the position table.
#[test]
fn a_learned_position_table_has_gradients_through_its_interpolation() {
    let mut config = small_model(Heads::default(), 1).config().clone();
    config.backbone.decoder_width = 0;
    config.backbone.decoder_depth = 0;
    config.variant = Variant::VILT;
    let mut model = Vlc::new(config);
    initialise(&mut model, ChaCha8Rng::seed_from_u64);
    let values: Vec<f32> = (0..3 * 24 * 40).map(|i| ((i * 37) % 91) as f32 / 45.0 - 1.0).collect();
    let images = [
        Planes::new(&values[..3 * 16 * 40], 16, 40),
        Planes::new(&values[..3 * 24 * 24], 24, 24),
        Planes::new(&values[..3 * 40 * 24], 40, 24),
        Planes::new(&values[..3 * 16 * 40], 16, 40),
    ];
    let text = [1, 2, 3];
    let sequences = [0, 1, 2, 3].map(|i| sequence(Some(0), Some(i), 1, None));
    let inputs = Inputs {
        images: images.to_vec(),
        texts: vec![&text],
        sequences: &sequences,
    };
    let loss = |model: &Vlc, tape: &Tape| {
        let pooled = model.encode_pooled(tape, &inputs, None);
        let weights: Vec<f32> = (0..pooled.rows() * pooled.columns())
            .map(|i| ((i * 7) % 5) as f32 - 2.0)
            .collect();
        let weights = tape.device().tensor(1, weights.len(), &weights);
        let flat = tape.reshape(&pooled, 1, pooled.rows() * pooled.columns());
        tape.linear(&flat, &Var::constant(weights), None, None)
    };
    let tape = Tape::new(model.compute());
    let mut gradients = Gradients::new(model.parameters());
    let value = loss(&model, &tape);
    tape.backward(&value, 1.0, &mut gradients);
    let id = model.parameters().id("transformer.pos_embed").expect("declared");
    assert!(model.parameters().get(id).trainable);
    let gradient = gradients.get(id).expect("a gradient").to_host().to_vec();
    let table = model.parameters().tensor(id).to_host().to_vec();
    const STEP: f32 = 1e-2;
    for i in (0..table.len()).step_by(13) {
        let mut at = |value: f32| {
            let mut moved = table.clone();
            moved[i] += value;
            model.parameters_mut().set(id, &moved);
            loss(&model, &Tape::inference(model.compute())).tensor().item()
        };
        let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        assert!(
            (difference - gradient[i]).abs() < 2e-2 * gradient[i].abs().max(1.0),
            "{i}: {difference} and {}",
            gradient[i]
        );
    }
    // An image alone has the same result as in the batch.
    let all = model.encode_pooled(&Tape::inference(model.compute()), &inputs, None);
    for (i, image) in images.iter().enumerate() {
        let inputs = Inputs {
            images: vec![*image],
            texts: vec![&text],
            sequences: &[Sequence::FIRST_PAIR],
        };
        let alone = model.encode_pooled(&Tape::inference(model.compute()), &inputs, None);
        let width = alone.columns();
        let row = all.tensor().to_host()[i * width..(i + 1) * width].to_vec();
        assert_close("alone", &alone.tensor().to_host(), &row, 1e-5);
    }
}
