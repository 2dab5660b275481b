//! The encoder on pairs that show the same picture.

use super::{Picture, Sequence, Vlc};
use crate::config::{Backbone, Heads, VlcConfig};
use crate::initialise::initialise;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use vlct_golden::assert_close;
use vlct_tensor::{Gradients, Tape};

fn small_model() -> Vlc {
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
        heads: Heads::default(),
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
    let tape = Tape::new();
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
    let model = small_model();
    let (shared, other) = (picture(1), picture(2));
    let (some, few) = (vec![4, 0, 7], vec![8, 2]);
    let texts: Vec<Vec<u32>> = (0..6).map(|i| (1..4 + i).map(|j| (7 * i + j) % 50).collect()).collect();
    // The same picture whole (twice), in part (twice the same part, once another), and once as the second of a pair.
    let shown: [(&Vec<f32>, Option<&Vec<u32>>, u32); 6] = [
        (&shared, None, 1),
        (&other, None, 1),
        (&shared, Some(&some), 1),
        (&shared, None, 2),
        (&shared, Some(&few), 1),
        (&shared, Some(&some), 1),
    ];
    let copies: Vec<(Vec<f32>, Option<Vec<u32>>)> = shown.iter().map(|(p, k, _)| ((*p).clone(), k.cloned())).collect();
    let sequence = |i: usize, pixels, kept| Sequence {
        text: &texts[i],
        picture: Picture {
            pixels,
            kept,
            token_type: shown[i].2,
        },
    };
    let shared: Vec<Sequence> = (0..6)
        .map(|i| sequence(i, shown[i].0, shown[i].1.map(Vec::as_slice)))
        .collect();
    let copied: Vec<Sequence> = (0..6)
        .map(|i| sequence(i, &copies[i].0, copies[i].1.as_deref()))
        .collect();

    let tape = Tape::inference();
    assert_eq!(model.embed_image(&tape, &shared).projected.rows(), 9 + 9 + 3 + 2);
    assert_eq!(model.embed_image(&tape, &copied).projected.rows(), 3 * 9 + 2 * 3 + 2);
    let (values, gradients) = encode(&model, &shared);
    let (want_values, want_gradients) = encode(&model, &copied);
    assert_close("features", &values, &want_values, 1e-6);
    assert_close("gradients", &gradients, &want_gradients, 1e-6);
}
