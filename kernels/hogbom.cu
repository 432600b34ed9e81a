// Högbom minor cycles of a batch of planes; the host waits for their end.
//
// Algorithm: Högbom 1974 (A&AS 15, 417): find the absolute peak, subtract gain * peak * PSF, repeat until |peak| <= threshold
// or for `limit` iterations; ties go to the lowest index. Three forms:
//   hogbom_textbook    the whole image, one block per plane; subtraction and the search for the next peak in one sweep
//   hogbom_active_set  only pixels with |residual| > cut, one block per plane, after Clark 1980 and Offringa & Smirnov 2017,
//                      with the full PSF at every offset; the residual is left as it was. hogbom_count and hogbom_gather,
//                      by many blocks per plane, make the sets before
//   hogbom_step        the whole image, many blocks per plane, for images so large that one block would take too long:
//                      one iteration per launch, many launches queued at once; hogbom_start precedes the first.
//                      hogbom_set_step does the same for large active sets, and hogbom_set_finish ends it
//
// The sequence of components is that of the CPU's loops to the last bit: flux = gain * peak in float64 rounded to float32,
// value - flux * psf with both operations rounded (__fmul_rn, __fsub_rn: never fused, whatever the compiler's options).
//
// A launch of the first two forms does a bounded number of iterations, so that it ends within a fraction of a second. It tells
// the host which planes are finished, and a launch with `resumed` goes on with the others: the textbook form from its residual, an
// active set from what is kept of it in global memory.
//
// Memory: residual and model (slots, ny, nx), psf (slots, 2 ny, 2 nx) with its peak at (ny, nx), float32; slot[b] is where
// plane b of the batch lies. A plane's mask is mask_of[slot], -1 for everywhere, in masks (any, ny, nx).
// orders (planes, 4): gain, threshold, limit and cut. scratch (planes, units + 3 room) words: the number of members in each
// unit of UNIT pixels, and the members' places, values and models.
//
// Cost: textbook 12 bytes per pixel and iteration. Active set: 8 bytes of the PSF's cache lines per pixel of the set, and one
// barrier per iteration. Making the sets reads the planes once, and of them again only units that have members.

// How far to clean a plane.
struct Order { double gain, threshold; int limit; double cut; };

__device__ __forceinline__ Order order_of(const double* orders, int b) {
    return {orders[4 * b], orders[4 * b + 1], (int)orders[4 * b + 2], orders[4 * b + 3]};
}

__device__ __forceinline__ bool finished(Peak peak, int done, Order order) {
    return done >= order.limit || peak.top == 0 || fabs((double)value_of(peak)) <= order.threshold;
}

__device__ __forceinline__ float flux_of(Peak peak, Order order) { return (float)__dmul_rn(order.gain, value_of(peak)); }

// One warp's share of the image, every `step`th chunk of a row: subtract flux * PSF centred on pixel `at` (if SUBTRACT), and
// find the largest value that is left.
template <bool SUBTRACT>
__device__ __forceinline__ Peak sweep(
    float* __restrict__ residual, const float* __restrict__ psf, const unsigned char* __restrict__ mask,
    int ny, int nx, int first, int step, float flux, int at)
{
    Peak best = {0, 0};
    const int py = at / nx, px = at % nx, chunks = (nx + CHUNK - 1) / CHUNK;
    for (int k = first; k < ny * chunks; k += step) {
        const int y = k / chunks, left = k % chunks * CHUNK + threadIdx.x % 32;
        float* line = residual + (size_t)y * nx;
        const float* beam = psf + (size_t)(ny + y - py) * (2 * nx) + (nx - px);
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
    return best;
}

// Grid (planes), block any multiple of 32 up to 1024. state (planes, 2): iterations, and whether the plane is finished: it is
// not if `most` iterations were done in this launch.
extern "C" __global__ void __launch_bounds__(1024, 1) hogbom_textbook(
    float* __restrict__ residuals, const float* __restrict__ psfs, float* __restrict__ models,
    const unsigned char* __restrict__ masks, const int* __restrict__ mask_of, const int* __restrict__ slot, int ny, int nx,
    const double* __restrict__ orders, int most, int resumed, int* __restrict__ state)
{
    __shared__ Peak partial[2][32];
    const int b = blockIdx.x, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int begin = resumed ? state[2 * b] : 0;
    if (resumed && state[2 * b + 1]) return;
    const Order order = order_of(orders, b);
    const size_t pixels = (size_t)ny * nx, s = slot[b];
    float *residual = residuals + s * pixels, *model = models + s * pixels;
    const float* psf = psfs + 4 * s * pixels;
    const unsigned char* mask = mask_at(masks, mask_of[s], pixels);
    Peak best = sweep<false>(residual, psf, mask, ny, nx, warp, warps, 0.0f, 0);
    for (int done = begin;; done++) {
        const Peak peak = block_peak(best, partial[done % 2]);
        const bool over = finished(peak, done, order);
        if (over || done - begin == most) {
            if (threadIdx.x == 0) state[2 * b] = done, state[2 * b + 1] = over;
            return;
        }
        const int at = index_of(peak);
        const float flux = flux_of(peak, order);
        if (threadIdx.x == 0) model[at] = __fadd_rn(model[at], flux);
        best = sweep<true>(residual, psf, mask, ny, nx, warp, warps, flux, at);
    }
}

// The lane's AHEAD pixels of a chunk, all loaded before any is looked at; returns which of them are members, as bits.
__device__ __forceinline__ unsigned members(
    const float* __restrict__ residual, const unsigned char* __restrict__ mask, int start, int pixels, double cut, float* value)
{
    const int first = start + threadIdx.x % 32;
    unsigned bits = 0;
#pragma unroll
    for (int j = 0; j < AHEAD; j++) value[j] = first + 32 * j < pixels ? residual[first + 32 * j] : 0.0f;
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
        const int i = first + 32 * j;
        if (i < pixels && fabs((double)value[j]) > cut && (!mask || mask[i])) bits |= 1u << j;
    }
    return bits;
}

// Grid (any, planes), block any multiple of 32 up to 256.
extern "C" __global__ void __launch_bounds__(256) hogbom_count(
    const float* __restrict__ residuals, const unsigned char* __restrict__ masks, const int* __restrict__ mask_of,
    const int* __restrict__ slot, int pixels, const double* __restrict__ orders, int room, int* __restrict__ scratch)
{
    const int b = blockIdx.y, warps = blockDim.x / 32, units = (pixels + UNIT - 1) / UNIT;
    const size_t s = slot[b];
    const float* residual = residuals + s * pixels;
    const unsigned char* mask = mask_at(masks, mask_of[s], pixels);
    const double cut = orders[4 * b + 3];
    int* counts = scratch_of(scratch, b, units, room);
    for (int unit = blockIdx.x * warps + threadIdx.x / 32; unit < units; unit += gridDim.x * warps) {
        unsigned mine = 0;
        for (int k = 0; k < UNIT / CHUNK; k++) {
            float value[AHEAD];
            mine += __popc(members(residual, mask, unit * UNIT + k * CHUNK, pixels, cut, value));
        }
        mine = __reduce_add_sync(ALL_LANES, mine);
        if (threadIdx.x % 32 == 0) counts[unit] = mine;
    }
}

// Put the members where the counts say, in raster order, as far as there is room. Grid (any, planes), block any multiple of 32
// up to 256.
extern "C" __global__ void __launch_bounds__(256) hogbom_gather(
    const float* __restrict__ residuals, const float* __restrict__ models, const unsigned char* __restrict__ masks,
    const int* __restrict__ mask_of, const int* __restrict__ slot, int ny, int nx, const double* __restrict__ orders, int room,
    int* __restrict__ scratch)
{
    __shared__ int partial[32];
    const int b = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int pixels = ny * nx, units = (pixels + UNIT - 1) / UNIT;
    const size_t s = slot[b];
    const float *residual = residuals + s * pixels, *model = models + s * pixels;
    const unsigned char* mask = mask_at(masks, mask_of[s], pixels);
    const double cut = orders[4 * b + 3];
    const int* counts = scratch_of(scratch, b, units, room);
    const ActiveSet set = kept_set(scratch_of(scratch, b, units, room), units, room);
    int before = 0, summed = 0;  // members of the units that have been summed
    for (int first = blockIdx.x * warps; first < units; first += gridDim.x * warps) {
        int mine = 0;
        for (int u = summed + threadIdx.x; u < first; u += blockDim.x) mine += counts[u];
        before += block_total(mine, partial), summed = first;
        const unsigned here = lane <= warp && first + lane < units ? counts[first + lane] : 0;
        const int count = __shfl_sync(ALL_LANES, here, warp);
        int begin = before + (int)__reduce_add_sync(ALL_LANES, lane < warp ? here : 0u);
        if (count == 0) continue;
        for (int k = 0; k < UNIT / CHUNK; k++) {
            const int start = (first + warp) * UNIT + k * CHUNK;
            float value[AHEAD];
            const unsigned mine = members(residual, mask, start, pixels, cut, value);
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                const bool member = mine >> j & 1;
                const unsigned votes = __ballot_sync(ALL_LANES, member);
                const int i = start + 32 * j + lane, at = begin + votes_below(votes, lane);
                if (member && at < room) set.place[at] = i + i / nx * nx, set.value[at] = value[j], set.model[at] = model[i];
                begin += __popc(votes);
            }
        }
    }
}

// Högbom on the set, from `done` iterations to at most `until`; returns the iterations, negative if the plane is unfinished.
__device__ __forceinline__ int clean_set(
    ActiveSet set, int size, const float* __restrict__ psf, int ny, int nx, Order order, int done, int until,
    Peak (*partial)[32])
{
    Peak best = {0, 0};
    for (int k = threadIdx.x; k < size; k += blockDim.x) consider(best, set.value[k], k);
    for (;; done++) {
        const Peak peak = block_peak(best, partial[done % 2]);
        if (finished(peak, done, order)) return done;
        if (done == until) return -1 - done;
        const int top = index_of(peak);
        const float flux = flux_of(peak, order);
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
}

// Write the models back, and list the pixels that changed, in raster order, if there are no more than `listed`; returns their
// number. Each warp has a share of the set.
__device__ __forceinline__ int finish_set(
    ActiveSet set, int size, int nx, float* __restrict__ model, int listed, int* __restrict__ where, float* __restrict__ change,
    int* partial)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int share = (size + warps - 1) / warps, from = min(size, warp * share), to = min(size, from + share);
    int mine = 0;
    for (int k = from + lane; k < to; k += 32) {
        const int y = set.place[k] / (2 * nx), x = set.place[k] % (2 * nx);
        const float now = set.model[k], difference = __fsub_rn(now, model[(size_t)y * nx + x]);
        model[(size_t)y * nx + x] = now, set.model[k] = difference;
        mine += difference != 0.0f;
    }
    const int total = block_total(mine, partial);
    if (total == 0 || total > listed) return total;
    int begin = 0;
    for (int w = 0; w < warp; w++) begin += partial[w];
    for (int start = from; start < to; start += 32) {
        const int k = start + lane;
        const float difference = k < to ? set.model[k] : 0.0f;
        const unsigned votes = __ballot_sync(ALL_LANES, difference != 0.0f);
        if (difference != 0.0f) {
            const int at = begin + votes_below(votes, lane), y = set.place[k] / (2 * nx), x = set.place[k] % (2 * nx);
            where[at] = y * nx + x, change[at] = difference;
        }
        begin += __popc(votes);
    }
    return total;
}

// Grid (planes), block any multiple of 32 up to 1024, dynamic shared memory 12 * capacity bytes. A launch cleans the sets of
// more than `above` and at most `up_to` members, in shared memory if they are no more than `capacity`. One of more than `room`
// or `most` members is left alone, with iterations -1.
// A set does some `work` / members iterations in a launch.
// state (planes, 4): iterations, members, pixels of the model that changed, and whether the set is finished; written.
// where and change (slots, listed), count (slots): the pixels that changed; nothing is listed if they are more than `listed`.
extern "C" __global__ void __launch_bounds__(1024, 1) hogbom_active_set(
    const float* __restrict__ psfs, float* __restrict__ models, const int* __restrict__ slot, int ny, int nx,
    const double* __restrict__ orders, int above, int up_to, int capacity, int most, int room, int work, int resumed,
    int* __restrict__ scratch, int* __restrict__ state,
    int listed, int* __restrict__ where, float* __restrict__ change, int* __restrict__ count)
{
    SHARED_DYN(float, fast);
    __shared__ Peak partial[2][32];
    __shared__ int sums[32];
    const int b = blockIdx.x, pixels = ny * nx, units = (pixels + UNIT - 1) / UNIT;
    const size_t s = slot[b];
    int *counts = scratch_of(scratch, b, units, room), *mine = state + 4 * b;
    int size = 0;
    for (int u = threadIdx.x; u < units; u += blockDim.x) size += counts[u];
    size = block_total(size, sums);
    if (size <= above || size > up_to) return;
    if (size > room || size > most) {
        if (threadIdx.x == 0) mine[0] = -1, mine[1] = size, mine[2] = 0, mine[3] = 1;
        return;
    }
    if (resumed && mine[3]) return;
    const int begin = resumed ? mine[0] : 0;
    const int in_one = max(1, work / max(size, 1024));
    const ActiveSet kept = kept_set(counts, units, room);
    const bool fits = size <= capacity;
    const ActiveSet set = fits ? ActiveSet{(int*)fast, fast + capacity, fast + 2 * capacity} : kept;
    if (fits)
        for (int k = threadIdx.x; k < size; k += blockDim.x)
            set.place[k] = kept.place[k], set.value[k] = kept.value[k], set.model[k] = kept.model[k];
    __syncthreads();
    const int until = (int)min((long long)begin + in_one, 0x7fffffffll);
    const int done = clean_set(set, size, psfs + 4 * s * pixels, ny, nx, order_of(orders, b), begin, until, partial);
    if (done < 0) {
        if (fits)
            for (int k = threadIdx.x; k < size; k += blockDim.x) kept.value[k] = set.value[k], kept.model[k] = set.model[k];
        if (threadIdx.x == 0) mine[0] = -1 - done, mine[1] = size, mine[2] = 0, mine[3] = 0;
        return;
    }
    const int changed = finish_set(set, size, nx, models + s * pixels, listed, where + s * listed, change + s * listed, sums);
    if (threadIdx.x == 0) mine[0] = done, mine[1] = size, mine[2] = count[s] = changed, mine[3] = 1;
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
    const int first = blockIdx.x * warps + threadIdx.x / 32, step = gridDim.x * warps;
    const Peak best = block_peak(sweep<false>(residuals + s * pixels, nullptr, mask, ny, nx, first, step, 0.0f, 0), warps_best);
    if (threadIdx.x == 0) {
        partial[b * gridDim.x + blockIdx.x] = make_uint2(best.top, best.low);
        if (blockIdx.x == 0) iterations[b] = 0;
    }
}

extern "C" __global__ void __launch_bounds__(1024, 1) hogbom_step(
    float* __restrict__ residuals, const float* __restrict__ psfs, float* __restrict__ models,
    const unsigned char* __restrict__ masks, const int* __restrict__ mask_of, const int* __restrict__ slot, int ny, int nx,
    const double* __restrict__ orders, int parity,
    uint2* __restrict__ partial, int* __restrict__ iterations)
{
    __shared__ Peak warps_best[2][32];
    const int b = blockIdx.y, planes = gridDim.y, blocks = gridDim.x, warps = blockDim.x / 32;
    const uint2* before = partial + ((size_t)parity * planes + b) * blocks;
    uint2* after = partial + ((size_t)(1 - parity) * planes + b) * blocks;
    const int done = iterations[parity * planes + b];
    const Order order = order_of(orders, b);
    const Peak peak = block_peak(best_of(before, blocks), warps_best[0]);
    const bool over = finished(peak, done, order);
    if (threadIdx.x == 0 && blockIdx.x == 0) iterations[(1 - parity) * planes + b] = over ? done : done + 1;
    if (over) {
        if (threadIdx.x == 0) after[blockIdx.x] = before[blockIdx.x];
        return;
    }
    const size_t pixels = (size_t)ny * nx, s = slot[b];
    const int at = index_of(peak), first = blockIdx.x * warps + threadIdx.x / 32, step = blocks * warps;
    const float flux = flux_of(peak, order);
    if (threadIdx.x == 0 && blockIdx.x == 0) models[s * pixels + at] = __fadd_rn(models[s * pixels + at], flux);
    const unsigned char* mask = mask_at(masks, mask_of[s], pixels);
    const Peak mine = sweep<true>(residuals + s * pixels, psfs + 4 * s * pixels, mask, ny, nx, first, step, flux, at);
    const Peak best = block_peak(mine, warps_best[1]);
    if (threadIdx.x == 0) after[blockIdx.x] = make_uint2(best.top, best.low);
}

// Grid (blocks, planes), block any multiple of 32 up to 1024: the sets of the batch's planes which[0], which[1], ..., which
// hogbom_active_set has left alone. Halves of partial and iterations as above. The first launch only searches.
extern "C" __global__ void __launch_bounds__(1024, 1) hogbom_set_step(
    const float* __restrict__ psfs, const int* __restrict__ slot, const int* __restrict__ which, int ny, int nx,
    const double* __restrict__ orders, int room, int first, int parity, int* __restrict__ scratch,
    const int* __restrict__ state, uint2* __restrict__ partial, int* __restrict__ iterations)
{
    __shared__ Peak warps_best[2][32];
    const int p = blockIdx.y, b = which[p], planes = gridDim.y, blocks = gridDim.x, size = state[4 * b + 1];
    const int pixels = ny * nx, units = (pixels + UNIT - 1) / UNIT;
    const ActiveSet set = kept_set(scratch_of(scratch, b, units, room), units, room);
    const uint2* before = partial + ((size_t)parity * planes + p) * blocks;
    uint2* after = partial + ((size_t)(1 - parity) * planes + p) * blocks;
    int done = 0;
    float flux = 0.0f;
    const float* shifted = nullptr;
    if (!first) {
        const Order order = order_of(orders, b);
        const Peak peak = block_peak(best_of(before, blocks), warps_best[0]);
        done = iterations[parity * planes + p];
        const bool over = finished(peak, done, order);
        if (threadIdx.x == 0 && blockIdx.x == 0) iterations[(1 - parity) * planes + p] = over ? done : done + 1;
        if (over) {
            if (threadIdx.x == 0) after[blockIdx.x] = before[blockIdx.x];
            return;
        }
        const int top = index_of(peak);
        flux = flux_of(peak, order);
        if (threadIdx.x == 0 && blockIdx.x == 0) set.model[top] = __fadd_rn(set.model[top], flux);
        shifted = psfs + 4 * (size_t)slot[b] * pixels + ((size_t)ny * 2 * nx + nx - set.place[top]);
    } else if (threadIdx.x == 0 && blockIdx.x == 0) iterations[(1 - parity) * planes + p] = 0;
    Peak best = {0, 0};
    for (int k = blockIdx.x * blockDim.x + threadIdx.x; k < size; k += blocks * blockDim.x) {
        float value = set.value[k];
        if (!first) set.value[k] = value = __fsub_rn(value, __fmul_rn(flux, shifted[set.place[k]]));
        consider(best, value, k);
    }
    best = block_peak(best, warps_best[1]);
    if (threadIdx.x == 0) after[blockIdx.x] = make_uint2(best.top, best.low);
}

// Grid (planes), block any multiple of 32 up to 1024: what hogbom_active_set does at the end. The iterations (planes) are those
// of hogbom_set_step's last launch.
extern "C" __global__ void __launch_bounds__(1024, 1) hogbom_set_finish(
    float* __restrict__ models, const int* __restrict__ slot, const int* __restrict__ which, int ny, int nx, int room,
    const int* __restrict__ iterations, int* __restrict__ scratch, int* __restrict__ state,
    int listed, int* __restrict__ where, float* __restrict__ change, int* __restrict__ count)
{
    __shared__ int sums[32];
    const int b = which[blockIdx.x], pixels = ny * nx, units = (pixels + UNIT - 1) / UNIT;
    const size_t s = slot[b];
    int* mine = state + 4 * b;
    const ActiveSet set = kept_set(scratch_of(scratch, b, units, room), units, room);
    const int changed = finish_set(set, mine[1], nx, models + s * pixels, listed, where + s * listed, change + s * listed, sums);
    if (threadIdx.x == 0) mine[0] = iterations[blockIdx.x], mine[2] = count[s] = changed, mine[3] = 1;
}
