// Multiscale minor cycles of a batch of planes (Cornwell 2008, IEEE J. Sel. Top. Signal Process. 2, 793).
//
// The residual is convolved with every scale. The component that stands out most from its scale's noise, over all pixels of all
// scales, is found; its response, the PSF convolved with both scales, is subtracted from the active pixels of every scale; and so
// on, as gpucube/devices/cpu/multiscale.py explains. Given the same convolved images, the components are those of the CPU's loop
// to the last bit: all operations are rounded singly (never fused), ties go to the lowest scale and then to the lowest index.
//
// A *wide* scale is larger than a point. Convolutions are done by FFTs of twice the image, of all planes and wide scales at once.
// The host launches for them what makes and takes padded images and transforms, hogbom_count and hogbom_gather (hogbom.cu) for
// the active sets, a set for each scale of a plane as if it were a plane of its own, and multiscale_active_set to clean them.
//
// Memory: slot[b] is where plane b of the batch lies. residual and model (slots, ny, nx); spectrum (slots, 2 ny, nx + 1), the
// PSF's; spectra (scales, 2 ny, nx + 1), those of the scales, all with 1 / size of the FFT in them; cross (slots, pairs, 2 ny,
// 2 nx), the PSF convolved with scales a <= b at pair b (b + 1) / 2 + a, peaks at (ny, nx); allowed (slots, scales, ny, nx),
// where components may lie; smooth (planes, scales, ny, nx). place_of[s] is the number of scale s among the wide ones, -1 for a
// point; scale_of is its inverse. `begin` is the first plane of a round, in which some planes are convolved together.
//
// Cost of an iteration: 8 bytes of cross and 8 of the set for each active pixel, one barrier, two reductions in a warp for
// each scale. Planes with large sets are cleaned by many blocks, a launch for each iteration (multiscale_set_step).

#define COLUMN (int)(blockIdx.x * blockDim.x + threadIdx.x)
#define ROW (int)(blockIdx.y * blockDim.y + threadIdx.y)

__device__ __forceinline__ size_t at(size_t plane, int y, int x, int ny, int nx) { return (plane * ny + y) * nx + x; }

// Kernels of scales, in the middle of images (scales, 2 ny, 2 nx). values[first[s]] are the (2 half + 1)^2 pixels of scale s.
extern "C" __global__ void put_kernels(const float* __restrict__ values, const long long* __restrict__ first,
                                       const int* __restrict__ half, int ny, int nx, float* __restrict__ images) {
    const int x = COLUMN, y = ROW, s = blockIdx.z, h = half[s];
    if (x >= 2 * nx || y >= 2 * ny) return;
    const int dy = y - ny + h, dx = x - nx + h, side = 2 * h + 1;
    const bool inside = dy >= 0 && dy < side && dx >= 0 && dx < side;
    images[at(s, y, x, 2 * ny, 2 * nx)] = inside ? values[first[s] + dy * side + dx] : 0.0f;
}

// Transforms of PSFs convolved with pairs of scales: number begin + blockIdx.z among those of all planes. `pixels` is the size of
// the FFT, which the scales' spectra are free of; the sign brings the peak to (ny, nx).
extern "C" __global__ void cross_spectra(const float* __restrict__ spectrum, const int* __restrict__ slot,
                                         const float* __restrict__ spectra, int pairs, int begin, int rows, int columns,
                                         float2* __restrict__ transform) {
    const int x = COLUMN, y = ROW, number = begin + blockIdx.z, pair = number % pairs;
    if (x >= columns || y >= rows) return;
    int b = 0;
    while ((b + 1) * (b + 2) / 2 <= pair) b++;
    const int a = pair - b * (b + 1) / 2;
    const float pixels = (float)rows * (2 * (columns - 1)), value = spectrum[at(slot[number / pairs], y, x, rows, columns)];
    const float one = __fmul_rn(spectra[at(b, y, x, rows, columns)], pixels);
    const float other = __fmul_rn(spectra[at(a, y, x, rows, columns)], pixels);
    const float product = __fmul_rn(__fmul_rn((x + y) % 2 ? -value : value, one), other);
    transform[at(blockIdx.z, y, x, rows, columns)] = make_float2(product, 0.0f);
}

// cross of the slots = those images. Grid over (images, 2 ny, 2 nx).
extern "C" __global__ void put_cross(const float* __restrict__ images, const int* __restrict__ slot, int pairs, int begin,
                                     int rows, int columns, float* __restrict__ cross) {
    const int x = COLUMN, y = ROW, number = begin + blockIdx.z;
    if (x >= columns || y >= rows) return;
    const size_t place = (size_t)slot[number / pairs] * pairs + number % pairs;
    cross[at(place, y, x, rows, columns)] = images[at(blockIdx.z, y, x, rows, columns)];
}

// What the cycles of planes mean for their scales, grid over planes x scales. The response of a component of unit flux to its own
// scale is the peak of cross, and the noise of a convolved residual is its root; a scale whose response is not above `least` is
// left out. table (planes, scales, 4): level to which |smooth| is cleaned, merit, and step, the flux of a component for each unit
// of smooth. sets (planes, scales, 4), set_slot and set_mask (planes, scales): what hogbom_count takes of each scale.
extern "C" __global__ void weigh_scales(
    const float* __restrict__ cross, const int* __restrict__ slot, const int* __restrict__ mask_of, int planes, int scales, int ny,
    int nx, const double* __restrict__ orders, const double* __restrict__ bias, double least, double cut, float* __restrict__ table,
    double* __restrict__ sets, int* __restrict__ set_slot, int* __restrict__ set_mask)
{
    const int i = COLUMN, b = i / scales, s = i % scales;
    if (b >= planes) return;
    const size_t pair = (size_t)slot[b] * (scales * (scales + 1) / 2) + s * (s + 3) / 2;
    const float own = cross[at(pair, ny, nx, 2 * ny, 2 * nx)];
    const bool seen = own > (float)least;
    const double noise = seen ? (double)__fsqrt_rn(own) : 1.0;
    const float unit = seen ? (float)noise : __uint_as_float(0x7f800000u);
    const float level = __fmul_rn(unit, (float)orders[4 * b + 1]);
    table[4 * i] = level;
    table[4 * i + 1] = (float)__ddiv_rn(bias[s], noise);
    table[4 * i + 2] = __fmul_rn((float)orders[4 * b], (float)__ddiv_rn(1.0, __dmul_rn(noise, noise)));
    table[4 * i + 3] = 0.0f;
    sets[4 * i] = sets[4 * i + 1] = sets[4 * i + 2] = 0.0;
    sets[4 * i + 3] = __dmul_rn(cut, level);
    set_slot[i] = i;
    set_mask[i] = mask_of[slot[b]] < 0 ? -1 : slot[b] * scales + s;
}

// Masks as images, one plane after another: 1 where something may be, and where there is no mask.
extern "C" __global__ void mask_images(const unsigned char* __restrict__ masks, const int* __restrict__ mask_of,
                                       const int* __restrict__ slot, int ny, int nx, float* __restrict__ images) {
    const int x = COLUMN, y = ROW, b = blockIdx.z, m = mask_of[slot[b]];
    if (x >= nx || y >= ny) return;
    images[at(b, y, x, ny, nx)] = m < 0 || masks[at(m, y, x, ny, nx)] ? 1.0f : 0.0f;
}

// allowed of the slots = whether the masks convolved with the scales are above `level`. Grid over (planes x scales, ny, nx).
extern "C" __global__ void allow(const float* __restrict__ smooth, const int* __restrict__ slot, int scales, int ny, int nx,
                                 double level, unsigned char* __restrict__ allowed) {
    const int x = COLUMN, y = ROW, b = blockIdx.z / scales, s = blockIdx.z % scales;
    if (x >= nx || y >= ny) return;
    const size_t place = (size_t)slot[b] * scales + s;
    allowed[at(place, y, x, ny, nx)] = smooth[at(blockIdx.z, y, x, ny, nx)] > (float)level;
}

// Transforms (images x wide): those of images (images) times those of the wide scales.
extern "C" __global__ void spread_scales(const float2* __restrict__ transform, const float* __restrict__ spectra,
                                         const int* __restrict__ scale_of, int wide, int rows, int columns,
                                         float2* __restrict__ spread) {
    const int x = COLUMN, y = ROW, b = blockIdx.z / wide, s = scale_of[blockIdx.z % wide];
    if (x >= columns || y >= rows) return;
    const float2 value = transform[at(b, y, x, rows, columns)];
    const float factor = spectra[at(s, y, x, rows, columns)];
    spread[at(blockIdx.z, y, x, rows, columns)] = make_float2(value.x * factor, value.y * factor);
}

// smooth = the images convolved with wide scales, or for points the images themselves. Grid over (images x scales, ny, nx).
extern "C" __global__ void take_scales(const float* __restrict__ images, const int* __restrict__ slot,
                                       const float* __restrict__ padded, const int* __restrict__ place_of, int scales, int wide,
                                       int begin, int ny, int nx, float* __restrict__ smooth) {
    const int x = COLUMN, y = ROW, b = blockIdx.z / scales, s = blockIdx.z % scales, w = place_of[s];
    if (x >= nx || y >= ny) return;
    smooth[at((size_t)begin * scales + blockIdx.z, y, x, ny, nx)] =
        w < 0 ? images[at(slot[b], y, x, ny, nx)] : padded[at((size_t)b * wide + w, y, x, 2 * ny, 2 * nx)];
}

// The components that were found: of points added to the model, of wide scales put into padded (planes x wide, 2 ny, 2 nx), zero
// before. Grid (planes), block any multiple of 32 up to 1024; two scales may be points, and are added one after the other.
extern "C" __global__ void __launch_bounds__(1024, 1) put_components(
    int* __restrict__ scratch, const int* __restrict__ slot, const int* __restrict__ place_of, int scales, int wide, int begin,
    int ny, int nx, float* __restrict__ models, float* __restrict__ padded)
{
    __shared__ int sums[32];
    const int pixels = ny * nx, units = (pixels + UNIT - 1) / UNIT;
    float* model = models + (size_t)slot[blockIdx.x] * pixels;
    for (int s = 0; s < scales; s++) {
        int* counts = scratch_of(scratch, (begin + blockIdx.x) * scales + s, units, pixels);
        const ActiveSet set = kept_set(counts, units, pixels);
        int mine = 0;
        for (int u = threadIdx.x; u < units; u += blockDim.x) mine += counts[u];
        const int size = block_total(mine, sums), w = place_of[s];
        for (int k = threadIdx.x; k < size; k += blockDim.x) {
            const float found = set.model[k];
            const int place = set.place[k];
            if (found == 0.0f) continue;
            if (w >= 0) padded[((size_t)blockIdx.x * wide + w) * 4 * pixels + place] = found;
            else {
                const size_t i = (size_t)(place / (2 * nx)) * nx + place % (2 * nx);
                model[i] = __fadd_rn(model[i], found);
            }
        }
    }
}

// Transforms of planes: the sums over wide scales of the transforms of components times those of the scales.
extern "C" __global__ void gather_scales(const float2* __restrict__ spread, const float* __restrict__ spectra,
                                         const int* __restrict__ scale_of, int wide, int rows, int columns,
                                         float2* __restrict__ transform) {
    const int x = COLUMN, y = ROW, b = blockIdx.z;
    if (x >= columns || y >= rows) return;
    float2 sum = make_float2(0.0f, 0.0f);
    for (int w = 0; w < wide; w++) {
        const float2 value = spread[at((size_t)b * wide + w, y, x, rows, columns)];
        const float factor = spectra[at(scale_of[w], y, x, rows, columns)];
        sum.x += value.x * factor;
        sum.y += value.y * factor;
    }
    transform[at(b, y, x, rows, columns)] = sum;
}

// model += the first quarter of padded (planes, 2 ny, 2 nx).
extern "C" __global__ void add_components(const float* __restrict__ padded, const int* __restrict__ slot, int ny, int nx,
                                          float* __restrict__ models) {
    const int x = COLUMN, y = ROW, b = blockIdx.z;
    if (x >= nx || y >= ny) return;
    models[at(slot[b], y, x, ny, nx)] += padded[at(b, y, x, 2 * ny, 2 * nx)];
}

// The component to subtract next.
struct Component { float merit; int scale; Peak peak; };

// Take the peak of a scale for the best so far if it is better, and above the scale's level.
__device__ __forceinline__ void prefer(Component& best, Peak peak, int scale, const float* __restrict__ table) {
    const float value = fabsf(value_of(peak)), merit = __fmul_rn(value, table[4 * scale + 1]);
    if (peak.top && value > table[4 * scale] && merit > best.merit) best = {merit, scale, peak};
}

// The best over all scales, by the peaks of the block's warps (scales, 32); the same for every thread.
__device__ __forceinline__ Component best_component(const Peak* peaks, int scales, const float* __restrict__ table) {
    const int lane = threadIdx.x % 32;
    Component best = {0.0f, -1, {0, 0}};
    for (int s = 0; s < scales; s++) {
        const Peak peak = warp_peak(lane < (int)blockDim.x / 32 ? peaks[32 * s + lane] : Peak{0, 0});
        prefer(best, peak, s, table);
    }
    return best;
}

// Subtract flux times the response (SUBTRACT) from the set of a scale, and find the largest that is left; lane 0 of every warp
// writes it down.
template <bool SUBTRACT>
__device__ __forceinline__ void sweep_set(ActiveSet set, int size, const float* __restrict__ shifted, float flux, Peak* peaks) {
    Peak best = {0, 0};
    for (int left = threadIdx.x; left < size; left += AHEAD / 2 * blockDim.x) {
        float response[AHEAD / 2];
#pragma unroll
        for (int j = 0; j < AHEAD / 2; j++) {
            const int k = left + j * blockDim.x;
            response[j] = SUBTRACT && k < size ? shifted[set.place[k]] : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < AHEAD / 2; j++) {
            const int k = left + j * blockDim.x;
            if (k >= size) continue;
            float value = set.value[k];
            if (SUBTRACT) set.value[k] = value = __fsub_rn(value, __fmul_rn(flux, response[j]));
            consider(best, value, k);
        }
    }
    best = warp_peak(best);
    if (threadIdx.x % 32 == 0) peaks[threadIdx.x / 32] = best;
}

// Grid (planes), block any multiple of 32 up to 1024, dynamic shared memory 4 (129 scales + 1) + 12 * capacity bytes. A launch
// cleans the planes of more than `above` and at most `up_to` active pixels in all scales, in shared memory if they are no more
// than `capacity`, some `work` / pixels iterations of them; the next launch (`resumed`) goes on from what is kept in scratch.
// Planes of more than `most` are left alone, with iterations -1. set_size (planes, scales) is written.
// table (planes, scales, 4) as weigh_scales makes it; orders (planes, 4), whose third is the limit. A plane is finished, too, once
// the merit has grown to `growth` times the first.
// state (planes, 4): iterations, active pixels, bits of the first merit, and whether the plane is finished; written.
// scratch (planes, scales, units + 3 pixels): what hogbom_gather leaves. As the models of the sets, the sums of components.
extern "C" __global__ void __launch_bounds__(1024, 1) multiscale_active_set(
    const float* __restrict__ crosses, const int* __restrict__ slot, int ny, int nx, int scales, const float* __restrict__ tables,
    const double* __restrict__ orders, double growth, int above, int up_to, int capacity, int most, int work, int resumed,
    int* __restrict__ scratch, int* __restrict__ set_size, int* __restrict__ state)
{
    SHARED_DYN(unsigned, fast);
    __shared__ int sums[32];
    Peak* peaks = reinterpret_cast<Peak*>(fast);  // (2, scales, 32)
    int* first = reinterpret_cast<int*>(fast + 128 * scales);  // (scales + 1): where the sets of scales begin
    float* members = reinterpret_cast<float*>(first + scales + 1);
    const int b = blockIdx.x, pixels = ny * nx, units = (pixels + UNIT - 1) / UNIT;
    int* mine = state + 4 * b;
    int size = 0;
    for (int s = 0; s < scales; s++) {
        const int* counts = scratch_of(scratch, b * scales + s, units, pixels);
        int some = 0;
        for (int u = threadIdx.x; u < units; u += blockDim.x) some += counts[u];
        some = block_total(some, sums);
        if (threadIdx.x == 0) first[s] = size, set_size[b * scales + s] = some;
        size += some;
    }
    if (threadIdx.x == 0) first[scales] = size;
    if (size <= above || size > up_to || (resumed && mine[3])) return;
    if (size > most) {
        if (threadIdx.x == 0) mine[0] = -1, mine[1] = size, mine[2] = 0, mine[3] = 1;
        return;
    }
    __syncthreads();
    const bool fits = size <= capacity;
    const auto kept = [&](int s) { return kept_set(scratch_of(scratch, b * scales + s, units, pixels), units, pixels); };
    const auto set_of = [&](int s) {
        return fits ? ActiveSet{(int*)members + first[s], members + capacity + first[s], members + 2 * capacity + first[s]} : kept(s);
    };
    const float *cross = crosses + (size_t)slot[b] * (scales * (scales + 1) / 2) * 4 * pixels, *table = tables + 4 * b * scales;
    const int begin = resumed ? mine[0] : 0, limit = (int)orders[4 * b + 2];
    const int until = (int)min((long long)begin + max(1, work / max(size, 1024)), 0x7fffffffll);
    for (int s = 0; s < scales; s++) {
        const ActiveSet set = set_of(s), from = kept(s);
        for (int k = threadIdx.x; k < first[s + 1] - first[s]; k += blockDim.x) {
            if (fits) set.place[k] = from.place[k], set.value[k] = from.value[k];
            set.model[k] = resumed ? from.model[k] : 0.0f;
        }
        sweep_set<false>(set, first[s + 1] - first[s], nullptr, 0.0f, peaks + (begin % 2 * scales + s) * 32);
    }
    float merit = resumed ? __int_as_float(mine[2]) : 0.0f;
    int done = begin;
    bool over;
    for (;; done++) {
        __syncthreads();
        const Component next = best_component(peaks + done % 2 * scales * 32, scales, table);
        over = done >= limit || next.scale < 0 || (done > 0 && (double)next.merit > __dmul_rn(growth, merit));
        if (over || done == until) break;
        if (done == 0) merit = next.merit;
        const ActiveSet chosen = set_of(next.scale);
        const int top = index_of(next.peak), place = chosen.place[top];
        const float flux = __fmul_rn(table[4 * next.scale + 2], value_of(next.peak));
        if (threadIdx.x == 0) chosen.model[top] = __fadd_rn(chosen.model[top], flux);
        for (int s = 0; s < scales; s++) {
            const int high = max(s, next.scale), low = min(s, next.scale);
            const float* response = cross + (size_t)(high * (high + 1) / 2 + low) * 4 * pixels;
            const float* shifted = response + ((size_t)ny * 2 * nx + nx - place);
            sweep_set<true>(set_of(s), first[s + 1] - first[s], shifted, flux, peaks + ((done + 1) % 2 * scales + s) * 32);
        }
    }
    for (int s = 0; fits && s < scales; s++) {
        const ActiveSet set = set_of(s), to = kept(s);
        for (int k = threadIdx.x; k < first[s + 1] - first[s]; k += blockDim.x) to.value[k] = set.value[k], to.model[k] = set.model[k];
    }
    if (threadIdx.x == 0) mine[0] = done, mine[1] = size, mine[2] = __float_as_int(merit), mine[3] = over;
}

// Grid (blocks, planes), block any multiple of 32 up to 1024: an iteration of the batch's planes which[0], which[1], ..., which
// multiscale_active_set has left alone. State that one launch reads and the next writes lies in two halves: partial (2, planes,
// scales, blocks) and iterations (2, planes); a launch reads half `parity` and writes the other. The first launch only searches.
extern "C" __global__ void __launch_bounds__(1024, 1) multiscale_set_step(
    const float* __restrict__ crosses, const int* __restrict__ slot, const int* __restrict__ which, int ny, int nx, int scales,
    const float* __restrict__ tables, const double* __restrict__ orders, double growth, int first, int parity,
    int* __restrict__ scratch, const int* __restrict__ set_size, int* __restrict__ state, uint2* __restrict__ partial,
    int* __restrict__ iterations)
{
    __shared__ Peak warps_best[2][32];
    const int p = blockIdx.y, b = which[p], planes = gridDim.y, blocks = gridDim.x, pixels = ny * nx;
    const int units = (pixels + UNIT - 1) / UNIT;
    const uint2* before = partial + ((size_t)parity * planes + p) * scales * blocks;
    uint2* after = partial + ((size_t)(1 - parity) * planes + p) * scales * blocks;
    const bool writes = threadIdx.x == 0 && blockIdx.x == 0;
    const auto set_of = [&](int s) { return kept_set(scratch_of(scratch, b * scales + s, units, pixels), units, pixels); };
    int done = 0, searched = 0, place = 0;
    float flux = 0.0f;
    Component next = {0.0f, -1, {0, 0}};
    if (first) {
        if (writes) iterations[(1 - parity) * planes + p] = 0;
    } else {
        const float* table = tables + 4 * b * scales;
        for (int s = 0; s < scales; s++) {
            const Peak peak = block_peak(best_of(before + (size_t)s * blocks, blocks), warps_best[searched++ % 2]);
            prefer(next, peak, s, table);
        }
        done = iterations[parity * planes + p];
        const bool grown = done > 0 && (double)next.merit > __dmul_rn(growth, __int_as_float(state[4 * b + 2]));
        const bool over = done >= (int)orders[4 * b + 2] || next.scale < 0 || grown;
        if (writes) iterations[(1 - parity) * planes + p] = over ? done : done + 1;
        if (over) {
            for (int s = threadIdx.x; s < scales; s += blockDim.x)
                after[(size_t)s * blocks + blockIdx.x] = before[(size_t)s * blocks + blockIdx.x];
            return;
        }
        const ActiveSet chosen = set_of(next.scale);
        const int top = index_of(next.peak);
        place = chosen.place[top];
        flux = __fmul_rn(table[4 * next.scale + 2], value_of(next.peak));
        if (writes) chosen.model[top] = __fadd_rn(chosen.model[top], flux);
        if (writes && done == 0) state[4 * b + 2] = __float_as_int(next.merit);
    }
    for (int s = 0; s < scales; s++) {
        const ActiveSet set = set_of(s);
        const int high = max(s, next.scale), low = min(s, next.scale), size = set_size[b * scales + s];
        const size_t pair = (size_t)slot[b] * (scales * (scales + 1) / 2) + (first ? 0 : high * (high + 1) / 2 + low);
        const float* shifted = crosses + pair * 4 * pixels + ((size_t)ny * 2 * nx + nx - place);
        Peak best = {0, 0};
        for (int k = blockIdx.x * blockDim.x + threadIdx.x; k < size; k += blocks * blockDim.x) {
            float value = set.value[k];
            if (first) set.model[k] = 0.0f;
            else set.value[k] = value = __fsub_rn(value, __fmul_rn(flux, shifted[set.place[k]]));
            consider(best, value, k);
        }
        best = block_peak(best, warps_best[searched++ % 2]);
        if (threadIdx.x == 0) after[(size_t)s * blocks + blockIdx.x] = make_uint2(best.top, best.low);
    }
}
