use super::*;
use crate::ops::{Affine, NONE, Pick, SparseMatrix, Table};
use crate::optimizer::{Hyperparameters, Optimizer};
use crate::{Averages, Compute, Gradients, Parameters, Tape, Var};

/// Width of the test model.
const WIDTH: usize = 8;

fn parameters(device: Device) -> Parameters {
    let shapes: [(&str, &[usize]); 17] = [
        ("words", &[6, WIDTH]),
        ("positions", &[1, 8, WIDTH]),
        ("patch.weight", &[WIDTH, 3, 2, 2]),
        ("patch.bias", &[WIDTH]),
        ("norm1.weight", &[WIDTH]),
        ("norm1.bias", &[WIDTH]),
        ("qkv.weight", &[3 * WIDTH, WIDTH]),
        ("qkv.bias", &[3 * WIDTH]),
        ("proj.weight", &[WIDTH, WIDTH]),
        ("proj.bias", &[WIDTH]),
        ("fc1.weight", &[4 * WIDTH, WIDTH]),
        ("fc1.bias", &[4 * WIDTH]),
        ("fc2.weight", &[WIDTH, 4 * WIDTH]),
        ("fc2.bias", &[WIDTH]),
        ("head.weight", &[6, WIDTH]),
        ("decoder.weight", &[12, WIDTH]),
        ("frozen.weight", &[WIDTH, WIDTH]),
    ];
    let declare = |(name, shape): (&str, &[usize])| (name.to_string(), shape.to_vec(), name != "frozen.weight");
    let mut parameters = Parameters::new(shapes.map(declare), device);
    parameters.fill(|id, _, values| {
        let value = |i: usize| ((i * 7919 + id.index() * 31) % 1013) as f32 / 1013.0 - 0.5;
        values.iter_mut().enumerate().for_each(|(i, v)| *v = value(i));
    });
    parameters
}

/// Runs every differentiable operation, on two sequences of three words and four patches. Returns the weighted sum of all losses.
fn forward(tape: &Tape, parameters: &Parameters) -> Var {
    let p = |name: &str| tape.parameter(parameters, parameters.id(name).expect("declared"));
    let [words, positions, norm1, norm1_bias, proj_bias] =
        ["words", "positions", "norm1.weight", "norm1.bias", "proj.bias"].map(p);
    let affine = |name: &str| ["weight", "bias"].map(|kind| p(&format!("{name}.{kind}")));
    let [qkv, proj, fc1, fc2, patch] = ["qkv", "proj", "fc1", "fc2", "patch"].map(affine);
    let norm = Affine {
        weight: &norm1,
        bias: &norm1_bias,
    };

    let images: [Vec<f32>; 2] = [1, 2].map(|k| (0..3 * 16).map(|i| ((i * k) % 7) as f32 - 3.0).collect());
    let planes = |i: usize| Planes::square(&images[i], 4);
    let all_patches = [0, 1].map(|i| (planes(i), &[0, 1, 2, 3][..]));
    let patches = Var::constant(tape.device().patches(&all_patches, 2, Order::ChannelFirst));
    let patches = tape.linear(&patches, &patch[0], Some(&patch[1]), None);
    let table = |table, rows: &[u32], frozen_row| Table {
        table,
        rows: rows.into(),
        frozen_row,
    };
    let text = tape.lookup(None, &[table(&words, &[1, 2, 0, 3, 4, 0], Some(0))]);
    let text = tape.dropout(&text, 0.25, [1, 2, 3, 4]);
    let n = NONE;
    let pick = |from, rows: &[u32]| Pick {
        from,
        rows: rows.into(),
    };
    let x = tape.gather(&[
        pick(&text, &[0, 1, 2, n, n, n, n, 3, 4, 5, n, n, n, n]),
        pick(&patches, &[n, n, n, 0, 1, 2, 3, n, n, n, 4, 5, 6, 7]),
    ]);
    let halves = (0..7u32).map(|i| [(i, 0.5), (i / 2, 0.5)]);
    let positions = tape.sparse_product(SparseMatrix::from_rows(positions.rows(), halves), &positions);
    let x = tape.lookup(
        Some(&x),
        &[table(&positions, &[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6], None)],
    );

    let offsets: Arc<[usize]> = Arc::new([0, 7, 14]);
    let all_tokens = Varlen::full(&offsets);
    let x = tape.attention_sublayer(&x, norm, 1e-6, (&qkv).into(), (&proj).into(), &all_tokens, 2);
    let x = tape.mlp_sublayer(&x, norm, 1e-6, (&fc1).into(), (&fc2).into());
    let first_tokens = Varlen::prefix_queries(&offsets, [1, 1]);
    let pooled = tape.attention_sublayer(&x, norm, 1e-6, (&qkv).into(), (&proj).into(), &first_tokens, 2);
    let pooled = tape.tanh(&tape.gelu(&tape.linear(&pooled, &p("frozen.weight"), Some(&proj_bias), None)));
    let features = tape.layer_norm(&x, &norm1, &norm1_bias, 1e-6);

    let logits = tape.linear(&tape.rows(&features, vec![1, 8]), &p("head.weight"), None, None);
    let word_loss = tape.cross_entropy(&logits, vec![2, 4]);
    let kept = tape.drop_path(&x, &features, [0.0, 1.25].map(|factor| [factor; 7]).concat());
    let means = tape.segment_mean(&kept, vec![3..7, 10..14]);
    let class_logits = tape.linear(&means, &p("head.weight"), None, None);
    let soft_targets = tape
        .device()
        .tensor(2, 6, &[0.1, 0.2, 0.3, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5]);
    let class_loss = tape.soft_cross_entropy(&class_logits, soft_targets);
    let answer_logits = tape.linear(&pooled, &p("head.weight"), None, None);
    let targets = tape.device().tensor(3, 4, &[0.5; 12]);
    let answer_loss = tape.binary_cross_entropy(&tape.reshape(&answer_logits, 3, 4), targets);
    let prediction = tape.linear(&tape.rows(&features, vec![3, 12]), &p("decoder.weight"), None, None);
    let masked = [(planes(0), &[0][..]), (planes(1), &[2][..])];
    let patch_loss = tape.patch_loss(&prediction, tape.device().patches(&masked, 2, Order::ChannelLast));
    let pair = |start: usize, weight| Pair {
        text: start + 1..start + 3,
        image: start + 3..start + 7,
        weight,
    };
    let alignment_loss = tape.transport(&features, vec![pair(0, 0.5), pair(7, -0.5)], Ipot::TRAINING);
    tape.weighted_sum(&[
        (&word_loss, 1.0),
        (&class_loss, 0.7),
        (&answer_loss, 0.5),
        (&patch_loss, 1.0),
        (&alignment_loss, 0.1),
    ])
}

/// Trains three steps of two micro-batches. Returns the loss of each micro-batch and the averages of the weights. Calls `before_reading` before
/// losses and weights are copied to the host.
fn train(compute: Compute, rule: Rule, mut before_reading: impl FnMut()) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut parameters = parameters(compute.device);
    let mut optimizer = Optimizer::new(rule, &parameters);
    let mut averages = Averages::new(&parameters);
    let mut losses = Vec::new();
    for _ in 0..3 {
        let mut gradients = Gradients::new(&parameters);
        // The second micro-batch adds to the gradients of the first.
        for _ in 0..2 {
            let tape = Tape::new(compute);
            let loss = forward(&tape, &parameters);
            tape.backward(&loss, 0.5, &mut gradients);
            losses.push(loss);
        }
        let clip = Clip {
            norm: gradients.norm(),
            limit: 0.5,
        };
        optimizer.step(&mut parameters, &gradients, Some(&clip), |_| Hyperparameters {
            learning_rate: 1e-2,
            weight_decay: 0.1,
        });
        averages.update(&parameters, 0.5);
        assert!(parameters.first_non_finite().is_none());
    }
    averages.swap(&mut parameters);
    before_reading();
    let losses = losses.iter().map(|l| l.tensor().item()).collect();
    let ids: Vec<_> = parameters.iter().map(|(id, _)| id).collect();
    let weights = ids.iter().map(|id| parameters.tensor(*id).to_host().into_owned());
    (losses, weights.collect())
}

#[test]
fn training_accesses_values_only_through_the_backend() {
    for rule in [Rule::AdamW, Rule::Adam, Rule::AdamWPyTorch, Rule::Sgd, Rule::Lars] {
        for (precision, recompute) in [
            (Precision::F32, false),
            (Precision::Bf16, false),
            (Precision::Bf16, true),
        ] {
            let compute_on = |device| Compute {
                device,
                precision,
                recompute,
                ..Compute::default()
            };
            let remote: &'static Remote = Box::leak(Box::default());
            let got = train(compute_on(Device::new(remote)), rule, || ());
            let want = train(compute_on(Device::cpu()), rule, || ());
            assert!(got == want, "{rule:?} {precision:?}");
            assert!(want.0[4] < want.0[0], "{:?}", want.0);
            let [got, want] = [Device::new(remote), Device::cpu()].map(|device| {
                let (tape, parameters) = (Tape::inference(compute_on(device)), parameters(device));
                forward(&tape, &parameters).tensor().item()
            });
            assert_eq!(got, want, "inference in {precision:?}");
        }
    }
}

#[test]
fn training_copies_nothing_to_the_host() {
    let remote: &'static Remote = Box::leak(Box::default());
    let compute = Compute {
        device: Device::new(remote),
        ..Compute::default()
    };
    let mut counts = [0; 3];
    let (losses, weights) = train(compute, Rule::AdamW, || counts = remote.counts());
    let [calls, reads, uploaded] = counts;
    assert_eq!(reads, 0, "copies to the host before the losses are read");
    assert!(calls > 6 * 100, "{calls} calls");
    // Apart from images, only the initial weights and, in each of 6 micro-batches, the 12 targets of the binary cross-entropy and
    // those of the soft cross-entropy are copied from the host.
    // The gradients of losses are scalars in host memory.
    let values: usize = weights.iter().map(Vec::len).sum();
    assert_eq!(uploaded, values + 6 * (12 + 12));
    assert_eq!(remote.counts()[1], losses.len() + weights.len());
}

#[test]
#[should_panic(expected = "tensor is on another device")]
fn rejects_tensors_of_different_devices() {
    let remote: &'static Remote = Box::leak(Box::default());
    let x = Var::constant(Device::new(remote).zeros(2, 2));
    Tape::new(Compute::default()).tanh(&x);
}

#[test]
fn devices_are_equal_if_they_have_the_same_backend() {
    let remotes: [&'static Remote; 2] = std::array::from_fn(|_| &*Box::leak(Box::default()));
    let [a, b] = remotes.map(|remote| Device::new(remote));
    assert!(a == a && a != b && a != Device::cpu() && Device::cpu() == Device::default());
    assert_eq!(format!("{a:?} {:?}", Device::cpu()), "remote cpu");
}
