// Peak and noise of many planes.
//
// Peak: the largest |value| inside the mask, ties to the lowest index. Magnitude and index are compared together as one 64-bit
// integer; values that are not finite are larger than all others.
//
// Noise: 1.4826 times the median absolute deviation from the median, exactly. The element of rank (n - 1) / 2 is found digit
// by digit (radix select on 11, 11 and 10 bits). Each launch counts the next digits of the elements that begin like the element
// sought, first for the values, then for their distances from the median. The last block of a plane to have counted chooses
// the digit. Counts are integers: any order gives the same.
//
// Memory: values (slots, pixels) float32; slot[b] is where plane b of the batch lies. A plane's mask is mask_of[slot], -1
// for everywhere, in masks (any, pixels). work (planes, WORDS) is zero before the first launch, and after the last.
// Cost: each launch reads 4 bytes per pixel, and the mask once.
//
// Launches: measure, grid (any, planes), block 512, for stages 0, 1, 2 (median; stage 0 also finds the peak) and 3, 4, 5
// (deviation).

constexpr int BINS = 2048, THREADS = 512, EACH = BINS / THREADS;
constexpr int PREFIX = BINS, RANK = BINS + 1, MEDIAN = BINS + 2, ARRIVED = BINS + 3, KEY = BINS + 4, WORDS = BINS + 6;

__device__ __forceinline__ unsigned long long warp_largest(unsigned long long key) {
    for (int d = 16; d > 0; d /= 2) key = max(key, __shfl_xor_sync(ALL_LANES, key, d));
    return key;
}

// Unsigned integers in the order of the floats, and back.
__device__ __forceinline__ unsigned ordered(float value) {
    const unsigned bits = __float_as_uint(value);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float disordered(unsigned key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// out[b] = the peak's key, bits of |value| << 32 | 0xffffffff - index, or 0 if no pixel is allowed; and the bits of the noise,
// float64.
extern "C" __global__ void __launch_bounds__(THREADS) measure(
    const float* __restrict__ values, const int* __restrict__ slot, const unsigned char* __restrict__ masks,
    const int* __restrict__ mask_of, int pixels, int stage, unsigned* __restrict__ work, unsigned long long* __restrict__ out)
{
    __shared__ unsigned digits[BINS], below[THREADS];
    __shared__ unsigned long long best;
    __shared__ int last;
    const int b = blockIdx.y, t = threadIdx.x, m = mask_of[slot[b]];
    const int pass = stage % 3, shift = pass == 0 ? 21 : pass == 1 ? 10 : 0, bits = pass == 2 ? 10 : 11;
    const float* plane = values + (size_t)slot[b] * pixels;
    const unsigned char* allowed = m < 0 ? nullptr : masks + (size_t)m * pixels;
    unsigned* mine = work + (size_t)b * WORDS;
    unsigned long long* largest = reinterpret_cast<unsigned long long*>(mine + KEY);
    const unsigned start = pass ? mine[PREFIX] : 0, sought = pass ? mine[RANK] : (pixels - 1) / 2;
    const float centre = stage < 3 ? 0.0f : __uint_as_float(mine[MEDIAN]);
    for (int d = t; d < BINS; d += THREADS) digits[d] = 0;
    if (t == 0) best = 0;
    __syncthreads();
    unsigned long long peak = 0;
    for (int i = blockIdx.x * THREADS + t; i < pixels; i += gridDim.x * THREADS) {
        const float value = plane[i];
        if (stage == 0 && (!allowed || allowed[i]))
            peak = max(peak, (unsigned long long)magnitude(value) << 32 | (0xffffffffu - i));
        const unsigned key = ordered(stage < 3 ? value : fabsf(__fsub_rn(value, centre)));
        if (pass == 0 || key >> (shift + bits) == start) atomicAdd(&digits[key >> shift & ((1u << bits) - 1)], 1u);
    }
    if (stage == 0) {
        peak = warp_largest(peak);
        if (t % 32 == 0) atomicMax(&best, peak);
    }
    __syncthreads();
    for (int d = t; d < BINS; d += THREADS)
        if (digits[d]) atomicAdd(&mine[d], digits[d]);
    if (stage == 0 && t == 0) atomicMax(largest, best);
    __threadfence();  // what this thread has counted comes before the arrival of its block
    __syncthreads();
    if (t == 0) last = atomicAdd(&mine[ARRIVED], 1u) == gridDim.x - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    // by exchange, so that the counts of all blocks are seen, and are zero for the next launch
    unsigned sum = 0;
    for (int d = 0; d < EACH; d++) sum += digits[EACH * t + d] = atomicExch(&mine[EACH * t + d], 0u);
    if (t == 0) {
        mine[ARRIVED] = 0;
        if (stage == 0) out[2 * b] = atomicExch(largest, 0ull);
    }
    below[t] = sum;
    inclusive_scan<THREADS>(below, t);
    unsigned before = below[t] - sum;
    if (sought < before || sought >= below[t]) return;
    int digit = EACH * t;
    while (sought >= before + digits[digit]) before += digits[digit++];
    const unsigned key = start << bits | digit;
    if (pass < 2) mine[PREFIX] = key, mine[RANK] = sought - before;
    else if (stage == 2) mine[MEDIAN] = __float_as_uint(disordered(key));
    else {
        out[2 * b + 1] = (unsigned long long)__double_as_longlong(__dmul_rn(1.4826, disordered(key)));
        mine[PREFIX] = mine[RANK] = mine[MEDIAN] = 0;
    }
}
