// Högbom minor cycles of a batch of planes; the host waits for their end.
//
// Algorithm: Högbom 1974 (A&AS 15, 417): find the absolute peak, subtract gain * peak * PSF, repeat until |peak| <= threshold
// or for `limit` iterations; ties go to the lowest index. Three forms:
//   hogbom_textbook    the whole image, one block per plane; subtraction and the search for the next peak in one sweep
//   hogbom_active_set  only pixels with |residual| > cut, one block per plane, after Clark 1980 and Offringa & Smirnov 2017,
//                      with the full PSF at every offset; the residual is left as it was
//   hogbom_step        the whole image, many blocks per plane, for images so large that one block would take too long:
//                      one iteration per launch, many launches queued at once; hogbom_start precedes the first
//
// The sequence of components is that of the CPU's loops to the last bit: flux = gain * peak in float64 rounded to float32,
// value - flux * psf with both operations rounded (__fmul_rn, __fsub_rn: never fused, whatever the compiler's options).
//
// Memory: residual and model (slots, ny, nx), psf (slots, 2 ny, 2 nx) with its peak at (ny, nx), float32; slot[b] is where
// plane b of the batch lies. A plane's mask is mask_of[slot], -1 for everywhere, in masks (any, ny, nx).
// gain, threshold, limit, cut (planes of the batch).
//
// Cost: textbook 12 bytes per pixel and iteration. Active set: 8 bytes of the PSF's cache lines per pixel of the set, and one
// barrier per iteration. Gathering the set reads the plane twice.

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

__device__ __forceinline__ bool finished(Peak peak, int done, double threshold, int limit) {
    return done >= limit || peak.top == 0 || fabs((double)value_of(peak)) <= threshold;
}

// One warp's rows: subtract flux * PSF centred on pixel `at` (if SUBTRACT), and find the largest value that is left.
template <bool SUBTRACT>
__device__ __forceinline__ Peak sweep(
    float* __restrict__ residual, const float* __restrict__ psf, const unsigned char* __restrict__ mask,
    int ny, int nx, int first_row, int row_step, float flux, int at)
{
    Peak best = {0, 0};
    const int py = at / nx, px = at % nx;
    for (int y = first_row; y < ny; y += row_step) {
        float* line = residual + (size_t)y * nx;
        const float* beam = psf + (size_t)(ny + y - py) * (2 * nx) + (nx - px);
        for (int left = threadIdx.x % 32; left < nx; left += 32 * AHEAD) {
            float value[AHEAD], response[AHEAD];
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                const int x = left + 32 * j;
                value[j] = x < nx ? line[x] : 0.0f;
                response[j] = SUBTRACT && x < nx ? beam[x] : 0.0f;
            }
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                const int x = left + 32 * j;
                if (x >= nx) continue;
                if (SUBTRACT) line[x] = value[j] = __fsub_rn(value[j], __fmul_rn(flux, response[j]));
                if (!mask || mask[(size_t)y * nx + x]) consider(best, value[j], y * nx + x);
            }
        }
    }
    return best;
}

__device__ __forceinline__ const unsigned char* mask_at(const unsigned char* masks, int m, size_t pixels) {
    return m < 0 ? nullptr : masks + m * pixels;
}

// Grid (planes), block any multiple of 32 up to 1024.
extern "C" __global__ void __launch_bounds__(1024, 1) hogbom_textbook(
    float* __restrict__ residuals, const float* __restrict__ psfs, float* __restrict__ models,
    const unsigned char* __restrict__ masks, const int* __restrict__ mask_of, const int* __restrict__ slot, int ny, int nx,
    const double* __restrict__ gain, const double* __restrict__ threshold, const int* __restrict__ limit,
    int* __restrict__ iterations)  // (planes), written
{
    __shared__ Peak partial[2][32];
    const int b = blockIdx.x, row = threadIdx.x / 32, step = blockDim.x / 32;
    const size_t pixels = (size_t)ny * nx, s = slot[b];
    float *residual = residuals + s * pixels, *model = models + s * pixels;
    const float* psf = psfs + 4 * s * pixels;
    const unsigned char* mask = mask_at(masks, mask_of[s], pixels);
    Peak best = sweep<false>(residual, psf, mask, ny, nx, row, step, 0.0f, 0);
    for (int done = 0;; done++) {
        const Peak peak = block_peak(best, partial[done % 2]);
        if (finished(peak, done, threshold[b], limit[b])) {
            if (threadIdx.x == 0) iterations[b] = done;
            return;
        }
        const int at = index_of(peak);
        const float flux = (float)__dmul_rn(gain[b], value_of(peak));
        if (threadIdx.x == 0) model[at] = __fadd_rn(model[at], flux);
        best = sweep<true>(residual, psf, mask, ny, nx, row, step, flux, at);
    }
}

// The pixels of the set, in raster order, each with its place in a PSF-sized array, its value, and its model so far.
struct ActiveSet { int* place; float *value, *model; };

__device__ __forceinline__ bool active(const float* residual, const unsigned char* mask, int i, double cut) {
    return fabs((double)residual[i]) > cut && (!mask || mask[i]);
}

// Fill the set, clean it, write its model back; returns the iterations. Each warp gathers the pixels from `from` to `to`,
// and puts them at `begin`.
__device__ __forceinline__ int clean_set(
    ActiveSet set, int size, int from, int to, int begin, const float* __restrict__ residual, const float* __restrict__ psf,
    const unsigned char* __restrict__ mask, float* __restrict__ model, int ny, int nx, double gain, double threshold, int limit,
    double cut, Peak (*partial)[32])
{
    for (int start = from; start < to; start += 32) {
        const int i = start + threadIdx.x % 32;
        const bool mine = i < to && active(residual, mask, i, cut);
        const unsigned votes = __ballot_sync(ALL_LANES, mine);
        if (mine) {
            const int k = begin + votes_below(votes, threadIdx.x % 32);
            set.place[k] = i + i / nx * nx, set.value[k] = residual[i], set.model[k] = model[i];
        }
        begin += __popc(votes);
    }
    __syncthreads();
    Peak best = {0, 0};
    for (int k = threadIdx.x; k < size; k += blockDim.x) consider(best, set.value[k], k);
    int done = 0;
    for (;; done++) {
        const Peak peak = block_peak(best, partial[done % 2]);
        if (finished(peak, done, threshold, limit)) break;
        const int top = index_of(peak);
        const float flux = (float)__dmul_rn(gain, value_of(peak));
        if (threadIdx.x == 0) set.model[top] = __fadd_rn(set.model[top], flux);
        const float* shifted = psf + ((size_t)ny * 2 * nx + nx - set.place[top]);
        best = {0, 0};
        for (int left = threadIdx.x; left < size; left += AHEAD / 2 * blockDim.x) {
            float response[AHEAD / 2];
#pragma unroll
            for (int j = 0; j < AHEAD / 2; j++) {
                const int k = left + j * blockDim.x;
                response[j] = k < size ? shifted[set.place[k]] : 0.0f;
            }
#pragma unroll
            for (int j = 0; j < AHEAD / 2; j++) {
                const int k = left + j * blockDim.x;
                if (k >= size) continue;
                const float value = set.value[k] = __fsub_rn(set.value[k], __fmul_rn(flux, response[j]));
                consider(best, value, k);
            }
        }
    }
    for (int k = threadIdx.x; k < size; k += blockDim.x) {
        const int y = set.place[k] / (2 * nx), x = set.place[k] % (2 * nx);
        model[(size_t)y * nx + x] = set.model[k];
    }
    return done;
}

// Grid (planes), block any multiple of 32 up to 1024, dynamic shared memory 12 * capacity bytes. A set of more than
// `capacity` pixels lies in spill (planes, 3, room) words; one of more than `room` pixels too is left alone, with iterations
// -1, and sizes tells how much room it needs.
extern "C" __global__ void __launch_bounds__(1024, 1) hogbom_active_set(
    const float* __restrict__ residuals, const float* __restrict__ psfs, float* __restrict__ models,
    const unsigned char* __restrict__ masks, const int* __restrict__ mask_of, const int* __restrict__ slot, int ny, int nx,
    const double* __restrict__ gain, const double* __restrict__ threshold, const int* __restrict__ limit,
    const double* __restrict__ cut, int capacity, int room, float* __restrict__ spill,
    int* __restrict__ sizes, int* __restrict__ iterations)  // (planes), written
{
    SHARED_DYN(float, fast);
    __shared__ Peak partial[2][32];
    __shared__ int count[32];
    const int b = blockIdx.x, warp = threadIdx.x / 32, warps = blockDim.x / 32, pixels = ny * nx;
    const size_t s = slot[b];
    const float *residual = residuals + s * pixels, *psf = psfs + 4 * s * pixels;
    float* model = models + s * pixels;
    const unsigned char* mask = mask_at(masks, mask_of[s], pixels);
    const int share = (pixels + warps - 1) / warps, from = min(pixels, warp * share), to = min(pixels, from + share);
    unsigned mine = 0;
    for (int i = from + threadIdx.x % 32; i < to; i += 32) mine += active(residual, mask, i, cut[b]);
    mine = __reduce_add_sync(ALL_LANES, mine);
    if (threadIdx.x % 32 == 0) count[warp] = mine;
    __syncthreads();
    int begin = 0, size = 0;
    for (int w = 0; w < warps; w++) {
        if (w < warp) begin += count[w];
        size += count[w];
    }
    int done = -1;
    if (size <= capacity)
        done = clean_set({(int*)fast, fast + capacity, fast + 2 * capacity}, size, from, to, begin, residual, psf, mask, model,
                         ny, nx, gain[b], threshold[b], limit[b], cut[b], partial);
    else if (size <= room) {
        float* slow = spill + (size_t)b * 3 * room;
        done = clean_set({(int*)slow, slow + room, slow + 2 * (size_t)room}, size, from, to, begin, residual, psf, mask, model,
                         ny, nx, gain[b], threshold[b], limit[b], cut[b], partial);
    }
    if (threadIdx.x == 0) sizes[b] = size, iterations[b] = done;
}

// Grid (blocks, planes), block any multiple of 32 up to 1024. State that one launch reads and the next writes lies in two
// halves, so that no block reads what another one writes: partial (2, planes, blocks) and iterations (2, planes).
// hogbom_start fills half 0; hogbom_step reads half `parity` and writes the other. A plane that has finished copies its
// state on and does no more.
extern "C" __global__ void __launch_bounds__(1024, 1) hogbom_start(
    float* __restrict__ residuals, const unsigned char* __restrict__ masks, const int* __restrict__ mask_of,
    const int* __restrict__ slot, int ny, int nx, uint2* __restrict__ partial, int* __restrict__ iterations)
{
    __shared__ Peak warps_best[32];
    const int b = blockIdx.y, warps = blockDim.x / 32;
    const size_t pixels = (size_t)ny * nx, s = slot[b];
    const unsigned char* mask = mask_at(masks, mask_of[s], pixels);
    const int row = blockIdx.x * warps + threadIdx.x / 32, step = gridDim.x * warps;
    const Peak best = block_peak(sweep<false>(residuals + s * pixels, nullptr, mask, ny, nx, row, step, 0.0f, 0), warps_best);
    if (threadIdx.x == 0) {
        partial[b * gridDim.x + blockIdx.x] = make_uint2(best.top, best.low);
        if (blockIdx.x == 0) iterations[b] = 0;
    }
}

extern "C" __global__ void __launch_bounds__(1024, 1) hogbom_step(
    float* __restrict__ residuals, const float* __restrict__ psfs, float* __restrict__ models,
    const unsigned char* __restrict__ masks, const int* __restrict__ mask_of, const int* __restrict__ slot, int ny, int nx,
    const double* __restrict__ gain, const double* __restrict__ threshold, const int* __restrict__ limit, int parity,
    uint2* __restrict__ partial, int* __restrict__ iterations)
{
    __shared__ Peak warps_best[2][32];
    const int b = blockIdx.y, planes = gridDim.y, blocks = gridDim.x, warps = blockDim.x / 32;
    const uint2* before = partial + ((size_t)parity * planes + b) * blocks;
    uint2* after = partial + ((size_t)(1 - parity) * planes + b) * blocks;
    const int done = iterations[parity * planes + b];
    Peak best = {0, 0};
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) {
        const Peak other = {before[i].x, before[i].y};
        if (other.top > best.top || (other.top == best.top && other.low > best.low)) best = other;
    }
    const Peak peak = block_peak(best, warps_best[0]);
    const bool over = finished(peak, done, threshold[b], limit[b]);
    if (threadIdx.x == 0 && blockIdx.x == 0) iterations[(1 - parity) * planes + b] = over ? done : done + 1;
    if (over) {
        if (threadIdx.x == 0) after[blockIdx.x] = before[blockIdx.x];
        return;
    }
    const size_t pixels = (size_t)ny * nx, s = slot[b];
    const int at = index_of(peak), row = blockIdx.x * warps + threadIdx.x / 32, step = blocks * warps;
    const float flux = (float)__dmul_rn(gain[b], value_of(peak));
    if (threadIdx.x == 0 && blockIdx.x == 0) models[s * pixels + at] = __fadd_rn(models[s * pixels + at], flux);
    const unsigned char* mask = mask_at(masks, mask_of[s], pixels);
    best = sweep<true>(residuals + s * pixels, psfs + 4 * s * pixels, mask, ny, nx, row, step, flux, at);
    best = block_peak(best, warps_best[1]);
    if (threadIdx.x == 0) after[blockIdx.x] = make_uint2(best.top, best.low);
}
