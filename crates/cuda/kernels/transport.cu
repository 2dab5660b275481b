// Word-patch alignment by optimal transport (Chen et al. 2020, UNITER; Xie et al. 2020, IPOT): for each pair of a caption and an image, the
// cosines of words and patches, the transport plan between uniform distributions for the costs 1 - cosine, and the distance.
//
// The cosines are a product of matrices in tiles, and so is the gradient, which flows through them only. One block iterates the plan of a
// pair in shared memory if it fits, else in global memory: 50 iterations read it 100 times and write it 50 times. An iteration divides
// columns and then rows by their sums; the factors of both are applied when the next iteration reads the plan.
#include "block_reduce.cuh"

// Lower bound of the norms that rows are divided by.
constexpr float MIN_NORM = 1e-5f;

// A pair: its words are the rows of the features from `text`, its patches those from `image`. Its rows in `units` begin at `unit`, words
// first; its matrices [words, patches] begin at `matrix`.
struct Pair {
    int text, words, image, patches, unit;
    float weight;
    long long matrix;
};

// units = x / |x| for the rows of all pairs. A warp has a row, and `groups` blocks have a pair.
extern "C" __global__ void __launch_bounds__(256)
transport_normalise(const float* x /* [T, D] */, const Pair* pairs, float* units /* [R, D] */, float* norms /* [R] */, int width,
                    int groups) {
    Pair p = pairs[blockIdx.x / groups];
    int warps = blockDim.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    int row = blockIdx.x % groups * warps + threadIdx.x / WARP_SIZE;
    if (row >= p.words + p.patches) return;
    x += (long long)(row < p.words ? p.text + row : p.image + row - p.words) * width;
    units += (long long)(p.unit + row) * width;
    float squares = 0.f;
    for (int c = 4 * lane; c < width; c += 4 * WARP_SIZE) {
        float4 v = load4(x + c, width - c);
        squares += sum4(v * v);
    }
    float norm = fmaxf(sqrtf(warp_sum(squares)), MIN_NORM);
    for (int c = 4 * lane; c < width; c += 4 * WARP_SIZE) {
        store4(units + c, width - c, map4(load4(x + c, width - c), [=](float v) { return v / norm; }));
    }
    if (lane == 0) norms[p.unit + row] = norm;
}
REGISTER_KERNEL(transport_normalise);

// A tile of cosines, and the columns of both factors that are in shared memory at a time. Four more values in a row there let eight threads
// read 16 bytes each of eight rows from different banks. The launcher has the same sizes.
constexpr int TILE_WORDS = 32, TILE_PATCHES = 64, CHUNK = 32, STRIDE = CHUNK + 4;

// cosines = words * patches^T of the units of each pair. A thread has 2 x 4 values of a tile; its rows and columns are 16 apart.
extern "C" __global__ void __launch_bounds__(256)
transport_cosines(const float* units /* [R, D] */, const Pair* pairs, float* cosines, int width, int word_tiles, int patch_tiles) {
    SHARED(float, tile /* [TILE_WORDS + TILE_PATCHES, STRIDE] */);
    Pair p = pairs[blockIdx.x / (word_tiles * patch_tiles)];
    int first_word = blockIdx.x / patch_tiles % word_tiles * TILE_WORDS, first_patch = blockIdx.x % patch_tiles * TILE_PATCHES;
    if (first_word >= p.words || first_patch >= p.patches) return;
    int row = threadIdx.x / 16, column = threadIdx.x % 16;
    float sums[2][4] = {};
    for (int c = 0; c < width; c += CHUNK) {
        for (int i = threadIdx.x; i < (TILE_WORDS + TILE_PATCHES) * CHUNK / 4; i += blockDim.x) {
            int r = i / (CHUNK / 4), k = i % (CHUNK / 4) * 4;
            int word = first_word + r, patch = first_patch + r - TILE_WORDS;
            bool exists = r < TILE_WORDS ? word < p.words : patch < p.patches;
            const float* unit = units + (long long)(p.unit + (r < TILE_WORDS ? word : p.words + patch)) * width;
            store4(tile + r * STRIDE + k, 4, load4(unit + c + k, exists ? width - c - k : 0));
        }
        __syncthreads();  // the chunk is complete
        for (int k = 0; k < CHUNK; k += 4) {
            float4 patches[4];
#pragma unroll
            for (int j = 0; j < 4; j++) patches[j] = load4(tile + (TILE_WORDS + column + 16 * j) * STRIDE + k, 4);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float4 word = load4(tile + (row + 16 * i) * STRIDE + k, 4);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    sums[i][j] += word.x * patches[j].x;
                    sums[i][j] += word.y * patches[j].y;
                    sums[i][j] += word.z * patches[j].z;
                    sums[i][j] += word.w * patches[j].w;
                }
            }
        }
        __syncthreads();  // all threads have read the chunk
    }
    cosines += p.matrix;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int word = first_word + row + 16 * i;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int patch = first_patch + column + 16 * j;
            if (word < p.words && patch < p.patches) cosines[(long long)word * p.patches + patch] = sums[i][j];
        }
    }
}
REGISTER_KERNEL(transport_cosines);

// The memory of a plan t [n, m], and of the factors of its rows and columns.
struct Plan {
    float *t, *sigma /* [n] */, *delta /* [m] */;
};

// Returns this thread's part of the distance, and writes its part of the plan. `a` is the proximal kernel.
static __device__ __forceinline__ float iterate(Plan plan, const float* cosines /* [n, m] */, float* a /* [n, m] */,
                                                float* out /* [n, m] */, int n, int m, float beta, int iterations) {
    float *t = plan.t, *sigma = plan.sigma, *delta = plan.delta;
    int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE, warps = blockDim.x / WARP_SIZE;
    for (int i = threadIdx.x; i < n * m; i += blockDim.x) a[i] = expf((cosines[i] - 1.f) / beta);
    for (int i = threadIdx.x; i < n; i += blockDim.x) sigma[i] = 1.f / (float)n;
    __syncthreads();  // the initial values are written
    for (int iteration = 0; iteration < iterations; iteration++) {
        // A thread has a column, so that it alone uses the old value of `delta`.
        for (int j = threadIdx.x; j < m; j += blockDim.x) {
            float sum = 0.f, d = iteration > 0 ? delta[j] : 0.f;
            for (int i = 0; i < n; i++) {
                float v = a[i * m + j], s = sigma[i];
                if (iteration > 0) v *= t[i * m + j] * (d * s);
                t[i * m + j] = v;
                sum += v * s;
            }
            delta[j] = 1.f / ((float)m * sum);
        }
        __syncthreads();  // `t` and `delta` are complete
        for (int i = warp; i < n; i += warps) {
            float sum = 0.f;
            for (int j = lane; j < m; j += WARP_SIZE) sum += t[i * m + j] * delta[j];
            sum = warp_sum(sum);
            if (lane == 0) sigma[i] = 1.f / ((float)n * sum);
        }
        __syncthreads();  // `sigma` is complete, and all threads have read `t`
    }
    float distance = 0.f;
    for (int i = threadIdx.x; i < n * m; i += blockDim.x) {
        float v = iterations > 0 ? t[i] * (delta[i % m] * sigma[i / m]) : 1.f;
        out[i] = v;
        distance += (1.f - cosines[i]) * v;
    }
    return distance;
}

// The plan of each pair, and weight * distance. `kernels` and `scalings` are temporary memory for the proximal kernels exp((cosine - 1) /
// beta) and for the factors of rows and columns. Shared memory: a value for each warp of a block of 1024 threads, and `shared_values` values
// for plans and factors that fit.
extern "C" __global__ void __launch_bounds__(1024, 1)
transport_plans(const float* cosines, const Pair* pairs, float* kernels, float* scalings /* [R] */, float* plans,
                float* distances /* [pairs] */, float beta, int iterations, int shared_values) {
    SHARED(float, shared);
    Pair p = pairs[blockIdx.x];
    int n = p.words, m = p.patches;
    float *a = kernels + p.matrix, *out = plans + p.matrix, distance;
    cosines += p.matrix;
    // Two calls, so that the compiler knows the kind of the memory.
    if ((long long)n * m + n + m <= shared_values) {
        float* t = shared + WARP_SIZE;
        distance = iterate({t, t + n * m, t + n * m + n}, cosines, a, out, n, m, beta, iterations);
    } else {
        float* sigma = scalings + p.unit;
        distance = iterate({out, sigma, sigma + n}, cosines, a, out, n, m, beta, iterations);
    }
    distance = block_sum(distance, shared);
    if (threadIdx.x == 0) distances[blockIdx.x] = distance * p.weight;
}
REGISTER_KERNEL(transport_plans);

// Rows of a block of the backward pass, and rows of the other group whose values of the plan are in shared memory at a time. The launcher
// has the same sizes.
constexpr int GROUP = 8, OTHERS = 128;

// Adds the gradient of the features, dx = dx - d * weight * (v - u * (u . v)) / norm, for the unit u of a row and the sum v of plan * unit
// over the rows of the other group; u . v is the sum of plan * cosine. It is left out if the norm is at its lower bound, because such a norm
// is constant. `groups` blocks have a pair; a block has rows of the words or of the patches. A row of units that is read serves GROUP rows.
extern "C" __global__ void __launch_bounds__(256)
transport_backward(const float* units /* [R, D] */, const float* norms /* [R] */, const float* cosines, const float* plans,
                   const Pair* pairs, float d, float* dx /* [T, D] */, int width, int groups) {
    SHARED(float, values /* [OTHERS, GROUP] */);
    float* projections = values + OTHERS * GROUP; /* [GROUP] */
    Pair p = pairs[blockIdx.x / groups];
    int group = blockIdx.x % groups, word_groups = (p.words + GROUP - 1) / GROUP;
    bool is_word = group < word_groups;
    int first = GROUP * (is_word ? group : group - word_groups), others = is_word ? p.patches : p.words;
    int rows = min(GROUP, (is_word ? p.words : p.patches) - first);
    if (rows <= 0) return;
    // The position in the pair's matrices of a row of this block and a row of the other group.
    int row_step = is_word ? p.patches : 1, other_step = is_word ? 1 : p.patches;
    plans += p.matrix + (long long)first * row_step;
    cosines += p.matrix + (long long)first * row_step;
    norms += p.unit + (is_word ? 0 : p.words) + first;
    const float* unit = units + (long long)(p.unit + (is_word ? 0 : p.words) + first) * width;
    const float* other = units + (long long)(p.unit + (is_word ? p.words : 0)) * width;
    dx += (long long)((is_word ? p.text : p.image) + first) * width;

    int lane = threadIdx.x % WARP_SIZE;
    for (int r = threadIdx.x / WARP_SIZE; r < rows; r += blockDim.x / WARP_SIZE) {
        float sum = 0.f;
        for (int k = lane; k < others; k += WARP_SIZE) sum += plans[r * row_step + k * other_step] * cosines[r * row_step + k * other_step];
        sum = warp_sum(sum);
        if (lane == 0) projections[r] = norms[r] > MIN_NORM ? sum : 0.f;
    }
    for (int begin = 0; begin < width; begin += 4 * blockDim.x) {
        int c = begin + 4 * threadIdx.x, left = width - c;
        float4 sums[GROUP];
#pragma unroll
        for (int r = 0; r < GROUP; r++) sums[r] = make_float4(0.f, 0.f, 0.f, 0.f);
        for (int k0 = 0; k0 < others; k0 += OTHERS) {
            int count = min(OTHERS, others - k0);
            __syncthreads();  // all threads have used the previous values
            for (int i = threadIdx.x; i < count * GROUP; i += blockDim.x) {
                // Adjacent threads read adjacent values.
                int r = is_word ? i / count : i % GROUP, k = is_word ? i % count : i / GROUP;
                values[k * GROUP + r] = r < rows ? plans[r * row_step + (k0 + k) * other_step] : 0.f;
            }
            __syncthreads();  // the values of the plan are complete, and `projections`
            for (int k = 0; k < count; k++) {
                float4 v = load4(other + (long long)(k0 + k) * width + c, left);
                float4 low = load4(values + k * GROUP, 4), high = load4(values + k * GROUP + 4, 4);
                sums[0] = sums[0] + v * low.x;
                sums[1] = sums[1] + v * low.y;
                sums[2] = sums[2] + v * low.z;
                sums[3] = sums[3] + v * low.w;
                sums[4] = sums[4] + v * high.x;
                sums[5] = sums[5] + v * high.y;
                sums[6] = sums[6] + v * high.z;
                sums[7] = sums[7] + v * high.w;
            }
        }
#pragma unroll
        for (int r = 0; r < GROUP; r++) {
            if (r >= rows) break;
            long long i = (long long)r * width + c;
            float4 tangent = sums[r] - load4(unit + i, left) * projections[r];
            store4(dx + i, left, load4(dx + i, left) + tangent * (-d * p.weight / norms[r]));
        }
    }
}
REGISTER_KERNEL(transport_backward);
