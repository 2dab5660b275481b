//! Compares the gradients of all inputs of each operation with finite differences.

use super::*;
use crate::{Compute, Device, Gradients, Parameters, Precision, Tape, Tensor, Var};
use std::sync::Arc;

fn value(i: usize) -> f32 {
    (((i + 3) * 7919) % 1013) as f32 / 506.0 - 1.0
}

fn tensor(rows: usize, columns: usize, values: &[f32]) -> Tensor {
    Device::cpu().tensor(rows, columns, values)
}

/// Checks the gradients of `Σ c ∘ f(inputs)` for every value of every input. The inputs have the given shapes; `c` is constant.
fn check(shapes: &[[usize; 2]], f: impl Fn(&Tape, &[Var]) -> Var) {
    let mut parameters = Parameters::new(
        shapes
            .iter()
            .enumerate()
            .map(|(i, s)| (format!("p{i}"), s.to_vec(), true)),
        Device::cpu(),
    );
    let ids: Vec<_> = parameters.iter().map(|(id, _)| id).collect();
    for (k, id) in ids.iter().enumerate() {
        let n = parameters.get(*id).len();
        parameters.set(*id, &(0..n).map(|i| value(i + 100 * k)).collect::<Vec<_>>());
    }
    let run = |tape: &Tape, parameters: &Parameters| {
        let inputs: Vec<Var> = ids.iter().map(|id| tape.parameter(parameters, *id)).collect();
        let y = f(tape, &inputs);
        // `c[i, j]` is a row factor times a column factor, so that it differs between all values of the result.
        let c = Var::constant(tensor(
            1,
            y.columns(),
            &(0..y.columns()).map(|i| value(i + 7)).collect::<Vec<_>>(),
        ));
        let column = tape.linear(&y, &c, None, None);
        let terms: Vec<(Var, f32)> = (0..y.rows())
            .map(|r| (tape.rows(&column, vec![r as u32]), value(r + 11)))
            .collect();
        tape.weighted_sum(&terms.iter().map(|(v, w)| (v, *w)).collect::<Vec<_>>())
    };
    let mut gradients = Gradients::new(&parameters);
    let tape = Tape::new(Compute::default());
    let loss = run(&tape, &parameters);
    tape.backward(&loss, 1.0, &mut gradients);
    drop(loss);
    for id in &ids {
        let gradient = gradients
            .get(*id)
            .expect("every input has a gradient")
            .to_host()
            .into_owned();
        let values = parameters.tensor(*id).to_host().to_vec();
        for i in 0..values.len() {
            let mut loss_at = |step: f32| {
                let mut shifted = values.clone();
                shifted[i] += step;
                parameters.set(*id, &shifted);
                run(&Tape::inference(Compute::default()), &parameters).tensor().item()
            };
            let want = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2;
            let bound = 4e-3 * want.abs().max(1.0);
            assert!(
                (gradient[i] - want).abs() < bound,
                "input {} value {i}: {} instead of {want}",
                id.index(),
                gradient[i]
            );
        }
        parameters.set(*id, &values);
    }
}

#[test]
fn parallel_inference_packs_weights_without_deadlock() {
    let compute = Compute {
        precision: Precision::Bf16,
        ..Compute::default()
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
    for _ in 0..30 {
        let parameters = Parameters::new([("w".to_string(), vec![4096, 1024], true)], Device::cpu());
        let id = parameters.id("w").expect("declared");
        let infer = || {
            let tape = Tape::inference(compute);
            let x = Var::constant(Device::cpu().zeros(1, 1024));
            tape.linear(&x, &tape.parameter(&parameters, id), None, None).columns()
        };
        pool.install(|| rayon::join(infer, || rayon::join(infer, || rayon::join(infer, infer))));
    }
}

#[test]
fn linear_gradients_equal_finite_differences() {
    check(&[[3, 4], [5, 4], [1, 5], [3, 5]], |t, v| {
        t.linear(&v[0], &v[1], Some(&v[2]), Some(&v[3]))
    });
    check(&[[3, 4], [5, 4], [3, 5]], |t, v| {
        t.linear(&v[0], &v[1], None, Some(&v[2]))
    });
}

#[test]
fn bias_has_a_gradient_if_the_weight_is_frozen() {
    check(&[[3, 4], [1, 5]], |t, v| {
        let w = Var::constant(tensor(5, 4, &(0..20).map(value).collect::<Vec<_>>()));
        t.linear(&v[0], &w, Some(&v[1]), None)
    });
}

#[test]
fn gradients_of_a_reused_value_are_summed() {
    check(&[[4, 4], [4, 4]], |t, v| {
        let x = t.linear(&v[0], &v[1], None, Some(&v[0]));
        let y = t.linear(&x, &v[1], None, Some(&x));
        t.linear(&x, &v[1], None, Some(&y))
    });
}

#[test]
fn gelu_and_tanh_gradients_equal_finite_differences() {
    check(&[[3, 4]], |t, v| t.gelu(&v[0]));
    check(&[[3, 4]], |t, v| t.tanh(&v[0]));
}

#[test]
fn layer_norm_gradients_equal_finite_differences() {
    check(&[[3, 6], [1, 6], [1, 6]], |t, v| {
        t.layer_norm(&v[0], &v[1], &v[2], 1e-6)
    });
}

#[test]
fn attention_sublayer_gradients_equal_finite_differences() {
    let offsets: Arc<[usize]> = Arc::new([0, 2, 5]);
    let shapes = [[5, 4], [1, 4], [1, 4], [12, 4], [1, 12], [4, 4], [1, 4]];
    check(&shapes, |t, v| {
        let [norm, qkv, proj] = [1, 3, 5].map(|i| Affine {
            weight: &v[i],
            bias: &v[i + 1],
        });
        t.attention_sublayer(&v[0], norm, 1e-6, qkv, proj, &Varlen::full(&offsets), 2)
    });
    check(&shapes, |t, v| {
        let [norm, qkv, proj] = [1, 3, 5].map(|i| Affine {
            weight: &v[i],
            bias: &v[i + 1],
        });
        t.attention_sublayer(
            &v[0],
            norm,
            1e-6,
            qkv,
            proj,
            &Varlen::prefix_queries(&offsets, [1, 2]),
            2,
        )
    });
}

#[test]
fn mlp_sublayer_gradients_equal_finite_differences() {
    let shapes = [[3, 4], [1, 4], [1, 4], [8, 4], [1, 8], [4, 8], [1, 4]];
    check(&shapes, |t, v| {
        let [norm, fc1, fc2] = [1, 3, 5].map(|i| Affine {
            weight: &v[i],
            bias: &v[i + 1],
        });
        t.mlp_sublayer(&v[0], norm, 1e-6, fc1, fc2)
    });
}

#[test]
fn gather_and_lookup_gradients_equal_finite_differences() {
    check(&[[3, 2], [2, 2]], |t, v| {
        let picks = [
            Pick {
                from: &v[0],
                rows: Arc::new([2, NONE, 0, 2]),
            },
            Pick {
                from: &v[1],
                rows: Arc::new([NONE, 1, NONE, NONE]),
            },
        ];
        t.gather(&picks)
    });
    check(&[[3, 2], [3, 2], [4, 2]], |t, v| {
        let tables = [
            Table {
                table: &v[1],
                rows: Arc::new([1, NONE, 1]),
                frozen_row: None,
            },
            Table {
                table: &v[2],
                rows: Arc::new([3, 0, 2]),
                frozen_row: None,
            },
        ];
        t.lookup(Some(&v[0]), &tables)
    });
}

#[test]
fn reshape_gradients_equal_finite_differences() {
    check(&[[3, 4]], |t, v| t.reshape(&v[0], 6, 2));
}

#[test]
fn frozen_row_has_no_gradient() {
    let mut parameters = Parameters::new([("table".to_string(), vec![2, 1], true)], Device::cpu());
    let id = parameters.id("table").expect("declared");
    parameters.set(id, &[5.0, 7.0]);
    let (tape, mut gradients) = (Tape::new(Compute::default()), Gradients::new(&parameters));
    let table = tape.parameter(&parameters, id);
    let y = tape.lookup(
        None,
        &[Table {
            table: &table,
            rows: Arc::new([0, 1]),
            frozen_row: Some(0),
        }],
    );
    assert_eq!(*y.tensor().to_host(), [5.0, 7.0]);
    let loss = tape.rows(&y, vec![0]);
    let other = tape.rows(&y, vec![1]);
    let loss = tape.weighted_sum(&[(&loss, 1.0), (&other, 1.0)]);
    tape.backward(&loss, 1.0, &mut gradients);
    assert_eq!(*gradients.get(id).expect("row 1 has a gradient").to_host(), [0.0, 1.0]);
}

#[test]
fn dropout_gradients_equal_finite_differences() {
    check(&[[3, 8]], |t, v| t.dropout(&v[0], 0.5, [1, 2, 3, 4]));
}

#[test]
fn loss_gradients_equal_finite_differences() {
    check(&[[3, 4]], |t, v| t.cross_entropy(&v[0], vec![1, 3, 0]));
    check(&[[3, 4]], |t, v| {
        t.patch_loss(&v[0], tensor(3, 4, &(0..12).map(value).collect::<Vec<_>>()))
    });
    check(&[[3, 4]], |t, v| {
        let targets: Vec<f32> = (0..12).map(|i| value(i).abs()).collect();
        t.binary_cross_entropy(&v[0], tensor(3, 4, &targets))
    });
}

#[test]
fn transport_gradients_lower_the_distance() {
    // The gradient ignores the change of the transport plan, so finite differences do not apply. Gradient descent must lower the distance.
    let mut parameters = Parameters::new([("x".to_string(), vec![7, 4], true)], Device::cpu());
    let id = parameters.id("x").expect("declared");
    parameters.set(id, &(0..28).map(value).collect::<Vec<_>>());
    let pairs = vec![Pair {
        text: 1..3,
        image: 3..6,
        weight: 1.0,
    }];
    let mut previous = f32::INFINITY;
    for _ in 0..5 {
        let (tape, mut gradients) = (Tape::new(Compute::default()), Gradients::new(&parameters));
        let x = tape.parameter(&parameters, id);
        let loss = tape.transport(&x, pairs.clone(), Ipot::TRAINING);
        drop(x);
        let distance = loss.tensor().item();
        assert!(distance < previous, "{distance} after {previous}");
        previous = distance;
        tape.backward(&loss, 1.0, &mut gradients);
        let gradient = gradients.get(id).expect("gradient").to_host().into_owned();
        assert!(
            gradient[..4].iter().chain(&gradient[24..]).all(|g| *g == 0.0),
            "rows outside the pair have a gradient"
        );
        let updated: Vec<f32> = parameters
            .tensor(id)
            .to_host()
            .iter()
            .zip(&gradient)
            .map(|(x, g)| x - 0.3 * g)
            .collect();
        parameters.set(id, &updated);
    }
}

#[test]
fn drop_path_gradients_equal_finite_differences() {
    check(&[[4, 3], [4, 3]], |t, v| {
        t.drop_path(&v[0], &v[1], vec![0.0, 1.25, 1.0, 0.5])
    });
    // The sublayer reads the input that it is added to.
    check(&[[3, 4], [4, 4]], |t, v| {
        let y = t.linear(&v[0], &v[1], None, Some(&v[0]));
        t.drop_path(&v[0], &y, vec![0.0, 2.0, 2.0])
    });
}

#[test]
fn sparse_product_gradients_equal_finite_differences() {
    let rows = [
        vec![(0, 0.5), (2, -1.5)],
        vec![],
        vec![(2, 1.0), (2, 0.25)],
        vec![(1, 2.0)],
    ];
    check(&[[3, 2]], |t, v| {
        t.sparse_product(SparseMatrix::from_rows(3, rows.clone()), &v[0])
    });
}

#[test]
fn segment_mean_gradients_equal_finite_differences() {
    check(&[[6, 3]], |t, v| t.segment_mean(&v[0], vec![0..2, 2..2, 3..6]));
    check(&[[5, 3]], |t, v| {
        let mean = t.segment_mean(&v[0], vec![1..2, 2..5]);
        t.linear(&mean, &v[0], None, None)
    });
}

#[test]
fn soft_cross_entropy_gradients_equal_finite_differences() {
    check(&[[2, 5]], |t, v| {
        let targets = [0.1, 0.0, 0.7, 0.2, 0.0, 0.0, 1.0, 0.0, 0.0, 0.3];
        t.soft_cross_entropy(&v[0], tensor(2, 5, &targets))
    });
}
