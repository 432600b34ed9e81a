// Gridding, degridding, and both at once, of samples sorted by uv_tiles.cu; bit for bit the same in every run.
//
// In: samples in sorted order, and items: limited numbers of samples, each item from one tile of one plane. One block works on
// one item, with the tile and its halo in shared memory: `side` = tile + SUPPORT cells each way. Gridding writes that square to
// a buffer of the item's own; gather_tiles adds the squares that cover a cell, in the order of items. Degridding reads the
// square from the spectrum of the model.
//
// A launch works on some planes of those that were placed: plane b of the launch is planes[b] there, has items[b * layers +
// layer] items, and its squares begin at square_of[b]. Grid (items of the plane that has most, planes); blocks beyond a plane's items end at once.
//
// Order of sums: thread (r, c) of a block owns the cells whose row is r and whose column is c modulo LANES, so each sample
// gives it at most one cell, and it adds the item's samples in sorted order. No atomics, no barrier between samples.
//
// The gridding kernel is given by one polynomial for every tap (GriddingKernel.coefficients). Grids hold cell (y, x) of the
// FFT: half of it (fft_x / 2 + 1 columns) for real images, all of it for a plane of w. Blocks have LANES * LANES threads;
// TileGridder.shared_bytes computes their shared memory.

#define DEGREE (SUPPORT + 3)
#define LANES (SUPPORT > 8 ? 16 : 8)
#define THREADS (LANES * LANES)
#define BATCH 64  // samples whose taps are in shared memory at once

__device__ __forceinline__ REAL tap(const REAL* coefficient, int j, REAL z) {
    REAL value = coefficient[j];
#pragma unroll
    for (int power = 1; power <= DEGREE; ++power) value = value * z + coefficient[power * SUPPORT + j];
    return value;
}

__device__ __forceinline__ int wrapped(int cell, int size) {
    cell %= size;
    return cell < 0 ? cell + size : cell;
}

// A cell of the FFT from the half (or all, `columns` == fft_x) that is stored; the rest is its conjugate at -(x, y).
__device__ __forceinline__ COMPLEX stored(const COMPLEX* __restrict__ grid, int y, int x, int fft_y, int fft_x, int columns) {
    y = wrapped(y, fft_y), x = wrapped(x, fft_x);
    const bool mirror = x >= columns;
    if (mirror) y = wrapped(-y, fft_y), x = fft_x - x;
    COMPLEX value = grid[(long long)y * columns + x];
    if (mirror) value.y = -value.y;
    return value;
}

struct Work {
    const double2* position;
    const int* cell_w;
    const REAL* z_w;
    const COMPLEX* vis;
    const REAL* weight;
    const REAL* coefficients;
    const int* items;
    const int* item_tile;
    const long long* item_first;
    const int* item_count;
    const int* planes;
    const int* square_of;
    int layers, layer, room;  // of the items
    int side, tile, tiles_x, tiles_y, fft_x, fft_y;
    int w_plane;  // -1 without w
};

// First cell that the kernel reaches, and where its polynomials are evaluated.
__device__ __forceinline__ int first_cell(double position, REAL& z) {
    const double first = ceil(position - 0.5 * SUPPORT);
    z = (REAL)(2.0 * (first + 0.5 * SUPPORT - position) - 1.0);
    return (int)first;
}

// GRID: add the samples to `buffer`. DEGRID: add the model's visibilities to `predicted`. Both: grid vis - model.
// UNIT: all visibilities are 1, for the PSF.
template <bool GRID, bool DEGRID, bool UNIT>
__device__ __forceinline__ void work_on_item(const Work& a, const COMPLEX* __restrict__ spectrum, COMPLEX* __restrict__ predicted,
                                             COMPLEX* __restrict__ buffer) {
    SHARED_DYN(COMPLEX, shared);
    const int cells = a.side * a.side, t = threadIdx.x, row = t / LANES, lane = t % LANES;
    COMPLEX* sum = shared;
    COMPLEX* model = shared + (GRID ? cells : 0);
    COMPLEX* value = model + (DEGRID ? cells : 0);
    COMPLEX* z = value + BATCH;
    int2* corner = reinterpret_cast<int2*>(z + BATCH);
    REAL* factor = reinterpret_cast<REAL*>(corner + BATCH);
    REAL* tap_x = factor + BATCH;
    REAL* tap_y = tap_x + BATCH * SUPPORT;
    REAL* coefficient = tap_y + BATCH * SUPPORT;

    const int plane = blockIdx.y;
    if ((int)blockIdx.x >= a.items[plane * a.layers + a.layer]) return;
    const long long item = ((long long)a.planes[plane] * a.layers + a.layer) * a.room + blockIdx.x, first = a.item_first[item];
    const int where = a.item_tile[item], origin_x = where % a.tiles_x * a.tile, origin_y = where / a.tiles_x * a.tile;
    const int count = a.item_count[item], columns = a.w_plane < 0 ? a.fft_x / 2 + 1 : a.fft_x;
    const int shift_x = SUPPORT / 2 + (a.w_plane < 0 ? 0 : a.fft_x / 2) - origin_x, shift_y = SUPPORT / 2 + a.fft_y / 2 - origin_y;

    for (int i = t; i < (DEGREE + 1) * SUPPORT; i += THREADS) coefficient[i] = a.coefficients[i];
    for (int i = t; i < cells; i += THREADS) {
        if (GRID) sum[i].x = 0, sum[i].y = 0;
        if (DEGRID) {
            const int x = origin_x + i % a.side - SUPPORT / 2 - (a.w_plane < 0 ? 0 : a.fft_x / 2);
            const int y = origin_y + i / a.side - SUPPORT / 2 - a.fft_y / 2;
            model[i] = stored(spectrum + (long long)plane * a.fft_y * columns, y, x, a.fft_y, a.fft_x, columns);
        }
    }
    __syncthreads();
    for (int begin = 0; begin < count; begin += BATCH) {
        const int n = min(BATCH, count - begin);
#pragma unroll 1
        for (int i = t; i < n; i += THREADS) {
            const long long k = first + begin + i;
            const double2 position = a.position[k];
            const int x = first_cell(position.x * a.fft_x, z[i].x) + shift_x;
            const int y = first_cell(position.y * a.fft_y, z[i].y) + shift_y;
            // within the square by the rule of the tiles; the limits keep every write within it whatever the rounding
            corner[i] = make_int2(min(max(x, 0), a.side - SUPPORT), min(max(y, 0), a.side - SUPPORT));
            REAL scale = 1;
            if (a.w_plane >= 0) {
                const int j = a.w_plane - a.cell_w[k];
                scale = j >= 0 && j < SUPPORT ? tap(coefficient, j, a.z_w[k]) : (REAL)0;
            }
            factor[i] = scale;
            if (GRID && !DEGRID) {
                scale *= a.weight[k];
                value[i].x = UNIT ? scale : scale * a.vis[k].x;
                value[i].y = UNIT ? (REAL)0 : scale * a.vis[k].y;
            }
        }
        __syncthreads();
#pragma unroll 1
        for (int i = t; i < n * SUPPORT; i += THREADS) {
            tap_x[i] = tap(coefficient, i % SUPPORT, z[i / SUPPORT].x);
            tap_y[i] = tap(coefficient, i % SUPPORT, z[i / SUPPORT].y);
        }
        __syncthreads();
        if (DEGRID) {
            // LANES threads to a sample, a column each; every lane of a warp goes through the same rounds
            for (int i = row; i < BATCH; i += LANES) {
                COMPLEX v;
                v.x = 0, v.y = 0;
                if (i < n && lane < SUPPORT) {
                    const COMPLEX* from = model + corner[i].y * a.side + corner[i].x + lane;
#pragma unroll
                    for (int j = 0; j < SUPPORT; ++j) {
                        v.x += tap_y[i * SUPPORT + j] * from[j * a.side].x;
                        v.y += tap_y[i * SUPPORT + j] * from[j * a.side].y;
                    }
                    v.x *= tap_x[i * SUPPORT + lane], v.y *= tap_x[i * SUPPORT + lane];
                }
                for (int d = LANES / 2; d > 0; d >>= 1) {
                    v.x += __shfl_xor_sync(ALL_LANES, v.x, d);
                    v.y += __shfl_xor_sync(ALL_LANES, v.y, d);
                }
                if (i < n && lane == 0) {
                    const long long k = first + begin + i;
                    if (GRID) {
                        value[i].x = a.weight[k] * (a.vis[k].x - v.x);
                        value[i].y = a.weight[k] * (a.vis[k].y - v.y);
                    } else {
                        predicted[k].x += factor[i] * v.x;
                        predicted[k].y += factor[i] * v.y;
                    }
                }
            }
            __syncthreads();
        }
        if (GRID) {
            for (int i = 0; i < n; ++i) {
                const int2 at = corner[i];
                const int j = (lane - at.x) & (LANES - 1), l = (row - at.y) & (LANES - 1);
                if (j < SUPPORT && l < SUPPORT) {
                    const REAL scale = tap_x[i * SUPPORT + j] * tap_y[i * SUPPORT + l];
                    COMPLEX* to = sum + (at.y + l) * a.side + at.x + j;
                    to->x += scale * value[i].x;
                    to->y += scale * value[i].y;
                }
            }
        }
        __syncthreads();
    }
    if (GRID)
        for (int i = t; i < cells; i += THREADS)
            buffer[((long long)a.square_of[plane] + blockIdx.x) * cells + i] = sum[i];
}

#define SAMPLES                                                                                                         \
    const double2 *__restrict__ position, const int *__restrict__ cell_w, const REAL *__restrict__ z_w,                 \
        const COMPLEX *__restrict__ vis, const REAL *__restrict__ weight, const REAL *__restrict__ coefficients,        \
        const int *__restrict__ items, const int *__restrict__ item_tile, const long long *__restrict__ item_first,     \
        const int *__restrict__ item_count, const int *__restrict__ planes, const int *__restrict__ square_of, int layers, \
        int layer, int room, int side, int tile, int tiles_x, int tiles_y, int fft_x, int fft_y, int w_plane
#define WORK                                                                                                          \
    Work {                                                                                                            \
        position, cell_w, z_w, vis, weight, coefficients, items, item_tile, item_first, item_count, planes, square_of, \
            layers, layer, room, side, tile, tiles_x, tiles_y, fft_x, fft_y, w_plane                                  \
    }

// buffer (item, side, side) = sum of weight * vis * taps.
extern "C" __global__ void __launch_bounds__(THREADS, 2) grid_samples(SAMPLES, COMPLEX* buffer) {
    work_on_item<true, false, false>(WORK, nullptr, nullptr, buffer);
}

// The same of visibilities that are all 1: the PSF.
extern "C" __global__ void __launch_bounds__(THREADS, 2) grid_ones(SAMPLES, COMPLEX* buffer) {
    work_on_item<true, false, true>(WORK, nullptr, nullptr, buffer);
}

// predicted (sample) += taps * spectrum of the model (plane, fft_y, columns).
extern "C" __global__ void __launch_bounds__(THREADS, 2) degrid_samples(SAMPLES, const COMPLEX* spectrum, COMPLEX* predicted) {
    work_on_item<false, true, false>(WORK, spectrum, predicted, nullptr);
}

// buffer = sum of weight * (vis - model) * taps in one pass, without w: a plane of w knows only a part of the model.
extern "C" __global__ void __launch_bounds__(THREADS, 768 / THREADS) grid_residual(SAMPLES, const COMPLEX* spectrum, COMPLEX* buffer) {
    work_on_item<true, true, false>(WORK, spectrum, nullptr, buffer);
}

// predicted = vis - predicted, sample by sample: between degridding and gridding with w.
extern "C" __global__ void subtract_model(const COMPLEX* __restrict__ vis, long long count, COMPLEX* __restrict__ predicted) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count) return;
    predicted[k].x = vis[k].x - predicted[k].x;
    predicted[k].y = vis[k].y - predicted[k].y;
}

// Sum of the squares that hold FFT cell (y, x) of a plane: tiles from the first that reaches it, items in their order.
__device__ __forceinline__ COMPLEX covered(const COMPLEX* __restrict__ squares, const int* __restrict__ first_item, int y, int x,
                                           int side, int tile, int tiles_x, int tiles_y, int fft_x, int fft_y, int from_x) {
    COMPLEX sum;
    sum.x = 0, sum.y = 0;
    const int end_x = tiles_x * tile + side - tile, end_y = tiles_y * tile + side - tile;
    for (int cy = wrapped(y + SUPPORT / 2 + fft_y / 2, fft_y); cy < end_y; cy += fft_y)
        for (int cx = wrapped(x + SUPPORT / 2 + from_x, fft_x); cx < end_x; cx += fft_x)
            for (int ty = max(0, (cy - side) / tile); ty <= min(cy / tile, tiles_y - 1); ++ty)
                for (int tx = max(0, (cx - side) / tile); tx <= min(cx / tile, tiles_x - 1); ++tx) {
                    const int iy = cy - ty * tile, ix = cx - tx * tile;
                    if (iy >= side || ix >= side) continue;
                    const int which = ty * tiles_x + tx;
#pragma unroll 1
                    for (int item = first_item[which]; item < first_item[which + 1]; ++item) {
                        const COMPLEX part = squares[((long long)item * side + iy) * side + ix];
                        sum.x += part.x;
                        sum.y += part.y;
                    }
                }
    return sum;
}

// The grid (plane, fft_y, columns): a thread owns one cell, blockIdx.z is the plane. Without w, columns = fft_x / 2 + 1
// and the grid is made Hermitian, (G(c) + conj G(-c)) / 2: its inverse real FFT is the real part of the image.
extern "C" __global__ void __launch_bounds__(256, 4) gather_tiles(
    const COMPLEX* __restrict__ squares, const int* __restrict__ first_item, const int* __restrict__ planes,
    const int* __restrict__ square_of, int layers, int layer, int stride, int side, int tile, int tiles_x, int tiles_y, int fft_x,
    int fft_y, int w_plane, COMPLEX* __restrict__ grid)
{
    const int columns = w_plane < 0 ? fft_x / 2 + 1 : fft_x, plane = blockIdx.z;
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= columns || y >= fft_y) return;
    const int* first = first_item + ((long long)planes[plane] * layers + layer) * stride;
    const COMPLEX* mine = squares + (long long)square_of[plane] * side * side;
    const int from_x = w_plane < 0 ? 0 : fft_x / 2;
    const REAL half = w_plane < 0 ? (REAL)0.5 : (REAL)1;
    COMPLEX sum;
    sum.x = 0, sum.y = 0;
#pragma unroll 1
    for (int sign = 1; sign >= (w_plane < 0 ? -1 : 1); sign -= 2) {
        const COMPLEX part =
            covered(mine, first, sign * y, sign * x, side, tile, tiles_x, tiles_y, fft_x, fft_y, from_x);
        sum.x += half * part.x;
        sum.y += half * sign * part.y;
    }
    grid[((long long)plane * fft_y + y) * columns + x] = sum;
}
