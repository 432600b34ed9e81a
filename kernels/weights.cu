// Imaging weights: natural, uniform or Briggs, per channel, with a taper in the uv plane.
//
// Algorithm: Briggs 1995 in tclean's per-channel form. Weights are summed on the uv cells of the image itself, folded into
// the half plane v >= 0. The cell that takes a weight is found in double precision, the cell whose density is looked up in
// single precision, as tclean does: worth 3e-5 of the sum of weights.
//
// One launch does many channels with any numbers of samples. blockIdx.y is the channel c; its samples are first[c] up to
// first[c + 1] of the sample arrays, and its uvw rows begin at first_row[c] (channels that share rows share uvw).
//
// Order of sums: the density is summed as 64-bit integers, exact and therefore the same in any order. Each weight is
// rounded to 2^-61 of (largest weight * number of samples) of its channel. Sums of squares and of weights are float64: thread
// t of 1024 takes elements t, t + 1024, ... and the threads' sums are added as a tree, so only the data decide.
//
// Memory: density (channels, half_v + 1, 2 half_u + 1), uint64. Cost: 28 bytes read and 8 written per sample for the
// cells, one 64-bit atomic for the density, one scattered read for the weight.
//
// Launches, in this order (natural weights need uv_cells, weigh and sum_weights only):
//   uv_cells        grid (any, channels), block 256; inside and largest zero before
//   sum_density     grid (any, channels), block 256; density zero before
//   sum_cells       grid (parts, channels), block 1024; the parts decide the order of sums, so they must depend on nothing but
//                   the number of cells
//   weigh           grid (any, channels), block 256
//   sum_weights     grid (channels),      block 1024

constexpr int SUMMING = 1024;

__device__ __forceinline__ int folded(int iu, int iv, int half_u) {
    if (iv < 0 || (iv == 0 && iu < 0)) iu = -iu, iv = -iv;
    return iv * (2 * half_u + 1) + iu + half_u;
}

__device__ __forceinline__ int clamped(int i, int half) { return min(max(i, -half), half); }

// Binary digits of the density behind the binary point: a cell holds less than 2^61, the origin twice that.
__device__ __forceinline__ int density_digits(int inside, unsigned largest) {
    int exponent;
    frexpf(__uint_as_float(largest), &exponent);  // largest < 2^exponent
    return 61 - exponent - (32 - __clz(inside));
}

// Sum over the block of 1024 threads, as a tree, for thread 0.
__device__ __forceinline__ double block_sum(double mine, double* partial) {
    const int t = threadIdx.x;
    partial[t] = mine;
    for (int half = SUMMING / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half) partial[t] = __dadd_rn(partial[t], partial[t + half]);
    }
    const double sum = partial[0];
    __syncthreads();  // before the next sum overwrites this one's parts
    return sum;
}

// Find the cell that takes each sample's weight and the cell whose density counts, -1 for samples without weight or beyond the
// image's uv plane; for each channel also the number of the other samples, and the bits of their largest weight.
extern "C" __global__ void __launch_bounds__(256, 2) uv_cells(
    const double* __restrict__ uvw,           // (rows, 3), metres
    const float* __restrict__ weight,         // (samples)
    const long long* __restrict__ first,      // (channels + 1)
    const long long* __restrict__ first_row,  // (channels)
    const double* __restrict__ per_metre,     // (channels) wavelengths in a metre
    double cells_u, double cells_v,           // cells in a wavelength: image size times pixel
    int half_u, int half_v,                   // samples at |u| >= half_u or |v| >= half_v cells lie outside
    int* __restrict__ cell, int* __restrict__ lookup,          // (samples)
    int* __restrict__ inside, unsigned* __restrict__ largest)  // (channels)
{
    __shared__ unsigned count, top;
    const int c = blockIdx.y;
    if (threadIdx.x == 0) count = top = 0;
    __syncthreads();
    const double scale = per_metre[c], single = (double)(float)scale;
    const float single_u = (float)cells_u, single_v = (float)cells_v;
    unsigned my_count = 0, my_top = 0;
    for (long long k = first[c] + blockIdx.x * (long long)blockDim.x + threadIdx.x; k < first[c + 1]; k += (long long)gridDim.x * blockDim.x) {
        const double* metres = uvw + 3 * (first_row[c] + k - first[c]);
        const double u = __dmul_rn(__dmul_rn(metres[0], scale), cells_u), v = __dmul_rn(__dmul_rn(metres[1], scale), cells_v);
        const float w = weight[k];
        if (!(w > 0.0f && fabs(u) < half_u && fabs(v) < half_v)) {
            cell[k] = lookup[k] = -1;
            continue;
        }
        cell[k] = folded((int)floor(__dadd_rn(u, 0.5)), (int)floor(__dadd_rn(v, 0.5)), half_u);
        const float at_u = __fadd_rn(__fmul_rn((float)__dmul_rn(metres[0], single), single_u), (float)half_u);
        const float at_v = __fadd_rn(__fmul_rn((float)__dmul_rn(-metres[1], single), single_v), (float)half_v);
        const int iu = (int)floor(__dadd_rn(at_u, 0.5)) - half_u, iv = half_v - (int)floor(__dadd_rn(at_v, 0.5));
        lookup[k] = folded(clamped(iu, half_u), clamped(iv, half_v), half_u);
        my_count++, my_top = max(my_top, __float_as_uint(w));
    }
    atomicAdd(&count, my_count), atomicMax(&top, my_top);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(&inside[c], (int)count), atomicMax(&largest[c], top);
}

// Add every weight to its cell, in units of 2^-density_digits; never less than one unit, so that no cell is forgotten.
extern "C" __global__ void __launch_bounds__(256) sum_density(
    const int* __restrict__ cell, const float* __restrict__ weight,         // (samples)
    const long long* __restrict__ first,                                    // (channels + 1)
    const int* __restrict__ inside, const unsigned* __restrict__ largest,   // (channels)
    int cells, unsigned long long* __restrict__ density)                    // (channels, cells)
{
    const int c = blockIdx.y;
    if (inside[c] == 0) return;
    const int digits = density_digits(inside[c], largest[c]);
    unsigned long long* plane = density + (size_t)c * cells;
    for (long long k = first[c] + blockIdx.x * (long long)blockDim.x + threadIdx.x; k < first[c + 1]; k += (long long)gridDim.x * blockDim.x)
        if (cell[k] >= 0) atomicAdd(&plane[cell[k]], (unsigned long long)max(1ll, __double2ll_rn(ldexp((double)weight[k], digits))));
}

// Sum of a part's density and of its squares. The origin cell stands for u and -u: it is doubled here. Block 1024.
extern "C" __global__ void __launch_bounds__(1024, 1) sum_cells(
    const int* __restrict__ inside, const unsigned* __restrict__ largest,  // (channels)
    int cells, int origin,                                                 // cells of a plane, and the index of (0, 0)
    unsigned long long* __restrict__ density,                              // (channels, cells)
    double* __restrict__ sums)                                             // (channels, parts, 2)
{
    __shared__ double partial[SUMMING];
    const int c = blockIdx.y, share = (cells + gridDim.x - 1) / gridDim.x;
    const int from = min(cells, (int)blockIdx.x * share), to = min(cells, from + share);
    unsigned long long* plane = density + (size_t)c * cells;
    const double unit = inside[c] ? ldexp(1.0, -density_digits(inside[c], largest[c])) : 0.0;
    double total = 0.0, squares = 0.0;
    for (int i = from + threadIdx.x; i < to; i += SUMMING) {
        const unsigned long long units = plane[i];
        const double g = __dmul_rn((double)units, unit);
        total = __dadd_rn(total, __dmul_rn(2.0, g));
        // the cell's twin at -u, -v is not stored; the origin is its own twin, of density 2 g
        squares = __dadd_rn(squares, __dmul_rn(i == origin ? 4.0 : 2.0, __dmul_rn(g, g)));
        if (i == origin) plane[i] = 2 * units;
    }
    total = block_sum(total, partial);
    squares = block_sum(squares, partial);
    if (threadIdx.x == 0) {
        double* mine = sums + 2 * ((size_t)c * gridDim.x + blockIdx.x);
        mine[0] = total, mine[1] = squares;
    }
}

// weight / (constant + slope * density).
struct Rule { double slope, constant; };

// robust: Briggs (5 * 10^-robust)^2, uniform 0, natural negative. Parts are added in their order.
__device__ __forceinline__ Rule rule_of(double robust, const double* sums, int parts, bool any) {
    if (robust < 0.0) return {0.0, 1.0};
    if (robust == 0.0) return {1.0, 0.0};
    double total = 0.0, squares = 0.0;
    for (int i = 0; i < parts; i++) total = __dadd_rn(total, sums[2 * i]), squares = __dadd_rn(squares, sums[2 * i + 1]);
    return {any ? __ddiv_rn(robust, __ddiv_rn(squares, total)) : 0.0, 1.0};
}

// out = weight / (constant + slope * density) * exp(-(t0 u^2 + t1 u v + t2 v^2)). Slope 0: natural, density is not read.
// Where the density is 0 (the look-up may miss the cell that took the weight) the result is 0, as tclean's.
extern "C" __global__ void __launch_bounds__(256) weigh(
    const double* __restrict__ uvw, const int* __restrict__ lookup, const float* __restrict__ weight,
    const long long* __restrict__ first, const long long* __restrict__ first_row,
    const int* __restrict__ inside, const unsigned* __restrict__ largest,
    int cells, const unsigned long long* __restrict__ density,
    double robust, const double* __restrict__ sums, int parts,  // (channels, parts, 2)
    const double* __restrict__ taper,  // (channels, 3), per square metre; zeros for none
    float* __restrict__ out)           // (samples)
{
    __shared__ Rule rule;
    const int c = blockIdx.y;
    if (threadIdx.x == 0) rule = rule_of(robust, sums + 2 * (size_t)c * parts, parts, inside[c] > 0);
    __syncthreads();
    const double s = rule.slope, constant = rule.constant, t0 = taper[3 * c], t1 = taper[3 * c + 1], t2 = taper[3 * c + 2];
    const bool tapered = t0 != 0.0 || t1 != 0.0 || t2 != 0.0;
    const double unit = inside[c] ? ldexp(1.0, -density_digits(inside[c], largest[c])) : 0.0;
    for (long long k = first[c] + blockIdx.x * (long long)blockDim.x + threadIdx.x; k < first[c + 1]; k += (long long)gridDim.x * blockDim.x) {
        double w = 0.0;
        if (lookup[k] >= 0) {
            w = weight[k];
            if (s > 0.0) {
                const double g = __dmul_rn((double)density[(size_t)c * cells + lookup[k]], unit);
                w = g > 0.0 ? __ddiv_rn(w, __dadd_rn(constant, __dmul_rn(s, g))) : 0.0;
            }
            if (tapered) {
                const double* metres = uvw + 3 * (first_row[c] + k - first[c]);
                const double u = metres[0], v = metres[1];
                w *= exp(-(t0 * u * u + t1 * u * v + t2 * v * v));
            }
        }
        out[k] = (float)w;
    }
}

// Sum of each channel's weights.
extern "C" __global__ void __launch_bounds__(1024, 1) sum_weights(
    const float* __restrict__ weight, const long long* __restrict__ first, double* __restrict__ total)
{
    __shared__ double partial[SUMMING];
    const int c = blockIdx.x;
    double mine = 0.0;
    for (long long k = first[c] + threadIdx.x; k < first[c + 1]; k += SUMMING) mine = __dadd_rn(mine, weight[k]);
    mine = block_sum(mine, partial);
    if (threadIdx.x == 0) total[c] = mine;
}
