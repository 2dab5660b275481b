// Updates of all parameters in one launch: AdamW as in Hugging Face Transformers, Adam and AdamW as in PyTorch, gradient descent with
// momentum, and LARS. The copies of the weights in bfloat16 are written too, because the next products read them.
//
// The arithmetic is that of `kernels::optimizer`, operation by operation, so that the results have the same bits. Scalars that depend on
// the step come from the host, where they are computed in double precision. Gradients are multiplied by a factor that depends on their
// norm, which stays on the device. Adam reads 16 and writes 14 bytes for each value, which is its limit.
#include "exact.cuh"
#include "lists.cuh"

// The trust coefficient of LARS in MAE's linear probing, and in `kernels::optimizer`.
constexpr double TRUST_COEFFICIENT = 0.001;

struct Parameter {
    float* values;
    const float* gradient;
    float* m;       // running mean of the gradient, or momentum
    float* v;       // running mean of the squared gradient, or null
    bf16* rounded;  // the values in bfloat16, or null
    long long length;
    float rate;      // learning rate, with the bias correction of the mean
    float decay;     // weight decay: of the gradient, or for AdamW of Hugging Face of the values after the step
    float kept;      // factor of the values before the step: 1 without AdamW of PyTorch
    float v_factor;  // bias correction of the square root of v
    float momentum;
    int adapts;  // whether LARS scales the gradient
};

// Returns min(1, limit / (norm + 1e-6)), as `clip_grad_norm_` of PyTorch; 1 without a norm, or if it is NaN.
static __device__ __forceinline__ float gradient_factor(const float* norm, float limit) {
    if (!norm) return 1.f;
    float factor = div_rn(limit, add_rn(*norm, 1e-6f));
    return factor < 1.f ? factor : 1.f;
}

// Calls `update(p, g, m, v)` for each value of this block's chunk, with its gradient and moments, and stores what it changes.
template <bool HAS_V, class Function>
static __device__ __forceinline__ void update_chunk(const Parameter& parameter, int first_chunk, Function update) {
    for_chunk4(first_chunk, parameter.length, [&](long long i, long long left) {
        float4 p = load4(parameter.values + i, left), g = load4(parameter.gradient + i, left), m = load4(parameter.m + i, left);
        float4 v = HAS_V ? load4(parameter.v + i, left) : make_float4(0.f, 0.f, 0.f, 0.f);
        update(p.x, g.x, m.x, v.x);
        update(p.y, g.y, m.y, v.y);
        update(p.z, g.z, m.z, v.z);
        update(p.w, g.w, m.w, v.w);
        store4(parameter.values + i, left, p);
        store4(parameter.m + i, left, m);
        if (HAS_V) store4(parameter.v + i, left, v);
        if (parameter.rounded) store4(parameter.rounded + i, left, p);
    });
}

// m = beta1 * m + (1 - beta1) * g, v = beta2 * v + (1 - beta2) * g^2
static __device__ __forceinline__ void update_moments(float g, float& m, float& v, float beta1, float beta2) {
    m = add_rn(mul_rn(beta1, m), mul_rn(sub_rn(1.f, beta1), g));
    v = add_rn(mul_rn(beta2, v), mul_rn(sub_rn(1.f, beta2), mul_rn(g, g)));
}

// AdamW of Hugging Face: p = p - rate * m / (sqrt(v) + epsilon), then p = p - decay * p
extern "C" __global__ void __launch_bounds__(256)
adamw_f32(const Parameter* parameters /* [count] */, const int* first_chunks /* [count + 1] */, int count, const float* norm, float limit,
          float beta1, float beta2, float epsilon) {
    int index = matrix_of_chunk(first_chunks, count, blockIdx.x);
    Parameter parameter = parameters[index];
    float factor = gradient_factor(norm, limit);
    update_chunk<true>(parameter, first_chunks[index], [&](float& p, float g, float& m, float& v) {
        update_moments(mul_rn(factor, g), m, v, beta1, beta2);
        float updated = sub_rn(p, mul_rn(parameter.rate, div_rn(m, add_rn(sqrt_rn(v), epsilon))));
        p = sub_rn(updated, mul_rn(parameter.decay, updated));
    });
}
REGISTER_KERNEL(adamw_f32);

// Adam and AdamW of PyTorch: g = g + decay * p, p = kept * p - rate * m / (sqrt(v) * v_factor + epsilon)
extern "C" __global__ void __launch_bounds__(256)
adam_f32(const Parameter* parameters /* [count] */, const int* first_chunks /* [count + 1] */, int count, const float* norm, float limit,
         float beta1, float beta2, float epsilon) {
    int index = matrix_of_chunk(first_chunks, count, blockIdx.x);
    Parameter parameter = parameters[index];
    float factor = gradient_factor(norm, limit);
    update_chunk<true>(parameter, first_chunks[index], [&](float& p, float g, float& m, float& v) {
        update_moments(add_rn(mul_rn(factor, g), mul_rn(parameter.decay, p)), m, v, beta1, beta2);
        float step = div_rn(m, add_rn(mul_rn(sqrt_rn(v), parameter.v_factor), epsilon));
        p = sub_rn(mul_rn(p, parameter.kept), mul_rn(parameter.rate, step));
    });
}
REGISTER_KERNEL(adam_f32);

// The gradient of gradient descent and LARS: g + decay * p
static __device__ __forceinline__ float decayed(float factor, float g, float decay, float p) {
    return add_rn(mul_rn(factor, g), mul_rn(decay, p));
}

// Gradient descent: m = momentum * m + g * trust, p = p - rate * m; `trust` is the factor of LARS, or 1.
extern "C" __global__ void __launch_bounds__(256)
momentum_f32(const Parameter* parameters /* [count] */, const int* first_chunks /* [count + 1] */, int count, const float* norm,
             float limit, const float* trusts /* [count] or null */) {
    int index = matrix_of_chunk(first_chunks, count, blockIdx.x);
    Parameter parameter = parameters[index];
    float factor = gradient_factor(norm, limit), trust = trusts ? trusts[index] : 1.f;
    update_chunk<false>(parameter, first_chunks[index], [&](float& p, float g, float& m, float&) {
        m = add_rn(mul_rn(parameter.momentum, m), mul_rn(decayed(factor, g, parameter.decay, p), trust));
        p = sub_rn(p, mul_rn(parameter.rate, m));
    });
}
REGISTER_KERNEL(momentum_f32);

// The sums of the squares of the values and of the gradients of each chunk of the parameters that LARS adapts.
extern "C" __global__ void __launch_bounds__(256)
lars_sums_f32(const Parameter* parameters /* [count] */, const int* first_chunks /* [count + 1] */, int count, const float* norm,
              float limit, double* sums /* [chunks, 2] */) {
    SHARED(double, warp_sums /* [2, warps] */);
    int index = matrix_of_chunk(first_chunks, count, blockIdx.x);
    Parameter parameter = parameters[index];
    if (!parameter.adapts) return;
    float factor = gradient_factor(norm, limit);
    double values = 0, gradients = 0;
    for_chunk4(first_chunks[index], parameter.length, [&](long long i, long long left) {
        float4 p = load4(parameter.values + i, left), g = load4(parameter.gradient + i, left);
        values += square_sum4(p);
        gradients += square_sum4(map4(g, p, [&](float g, float p) { return decayed(factor, g, parameter.decay, p); }));
    });
    values = block_sum(values, warp_sums);
    gradients = block_sum(gradients, warp_sums + blockDim.x / WARP_SIZE);
    if (threadIdx.x == 0) {
        sums[2ll * blockIdx.x] = values;
        sums[2ll * blockIdx.x + 1] = gradients;
    }
}
REGISTER_KERNEL(lars_sums_f32);

// trusts[i] = TRUST_COEFFICIENT * |values| / |gradient| of parameter i; 1 if a norm is zero, or LARS does not adapt the parameter.
// A block has one parameter.
extern "C" __global__ void __launch_bounds__(256)
lars_trusts_f32(const Parameter* parameters /* [count] */, const int* first_chunks /* [count + 1] */, const double* sums /* [chunks, 2] */,
                float* trusts /* [count] */) {
    SHARED(double, warp_sums /* [2, warps] */);
    double values = 0, gradients = 0;
    if (parameters[blockIdx.x].adapts) {
        for (int i = first_chunks[blockIdx.x] + threadIdx.x; i < first_chunks[blockIdx.x + 1]; i += blockDim.x) {
            values += sums[2ll * i];
            gradients += sums[2ll * i + 1];
        }
    }
    values = sqrt(block_sum(values, warp_sums));
    gradients = sqrt(block_sum(gradients, warp_sums + blockDim.x / WARP_SIZE));
    if (threadIdx.x == 0) trusts[blockIdx.x] = values > 0 && gradients > 0 ? (float)(TRUST_COEFFICIENT * values / gradients) : 1.f;
}
REGISTER_KERNEL(lars_trusts_f32);
