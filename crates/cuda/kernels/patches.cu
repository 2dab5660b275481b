// Patches of images: the pixels of squares of images [3, height, width], one row [3 * side^2] for each patch.
//
// A thread has up to four adjacent pixels of one row of a patch, in all three channels, so that both orders of a row are written in
// vectors. Each value is read and written once, which is the limit.
#include "device.cuh"

// The first pixel of a patch, and the distances from one channel and from one row of its image to the next, in values.
struct Patch {
    long long first;
    int channel, row;
};

extern "C" __global__ void __launch_bounds__(256)
extract_patches_f32(const float* images, const Patch* patches /* [n] */, float* out /* [n, 3 * side^2] */, int side,
                    int channels_last /* (row, column, channel) instead of (channel, row, column) */, long long threads) {
    int threads_per_row = (side + 3) / 4, threads_per_patch = side * threads_per_row;
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= threads) return;
    long long index = i / threads_per_patch;
    int rest = (int)(i % threads_per_patch), y = rest / threads_per_row, x = 4 * (rest % threads_per_row), left = side - x;
    Patch patch = patches[index];
    const float* from = images + patch.first + (long long)y * patch.row + x;
    float4 r = load4(from, left), g = load4(from + patch.channel, left), b = load4(from + 2ll * patch.channel, left);
    out += index * 3 * side * side;
    if (channels_last) {
        out += 3ll * (y * side + x);
        store4(out, 3 * left, make_float4(r.x, g.x, b.x, r.y));
        store4(out + 4, 3 * left - 4, make_float4(g.y, b.y, r.z, g.z));
        store4(out + 8, 3 * left - 8, make_float4(b.z, r.w, g.w, b.w));
    } else {
        out += y * side + x;
        store4(out, left, r);
        store4(out + side * side, left, g);
        store4(out + 2 * side * side, left, b);
    }
}
REGISTER_KERNEL(extract_patches_f32);
