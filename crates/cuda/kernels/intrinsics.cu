// Each instruction of `device.cuh` and each function of `exact.cuh`, from memory to memory, for comparison with what the PTX ISA defines.
// Not for speed: a kernel runs in one warp and takes `n` items one after the other, or one for each thread. All buffers are 32-bit words.
#include "exact.cuh"

extern "C" __global__ void __launch_bounds__(32)
    intrinsic_conversions(const unsigned* in /* [n] f32 */, unsigned* out /* [3, n]: rounded, widened again, packed with itself */, int n) {
    for (int i = threadIdx.x; i < n; i += WARP_SIZE) {
        float v = __uint_as_float(in[i]);
        bf16 rounded = to_bf16(v);
        out[i] = rounded.bits;
        out[n + i] = __float_as_uint(from_bf16(rounded));
        out[2 * n + i] = pack_bf16(v, -v);
    }
}
REGISTER_KERNEL(intrinsic_conversions);

extern "C" __global__ void __launch_bounds__(32) intrinsic_arithmetic(const unsigned* in /* [2, n] f32 */, unsigned* out /* [6, n] f32 */, int n) {
    for (int i = threadIdx.x; i < n; i += WARP_SIZE) {
        float a = __uint_as_float(in[i]), b = __uint_as_float(in[n + i]);
        out[i] = __float_as_uint(add_rn(a, b));
        out[n + i] = __float_as_uint(sub_rn(a, b));
        out[2 * n + i] = __float_as_uint(mul_rn(a, b));
        out[3 * n + i] = __float_as_uint(div_rn(a, b));
        out[4 * n + i] = __float_as_uint(sqrt_rn(fabsf(a)));
        out[5 * n + i] = __float_as_uint(add_rn(b, mul_rn(a, b)));
    }
}
REGISTER_KERNEL(intrinsic_arithmetic);

extern "C" __global__ void __launch_bounds__(32)
    intrinsic_approximations(const unsigned* in /* [n] f32 */, unsigned* out /* [2, n]: powers of 2, hyperbolic tangents */, int n) {
    for (int i = threadIdx.x; i < n; i += WARP_SIZE) {
        float v = __uint_as_float(in[i]);
        out[i] = __float_as_uint(exp2_approx(v));
        out[n + i] = __float_as_uint(tanh_approx(v));
    }
}
REGISTER_KERNEL(intrinsic_approximations);

// The fragments are read from memory without `ldmatrix`: with g = lane / 4 and t = lane % 4, as the PTX ISA has them.
extern "C" __global__ void __launch_bounds__(32)
    intrinsic_mma(const unsigned* in /* [n, 320]: A [16, 16] bf16, B^T [8, 16] bf16, C [16, 8] f32 */, unsigned* out /* [n, 128]: D [16, 8] */,
                  int n) {
    int g = threadIdx.x / 4, t = threadIdx.x % 4;
    for (int item = 0; item < n; item++, in += 320, out += 128) {
        unsigned a[4], b[2];
        float d[4];
        for (int i = 0; i < 4; i++) a[i] = in[(g + i % 2 * 8) * 8 + i / 2 * 4 + t];
        for (int i = 0; i < 2; i++) b[i] = in[128 + g * 8 + i * 4 + t];
        for (int i = 0; i < 4; i++) d[i] = __uint_as_float(in[192 + (g + i / 2 * 8) * 8 + 2 * t + i % 2]);
        mma_m16n8k16(d, a, b);
        for (int i = 0; i < 4; i++) out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = __float_as_uint(d[i]);
    }
}
REGISTER_KERNEL(intrinsic_mma);

template <int COUNT>
static __device__ unsigned* load_matrices(const unsigned* rows, unsigned* out) {
    // Threads that give no address of an instruction have one inside of the rows.
    const unsigned* row = rows + threadIdx.x * 7 % 32 * 4;
    unsigned registers[COUNT];
    ldmatrix(registers, row);
    for (int j = 0; j < COUNT; j++) out[j * 32 + threadIdx.x] = registers[j];
    out += COUNT * 32;
    ldmatrix_trans(registers, row);
    for (int j = 0; j < COUNT; j++) out[j * 32 + threadIdx.x] = registers[j];
    return out + COUNT * 32;
}

// Thread l gives the address of row 7·l modulo 32, so that rows and threads have different orders.
extern "C" __global__ void __launch_bounds__(32)
    intrinsic_ldmatrix(const unsigned* in /* [n, 32 rows, 8] of 16 bits */, unsigned* out /* [n, 14, 32]: registers of x1, x2, x4, transposed too */,
                       int n) {
    SHARED(unsigned, rows /* [32, 4] */);
    for (int item = 0; item < n; item++, in += 128) {
        for (int i = 0; i < 4; i++) rows[i * 32 + threadIdx.x] = in[i * 32 + threadIdx.x];
        __syncthreads();
        out = load_matrices<1>(rows, out);
        out = load_matrices<2>(rows, out);
        out = load_matrices<4>(rows, out);
        __syncthreads();
    }
}
REGISTER_KERNEL(intrinsic_ldmatrix);

template <int WORDS>
static __device__ void copy_words(unsigned* to, const unsigned* from, int bytes) {
    cp_async<4 * WORDS>(to + threadIdx.x * WORDS, from + threadIdx.x * WORDS, bytes);
    cp_async_commit();
}

// Copies of 16, 8 and 4 bytes, of which thread l copies the first l modulo 17, 9 and 5 bytes and fills the rest with zeros.
extern "C" __global__ void __launch_bounds__(32) intrinsic_cp_async(const unsigned* in /* [n, 224] */, unsigned* out /* [n, 224] */, int n) {
    SHARED(unsigned, words /* [224] */);
    int lane = threadIdx.x;
    for (int item = 0; item < n; item++, in += 224, out += 224) {
        for (int i = 0; i < 7; i++) words[i * 32 + lane] = 0xffffffffu;
        __syncthreads();
        copy_words<4>(words, in, lane % 17);
        copy_words<2>(words + 128, in + 128, lane % 9);
        copy_words<1>(words + 192, in + 192, lane % 5);
        cp_async_wait<1>();
        for (int i = 0; i < 4; i++) out[lane * 4 + i] = words[lane * 4 + i];
        for (int i = 0; i < 2; i++) out[128 + lane * 2 + i] = words[128 + lane * 2 + i];
        cp_async_wait<0>();
        out[192 + lane] = words[192 + lane];
        __syncthreads();
    }
}
REGISTER_KERNEL(intrinsic_cp_async);

extern "C" __global__ void __launch_bounds__(32) intrinsic_shuffles(const unsigned* in /* [n, 32] */, unsigned* out /* [n, 10, 32] */, int n) {
    int lane = threadIdx.x;
    for (int item = 0; item < n; item++, in += 32) {
        unsigned v = in[lane];
        unsigned results[10] = {
            __shfl_sync(FULL_MASK, v, (lane * 7 + 3) % 32),
            __shfl_sync(FULL_MASK, v, lane * 5 + 9, 8),
            __shfl_xor_sync(FULL_MASK, v, 21),
            __shfl_xor_sync(FULL_MASK, v, 5, 8),
            __shfl_up_sync(FULL_MASK, v, 5),
            __shfl_down_sync(FULL_MASK, v, 3, 16),
            __ballot_sync(FULL_MASK, v % 3 == 0),
            (unsigned)__any_sync(FULL_MASK, v % 64 == 5),
            (unsigned)__all_sync(FULL_MASK, v % 64 != 5),
            __float_as_uint(warp_sum((float)(v % 1024))),
        };
        for (int i = 0; i < 10; i++, out += 32) out[lane] = results[i];
    }
}
REGISTER_KERNEL(intrinsic_shuffles);
