// Largest sidelobe of many PSFs: the largest |PSF| outside the main lobe.
//
// The main lobe is an ellipse whose numbers come from lobe_ellipse in gpucube/devices/psf_fit.py. Pixels within the box around
// it are tested by the arithmetic of psf_sidelobe there: in float64, with every operation rounded by itself (__dmul_rn,
// __dadd_rn: never fused). A maximum does not depend on the order, so the value is that of psf_sidelobe to the last bit.
//
// Memory: a stack of PSFs float32; the image of plane b are the (ny, nx) pixels from first[b] on, in rows that are pitch[b]
// pixels apart, and its pixel (ny / 2, nx / 2) is the peak. ellipses (planes, 6) float64: sine and cosine of the position angle, semi-axes
// (major, minor) in radians, reach along x and y in pixels. cell_x, cell_y in radians.
//
// Cost: 4 bytes per pixel of the image; two divisions in float64 per pixel of the box.
//
// Launch: grid (any, planes), block 256; `largest` is zero before.

// Largest magnitude among the pixels of a line from `from` to `to` that this lane looks at.
__device__ __forceinline__ unsigned largest_of(const float* __restrict__ line, int from, int to) {
    unsigned best = 0;
    for (int left = from + threadIdx.x % 32; left < to; left += 32 * AHEAD) {
        float value[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++) value[j] = left + 32 * j < to ? line[left + 32 * j] : 0.0f;
#pragma unroll
        for (int j = 0; j < AHEAD; j++) best = max(best, magnitude(value[j]));
    }
    return best;
}

// largest[b] = bits of the largest |value| outside the ellipse; stays 0 if the ellipse covers the image.
extern "C" __global__ void __launch_bounds__(256, 4) sidelobe(
    const float* __restrict__ psfs, const long long* __restrict__ first, const int* __restrict__ pitch, int ny, int nx,
    const double* __restrict__ ellipses, double cell_x, double cell_y, unsigned* __restrict__ largest)
{
    const int b = blockIdx.y, lane = threadIdx.x % 32, warps = blockDim.x / 32, cy = ny / 2, cx = nx / 2;
    const double* ellipse = ellipses + 6 * b;
    const double sine = ellipse[0], cosine = ellipse[1], major = ellipse[2], minor = ellipse[3];
    const int reach_x = (int)min(ellipse[4], (double)nx), reach_y = (int)min(ellipse[5], (double)ny);
    const int x0 = max(cx - reach_x, 0), x1 = min(cx + reach_x + 1, nx);
    const float* image = psfs + first[b];
    unsigned best = 0;
    for (int y = blockIdx.x * warps + threadIdx.x / 32; y < ny; y += gridDim.x * warps) {
        const float* line = image + (size_t)y * pitch[b];
        const bool near = abs(y - cy) <= reach_y;
        const int from = near ? x0 : nx, to = near ? x1 : nx;  // of the box
        best = max(best, max(largest_of(line, 0, from), largest_of(line, to, nx)));
        const double north = __dmul_rn(y - cy, cell_y);
        const double north_along = __dmul_rn(north, cosine), north_across = __dmul_rn(north, sine);
#pragma unroll 1
        for (int x = from + lane; x < to; x += 32) {
            const double east = __dmul_rn(cx - x, cell_x);
            const double along = __ddiv_rn(__dadd_rn(north_along, __dmul_rn(east, sine)), major);
            const double across = __ddiv_rn(__dsub_rn(__dmul_rn(east, cosine), north_across), minor);
            if (__dadd_rn(__dmul_rn(along, along), __dmul_rn(across, across)) > 1.0) best = max(best, magnitude(line[x]));
        }
    }
    best = __reduce_max_sync(ALL_LANES, best);
    if (lane == 0) atomicMax(&largest[b], best);
}
