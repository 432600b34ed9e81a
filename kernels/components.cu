// residual -= change * PSF, for models that changed in a few pixels only: an exact major cycle in the image, without FFTs.
//
// changed_pixels lists the pixels where the model differs from the one already subtracted; subtract_components subtracts their
// responses from the residual. One thread owns each output pixel. It goes through the list in raster order, with both
// operations rounded to float32 (never fused): the CPU's result to the last bit.
//
// Memory: residual, model and subtracted (slots, ny, nx), psf (slots, 2 ny, 2 nx) with its peak at (ny, nx), float32; slot[b]
// is where plane b of the batch lies; where and flux (planes, room).
// Cost: the list reads 16 bytes per pixel; the subtraction 8 bytes per pixel and 4 more for each component, cached in part.
//
// Launches:
//   changed_pixels        grid (planes), block any multiple of 32 up to 1024
//   subtract_components   grid (any, planes), block 256

// count[b] is the number of changed pixels, even if it exceeds `room`; in that case nothing is listed.
extern "C" __global__ void __launch_bounds__(1024, 1) changed_pixels(
    const float* __restrict__ models, const float* __restrict__ subtracted, const int* __restrict__ slot, int pixels, int room,
    int* __restrict__ where, float* __restrict__ flux, int* __restrict__ count)
{
    __shared__ int found[32];
    const int b = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const float *now = models + (size_t)slot[b] * pixels, *before = subtracted + (size_t)slot[b] * pixels;
    const int share = (pixels + warps - 1) / warps, from = min(pixels, warp * share), to = min(pixels, from + share);
    unsigned mine = 0;
    for (int i = from + lane; i < to; i += 32) mine += __fsub_rn(now[i], before[i]) != 0.0f;
    mine = __reduce_add_sync(ALL_LANES, mine);
    if (lane == 0) found[warp] = mine;
    __syncthreads();
    int begin = 0, total = 0;
    for (int w = 0; w < warps; w++) {
        if (w < warp) begin += found[w];
        total += found[w];
    }
    if (threadIdx.x == 0) count[b] = total;
    if (total == 0 || total > room) return;
    for (int start = from; start < to; start += 32) {
        const int i = start + lane;
        const float change = i < to ? __fsub_rn(now[i], before[i]) : 0.0f;
        const unsigned votes = __ballot_sync(ALL_LANES, change != 0.0f);
        if (change != 0.0f) {
            const int k = begin + votes_below(votes, lane);
            where[(size_t)b * room + k] = i, flux[(size_t)b * room + k] = change;
        }
        begin += __popc(votes);
    }
}

// A plane whose list did not fit (count > room) is left alone.
extern "C" __global__ void __launch_bounds__(256) subtract_components(
    float* __restrict__ residuals, const float* __restrict__ psfs, const int* __restrict__ slot, int ny, int nx, int room,
    const int* __restrict__ where, const float* __restrict__ flux, const int* __restrict__ count)
{
    const int b = blockIdx.y, pixels = ny * nx, components = count[b];
    if (components > room) return;
    float* residual = residuals + (size_t)slot[b] * pixels;
    const float* psf = psfs + (size_t)slot[b] * 4 * pixels;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += gridDim.x * blockDim.x) {
        // a pixel's place in the PSF array is its own place there plus one offset for each component
        const float* here = psf + (size_t)(ny + i / nx) * (2 * nx) + nx + i % nx;
        float value = residual[i];
#pragma unroll 4
        for (int k = 0; k < components; k++) {
            const int at = where[(size_t)b * room + k];
            value = __fsub_rn(value, __fmul_rn(flux[(size_t)b * room + k], *(here - ((size_t)(at / nx) * (2 * nx) + at % nx))));
        }
        residual[i] = value;
    }
}
