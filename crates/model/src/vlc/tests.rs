//! Pairs that show the same picture, and how they are ranked.

use super::{Picture, Sequence, Vlc};
use crate::config::{Backbone, Heads, VlcConfig};
use crate::initialise::initialise;
use crate::mask::PatchMask;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use vlct_golden::assert_close;
use vlct_tensor::{Gradients, Tape, Tensor, Var};

fn small_model(heads: Heads) -> Vlc {
    let backbone = Backbone {
        patch_size: 8,
        width: 16,
        depth: 1,
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
        drop_rate: 0.0,
        heads,
    });
    initialise(&mut model, ChaCha8Rng::seed_from_u64);
    model
}

fn picture(seed: usize) -> Vec<f32> {
    (0..3 * 24 * 24)
        .map(|i| ((i * 31 + seed * 77) % 101) as f32 / 50.0 - 1.0)
        .collect()
}

/// The encoding, and the gradients of a sum of some of its values, in the order of the parameters.
fn encode(model: &Vlc, sequences: &[Sequence]) -> (Vec<f32>, Vec<f32>) {
    let tape = Tape::new(model.compute());
    let encoded = model.encode(&tape, sequences, None);
    let values = encoded.features.tensor().to_host().to_vec();
    let pooled = model.pool(&tape, &encoded, 0..sequences.len());
    let loss = tape.cross_entropy(&pooled, (0..sequences.len() as u32).collect::<Vec<_>>());
    let mut gradients = Gradients::new(model.parameters());
    tape.backward(&loss, 1.0, &mut gradients);
    let all = model.parameters().iter().filter_map(|(id, _)| gradients.get(id));
    (values, all.flatten().copied().collect())
}

#[test]
fn a_shared_picture_reads_and_learns_as_copies_of_it_do() {
    let model = small_model(Heads::default());
    let (shared, other) = (picture(1), picture(2));
    let (some, few) = ([4, 0, 7], [8, 2]);
    let texts: Vec<Vec<u32>> = (0..6).map(|i| (1..4 + i).map(|j| (7 * i + j) % 50).collect()).collect();
    // The same picture whole (twice, once as the second of a pair) and in part (twice the same part, once another).
    let show = |pixels, kept, token_type| Picture {
        pixels,
        kept,
        token_type,
    };
    let pictures = [
        show(&shared, None, 1),
        show(&other, None, 1),
        show(&shared, Some(&some[..]), 1),
        show(&shared, None, 2),
        show(&shared, Some(&few[..]), 1),
        show(&shared, Some(&some[..]), 1),
    ];
    let pixels = pictures.map(|p| p.pixels.to_vec());
    let kept = pictures.map(|p| p.kept.map(<[u32]>::to_vec));
    let sequence = |i: usize, picture| Sequence {
        text: &texts[i],
        picture,
    };
    let shared: Vec<Sequence> = (0..6).map(|i| sequence(i, pictures[i])).collect();
    let copy = |i: usize| show(&pixels[i], kept[i].as_deref(), pictures[i].token_type);
    let copied: Vec<Sequence> = (0..6).map(|i| sequence(i, copy(i))).collect();

    let tape = Tape::inference(model.compute());
    assert_eq!(model.embed_image(&tape, &shared).projected.rows(), 9 + 9 + 3 + 2);
    assert_eq!(model.embed_image(&tape, &copied).projected.rows(), 3 * 9 + 2 * 3 + 2);
    let (values, gradients) = encode(&model, &shared);
    let (want_values, want_gradients) = encode(&model, &copied);
    assert_close("features", &values, &want_values, 1e-6);
    assert_close("gradients", &gradients, &want_gradients, 1e-6);
}

#[test]
fn without_a_ranking_head_the_matching_logit_ranks() {
    let model = small_model(Heads {
        itm: true,
        ..Heads::default()
    });
    let tape = Tape::inference(model.compute());
    let pooled = Var::constant(Tensor::from_slice(3, 16, &picture(3)[..3 * 16]));
    let logits = model.itm_logits(&tape, &pooled).tensor().to_host().to_vec();
    let scores = model.rank_scores(&tape, &pooled);
    assert_eq!((scores.rows(), scores.columns()), (3, 1));
    assert_eq!(*scores.tensor().to_host(), [logits[1], logits[3], logits[5]]);
}

#[test]
fn patches_are_decoded_alike_whichever_are_wanted() {
    let model = small_model(Heads::default());
    let (text, pictures) = ([3, 4, 5], [picture(1), picture(2)]);
    let masks: [PatchMask; 2] = [0, 1].map(|seed| {
        let noise: Vec<f32> = (0..9).map(|i| ((i * 5 + seed * 4) % 9) as f32).collect();
        PatchMask::from_noise(&noise, 0.5)
    });
    let sequences: Vec<Sequence> = (pictures.iter().zip(&masks))
        .map(|(pixels, mask)| Sequence {
            text: &text,
            picture: Picture {
                pixels,
                kept: Some(&mask.kept),
                token_type: 1,
            },
        })
        .collect();
    let decode = |wanted: &dyn Fn(&PatchMask) -> Vec<u32>| {
        let tape = Tape::inference(model.compute());
        let encoded = model.encode(&tape, &sequences, None);
        let patches = model.decode(&tape, &encoded, 0..2, &masks, wanted);
        (patches.rows(), patches.tensor().to_host().to_vec())
    };
    let (rows, all) = decode(&|_| (0..9).collect());
    assert_eq!(rows, 18);
    let width = all.len() / rows;
    let (rows, hidden) = decode(&|mask| mask.removed.clone());
    let want: Vec<f32> = (masks.iter().enumerate())
        .flat_map(|(i, mask)| mask.removed.iter().map(move |patch| 9 * i + *patch as usize))
        .flat_map(|row| all[row * width..][..width].to_vec())
        .collect();
    assert_eq!(rows, masks.iter().map(|mask| mask.removed.len()).sum::<usize>());
    assert_close("hidden patches", &hidden, &want, 1e-5);
    // Of one picture none, of the other one.
    let first = masks[0].removed.clone();
    let (rows, last) = decode(&|mask| if mask.removed == first { vec![] } else { vec![8] });
    assert_eq!(rows, 1);
    assert_close("last patch", &last, &all[17 * width..], 1e-5);
    assert_eq!(decode(&|_| vec![]).0, 0);
}
