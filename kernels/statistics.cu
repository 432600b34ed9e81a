// Peak and noise of many planes.
//
// Peak: the largest |value| inside the mask, ties to the lowest index. Magnitude and index are compared together as one 64-bit
// integer; values that are not finite are larger than all others.
//
// Noise: 1.4826 times the median absolute deviation from the median, exactly. The element of rank (n - 1) / 2 is found digit
// by digit (radix select on 11, 11 and 10 bits). Each pass counts the next digits of the elements that begin like the element
// sought, first for the values, then for their distances from the median. Counts are integers: any order gives the same.
//
// Memory: values (slots, pixels) float32; slot[b] is where plane b of the batch lies. A plane's mask is mask_of[slot], -1
// for everywhere, in masks (any, pixels). Cost: each pass reads 4 bytes per pixel; seven passes for peak and noise.
//
// Launches:
//   peak       grid (any, planes), block 256; key is zero before
//   histogram  grid (any, planes), block 512, followed by
//   choose     grid (planes), block 256; both for stages 0, 1, 2 (median) and 3, 4, 5 (deviation). Before the first, counts
//              and prefix are zero and rank is (pixels - 1) / 2

constexpr int BINS = 2048;

__device__ __forceinline__ unsigned long long warp_largest(unsigned long long key) {
    for (int d = 16; d > 0; d /= 2) key = max(key, __shfl_xor_sync(ALL_LANES, key, d));
    return key;
}

// key[b] = bits of |value| << 32 | 0xffffffff - index, of the largest; 0 if no pixel is allowed.
extern "C" __global__ void __launch_bounds__(256) peak(
    const float* __restrict__ values, const int* __restrict__ slot, const unsigned char* __restrict__ masks,
    const int* __restrict__ mask_of, int pixels, unsigned long long* __restrict__ key)
{
    __shared__ unsigned long long partial[8];
    const int b = blockIdx.y, m = mask_of[slot[b]];
    const float* plane = values + (size_t)slot[b] * pixels;
    const unsigned char* allowed = m < 0 ? nullptr : masks + (size_t)m * pixels;
    unsigned long long best = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += gridDim.x * blockDim.x)
        if (!allowed || allowed[i])
            best = max(best, (unsigned long long)magnitude(plane[i]) << 32 | (0xffffffffu - i));
    best = warp_largest(best);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 0; w < (int)blockDim.x / 32; w++) best = max(best, partial[w]);
        atomicMax(&key[b], best);
    }
}

// Unsigned integers in the order of the floats, and back.
__device__ __forceinline__ unsigned ordered(float value) {
    const unsigned bits = __float_as_uint(value);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float disordered(unsigned key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// counts[b][d] += number of elements of plane b that begin with prefix[b] followed by digit d.
extern "C" __global__ void __launch_bounds__(512) histogram(
    const float* __restrict__ values, const int* __restrict__ slot, int pixels, int stage,
    const unsigned* __restrict__ prefix, const float* __restrict__ median, unsigned* __restrict__ counts)
{
    __shared__ unsigned mine[BINS];
    const int b = blockIdx.y, pass = stage % 3, shift = pass == 0 ? 21 : pass == 1 ? 10 : 0, bits = pass == 2 ? 10 : 11;
    const float* plane = values + (size_t)slot[b] * pixels;
    const float centre = stage < 3 ? 0.0f : median[b];
    const unsigned start = prefix[b];
    for (int d = threadIdx.x; d < BINS; d += blockDim.x) mine[d] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += gridDim.x * blockDim.x) {
        const unsigned key = ordered(stage < 3 ? plane[i] : fabsf(__fsub_rn(plane[i], centre)));
        if (pass == 0 || key >> (shift + bits) == start) atomicAdd(&mine[key >> shift & ((1u << bits) - 1)], 1u);
    }
    __syncthreads();
    for (int d = threadIdx.x; d < BINS; d += blockDim.x)
        if (mine[d]) atomicAdd(&counts[b * BINS + d], mine[d]);
}

// Find the digit of the element of rank[b], and clear the counts for the next pass; write median and noise when complete.
extern "C" __global__ void __launch_bounds__(256) choose(
    int pixels, int stage, unsigned* __restrict__ counts, unsigned* __restrict__ prefix, unsigned* __restrict__ rank,
    float* __restrict__ median, double* __restrict__ noise)
{
    constexpr int EACH = BINS / 256;
    __shared__ unsigned below[256];
    const int b = blockIdx.x, t = threadIdx.x, bits = stage % 3 == 2 ? 10 : 11;
    unsigned* digits = counts + b * BINS + EACH * t;
    const unsigned sought = rank[b], start = prefix[b];
    unsigned mine[EACH], sum = 0;
    for (int d = 0; d < EACH; d++) sum += mine[d] = digits[d], digits[d] = 0;
    below[t] = sum;
    for (int d = 1; d < 256; d *= 2) {  // inclusive scan (Hillis & Steele 1986)
        __syncthreads();
        const unsigned left = t >= d ? below[t - d] : 0;
        __syncthreads();
        below[t] += left;
    }
    unsigned before = below[t] - sum;
    if (sought < before || sought >= below[t]) return;
    int digit = 0;
    while (sought >= before + mine[digit]) before += mine[digit++];
    const unsigned key = start << bits | (EACH * t + digit);
    if (stage % 3 < 2) {
        prefix[b] = key, rank[b] = sought - before;
        return;
    }
    prefix[b] = 0, rank[b] = (pixels - 1) / 2;
    if (stage == 2) median[b] = disordered(key);
    else noise[b] = __dmul_rn(1.4826, disordered(key));
}
