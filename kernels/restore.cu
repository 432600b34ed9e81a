// image += model * Gaussian, for models with few components.
//
// Each block owns 32 x 32 pixels of the image. It goes through the part of the model that reaches them in raster order, 256
// model pixels at a time, and collects those that are not zero in shared memory. Each thread adds their contributions to
// its four pixels. Order and rounding of the sums are those of the CPU's loop.
//
// Memory: image (planes, ny, nx), changed; model (slots, ny, nx), where slot[b] is the place of plane b of the batch. The
// Gaussian of plane b, sampled and cut off at half_y[b], half_x[b] pixels, is (2 half_y + 1, 2 half_x + 1) floats at
// table[first[b]].
// Cost: (32 + 2 half_y) (32 + 2 half_x) / 1024 model reads per pixel, and two operations for each component in reach.
//
// The image is given: the residual, brought to the units of the beam.
//
// Launches:
//   gaussian_spectra  grid (ceil((nx + 1) / 32), ceil(2 ny / 8), planes), block (32, 8)
//   take_smoothed     grid (ceil(nx / 32), ceil(ny / 8), planes), block (32, 8)
//   sample_gaussians  grid (any, planes), block 256
//   add_gaussians     grid (ceil(nx / 32), ceil(ny / 32), planes), block (32, 8)

constexpr int TILE = 32, THREADS = 256, ROWS = TILE * TILE / THREADS;

// spectrum (planes, 2 ny, nx + 1) of Gaussians of unit sum on twice the image, times a factor and 1 / size of the FFT, as
// Beam.spectrum in gpucube/sky/beam.py. shape (planes, 5): sine and cosine of the position angle; pi / sqrt(4 ln 2) times the
// axes (major, minor) in pixels along y, and the factor. ratio is cell_y / cell_x.
extern "C" __global__ void __launch_bounds__(256) gaussian_spectra(const double* __restrict__ shape, double ratio, int ny, int nx,
                                                                   float* __restrict__ spectrum) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, b = blockIdx.z;
    if (x > nx || y >= 2 * ny) return;
    const double *s = shape + 5 * b, ky = (y < ny ? y : y - 2 * ny) / (2.0 * ny), kx = x / (2.0 * nx) * ratio;
    const double along = s[2] * (ky * s[1] - kx * s[0]), across = s[3] * (ky * s[0] + kx * s[1]);
    spectrum[((size_t)b * 2 * ny + y) * (nx + 1) + x] = (float)(exp(-(along * along + across * across)) * s[4] / (4.0 * ny * nx));
}

// image = the first quarter of the convolved image (planes, 2 ny, 2 nx), where the factor in `shape` is not 0.
extern "C" __global__ void __launch_bounds__(256) take_smoothed(const float* __restrict__ convolved, const double* __restrict__ shape,
                                                                int ny, int nx, float* __restrict__ image) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, b = blockIdx.z;
    if (x >= nx || y >= ny || shape[5 * b + 4] == 0) return;
    image[((size_t)b * ny + y) * nx + x] = convolved[((size_t)b * 2 * ny + y) * 2 * nx + x];
}

// The table of each plane's Gaussian, exp(-(a x^2 + 2 b x y + c y^2)) in pixels, of form (planes, 3), as sampled_gaussian in
// gpucube/sky/beam.py.
extern "C" __global__ void __launch_bounds__(256) sample_gaussians(
    const double* __restrict__ form, const long long* __restrict__ first, const int* __restrict__ half_y,
    const int* __restrict__ half_x, float* __restrict__ table)
{
    const int p = blockIdx.y, width = 2 * half_x[p] + 1, pixels = (2 * half_y[p] + 1) * width;
    const double a = form[3 * p], b = form[3 * p + 1], c = form[3 * p + 2];
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += gridDim.x * blockDim.x) {
        const int y = i / width - half_y[p], x = i % width - half_x[p];
        table[first[p] + i] = (float)exp(-(a * x * x + 2.0 * b * x * y + c * y * y));
    }
}

extern "C" __global__ void __launch_bounds__(256) add_gaussians(
    float* __restrict__ images, const float* __restrict__ models, const int* __restrict__ slot, int ny, int nx,
    const float* __restrict__ table, const long long* __restrict__ first,
    const int* __restrict__ half_y, const int* __restrict__ half_x)
{
    __shared__ float flux[THREADS];
    __shared__ int from_y[THREADS], from_x[THREADS], found[THREADS / 32];
    const int b = blockIdx.z, hy = half_y[b], hx = half_x[b], width = 2 * hx + 1;
    const float *model = models + (size_t)slot[b] * ny * nx, *shape = table + first[b];
    const int t = threadIdx.y * TILE + threadIdx.x, lane = t % 32, warp = t / 32;
    const int x = blockIdx.x * TILE + threadIdx.x, y = blockIdx.y * TILE + threadIdx.y;
    const int left = max(0, (int)blockIdx.x * TILE - hx), right = min(nx, (int)(blockIdx.x + 1) * TILE + hx);
    const int bottom = max(0, (int)blockIdx.y * TILE - hy), top = min(ny, (int)(blockIdx.y + 1) * TILE + hy);
    const int reach = (right - left) * (top - bottom);
    float* image = images + (size_t)b * ny * nx;
    float sum[ROWS];
#pragma unroll
    for (int j = 0; j < ROWS; j++) sum[j] = x < nx && y + 8 * j < ny ? image[(size_t)(y + 8 * j) * nx + x] : 0.0f;
    for (int start = 0; start < reach; start += THREADS) {
        const int i = start + t, my_y = bottom + i / (right - left), my_x = left + i % (right - left);
        const float mine = i < reach ? model[(size_t)my_y * nx + my_x] : 0.0f;
        const unsigned votes = __ballot_sync(ALL_LANES, mine != 0.0f);
        if (lane == 0) found[warp] = __popc(votes);
        __syncthreads();
        int place = votes_below(votes, lane), components = 0;
        for (int w = 0; w < THREADS / 32; w++) {
            if (w < warp) place += found[w];
            components += found[w];
        }
        if (mine != 0.0f) flux[place] = mine, from_y[place] = my_y, from_x[place] = my_x;
        __syncthreads();
        for (int k = 0; k < components; k++) {
            const int dx = x - from_x[k];
            if (dx < -hx || dx > hx) continue;
#pragma unroll
            for (int j = 0; j < ROWS; j++) {
                const int dy = y + 8 * j - from_y[k];
                if (dy >= -hy && dy <= hy) sum[j] = __fadd_rn(sum[j], __fmul_rn(flux[k], shape[(dy + hy) * width + dx + hx]));
            }
        }
    }
#pragma unroll
    for (int j = 0; j < ROWS; j++)
        if (x < nx && y + 8 * j < ny) image[(size_t)(y + 8 * j) * nx + x] = sum[j];
}
