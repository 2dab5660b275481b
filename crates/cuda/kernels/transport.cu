// Word-patch alignment by optimal transport (Chen et al. 2020, UNITER; Xie et al. 2020, IPOT): for each pair of a caption and an image, the
// cosines of words and patches, the transport plan between uniform distributions for the costs 1 - cosine, and the distance.
//
// Rows are divided by their norms once. The plan of a pair is iterated by one block, in shared memory if it fits, else in global memory; 50
// iterations read it 200 times. The gradient flows through the cosines only: a block has a row and sums over the rows of the other group, so
// that no two blocks write the same value.
#include "block_reduce.cuh"

// Lower bound of the norms that rows are divided by.
constexpr float MIN_NORM = 1e-5f;

// A pair: its words are the rows `text` to `text + words` of the features, and so for its patches. Its rows in `units` begin at `unit`, words
// first; its matrices [words, patches] begin at `matrix`.
struct Pair {
    int text, words, image, patches, unit;
    float weight;
    long long matrix;
};

// A row of a pair: words first.
struct PairRow {
    int pair, row;
};

static __device__ __forceinline__ int feature_row(const Pair& p, int row) { return row < p.words ? p.text + row : p.image + row - p.words; }

// units[r] = x[r] / |x[r]| for the rows of all pairs; a warp has a row.
extern "C" __global__ void __launch_bounds__(256)
transport_normalise(const float* x /* [T, D] */, const Pair* pairs, const PairRow* rows /* [R] */, float* units /* [R, D] */,
                    float* norms /* [R] */, int count, int width) {
    int r = blockIdx.x * (blockDim.x / WARP_SIZE) + threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    if (r >= count) return;
    x += (long long)feature_row(pairs[rows[r].pair], rows[r].row) * width;
    units += (long long)r * width;
    float squares = 0.f;
    for (int c = lane; c < width; c += WARP_SIZE) squares += x[c] * x[c];
    float norm = fmaxf(sqrtf(warp_sum(squares)), MIN_NORM);
    for (int c = lane; c < width; c += WARP_SIZE) units[c] = x[c] / norm;
    if (lane == 0) norms[r] = norm;
}
REGISTER_KERNEL(transport_normalise);

// The cosines of a word and all patches of its pair; a block has a row of the list, and does nothing for a patch.
extern "C" __global__ void __launch_bounds__(256)
transport_cosines(const float* units /* [R, D] */, const Pair* pairs, const PairRow* rows /* [R] */, float* cosines, int width) {
    Pair p = pairs[rows[blockIdx.x].pair];
    int word = rows[blockIdx.x].row, warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE, warps = blockDim.x / WARP_SIZE;
    if (word >= p.words) return;
    const float* a = units + (long long)(p.unit + word) * width;
    for (int j = warp; j < p.patches; j += warps) {
        const float* b = units + (long long)(p.unit + p.words + j) * width;
        float sum = 0.f;
        for (int c = 4 * lane; c < width; c += 4 * WARP_SIZE) sum += sum4(load4(a + c, width - c) * load4(b + c, width - c));
        sum = warp_sum(sum);
        if (lane == 0) cosines[p.matrix + (long long)word * p.patches + j] = sum;
    }
}
REGISTER_KERNEL(transport_cosines);

// The plan of each pair, and weight * distance. Shared memory: [warps] for sums, delta [patches], sigma [words] and, if `plan_is_shared`, the
// plan.
extern "C" __global__ void __launch_bounds__(256)
transport_plans(const float* cosines, const Pair* pairs, float* kernels, float* plans, float* distances /* [pairs] */, float beta,
                int iterations, int plan_is_shared) {
    SHARED(float, shared);
    Pair p = pairs[blockIdx.x];
    int n = p.words, m = p.patches, count = n * m;
    int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE, warps = blockDim.x / WARP_SIZE;
    float* delta = shared + warps;
    float* sigma = delta + m;
    float* t = plan_is_shared ? sigma + n : plans + p.matrix;
    float* a = kernels + p.matrix;
    cosines += p.matrix;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        a[i] = expf((cosines[i] - 1.f) / beta);
        t[i] = 1.f;
    }
    for (int i = threadIdx.x; i < n; i += blockDim.x) sigma[i] = 1.f / (float)n;
    __syncthreads();  // the initial values are written
    for (int iteration = 0; iteration < iterations; iteration++) {
        for (int j = threadIdx.x; j < m; j += blockDim.x) {
            float sum = 0.f;
            for (int i = 0; i < n; i++) {
                float v = t[i * m + j] * a[i * m + j];
                t[i * m + j] = v;
                sum += v * sigma[i];
            }
            delta[j] = 1.f / ((float)m * sum);
        }
        __syncthreads();  // all columns are multiplied, and `delta` is complete
        for (int i = warp; i < n; i += warps) {
            float sum = 0.f;
            for (int j = lane; j < m; j += WARP_SIZE) sum += t[i * m + j] * delta[j];
            float s = 1.f / ((float)n * warp_sum(sum));
            if (lane == 0) sigma[i] = s;
            for (int j = lane; j < m; j += WARP_SIZE) t[i * m + j] *= delta[j] * s;
        }
        __syncthreads();  // all rows are multiplied, and `sigma` is complete
    }
    float distance = 0.f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        distance += (1.f - cosines[i]) * t[i];
        if (plan_is_shared) plans[p.matrix + i] = t[i];
    }
    distance = block_sum(distance, shared);
    if (threadIdx.x == 0) distances[blockIdx.x] = distance * p.weight;
}
REGISTER_KERNEL(transport_plans);

// Adds the gradient of the features of a row: with du = -d * weight * (the sum of plan * unit over the rows of the other group) and the unit u,
// it is (du - u * (u . du)) / norm. The projection is left out if the norm is at its lower bound, because such a norm is constant. Shared memory:
// [warps] for sums, and du [D].
extern "C" __global__ void __launch_bounds__(256)
transport_backward(const float* units /* [R, D] */, const float* norms /* [R] */, const float* plans, const Pair* pairs,
                   const PairRow* rows /* [R] */, float d, float* dx /* [T, D] */, int width) {
    SHARED(float, shared);
    Pair p = pairs[rows[blockIdx.x].pair];
    int row = rows[blockIdx.x].row;
    bool is_word = row < p.words;
    float* du = shared + blockDim.x / WARP_SIZE;
    // The plan's row of a word, or its column of a patch.
    const float* plan = plans + p.matrix + (is_word ? (long long)row * p.patches : row - p.words);
    int others = is_word ? p.patches : p.words, step = is_word ? 1 : p.patches;
    const float* other = units + (long long)(p.unit + (is_word ? p.words : 0)) * width;
    const float* u = units + (long long)(p.unit + row) * width;
    float norm = norms[p.unit + row], weight = -d * p.weight, products = 0.f;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        float sum = 0.f;
        for (int k = 0; k < others; k++) sum += plan[(long long)k * step] * other[(long long)k * width + c];
        du[c] = sum * weight;
        products += du[c] * u[c];
    }
    float projection = block_sum(products, shared);
    if (norm <= MIN_NORM) projection = 0.f;
    dx += (long long)feature_row(p, row) * width;
    for (int c = threadIdx.x; c < width; c += blockDim.x) dx[c] += (du[c] - u[c] * projection) / norm;
}
REGISTER_KERNEL(transport_backward);
