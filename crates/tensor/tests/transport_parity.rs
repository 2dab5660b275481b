//! Compares optimal transport with values of the reference implementation.

use vlct_golden::{Tensors, assert_close, directories};
use vlct_tensor::ops::{Ipot, Pair};
use vlct_tensor::{Compute, Device, Gradients, Parameters, Tape};

#[test]
fn distances_and_gradients_equal_the_reference() {
    for directory in directories("text") {
        let t = Tensors::open(directory.join("optimal_transport.safetensors"));
        // For each sample, the rows that are not padding.
        let valid_rows = |name: &str| -> Vec<Vec<u32>> {
            let length = t.shape(name)[1];
            let rows = |(s, pads): (usize, &[i64])| {
                (0..length)
                    .filter(|i| pads[*i] == 0)
                    .map(|i| (s * length + i) as u32)
                    .collect()
            };
            t.i64(&format!("{name}_pad"))
                .chunks_exact(length)
                .enumerate()
                .map(rows)
                .collect()
        };
        let (text, image) = (valid_rows("text"), valid_rows("image"));
        let declaration = |name: &str| {
            let shape = t.shape(name);
            (name.to_string(), vec![shape[0] * shape[1], shape[2]], true)
        };
        let mut parameters = Parameters::new(["text", "image"].map(declaration), Device::default());
        for name in ["text", "image"] {
            let id = parameters.id(name).expect("declared");
            parameters.set(id, &t.f32(name));
        }
        let tape = Tape::new(Compute::default());
        let parameter = |name: &str| tape.parameter(&parameters, parameters.id(name).expect("declared"));
        let (words, patches) = (parameter("text"), parameter("image"));
        let mut distances = Vec::new();
        let mut terms = Vec::new();
        for (w, p) in text.iter().zip(&image) {
            let pick = |from, rows: &Vec<u32>, before: usize, after: usize| {
                let none = |n| std::iter::repeat_n(vlct_tensor::ops::NONE, n);
                vlct_tensor::ops::Pick {
                    from,
                    rows: none(before).chain(rows.iter().copied()).chain(none(after)).collect(),
                }
            };
            let features = tape.gather(&[pick(&words, w, 0, p.len()), pick(&patches, p, w.len(), 0)]);
            let pair = Pair {
                text: 0..w.len(),
                image: w.len()..w.len() + p.len(),
                weight: 1.0,
            };
            let distance = tape.transport(&features, vec![pair], Ipot::TRAINING);
            distances.push(distance.tensor().item());
            terms.push(distance);
        }
        assert_close("distance", &distances, &t.f32("distance"), 2e-5);
        let total = tape.weighted_sum(&terms.iter().map(|d| (d, 1.0)).collect::<Vec<_>>());
        let mut gradients = Gradients::new(&parameters);
        tape.backward(&total, 1.0, &mut gradients);
        for name in ["text", "image"] {
            let id = parameters.id(name).expect("declared");
            let got = gradients.get(id).expect("a gradient");
            assert_close(name, &got.to_host(), &t.f32(&format!("grad_{name}")), 2e-5);
        }
    }
}
