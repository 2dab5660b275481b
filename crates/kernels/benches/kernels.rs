//! Throughput of the kernels at the sizes of the base model. `cargo bench -p vlct-kernels -- NAME` runs the benchmarks whose name contains
//! NAME.
//!
//! In "Gelem/s", an element is a floating-point operation of a matrix product (a multiply-add counts as two), or one entry of the transport
//! plan in one iteration. Other kernels are memory-bound and report bytes per second; each byte that must be read or written counts once.

use bytemuck::Pod;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::{Deref, DerefMut};
use std::time::Duration;
use vlct_kernels::attention::{self, Varlen};
use vlct_kernels::bf16::blocks::{self, Blocks};
use vlct_kernels::bf16::epilogue::{Gelu, GeluBackward, StoreBf16, StoreF32Transposed};
use vlct_kernels::bf16::gemm::gemm as gemm_bf16;
use vlct_kernels::bf16::{self, Bf16, PackedRhs, Rhs, engine};
use vlct_kernels::gemm::gemm;
use vlct_kernels::mat::{Beta, MatRef};
use vlct_kernels::memory::Scratch;
use vlct_kernels::optimizer::{Betas, Update, adamw};
use vlct_kernels::parallel::Parallelism;
use vlct_kernels::patches::{Order, Planes, extract};
use vlct_kernels::transport::{Ipot, align};
use vlct_kernels::{cross_entropy, gather, gelu, layer_norm};

/// Tokens of a batch.
const ROWS: usize = 1920;
/// Width of the base model.
const WIDTH: usize = 768;
/// Hidden width of the base model's MLP.
const HIDDEN: usize = 3072;

/// Values in huge pages, like the values of tensors.
struct Values<T> {
    scratch: Scratch,
    len: usize,
    element: std::marker::PhantomData<T>,
}

impl<T: Pod> Values<T> {
    /// Allocates `len` zeros.
    fn zeros(len: usize) -> Self {
        let mut scratch = Scratch::new();
        scratch.slice_mut::<T>(len);
        Self {
            scratch,
            len,
            element: std::marker::PhantomData,
        }
    }
}

impl<T: Pod> Deref for Values<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.scratch.as_slice()[..self.len]
    }
}

impl<T: Pod> DerefMut for Values<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.scratch.slice_mut(self.len)
    }
}

/// Random values from −1 to 1, seeded with the length.
fn noise(len: usize) -> Values<f32> {
    let random = &mut ChaCha8Rng::seed_from_u64(len as u64);
    let mut values = Values::zeros(len);
    values.fill_with(|| random.random_range(-1.0..1.0));
    values
}

/// Random values in blocks.
fn noise_blocks(rows: usize, columns: usize) -> Values<Bf16> {
    let mut values = Values::zeros(blocks::len(rows, columns));
    blocks::from_f32(&noise(rows * columns), rows, columns, &mut values);
    values
}

fn bytes<T>(values: &[T]) -> u64 {
    size_of_val(values) as u64
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat);
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
    group
}

/// Floating-point operations of each matrix product of the MLP.
const PRODUCT_FLOPS: Throughput = Throughput::Elements(2 * (ROWS * WIDTH * HIDDEN) as u64);

fn gemm_f32(c: &mut Criterion) {
    let mut g = group(c, "gemm f32");
    g.throughput(PRODUCT_FLOPS);
    let (x, w, dy) = (noise(ROWS * WIDTH), noise(HIDDEN * WIDTH), noise(ROWS * HIDDEN));
    let x = MatRef::new(&x, ROWS, WIDTH, WIDTH);
    let w = MatRef::new(&w, HIDDEN, WIDTH, WIDTH);
    let dy = MatRef::new(&dy, ROWS, HIDDEN, HIDDEN);
    let mut out = Values::zeros(ROWS * HIDDEN);
    let mut run = |name: &str, columns: usize, a: MatRef, b: MatRef| {
        g.bench_function(name, |bench| {
            bench.iter(|| gemm(&mut out, columns, Beta::Zero, 1.0, a, b, Parallelism::Pool))
        });
    };
    run("forward", HIDDEN, x, w.transposed());
    run("input gradient", WIDTH, dy, w);
    run("weight gradient", WIDTH, dy.transposed(), x);
    g.finish();
}

/// Measures the products of an MLP in training and inference, with their fused epilogues.
fn gemm_bf16_fused(c: &mut Criterion) {
    if engine().is_none() {
        return;
    }
    let mut g = group(c, "gemm bf16");
    g.throughput(PRODUCT_FLOPS);
    let (fc1, fc2, bias) = (noise(HIDDEN * WIDTH), noise(WIDTH * HIDDEN), noise(HIDDEN));
    let (x, dy) = (noise_blocks(ROWS, WIDTH), noise_blocks(ROWS, WIDTH));
    let (x, dy) = (Blocks::new(&x, ROWS, WIDTH), Blocks::new(&dy, ROWS, WIDTH));
    let d_hidden = noise_blocks(ROWS, HIDDEN);
    let d_hidden = Blocks::new(&d_hidden, ROWS, HIDDEN);
    let [mut hidden, mut activation] = [(); 2].map(|_| Values::<Bf16>::zeros(blocks::len(ROWS, HIDDEN)));

    g.bench_function("forward, bias, GELU", |bench| {
        bench.iter(|| {
            let mut epilogue = Gelu::new(Some(&mut hidden), &mut activation, ROWS, &bias);
            gemm_bf16(x, Rhs::WeightTransposed(&fc1), &mut epilogue);
        })
    });
    let packed = PackedRhs::pack_transposed(&fc1, HIDDEN, WIDTH);
    g.bench_function("forward, packed weight, bias, GELU", |bench| {
        bench.iter(|| {
            let mut epilogue = Gelu::new(None, &mut activation, ROWS, &bias);
            gemm_bf16(x, Rhs::Packed(&packed), &mut epilogue);
        })
    });
    g.bench_function("input gradient, GELU", |bench| {
        bench.iter(|| {
            let mut epilogue = GeluBackward::new(Blocks::new(&hidden, ROWS, HIDDEN), &mut activation);
            gemm_bf16(dy, Rhs::Weight(&fc2), &mut epilogue);
        })
    });
    let mut dx = Values::<Bf16>::zeros(blocks::len(ROWS, WIDTH));
    g.bench_function("input gradient", |bench| {
        bench.iter(|| {
            let mut epilogue = StoreBf16::new(&mut dx, ROWS, WIDTH, None);
            gemm_bf16(d_hidden, Rhs::Weight(&fc1), &mut epilogue);
        })
    });
    let mut transposed = Values::<Bf16>::zeros(blocks::len(WIDTH, ROWS));
    let (mut dw, mut db) = (Values::zeros(HIDDEN * WIDTH), Values::zeros(HIDDEN));
    g.bench_function("weight gradient, bias sums", |bench| {
        bench.iter(|| {
            blocks::transpose(x, &mut transposed);
            let mut epilogue = StoreF32Transposed::new(&mut dw, WIDTH, HIDDEN, Beta::Zero);
            let rhs = Rhs::WithColumnSums(d_hidden, &mut db);
            gemm_bf16(Blocks::new(&transposed, WIDTH, ROWS), rhs, &mut epilogue);
        })
    });
    g.finish();
}

/// A batch of sequences of the same length.
#[derive(Clone, Copy)]
struct Batch {
    sequences: usize,
    length: usize,
    heads: usize,
    head_width: usize,
}

/// Batches of the encoder and the decoder at 384 pixels, and of the quickstart's small model.
const BATCHES: [Batch; 3] = [
    Batch {
        sequences: 16,
        length: 245,
        heads: 12,
        head_width: 64,
    },
    Batch {
        sequences: 8,
        length: 577,
        heads: 16,
        head_width: 32,
    },
    Batch {
        sequences: 128,
        length: 49,
        heads: 4,
        head_width: 32,
    },
];

impl Batch {
    fn name(self, direction: &str) -> String {
        let Self {
            sequences,
            length,
            heads,
            head_width,
        } = self;
        format!("{direction}, {sequences} sequences of {length}, {heads} heads of {head_width}")
    }

    fn tokens(self) -> usize {
        self.sequences * self.length
    }

    fn width(self) -> usize {
        self.heads * self.head_width
    }

    fn offsets(self) -> Vec<usize> {
        (0..=self.sequences).map(|s| s * self.length).collect()
    }

    /// Returns the floating-point operations of `products` matrix products per head.
    fn flops(self, products: usize) -> Throughput {
        Throughput::Elements((products * 2 * self.tokens() * self.length * self.width()) as u64)
    }
}

/// Matrix products per head in the forward pass: scores, outputs.
const FORWARD_PRODUCTS: usize = 2;
/// Matrix products per head in the backward pass: scores, and the gradients of probabilities, values, queries and keys.
const BACKWARD_PRODUCTS: usize = 5;

fn attention_f32(c: &mut Criterion) {
    let mut g = group(c, "attention f32");
    for batch in BATCHES {
        let (tokens, width, offsets, heads) = (batch.tokens(), batch.width(), batch.offsets(), batch.heads);
        let (qkv, d_out) = (noise(tokens * 3 * width), noise(tokens * width));
        let (mut out, mut lse) = (Values::zeros(tokens * width), Values::zeros(tokens * heads));
        let mut d_qkv = Values::zeros(qkv.len());
        g.throughput(batch.flops(FORWARD_PRODUCTS));
        g.bench_function(batch.name("forward"), |bench| {
            bench.iter(|| attention::forward(&qkv, Varlen::full(&offsets), heads, &mut out, &mut lse))
        });
        g.throughput(batch.flops(BACKWARD_PRODUCTS));
        g.bench_function(batch.name("backward"), |bench| {
            bench.iter(|| attention::backward(&d_out, &qkv, &out, &lse, Varlen::full(&offsets), heads, &mut d_qkv))
        });
    }
    g.finish();
}

fn attention_bf16(c: &mut Criterion) {
    if engine().is_none() {
        return;
    }
    let mut g = group(c, "attention bf16");
    for batch in BATCHES {
        let (tokens, width, offsets, heads) = (batch.tokens(), batch.width(), batch.offsets(), batch.heads);
        let (qkv, d_out) = (noise_blocks(tokens, 3 * width), noise_blocks(tokens, width));
        let (qkv, d_out) = (Blocks::new(&qkv, tokens, 3 * width), Blocks::new(&d_out, tokens, width));
        let (mut out, mut lse) = (Values::zeros(blocks::len(tokens, width)), Values::zeros(tokens * heads));
        let mut d_qkv = Values::zeros(blocks::len(tokens, 3 * width));
        g.throughput(batch.flops(FORWARD_PRODUCTS));
        g.bench_function(batch.name("forward"), |bench| {
            bench.iter(|| bf16::attention::forward(qkv, Varlen::full(&offsets), heads, &mut out, &mut lse))
        });
        let out = Blocks::new(&out, tokens, width);
        g.throughput(batch.flops(BACKWARD_PRODUCTS));
        g.bench_function(batch.name("backward"), |bench| {
            bench.iter(|| bf16::attention::backward(d_out, qkv, out, &lse, Varlen::full(&offsets), heads, &mut d_qkv))
        });
    }
    g.finish();
}

fn layer_norms(c: &mut Criterion) {
    const EPS: f32 = 1e-6;
    let mut g = group(c, "layer norm");
    let (x, dy, w, b) = (noise(ROWS * WIDTH), noise(ROWS * WIDTH), noise(WIDTH), noise(WIDTH));
    let (mut y, mut dx) = (Values::zeros(x.len()), Values::zeros(x.len()));
    let [mut mean, mut rstd] = [(); 2].map(|_| Values::zeros(ROWS));
    let [mut dw, mut db] = [(); 2].map(|_| Values::zeros(WIDTH));
    g.throughput(Throughput::Bytes(2 * bytes(&x)));
    g.bench_function("forward f32", |bench| {
        bench.iter(|| layer_norm::forward(&x, &w, &b, EPS, &mut y, &mut mean, &mut rstd))
    });
    g.throughput(Throughput::Bytes(4 * bytes(&x)));
    g.bench_function("backward f32", |bench| {
        bench.iter(|| layer_norm::backward(&dy, &x, &w, &mean, &rstd, &mut dx, Beta::One, &mut dw, &mut db))
    });
    if engine().is_some() {
        let [mut normalised, mut y] = [(); 2].map(|_| Values::<Bf16>::zeros(blocks::len(ROWS, WIDTH)));
        g.throughput(Throughput::Bytes(bytes(&x) + 2 * bytes(&y)));
        g.bench_function("forward bf16", |bench| {
            bench.iter(|| bf16::layer_norm::forward(&x, &w, &b, EPS, &mut normalised, &mut y, &mut rstd))
        });
        let dy = noise_blocks(ROWS, WIDTH);
        let (dy, normalised) = (Blocks::new(&dy, ROWS, WIDTH), Blocks::new(&normalised, ROWS, WIDTH));
        g.throughput(Throughput::Bytes(3 * bytes(&y) + 2 * bytes(&dx)));
        g.bench_function("backward bf16", |bench| {
            bench.iter(|| bf16::layer_norm::backward(dy, normalised, &w, &rstd, &mut dx, &mut y, &mut dw, &mut db))
        });
    }
    g.finish();
}

fn elementwise(c: &mut Criterion) {
    let mut g = group(c, "GELU f32");
    let mut x = noise(ROWS * HIDDEN);
    let mut y = Values::zeros(x.len());
    g.throughput(Throughput::Bytes(2 * bytes(&x)));
    g.bench_function("forward", |bench| bench.iter(|| gelu::forward(&x, &mut y)));
    // Each iteration multiplies `dy` by the derivative. Near 10 the derivative is 1, so that `dy` does not become denormal and slow.
    x.iter_mut().for_each(|x| *x += 10.0);
    let mut dy = noise(x.len());
    g.throughput(Throughput::Bytes(3 * bytes(&x)));
    g.bench_function("backward", |bench| bench.iter(|| gelu::backward_in_place(&x, &mut dy)));
    g.finish();
}

/// Measures the cross-entropy of the masked words of a batch over BERT's vocabulary.
fn cross_entropies(c: &mut Criterion) {
    const WORDS: usize = 32;
    const VOCABULARY: usize = 30_522;
    let mut g = group(c, "cross-entropy");
    let mut logits = noise(WORDS * VOCABULARY);
    let targets: Vec<u32> = (0..WORDS as u32).map(|i| i * 900).collect();
    let mut loss = [0.0; WORDS];
    g.throughput(Throughput::Bytes(2 * bytes(&logits)));
    g.bench_function("forward", |bench| {
        bench.iter(|| cross_entropy::forward_in_place(&mut logits, &targets, &mut loss))
    });
    g.bench_function("backward", |bench| {
        bench.iter(|| cross_entropy::backward_in_place(&mut logits, &targets, 1.0))
    });
    g.finish();
}

fn optimizers(c: &mut Criterion) {
    let mut g = group(c, "AdamW");
    let gradient = noise(16 << 20);
    let [mut p, mut m, mut v] = [(); 3].map(|_| Values::zeros(gradient.len()));
    let update = Update {
        learning_rate: 1e-4,
        weight_decay: 0.01,
        step: 100,
        gradient_factor: 1.0,
    };
    let betas = Betas {
        beta1: 0.9,
        beta2: 0.98,
        epsilon: 1e-8,
    };
    g.throughput(Throughput::Bytes(7 * bytes(&gradient)));
    g.bench_function("16 Mi values", |bench| {
        bench.iter(|| adamw(&mut p, &gradient, &mut m, &mut v, update, betas))
    });
    g.finish();
}

/// Measures optimal transport between one caption and the visible patches of its image, on one thread.
fn transport(c: &mut Criterion) {
    const WORDS: usize = 14;
    const PATCHES: usize = 230;
    let mut g = group(c, "optimal transport");
    let (text, image) = (noise(WORDS * WIDTH), noise(PATCHES * WIDTH));
    let [mut d_text, mut d_image] = [WORDS, PATCHES].map(|n| Values::zeros(n * WIDTH));
    g.throughput(Throughput::Elements(
        (Ipot::TRAINING.iterations * WORDS * PATCHES) as u64,
    ));
    g.bench_function("forward", |bench| {
        bench.iter(|| align(&text, &image, WIDTH, Ipot::TRAINING).distance)
    });
    let alignment = align(&text, &image, WIDTH, Ipot::TRAINING);
    g.throughput(Throughput::Bytes(2 * (bytes(&text) + bytes(&image))));
    g.bench_function("backward", |bench| {
        bench.iter(|| alignment.backward(1.0, WIDTH, &mut d_text, &mut d_image))
    });
    g.finish();
}

fn patches_and_rows(c: &mut Criterion) {
    const SIZE: usize = 384;
    const SIDE: usize = 16;
    const VOCABULARY: usize = 30_522;
    let mut g = group(c, "patches");
    let image = noise(3 * SIZE * SIZE);
    let all_patches: Vec<u32> = (0..(SIZE / SIDE).pow(2) as u32).collect();
    let mut out = Values::zeros(image.len());
    g.throughput(Throughput::Bytes(2 * bytes(&image)));
    for (name, order) in [
        ("channel first", Order::ChannelFirst),
        ("channel last", Order::ChannelLast),
    ] {
        g.bench_function(name, |bench| {
            bench.iter(|| extract(Planes::square(&image, SIZE), SIDE, &all_patches, order, &mut out))
        });
    }
    g.finish();

    let mut g = group(c, "rows");
    let table = noise(VOCABULARY * WIDTH);
    let random = &mut ChaCha8Rng::seed_from_u64(0);
    let words: Vec<u32> = (0..ROWS).map(|_| random.random_range(0..VOCABULARY as u32)).collect();
    let mut out = Values::zeros(ROWS * WIDTH);
    g.throughput(Throughput::Bytes(2 * bytes(&out)));
    g.bench_function("gather", |bench| {
        bench.iter(|| gather::copy_rows(&table, WIDTH, &words, &mut out))
    });
    let mut d_table = Values::zeros(table.len());
    g.throughput(Throughput::Bytes(3 * bytes(&out)));
    g.bench_function("scatter", |bench| {
        bench.iter(|| gather::scatter_add(&out, WIDTH, &words, &mut d_table))
    });
    g.finish();
}

fn main() {
    let c = &mut Criterion::default().configure_from_args();
    for measure in [
        gemm_f32,
        gemm_bf16_fused,
        attention_f32,
        attention_bf16,
        layer_norms,
        elementwise,
        cross_entropies,
        optimizers,
        transport,
        patches_and_rows,
    ] {
        measure(c);
    }
    c.final_summary();
}
