// Samples sorted by tiles of the uv grid, once per chunk, for grid.cu.
//
// In: samples of many planes, one after another (plane p holds first[p] to first[p + 1]); planes may be empty, and planes
// that share rows share uvw. Out: a sort key for every sample, and after the sort the samples in sorted order, with their
// first cell and the fraction of a cell beyond it. Positions are float64 until then.
//
// Signs: a sample lies at x = u cell_x fft_x, y = -v cell_y fft_y cells, modulo the grid, so that the image is the inverse
// FFT (exp +) of the grid. Its conjugate lies at -(x, y): for images that are real, samples are turned to x >= 0 and half
// the grid is enough; with w they are turned to w >= 0 instead, which halves the range of w.

// Where a sample falls: x, y, w are the first cells that the kernel reaches, counted from the first that any sample can
// reach; the tap polynomials (GriddingKernel.coefficients) are evaluated at z, from -1 to 1.
struct Spot {
    int x, y, w;
    double zx, zy, zw;
    double turns;  // w in wavelengths, after the turn to its conjugate
    bool conjugate, finite;
};

__device__ __forceinline__ int first_cell(double position, double& z) {
    const double first = ceil(position - 0.5 * SUPPORT);
    z = 2.0 * (first + 0.5 * SUPPORT - position) - 1.0;
    return (int)first;
}

__device__ __forceinline__ Spot locate(const double* uvw, double per_metre, double cell_x, double cell_y, int fft_x, int fft_y,
                                       int w_planes, double w_first, double w_spacing) {
    double x = uvw[0] * per_metre * cell_x, y = -uvw[1] * per_metre * cell_y, w = uvw[2] * per_metre;
    Spot s;
    s.finite = x - x == 0 && y - y == 0 && w - w == 0;
    x -= rint(x);  // pixels are whole numbers: exp(2 pi i x pixel) does not change
    y -= rint(y);
    s.conjugate = w_planes ? w < 0 : x < 0;
    if (s.conjugate) x = -x, y = -y, w = -w;
    s.x = first_cell(x * fft_x, s.zx) + SUPPORT / 2 + (w_planes ? fft_x / 2 : 0);
    s.y = first_cell(y * fft_y, s.zy) + SUPPORT / 2 + fft_y / 2;
    s.w = 0, s.zw = 0, s.turns = w;
    if (w_planes) s.w = first_cell((w - w_first) / w_spacing, s.zw);
    return s;
}

// Sort keys: (plane, tile, first w plane) in this order; `dropped` for samples without weight, which sort last.
// One thread per sample of the largest plane, blockIdx.y the plane.
extern "C" __global__ void sort_keys(const double* __restrict__ uvw, const float* __restrict__ weight,
                                     const long long* __restrict__ first, const long long* __restrict__ first_row,
                                     const double* __restrict__ per_metre, double cell_x, double cell_y, int fft_x, int fft_y,
                                     int w_planes, double w_first, double w_spacing, int tile, int tiles_x, int tiles_y,
                                     long long dropped, long long* __restrict__ key) {
    const int plane = blockIdx.y;
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x, k = first[plane] + i;
    if (k >= first[plane + 1]) return;
    const Spot s = locate(uvw + 3 * (first_row[plane] + i), per_metre[plane], cell_x, cell_y, fft_x, fft_y, w_planes, w_first,
                          w_spacing);
    long long mine = dropped;
    if (weight[k] > 0 && s.finite) {
        mine = ((long long)plane * tiles_y + s.y / tile) * tiles_x + s.x / tile;
        if (w_planes) mine = mine * w_planes + min(max(s.w, 0), w_planes - SUPPORT);
    }
    key[k] = mine;
}

// Samples in sorted order: order[k] is the number of the k-th sample. With w, visibilities are turned by
// exp(-2 pi i w centre), which moves n - 1 to n - 1 - centre (WPlanes in gridding_kernel.py).
extern "C" __global__ void place_samples(const double* __restrict__ uvw, const float2* __restrict__ vis,
                                         const float* __restrict__ weight, const long long* __restrict__ first,
                                         const long long* __restrict__ first_row, const double* __restrict__ per_metre,
                                         double cell_x, double cell_y, int fft_x, int fft_y, int w_planes, double w_first,
                                         double w_spacing, double w_centre, int tiles, const long long* __restrict__ key,
                                         const long long* __restrict__ order, long long count, int2* __restrict__ cell,
                                         COMPLEX* __restrict__ z, int* __restrict__ cell_w, REAL* __restrict__ z_w,
                                         COMPLEX* __restrict__ placed_vis, REAL* __restrict__ placed_weight) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count) return;
    const long long from = order[k];
    const int plane = (int)(key[k] / ((long long)tiles * (w_planes ? w_planes : 1)));
    const Spot s = locate(uvw + 3 * (first_row[plane] + from - first[plane]), per_metre[plane], cell_x, cell_y, fft_x, fft_y,
                          w_planes, w_first, w_spacing);
    cell[k] = make_int2(s.x, s.y);
    z[k].x = (REAL)s.zx, z[k].y = (REAL)s.zy;
    double re = vis[from].x, im = s.conjugate ? -vis[from].y : vis[from].y;
    if (w_planes) {
        cell_w[k] = min(max(s.w, 0), w_planes - SUPPORT);
        z_w[k] = (REAL)s.zw;
        double sine, cosine;
        sincospi(-2.0 * s.turns * w_centre, &sine, &cosine);
        const double turned = re * cosine - im * sine;
        im = re * sine + im * cosine, re = turned;
    }
    placed_vis[k].x = (REAL)re, placed_vis[k].y = (REAL)im;
    placed_weight[k] = (REAL)weight[from];
}
