// Samples sorted by tiles of the uv grid, once per chunk, and divided among the blocks of grid.cu.
//
// In: samples of many planes, one after another (plane p holds first[p] to first[p + 1]); planes may be empty, and planes
// that share rows share uvw. Out: a sort key for every sample; after the sort the samples in sorted order with their
// positions on the uv plane, float64; and items: limited numbers of samples, each item from one tile of one plane.
//
// Signs: a sample lies at x = u cell_x, y = -v cell_y, in widths of the grid and modulo 1, so that the image is the inverse
// FFT (exp +) of the grid. Its conjugate lies at -(x, y): for images that are real, samples are turned to x >= 0 and half
// the grid is enough; with w they are turned to w >= 0 instead, which halves the range of w.
//
// Layers: one order of samples serves more than one grid. Without w there are two: the grid of the image, and one of twice
// as many cells each way, which has four tiles to each of the first. With w each plane of w is a layer.
//
// KEY is the type of the sort keys, 32 bits where they suffice.

#ifndef KEY
#define KEY unsigned
#endif

constexpr int ITEM_THREADS = 256;

// Where a sample falls: in tile (x, y) of the finest layer, and on planes of w from `w` on; zw is where their polynomials
// (GriddingKernel.coefficients) are evaluated, from -1 to 1.
struct Spot {
    double x, y, zw;  // x and y in widths of the grid
    double turns;     // w in wavelengths, after the turn to its conjugate
    int w;
    bool conjugate, finite;
};

__device__ __forceinline__ Spot locate(const double* uvw, double per_metre, double cell_x, double cell_y, int w_planes,
                                       double w_first, double w_spacing) {
    Spot s;
    s.x = uvw[0] * per_metre * cell_x, s.y = -uvw[1] * per_metre * cell_y, s.turns = uvw[2] * per_metre;
    s.finite = s.x - s.x == 0 && s.y - s.y == 0 && s.turns - s.turns == 0;
    s.x -= rint(s.x);  // pixels are whole numbers: exp(2 pi i x pixel) does not change
    s.y -= rint(s.y);
    s.conjugate = w_planes ? s.turns < 0 : s.x < 0;
    if (s.conjugate) s.x = -s.x, s.y = -s.y, s.turns = -s.turns;
    s.w = 0, s.zw = 0;
    if (w_planes) {
        const double position = (s.turns - w_first) / w_spacing, first = ceil(position - 0.5 * SUPPORT);
        s.zw = 2.0 * (first + 0.5 * SUPPORT - position) - 1.0;
        s.w = min(max((int)first, 0), w_planes - SUPPORT);
    }
    return s;
}

// Sort keys: (plane, tile, quarter of the tile or first plane of w); `dropped` for samples without weight, which sort last.
// A tile holds the samples from its first cell to that of the next: `tile` cells each way of a grid of (fft_y, fft_x).
// One thread per sample of the largest plane, blockIdx.y the plane.
extern "C" __global__ void sort_keys(const double* __restrict__ uvw, const float* __restrict__ weight,
                                     const long long* __restrict__ first, const long long* __restrict__ first_row,
                                     const double* __restrict__ per_metre, double cell_x, double cell_y, int w_planes,
                                     double w_first, double w_spacing, int fft_x, int fft_y, int tile, int tiles_x, int tiles_y,
                                     KEY dropped, KEY* __restrict__ key) {
    const int plane = blockIdx.y;
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x, k = first[plane] + i;
    if (k >= first[plane + 1]) return;
    const Spot s =
        locate(uvw + 3 * (first_row[plane] + i), per_metre[plane], cell_x, cell_y, w_planes, w_first, w_spacing);
    KEY mine = dropped;
    if (weight[k] > 0 && s.finite) {
        // of half the size: a tile's number is half of that, without rounding
        const int x = (int)(2.0 * (s.x + (w_planes ? 0.5 : 0.0)) * fft_x / tile), y = (int)(2.0 * (s.y + 0.5) * fft_y / tile);
        const int tile_x = min(x / 2, tiles_x - 1), tile_y = min(y / 2, tiles_y - 1);
        mine = ((KEY)plane * tiles_y + tile_y) * tiles_x + tile_x;
        mine = w_planes ? mine * w_planes + s.w : mine * 4 + y % 2 * 2 + x % 2;
    }
    key[k] = mine;
}

// Samples in sorted order: order[k] is the number of the k-th sample; those without weight come last and are not placed.
// With w, visibilities are turned by exp(-2 pi i w centre), which moves n - 1 to n - 1 - centre (WPlanes in gridding_kernel.py).
// Without `with_vis` visibilities are neither read nor written: a PSF needs none.
extern "C" __global__ void place_samples(const double* __restrict__ uvw, const float2* __restrict__ vis,
                                         const float* __restrict__ weight, const long long* __restrict__ first,
                                         const long long* __restrict__ first_row, const double* __restrict__ per_metre,
                                         double cell_x, double cell_y, int w_planes, double w_first, double w_spacing,
                                         double w_centre, int keys_a_plane, KEY dropped, int with_vis, const KEY* __restrict__ key,
                                         const long long* __restrict__ order, long long count, KEY* __restrict__ sorted_key,
                                         double2* __restrict__ position, int* __restrict__ cell_w, REAL* __restrict__ z_w,
                                         COMPLEX* __restrict__ placed_vis, REAL* __restrict__ placed_weight) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count) return;
    const long long from = order[k];
    const KEY mine = key[from];
    sorted_key[k] = mine;
    if (mine == dropped) {
        placed_weight[k] = 0;
        if (with_vis) placed_vis[k].x = 0, placed_vis[k].y = 0;
        return;
    }
    const int plane = (int)(mine / (KEY)keys_a_plane);
    const Spot s = locate(uvw + 3 * (first_row[plane] + from - first[plane]), per_metre[plane], cell_x, cell_y, w_planes,
                          w_first, w_spacing);
    position[k] = make_double2(s.x, s.y);
    placed_weight[k] = (REAL)weight[from];
    if (w_planes) cell_w[k] = s.w, z_w[k] = (REAL)s.zw;
    if (!with_vis) return;
    double re = vis[from].x, im = s.conjugate ? -vis[from].y : vis[from].y;
    if (w_planes) {
        double sine, cosine;
        sincospi(-2.0 * s.turns * w_centre, &sine, &cosine);
        const double turned = re * cosine - im * sine;
        im = re * sine + im * cosine, re = turned;
    }
    placed_vis[k].x = (REAL)re, placed_vis[k].y = (REAL)im;
}

// Number of the first of the sorted keys that is not below `key`.
__device__ __forceinline__ long long lower_bound(const KEY* __restrict__ keys, long long count, KEY key) {
    long long from = 0, to = count;
    while (from < to) {
        const long long middle = (from + to) / 2;
        if (keys[middle] < key) from = middle + 1;
        else to = middle;
    }
    return from;
}

// Items of one layer of one plane: row = plane * layers + layer. Item i of a row has `count` samples from `first` on, all in
// `tile`. Tile t has the items from first_item[row * stride + t] on, numbered within the row; items[row] is their number. No
// row has more than `room` items. Without w layer 1 is the grid of twice as many cells.
// Grid (planes, layers), block ITEM_THREADS.
extern "C" __global__ void __launch_bounds__(256) make_items(
    const KEY* __restrict__ key, long long samples, int w_planes, int tiles_x, int tiles_y, int most, int room, int stride,
    int* __restrict__ items, int* __restrict__ item_tile, long long* __restrict__ item_first, int* __restrict__ item_count,
    int* __restrict__ first_item)
{
    __shared__ int sums[ITEM_THREADS];
    const int plane = blockIdx.x, layer = blockIdx.y, row = plane * gridDim.y + layer, t = threadIdx.x;
    const bool wide = !w_planes && layer == 1;
    const int columns = wide ? 2 * tiles_x : tiles_x, tiles = columns * (wide ? 2 * tiles_y : tiles_y);
    int before = 0;
    for (int start = 0; start < tiles; start += ITEM_THREADS) {
        const int tile = start + t;
        long long begin = 0, end = 0;
        if (tile < tiles) {
            KEY from, to;
            if (w_planes) {
                const KEY base = ((KEY)plane * tiles + tile) * w_planes;
                from = base + max(layer - SUPPORT + 1, 0), to = base + layer + 1;
            } else if (wide) {
                const int x = tile % columns, y = tile / columns;
                from = (((KEY)plane * tiles_y + y / 2) * tiles_x + x / 2) * 4 + y % 2 * 2 + x % 2, to = from + 1;
            } else {
                from = ((KEY)plane * tiles + tile) * 4, to = from + 4;
            }
            begin = lower_bound(key, samples, from);
            end = lower_bound(key, samples, to);
        }
        const int mine = (int)((end - begin + most - 1) / most);
        sums[t] = mine;
        inclusive_scan<ITEM_THREADS>(sums, t);
        __syncthreads();
        const int first = before + sums[t] - mine, total = sums[ITEM_THREADS - 1];
        __syncthreads();
        if (tile < tiles) first_item[(long long)row * stride + tile] = first;
        for (int i = 0; i < mine && first + i < room; ++i) {
            const long long at = (long long)row * room + first + i, sample = begin + (long long)i * most;
            item_tile[at] = tile, item_first[at] = sample, item_count[at] = (int)min((long long)most, end - sample);
        }
        before += total;
    }
    if (t == 0) first_item[(long long)row * stride + tiles] = before, items[row] = before;
}
