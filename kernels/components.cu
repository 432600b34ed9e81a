// The exact residuals of a major cycle in the image, in one launch for planes whose models changed in few pixels and in many.
//
// Few: residual -= change * PSF, without FFTs. hogbom_active_set lists the pixels that its cycle changed. One thread owns each
// output pixel. It goes through the list in raster order, with both operations rounded to float32 (never fused): the CPU's
// result to the last bit. Many: residual = dirty - PSF * model, convolved by FFTs.
//
// Memory: residual and dirty (slots, ny, nx), psf (slots, 2 ny, 2 nx) with its peak at (ny, nx), float32; slot[b] is where plane
// b of the batch lies; where and change (slots, listed), count (slots). of_fft[b] is the place of plane b in convolved (any,
// 2 ny, 2 nx), whose first quarter counts; -1 where the list is used; anything below leaves the plane alone.
// Cost: 8 bytes per pixel and 4 more for each component, cached in part; or 12 bytes per pixel.
//
// Launch: grid (any, planes), block 256. A plane whose changes are not listed (count > listed) is left alone.

extern "C" __global__ void __launch_bounds__(256) renew_residuals(
    float* __restrict__ residuals, const float* __restrict__ psfs, const int* __restrict__ slot, int ny, int nx, int listed,
    const int* __restrict__ where, const float* __restrict__ change, const int* __restrict__ count,
    const float* __restrict__ dirty, const float* __restrict__ convolved, const int* __restrict__ of_fft)
{
    const int pixels = ny * nx, place = of_fft[blockIdx.y];
    const size_t s = slot[blockIdx.y];
    float* residual = residuals + s * pixels;
    if (place >= 0) {
        const float *before = dirty + s * pixels, *response = convolved + (size_t)place * 4 * pixels;
        for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += gridDim.x * blockDim.x)
            residual[i] = __fsub_rn(before[i], response[(size_t)(i / nx) * (2 * nx) + i % nx]);
        return;
    }
    const int components = count[s];
    if (place < -1 || components > listed) return;
    const float* psf = psfs + 4 * s * pixels;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += gridDim.x * blockDim.x) {
        // a pixel's place in the PSF array is its own place there plus one offset for each component
        const float* here = psf + (size_t)(ny + i / nx) * (2 * nx) + nx + i % nx;
        float value = residual[i];
#pragma unroll 4
        for (int k = 0; k < components; k++) {
            const int at = where[s * listed + k];
            value = __fsub_rn(value, __fmul_rn(change[s * listed + k], *(here - ((size_t)(at / nx) * (2 * nx) + at % nx))));
        }
        residual[i] = value;
    }
}
