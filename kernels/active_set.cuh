// What minor cycles share: the search for a peak, and active sets.
//
// gpucube.devices.cuda.kernel_sources puts this file in front of hogbom.cu and multiscale.cu.

// A candidate, ordered by top and then low. top: 1 + bits of |value|, 0 for none, so that values that are not finite come
// first; low: (0x7fffffff - index) << 1 | sign. It holds the whole value: nobody reads the pixel again, which its owner may
// be changing.
struct Peak { unsigned top, low; };

__device__ __forceinline__ float value_of(Peak p) { return __uint_as_float((p.top - 1) | p.low << 31); }
__device__ __forceinline__ int index_of(Peak p) { return (int)(0x7fffffffu - (p.low >> 1)); }

// A thread meets its pixels in rising order, so of equals the first stays.
__device__ __forceinline__ void consider(Peak& best, float value, int index) {
    const unsigned bits = __float_as_uint(value), top = (bits & 0x7fffffffu) + 1;
    if (top > best.top) best = {top, (0x7fffffffu - index) << 1 | bits >> 31};
}

__device__ __forceinline__ Peak warp_peak(Peak p) {
    const unsigned top = __reduce_max_sync(ALL_LANES, p.top);
    return {top, __reduce_max_sync(ALL_LANES, p.top == top ? p.low : 0u)};
}

// Largest of the block, known to every thread after one barrier. Consecutive calls need different arrays `partial`.
__device__ __forceinline__ Peak block_peak(Peak mine, Peak* partial) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    mine = warp_peak(mine);
    if (lane == 0) partial[warp] = mine;
    __syncthreads();
    return warp_peak(lane < (int)blockDim.x / 32 ? partial[lane] : Peak{0, 0});
}

// The largest of the blocks' peaks that this thread looks at.
__device__ __forceinline__ Peak best_of(const uint2* peaks, int blocks) {
    Peak best = {0, 0};
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) {
        const Peak other = {peaks[i].x, peaks[i].y};
        if (other.top > best.top || (other.top == best.top && other.low > best.low)) best = other;
    }
    return best;
}

__device__ __forceinline__ const unsigned char* mask_at(const unsigned char* masks, int m, size_t pixels) {
    return m < 0 ? nullptr : masks + m * pixels;
}

constexpr int CHUNK = 32 * AHEAD;  // pixels that a warp loads at once
constexpr int UNIT = 8 * CHUNK;  // pixels whose members one warp counts and gathers

// Where a plane's part of scratch begins: the counts of its units.
__device__ __forceinline__ int* scratch_of(int* scratch, int b, int units, int room) {
    return scratch + b * (units + 3 * (size_t)room);
}

// The members, in raster order, each with its place in a PSF-sized array, its value, and its model so far.
struct ActiveSet { int* place; float *value, *model; };

// The set as it lies in scratch, behind the counts.
__device__ __forceinline__ ActiveSet kept_set(int* counts, int units, int room) {
    float* first = (float*)(counts + units);
    return {(int*)first, first + room, first + 2 * (size_t)room};
}

// Sum over the block, known to every thread after two barriers.
__device__ __forceinline__ int block_total(int mine, int* sums) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    mine = (int)__reduce_add_sync(ALL_LANES, (unsigned)mine);
    __syncthreads();  // before this sum's parts overwrite the last one's
    if (lane == 0) sums[warp] = mine;
    __syncthreads();
    return (int)__reduce_add_sync(ALL_LANES, lane < (int)blockDim.x / 32 ? (unsigned)sums[lane] : 0u);
}
