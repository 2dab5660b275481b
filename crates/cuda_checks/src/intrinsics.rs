//! Instructions of kernels against what the PTX ISA defines, bit for bit, and approximations against their documented bounds.
//!
//! A device and the emulator must agree: the inputs are such that every order of sums gives the same result.

use crate::{Device, Outcome};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vlct_cuda::intrinsics::{APPROXIMATIONS, ARITHMETIC, CONVERSIONS, CP_ASYNC, Intrinsic, LDMATRIX, MMA, SHUFFLES};

const LANES: usize = 32;

/// Items of a kernel, each with other values.
const ITEMS: usize = 4;

fn words(count: usize, seed: u64) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random()).collect()
}

/// Runs an instruction in every schedule and compares all words.
fn equal_words(device: &Device, intrinsic: Intrinsic, input: &[u32], want: &[u32]) -> Outcome {
    device.in_all_schedules(|device| {
        let got = intrinsic.run(&device.context, input).map_err(|e| e.to_string())?;
        let different = got.iter().zip(want).position(|(got, want)| got != want);
        match different {
            _ if got.len() != want.len() => Err(format!("{} words instead of {}", got.len(), want.len())),
            Some(i) => Err(format!("word {i}: {:#010x} instead of {:#010x}", got[i], want[i])),
            None => Ok(()),
        }
    })
}

/// Numbers whose conversion is special (zeros, the largest and smallest numbers, infinities, NaNs, ties of bfloat16, numbers that become
/// infinite), and random bits.
fn numbers() -> Vec<u32> {
    let special = [
        0.0,
        1.0,
        f32::MAX,
        f32::MIN_POSITIVE,
        f32::INFINITY,
        f32::NAN,
        1e-40,
        1e-45,
    ];
    let special = special.iter().flat_map(|v| [v.to_bits(), (-v).to_bits()]);
    let payloads = [0x7f80_0001, 0xff80_0001, 0x7fff_ffff, 0xffff_ffff];
    let ties = (0..256).map(|i| 0x3f80_8000 + (i << 16));
    let near_ties = (0..256).flat_map(|i| [0x3f80_7fff + (i << 16), 0xbf80_8001 + (i << 16)]);
    let overflowing = [0x7f7f_7fff, 0x7f7f_8000, 0xff7f_8000];
    special
        .chain(payloads)
        .chain(ties)
        .chain(near_ties)
        .chain(overflowing)
        .chain(words(4096, 1))
        .collect()
}

/// `cvt.rn.bf16.f32`: to the nearest number, ties to even; a NaN becomes 0x7fff (PTX ISA, `cvt`).
fn rounded(bits: u32) -> u32 {
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return 0x7fff;
    }
    let (upper, lower) = (bits >> 16, bits & 0xffff);
    let is_up = lower > 0x8000 || lower == 0x8000 && upper % 2 == 1;
    upper + u32::from(is_up)
}

/// Conversions between f32 and bfloat16.
///
/// # Errors
/// The first word that differs, or an error of the driver.
pub fn conversions(device: &Device) -> Outcome {
    let input = numbers();
    let once = input.iter().map(|bits| rounded(*bits));
    let widened = input.iter().map(|bits| rounded(*bits) << 16);
    let packed = input
        .iter()
        .map(|bits| rounded(*bits) | rounded(*bits ^ 0x8000_0000) << 16);
    let want: Vec<u32> = once.chain(widened).chain(packed).collect();
    equal_words(device, CONVERSIONS, &input, &want)
}

/// Arithmetic with one rounding for each operation, for normal and subnormal numbers, and for results that are infinite or zero.
///
/// # Errors
/// The first word that differs, or an error of the driver.
pub fn arithmetic(device: &Device) -> Outcome {
    let finite = |bits: &u32| f32::from_bits(*bits).is_finite() && *bits << 1 != 0;
    let b: Vec<u32> = numbers().into_iter().filter(finite).collect();
    let a: Vec<u32> = b.iter().rev().copied().collect();
    let operations: [fn(f32, f32) -> f32; 6] = [
        |a, b| a + b,
        |a, b| a - b,
        |a, b| a * b,
        |a, b| a / b,
        |a, _| a.abs().sqrt(),
        |a, b| b + a * b,
    ];
    // A NaN of a device has other bits.
    let is_number = |a: u32, b: u32| {
        let [a, b] = [a, b].map(f32::from_bits);
        operations.iter().all(|operation| !operation(a, b).is_nan())
    };
    let (a, b): (Vec<u32>, Vec<u32>) = a.into_iter().zip(b).filter(|(a, b)| is_number(*a, *b)).unzip();
    let want: Vec<u32> = operations
        .iter()
        .flat_map(|operation| {
            let pairs = a.iter().zip(&b);
            pairs.map(|(a, b)| operation(f32::from_bits(*a), f32::from_bits(*b)).to_bits())
        })
        .collect();
    equal_words(device, ARITHMETIC, &[a, b].concat(), &want)
}

/// `ex2.approx.ftz.f32` and `tanh.approx.f32`: their special values bit for bit, others within the error of the PTX ISA.
///
/// # Errors
/// The first value that differs by more, or an error of the driver.
pub fn approximations(device: &Device) -> Outcome {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let special = [0.0, -0.0, inf, -inf];
    let special_results = [1.0, 1.0, inf, 0.0, 0.0, -0.0, 1.0, -1.0].map(f32::to_bits);
    let bits = special.map(f32::to_bits);
    equal_words(device, APPROXIMATIONS, &bits, &special_results)?;
    // Arguments whose powers of 2 are normal numbers.
    let arguments: Vec<f32> = (0..2000).map(|i| (i as f32 - 1000.0) * 0.125).collect();
    let input: Vec<u32> = arguments.iter().map(|v| v.to_bits()).collect();
    device.in_all_schedules(|device| {
        let run = |input: &[u32]| APPROXIMATIONS.run(&device.context, input).map_err(|e| e.to_string());
        if !run(&[nan.to_bits()])?.iter().all(|bits| f32::from_bits(*bits).is_nan()) {
            return Err("a NaN becomes a number".into());
        }
        let output: Vec<f32> = run(&input)?.into_iter().map(f32::from_bits).collect();
        let (powers, tangents) = output.split_at(arguments.len());
        let exact = |function: fn(f64) -> f64| -> Vec<f32> {
            arguments.iter().map(|v| function(f64::from(*v)) as f32).collect()
        };
        // Table "ex2.approx" and section "tanh" of the PTX ISA: relative errors of 2^−22 and 2^−11. Half an ε is that of the expected value.
        let [want_powers, want_tangents] = [exact(f64::exp2), exact(f64::tanh)];
        device.compare("ex2.approx", powers, &want_powers, |i| {
            (2f32.powi(-22) + f32::EPSILON) * want_powers[i]
        })?;
        device.compare("tanh.approx", tangents, &want_tangents, |i| {
            (2f32.powi(-11) + f32::EPSILON) * want_tangents[i].abs()
        })
    })
}

/// The bits of an integer below 256 in bfloat16.
fn bf16_bits(value: i32) -> u32 {
    (value as f32).to_bits() >> 16
}

/// Products of matrices of small integers, whose sums are exact.
///
/// # Errors
/// The first word that differs, or an error of the driver.
pub fn mma(device: &Device) -> Outcome {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (mut input, mut want) = (Vec::new(), Vec::new());
    for _ in 0..ITEMS {
        let mut integers = |count: usize| -> Vec<i32> { (0..count).map(|_| rng.random_range(-60..=60)).collect() };
        // The transpose of B, whose rows are the columns of the product.
        let (a, b, c) = (integers(16 * 16), integers(8 * 16), integers(16 * 8));
        let pair = |pair: &[i32]| bf16_bits(pair[0]) | bf16_bits(pair[1]) << 16;
        input.extend(a.chunks_exact(2).chain(b.chunks_exact(2)).map(pair));
        input.extend(c.iter().map(|v| (*v as f32).to_bits()));
        want.extend((0..16 * 8).map(|i| {
            let (row, column) = (&a[i / 8 * 16..][..16], &b[i % 8 * 16..][..16]);
            let sum: i32 = row.iter().zip(column).map(|(a, b)| a * b).sum();
            ((sum + c[i]) as f32).to_bits()
        }));
    }
    equal_words(device, MMA, &input, &want)
}

/// Matrices from shared memory to registers, and their transposes.
///
/// # Errors
/// The first word that differs, or an error of the driver.
pub fn ldmatrix(device: &Device) -> Outcome {
    let input = words(ITEMS * 128, 3);
    let mut want = Vec::new();
    for item in input.chunks_exact(128) {
        let element = |row: usize, column: usize| item[row * 4 + column / 2] >> (column % 2 * 16) & 0xffff;
        // Thread 8·j + r gives the address of row r of matrix j; it is row 7·(8·j + r) modulo 32 of the memory.
        let of_matrix = |j: usize, row: usize, column: usize| element((8 * j + row) * 7 % LANES, column);
        for count in [1, 2, 4] {
            for is_transposed in [false, true] {
                for (j, lane) in (0..count).flat_map(|j| (0..LANES).map(move |lane| (j, lane))) {
                    let half = |half: usize| match (lane / 4, 2 * (lane % 4) + half) {
                        (row, column) if is_transposed => of_matrix(j, column, row),
                        (row, column) => of_matrix(j, row, column),
                    };
                    want.push(half(0) | half(1) << 16);
                }
            }
        }
    }
    equal_words(device, LDMATRIX, &input, &want)
}

/// Asynchronous copies with zeros behind the copied bytes.
///
/// # Errors
/// The first word that differs, or an error of the driver.
pub fn cp_async(device: &Device) -> Outcome {
    let input = words(ITEMS * 224, 4);
    let mut bytes: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
    for item in bytes.chunks_exact_mut(4 * 224) {
        let mut rest = item;
        for size in [16, 8, 4] {
            let (part, after) = rest.split_at_mut(LANES * size);
            for (lane, copied) in part.chunks_exact_mut(size).enumerate() {
                copied[lane % (size + 1)..].fill(0);
            }
            rest = after;
        }
    }
    let want: Vec<u32> = bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    equal_words(device, CP_ASYNC, &input, &want)
}

/// Shuffles, votes and sums over a warp.
///
/// # Errors
/// The first word that differs, or an error of the driver.
pub fn shuffles(device: &Device) -> Outcome {
    let input = words(ITEMS * LANES, 5);
    let mut want = Vec::new();
    for v in input.chunks_exact(LANES) {
        let by_source = |source: &dyn Fn(usize) -> usize| -> Vec<u32> { (0..LANES).map(|l| v[source(l)]).collect() };
        let all = |word: u32| vec![word; LANES];
        let ballot = (0..LANES).fold(0, |bits, l| bits | u32::from(v[l] % 3 == 0) << l);
        let is_five = |v: &u32| v % 64 == 5;
        let sum: u32 = v.iter().map(|v| v % 1024).sum();
        want.extend(by_source(&|l| (l * 7 + 3) % LANES));
        want.extend(by_source(&|l| l / 8 * 8 + (l * 5 + 9) % 8));
        want.extend(by_source(&|l| l ^ 21));
        want.extend(by_source(&|l| l ^ 5));
        want.extend(by_source(&|l| l.checked_sub(5).unwrap_or(l)));
        want.extend(by_source(&|l| if l % 16 + 3 < 16 { l + 3 } else { l }));
        want.extend(all(ballot));
        want.extend(all(v.iter().any(is_five).into()));
        want.extend(all((!v.iter().any(is_five)).into()));
        want.extend(all((sum as f32).to_bits()));
    }
    equal_words(device, SHUFFLES, &input, &want)
}
