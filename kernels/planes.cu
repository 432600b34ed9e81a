// Copies of whole planes, and of what lies beside them: each one launch for any number of planes.
//
// Memory: stacks (slots, ny, nx), where slot[b] is the place of plane b of the batch. Cost: what is read and written, once.
//
// Launches:
//   cut_planes    grid (ceil(nx / 32), ceil(ny / 8), planes), block (32, 8)
//   copy_pairs    grid (any, planes), block 256
//   put_masks     grid (any, planes), block 256
//   order_rows    grid (any, sets of rows), block 256
//   sum_planes    grid (planes), block 1024

// out (planes, ny, nx) = the pixels of a stack from first[b] on, of rows that are pitch[b] pixels apart.
extern "C" __global__ void cut_planes(const float* __restrict__ stack, const long long* __restrict__ first,
                                      const int* __restrict__ pitch, int ny, int nx, float* __restrict__ out) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, b = blockIdx.z;
    if (x >= nx || y >= ny) return;
    out[((size_t)b * ny + y) * nx + x] = stack[first[b] + (long long)y * pitch[b] + x];
}

// Copy two images of each plane: models and residuals, to remember them or to go back to them.
extern "C" __global__ void __launch_bounds__(256) copy_pairs(
    const float* __restrict__ one, const float* __restrict__ other, const int* __restrict__ slot, int pixels,
    float* __restrict__ to_one, float* __restrict__ to_other)
{
    const size_t start = (size_t)slot[blockIdx.y] * pixels;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += gridDim.x * blockDim.x)
        to_one[start + i] = one[start + i], to_other[start + i] = other[start + i];
}

// Give each slot its mask: number which[b] of those given, none if that is negative. mask_of[slot] is the slot itself, or -1.
extern "C" __global__ void __launch_bounds__(256) put_masks(
    const unsigned char* __restrict__ given, const int* __restrict__ which, const int* __restrict__ slot, int pixels,
    unsigned char* __restrict__ masks, int* __restrict__ mask_of)
{
    const int b = blockIdx.y, from = which[b];
    if (blockIdx.x == 0 && threadIdx.x == 0) mask_of[slot[b]] = from < 0 ? -1 : slot[b];
    if (from < 0) return;
    const unsigned char* mask = given + (size_t)from * pixels;
    unsigned char* to = masks + (size_t)slot[b] * pixels;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += gridDim.x * blockDim.x) to[i] = mask[i];
}

// Rows in the order of their visibilities: row i of set s goes to place order[first_order[s] + i], or i if that is negative.
extern "C" __global__ void __launch_bounds__(256) order_rows(
    const double* __restrict__ uvw, const int* __restrict__ order, const long long* __restrict__ first_row,
    const long long* __restrict__ first_order, double* __restrict__ ordered)
{
    const int s = blockIdx.y;
    const long long begin = first_row[s], rows = first_row[s + 1] - begin;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < rows; i += (long long)gridDim.x * blockDim.x) {
        const long long to = begin + (first_order[s] < 0 ? i : order[first_order[s] + i]);
        for (int k = 0; k < 3; k++) ordered[3 * to + k] = uvw[3 * (begin + i) + k];
    }
}

// Sum of each plane, float64: thread t of 1024 adds pixels t, t + 1024, ..., and the threads' sums are added as a tree.
extern "C" __global__ void __launch_bounds__(1024, 1) sum_planes(
    const float* __restrict__ stack, const int* __restrict__ slot, int pixels, double* __restrict__ total)
{
    __shared__ double partial[1024];
    const int t = threadIdx.x;
    const float* plane = stack + (size_t)slot[blockIdx.x] * pixels;
    double mine = 0.0;
    for (int i = t; i < pixels; i += 1024) mine = __dadd_rn(mine, plane[i]);
    partial[t] = mine;
    for (int half = 512; half > 0; half /= 2) {
        __syncthreads();
        if (t < half) partial[t] = __dadd_rn(partial[t], partial[t + half]);
    }
    if (t == 0) total[blockIdx.x] = partial[0];
}
