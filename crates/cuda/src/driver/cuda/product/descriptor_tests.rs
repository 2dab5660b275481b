//! Computes what cuBLASLt documents for a descriptor, on column-major matrices, and compares it with the row-major meaning of [`Matmul`].

use super::*;
use std::collections::HashSet;

const SIZES: [usize; 3] = [3, 5, 4];

/// Memory of f32 values; an address is four times an index.
struct Memory(Vec<f32>);

fn at(index: usize) -> Address {
    Address(4 * index as u64)
}

fn index(address: Address) -> usize {
    address.0 as usize / 4
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh())
}

fn gelu_derivative(x: f32) -> f32 {
    let h = 1e-2;
    (gelu(x + h) - gelu(x - h)) / (2.0 * h)
}

impl Memory {
    /// An element of a column-major matrix, which must be within its shape.
    fn cell(&mut self, x: &Layout, i: usize, j: usize) -> &mut f32 {
        assert!(i < x.rows && j < x.columns && x.rows <= x.ld, "({i}, {j}) of {x:?}");
        &mut self.0[index(x.address) + i + j * x.ld]
    }

    fn operand(&mut self, x: &Layout, transposed: bool, i: usize, j: usize) -> f32 {
        if transposed {
            *self.cell(x, j, i)
        } else {
            *self.cell(x, i, j)
        }
    }

    /// `cublasLtMatmul`, after the documentation of `cublasLtEpilogue_t`.
    fn column_major(&mut self, x: &Descriptor) {
        let [m, n] = [x.d.rows, x.d.columns];
        let k = if x.transpose_a { x.a.rows } else { x.a.columns };
        assert_eq!([x.c.rows, x.c.columns], [m, n]);
        let bias = x.bias.map(index);
        for j in 0..n {
            for i in 0..m {
                let mut sum = 0.0;
                for l in 0..k {
                    sum += self.operand(&x.a, x.transpose_a, i, l) * self.operand(&x.b, x.transpose_b, l, j);
                }
                let c = if x.beta == 0.0 {
                    0.0
                } else {
                    x.beta * *self.cell(&x.c, i, j)
                };
                let mut value = x.alpha * sum + c;
                let aux = x.aux.map(|aux| index(aux.address) + i + j * aux.ld);
                if x.epilogue & EPILOGUE_BIAS != 0 {
                    value += self.0[bias.expect("a bias") + i];
                }
                match x.epilogue {
                    EPILOGUE_GELU_AUX | EPILOGUE_GELU_AUX_BIAS => self.0[aux.expect("aux")] = value,
                    EPILOGUE_DGELU | EPILOGUE_DGELU_BGRAD => value *= gelu_derivative(self.0[aux.expect("aux")]),
                    _ => {}
                }
                if x.epilogue & EPILOGUE_GELU != 0 {
                    value = gelu(value);
                }
                *self.cell(&x.d, i, j) = value;
            }
        }
        if x.epilogue == EPILOGUE_DGELU_BGRAD {
            for i in 0..m {
                self.0[bias.expect("a gradient") + i] = (0..n).map(|j| *self.cell(&x.d, i, j)).sum();
            }
        }
        if x.epilogue == EPILOGUE_BGRADB {
            for j in 0..n {
                self.0[bias.expect("a gradient") + j] = (0..k).map(|l| self.operand(&x.b, x.transpose_b, l, j)).sum();
            }
        }
    }

    /// The meaning of the product as `Matmul` and `Epilogue` document it.
    fn row_major(&mut self, x: &Matmul) {
        let read = |memory: &Self, x: &Operand, r: usize, c: usize| {
            let (r, c) = if x.transposed { (c, r) } else { (r, c) };
            memory.0[index(x.address) + r * x.stride + c]
        };
        for r in 0..x.m {
            for c in 0..x.n {
                let sum: f32 = (0..x.k).map(|l| read(self, &x.a, r, l) * read(self, &x.b, l, c)).sum();
                let mut value = x.alpha * sum;
                if x.beta != 0.0 {
                    value += x.beta * read(self, &x.c, r, c);
                }
                let offset = r * x.d.stride + c;
                match x.epilogue {
                    Epilogue::None | Epilogue::BiasGradient { .. } => {}
                    Epilogue::Bias { bias } => value += self.0[index(bias) + c],
                    Epilogue::Gelu { bias, aux } => {
                        value += bias.map_or(0.0, |bias| self.0[index(bias) + c]);
                        if let Some(aux) = aux {
                            self.0[index(aux) + offset] = value;
                        }
                        value = gelu(value);
                    }
                    Epilogue::GeluGradient { aux, .. } => value *= gelu_derivative(self.0[index(aux) + offset]),
                }
                self.0[index(x.d.address) + offset] = value;
            }
        }
        match x.epilogue {
            Epilogue::GeluGradient {
                bias_gradient: Some(to),
                ..
            } => {
                for c in 0..x.n {
                    self.0[index(to) + c] = (0..x.m).map(|r| read(self, &x.d, r, c)).sum();
                }
            }
            Epilogue::BiasGradient { bias_gradient } => {
                for r in 0..x.m {
                    self.0[index(bias_gradient) + r] = (0..x.k).map(|l| read(self, &x.a, r, l)).sum();
                }
            }
            _ => {}
        }
    }
}

/// Every epilogue, with the value that cuBLASLt has for it (`cublasLt.h`).
fn epilogues() -> Vec<(Epilogue, u32)> {
    let (bias, aux) = (at(400), at(300));
    let gelu = |bias, aux| Epilogue::Gelu { bias, aux };
    let gradient = |bias_gradient| Epilogue::GeluGradient { aux, bias_gradient };
    vec![
        (Epilogue::None, 1),
        (Epilogue::Bias { bias }, 4),
        (gelu(None, None), 32),
        (gelu(Some(bias), None), 36),
        (gelu(None, Some(aux)), 160),
        (gelu(Some(bias), Some(aux)), 164),
        (gradient(None), 192),
        (gradient(Some(bias)), 208),
        (Epilogue::BiasGradient { bias_gradient: bias }, 512),
    ]
}

/// A product of small matrices with strides larger than their rows.
fn product(a_transposed: bool, b_transposed: bool, beta: f32, epilogue: Epilogue) -> Matmul {
    let [m, n, k] = SIZES;
    let operand = |first, stride, transposed| Operand {
        address: at(first),
        stride,
        transposed,
        element: Element::F32,
    };
    Matmul {
        m,
        n,
        k,
        alpha: 0.5,
        a: operand(0, 7, a_transposed),
        b: operand(50, 8, b_transposed),
        beta,
        c: operand(100, 9, false),
        d: operand(200, 8, false),
        epilogue,
    }
}

#[test]
fn column_major_products_are_the_row_major_ones() {
    let values: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let mut results = HashSet::new();
    for (a_transposed, b_transposed) in [(false, false), (false, true), (true, false), (true, true)] {
        for beta in [0.0, 1.5] {
            for (epilogue, code) in epilogues() {
                let product = product(a_transposed, b_transposed, beta, epilogue);
                product.check().expect("a valid product");
                let descriptor = Descriptor::of(&product);
                assert_eq!(descriptor.epilogue, code);
                let [mut got, mut want] = [Memory(values.clone()), Memory(values.clone())];
                got.column_major(&descriptor);
                want.row_major(&product);
                for (i, (got, want)) in got.0.iter().zip(&want.0).enumerate() {
                    assert!(
                        (got - want).abs() <= 1e-5,
                        "{product:?}: {got} instead of {want} at {i}"
                    );
                }
                let bits: Vec<u32> = want.0.iter().map(|value| value.to_bits()).collect();
                assert!(results.insert(bits), "{product:?} has the result of another product");
            }
        }
    }
}

#[test]
fn a_summand_that_is_not_read_is_d() {
    let product = product(false, false, 0.0, Epilogue::None);
    let descriptor = Descriptor::of(&product);
    assert_eq!(descriptor.c, descriptor.d);
    let with_c = Descriptor::of(&Matmul { beta: 1.0, ..product });
    assert_eq!((with_c.c.address, with_c.c.ld), (at(100), 9));
}

#[test]
fn only_auxiliary_matrices_need_multiples_of_eight() {
    let aux = Epilogue::Gelu {
        bias: None,
        aux: Some(at(300)),
    };
    let permitted = |stride: usize, epilogue: Epilogue| {
        let mut product = product(false, false, 0.0, epilogue);
        product.d.stride = stride;
        Descriptor::of(&product).is_permitted()
    };
    assert!(permitted(16, aux) && permitted(7, Epilogue::None));
    assert!(!permitted(12, aux));
}

#[test]
fn numbers_of_tokens_share_an_algorithm() {
    let with = |m: usize, k: usize, transposed: [bool; 2]| {
        let mut product = product(transposed[0], transposed[1], 0.0, Epilogue::None);
        (product.m, product.n, product.k) = (m, 768, k);
        [product.a.stride, product.b.stride, product.c.stride, product.d.stride] = [768; 4];
        let bucket = bucket(&product);
        (bucket.m, bucket.n, bucket.k, Descriptor::of(&bucket).key())
    };
    // Forward: tokens are rows of A and D.
    let first = with(31_000, 768, [false, true]);
    assert_eq!((first.0, first.1, first.2), (31_232, 768, 768));
    assert_eq!(first, with(31_200, 768, [false, true]));
    assert_ne!(first, with(31_233, 768, [false, true]));
    // Gradient of the weight: tokens are rows of A and B in memory.
    let second = with(768, 31_000, [true, false]);
    assert_eq!((second.0, second.1, second.2), (768, 768, 31_232));
    // Few rows have algorithms of their own, and columns are never rounded, because their stride bounds them.
    assert_eq!(with(100, 768, [false, false]).0, 100);
    assert_eq!(with(700, 700, [true, true]).2, 700);
}

#[test]
fn keys_distinguish_alignments() {
    let product = product(false, false, 0.0, Epilogue::Bias { bias: at(400) });
    let key = |product: &Matmul| Descriptor::of(product).key();
    let mut moved = product;
    moved.d.address = at(201);
    assert_ne!(key(&product), key(&moved));
    moved.d.address = at(200 + 64);
    assert_eq!(key(&product).matrices[3].2, 32);
    assert_eq!(key(&moved).matrices[3].2, 32);
    assert_eq!(key(&product), key(&moved));
    let bias = Matmul {
        epilogue: Epilogue::Bias { bias: at(401) },
        ..product
    };
    assert_ne!(key(&product), key(&bias));
}
