// Softmax cross-entropy of rows of logits with one target class per row, or with a weight of each class (soft targets), and accuracies.
//
// One block has one row, of up to 30,522 classes. The forward pass reads a row twice: the first time for its maximum and its sum at once
// (online softmax, Milakov & Gimelshein 2018), and the second time, mostly from the L2 cache, to write the probabilities. It stores a loss
// for each row, which `scalars.cu` sums. The gradient replaces the probabilities, with 8 bytes per logit. All are bound by memory.
#include "block_reduce.cuh"

constexpr float LOWEST = -3.402823466e38f;  // −FLT_MAX

// Calls `f` with each group of four columns of this thread, and the number of columns left from there.
template <class Function>
static __device__ __forceinline__ void for_columns4(int classes, Function f) {
    for (int c = 4 * threadIdx.x; c < classes; c += 4 * blockDim.x) f(c, classes - c);
}

// Loads the next four values of a row; values behind its end become −∞, whose exponential is 0.
static __device__ __forceinline__ float4 load_logits(const float* x, int left) {
    float4 v = load4(x, left);
    if (left < 2) v.y = -INFINITY;
    if (left < 3) v.z = -INFINITY;
    if (left < 4) v.w = -INFINITY;
    return v;
}

static __device__ __forceinline__ float4 exp4(float4 v) {
    return map4(v, [](float x) { return expf(x); });
}

// The largest of some logits, and the sum of exp(logit − max) over them.
struct Softmax {
    float max, sum;
};
static __device__ __forceinline__ Softmax shuffle_xor(Softmax s, int bits) {
    return {__shfl_xor_sync(FULL_MASK, s.max, bits), __shfl_xor_sync(FULL_MASK, s.sum, bits)};
}

// Returns the maximum and the sum of a row. The initial maximum is finite, so that a logit of −∞ adds 0 and not a NaN.
static __device__ __forceinline__ Softmax softmax(const float* logits /* [C] */, int classes, Softmax* shared /* [warps] */) {
    Softmax own = {LOWEST, 0.f};
    for_columns4(classes, [&](int c, int left) {
        float4 v = load_logits(logits + c, left);
        float max = fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w));
        if (max > own.max) {
            own.sum *= expf(own.max - max);
            own.max = max;
        }
        own.sum += sum4(exp4(v - own.max));
    });
    return block_reduce(own, Softmax{LOWEST, 0.f}, shared, [](Softmax a, Softmax b) {
        Softmax high = a.max >= b.max ? a : b, low = a.max >= b.max ? b : a;
        return Softmax{high.max, high.sum + low.sum * expf(low.max - high.max)};
    });
}

extern "C" __global__ void __launch_bounds__(1024) cross_entropy_forward(const float* logits /* [T, C] */, const int* targets /* [T] */,
                                                                         float* probabilities /* [T, C] */, float* losses /* [T] */,
                                                                         int classes) {
    SHARED(Softmax, shared /* [warps] */);
    long long first = (long long)blockIdx.x * classes;
    logits += first;
    Softmax row = softmax(logits, classes, shared);
    float factor = 1.f / row.sum;
    for_columns4(classes, [&](int c, int left) {
        store4(probabilities + first + c, left, exp4(load4(logits + c, left) - row.max) * factor);
    });
    if (threadIdx.x == 0) losses[blockIdx.x] = logf(row.sum) - (logits[targets[blockIdx.x]] - row.max);
}
REGISTER_KERNEL(cross_entropy_forward);

// p = (p − onehot(target)) · scale
extern "C" __global__ void __launch_bounds__(1024) cross_entropy_backward(float* probabilities /* [T, C] */, const int* targets /* [T] */,
                                                                          float scale, int classes) {
    float* p = probabilities + (long long)blockIdx.x * classes;
    int target = targets[blockIdx.x];
    for_columns4(classes, [&](int c, int left) {
        float4 v = load4(p + c, left);
        int i = target - c;
        v = v - make_float4(i == 0, i == 1, i == 2, i == 3);
        store4(p + c, left, v * scale);
    });
}
REGISTER_KERNEL(cross_entropy_backward);

// loss = Σ target · (ln Σ exp(logit − max) − (logit − max))
extern "C" __global__ void __launch_bounds__(1024)
soft_cross_entropy_forward(const float* logits /* [T, C] */, const float* targets /* [T, C] */, float* probabilities /* [T, C] */,
                           float* losses /* [T] */, int classes) {
    SHARED(Softmax, shared /* [warps] */);
    long long first = (long long)blockIdx.x * classes;
    logits += first;
    targets += first;
    Softmax row = softmax(logits, classes, shared);
    float factor = 1.f / row.sum, log_sum = logf(row.sum), loss = 0.f;
    for_columns4(classes, [&](int c, int left) {
        float4 v = load4(logits + c, left) - row.max, t = load4(targets + c, left);
        store4(probabilities + first + c, left, exp4(v) * factor);
        loss += sum4(t * (make_float4(log_sum, log_sum, log_sum, log_sum) - v));
    });
    loss = block_sum(loss, &shared->max);
    if (threadIdx.x == 0) losses[blockIdx.x] = loss;
}
REGISTER_KERNEL(soft_cross_entropy_forward);

// p = (p · Σ targets − target) · scale
extern "C" __global__ void __launch_bounds__(1024)
soft_cross_entropy_backward(float* probabilities /* [T, C] */, const float* targets /* [T, C] */, float scale, int classes) {
    SHARED(float, shared /* [warps] */);
    float* p = probabilities + (long long)blockIdx.x * classes;
    targets += (long long)blockIdx.x * classes;
    float total = 0.f;
    for_columns4(classes, [&](int c, int left) { total += sum4(load4(targets + c, left)); });
    total = block_sum(total, shared);
    for_columns4(classes, [&](int c, int left) {
        store4(p + c, left, (load4(p + c, left) * total - load4(targets + c, left)) * scale);
    });
}
REGISTER_KERNEL(soft_cross_entropy_backward);

// A column and its logit.
struct Candidate {
    float logit;
    int column;
};
static __device__ __forceinline__ Candidate shuffle_xor(Candidate v, int bits) {
    return {__shfl_xor_sync(FULL_MASK, v.logit, bits), __shfl_xor_sync(FULL_MASK, v.column, bits)};
}

// Returns the column of the largest logit of a row. Of equal logits, the first counts. NaNs are ignored, except that a row whose first logit
// is NaN gives column 0.
static __device__ __forceinline__ int argmax(const float* logits /* [C] */, int classes, Candidate* shared /* [warps] */) {
    Candidate best = {-INFINITY, 0x7fffffff};
    for (int c = threadIdx.x; c < classes; c += blockDim.x) {
        float logit = logits[c];
        if (logit > best.logit || (logit == best.logit && c < best.column)) best = {logit, c};
    }
    best = block_reduce(best, Candidate{-INFINITY, 0x7fffffff}, shared, [](Candidate a, Candidate b) {
        bool first = a.logit > b.logit || (a.logit == b.logit && a.column < b.column);
        return first ? a : b;
    });
    return logits[0] != logits[0] ? 0 : best.column;
}

// 1 for each row whose argmax is the target, else 0.
extern "C" __global__ void __launch_bounds__(1024) hit_rows(const float* logits /* [T, C] */, const int* targets /* [T] */,
                                                            float* hits /* [T] */, int classes) {
    SHARED(Candidate, shared /* [warps] */);
    int column = argmax(logits + (long long)blockIdx.x * classes, classes, shared);
    if (threadIdx.x == 0) hits[blockIdx.x] = column == targets[blockIdx.x] ? 1.f : 0.f;
}
REGISTER_KERNEL(hit_rows);

// The target of the argmax of each row.
extern "C" __global__ void __launch_bounds__(1024) score_rows(const float* logits /* [T, C] */, const float* targets /* [T, C] */,
                                                              float* scores /* [T] */, int classes) {
    SHARED(Candidate, shared /* [warps] */);
    long long first = (long long)blockIdx.x * classes;
    int column = argmax(logits + first, classes, shared);
    if (threadIdx.x == 0) scores[blockIdx.x] = targets[first + column];
}
REGISTER_KERNEL(score_rows);
