// The passes around batched FFTs: between images and padded images, and the convolution with the PSF.
//
// In and out: stacks of planes. Images are float32 (slot, ny, nx) with the phase centre at (ny / 2, nx / 2); slot[plane] is
// where a plane of the batch lies. Padded images (plane, fft_y, fft_x) have the phase centre at (0, 0), with their negative
// side wrapped around. `taper_y` and `taper_x` hold, for every row and column, the factor that undoes the gridding kernel's
// taper. Inverse FFTs are not normalised. A thread owns the one value that it writes; blockIdx.z is the plane.
//
// Convolution (major cycle in the image): images are padded to twice their size from their first pixel on, transformed,
// multiplied by a real spectrum (2 ny, nx + 1) that includes the normalisation, and cropped; as `convolve` of the CPU device.
// REAL is the precision of the gridding passes; the convolution is in single precision.

#define COLUMN (int)(blockIdx.x * blockDim.x + threadIdx.x)
#define ROW (int)(blockIdx.y * blockDim.y + threadIdx.y)

__device__ __forceinline__ long long at(int plane, int y, int x, int ny, int nx) {
    return ((long long)plane * ny + y) * nx + x;
}

// Offset from the phase centre to the place in a padded axis, and back; `pixels` itself for places that hold no pixel.
__device__ __forceinline__ int place_of(int pixel, int pixels, int padded) {
    const int offset = pixel - pixels / 2;
    return offset < 0 ? offset + padded : offset;
}
__device__ __forceinline__ int pixel_at(int place, int pixels, int padded) {
    const int pixel = (place < padded / 2 ? place : place - padded) + pixels / 2;
    return pixel < 0 || pixel > pixels ? pixels : pixel;
}

// image = padded * taper * scale, after an inverse real FFT; with a second copy of it if `copies` is 1 (in `copy`, in the same
// slots; `cleared` is set to 0 there) or 2 (in `copy`, one plane after another).
extern "C" __global__ void crop_image(const REAL* __restrict__ padded, const REAL* __restrict__ taper_y,
                                      const REAL* __restrict__ taper_x, const double* __restrict__ scale,
                                      const int* __restrict__ slot, int ny, int nx, int fft_y, int fft_x,
                                      float* __restrict__ image, int copies, float* __restrict__ copy,
                                      float* __restrict__ cleared) {
    const int x = COLUMN, y = ROW, plane = blockIdx.z;
    if (x >= nx || y >= ny) return;
    const REAL factor = padded[at(plane, place_of(y, ny, fft_y), place_of(x, nx, fft_x), fft_y, fft_x)];
    const float value = (float)(factor * taper_y[y] * taper_x[x] * (REAL)scale[plane]);
    image[at(slot[plane], y, x, ny, nx)] = value;
    if (copies) copy[at(copies == 1 ? slot[plane] : plane, y, x, ny, nx)] = value;
    if (copies == 1) cleared[at(slot[plane], y, x, ny, nx)] = 0;
}

// padded = image * taper, zero elsewhere, before a real FFT.
extern "C" __global__ void pad_image(const float* __restrict__ image, const REAL* __restrict__ taper_y,
                                     const REAL* __restrict__ taper_x, const int* __restrict__ slot, int ny, int nx,
                                     int fft_y, int fft_x, REAL* __restrict__ padded) {
    const int place_x = COLUMN, place_y = ROW, plane = blockIdx.z;
    if (place_x >= fft_x || place_y >= fft_y) return;
    const int x = pixel_at(place_x, nx, fft_x), y = pixel_at(place_y, ny, fft_y);
    REAL value = 0;
    if (x < nx && y < ny) value = image[at(slot[plane], y, x, ny, nx)] * taper_y[y] * taper_x[x];
    padded[at(plane, place_y, place_x, fft_y, fft_x)] = value;
}

// sum += (or =, if `fresh`) Re(padded * exp(-2 pi i w (n - 1 - centre))), after an inverse FFT of one plane of w.
extern "C" __global__ void add_w_plane(const COMPLEX* __restrict__ padded, const double* __restrict__ height, double w, int ny,
                                       int nx, int fft_y, int fft_x, int fresh, REAL* __restrict__ sum) {
    const int x = COLUMN, y = ROW, plane = blockIdx.z;
    if (x >= nx || y >= ny) return;
    const COMPLEX value = padded[at(plane, place_of(y, ny, fft_y), place_of(x, nx, fft_x), fft_y, fft_x)];
    double sine, cosine;
    sincospi(-2.0 * w * height[(long long)y * nx + x], &sine, &cosine);
    const REAL mine = value.x * (REAL)cosine - value.y * (REAL)sine;
    sum[at(plane, y, x, ny, nx)] = (fresh ? (REAL)0 : sum[at(plane, y, x, ny, nx)]) + mine;
}

// image = sum over planes of w * taper * taper of w * scale.
extern "C" __global__ void finish_w_planes(const REAL* __restrict__ sum, const REAL* __restrict__ taper_y,
                                           const REAL* __restrict__ taper_x, const REAL* __restrict__ taper_w,
                                           const double* __restrict__ scale, const int* __restrict__ slot, int ny, int nx,
                                           float* __restrict__ image, int copies, float* __restrict__ copy,
                                      float* __restrict__ cleared) {
    const int x = COLUMN, y = ROW, plane = blockIdx.z;
    if (x >= nx || y >= ny) return;
    const REAL taper = taper_y[y] * taper_x[x] * taper_w[(long long)y * nx + x];
    const float value = (float)(sum[at(plane, y, x, ny, nx)] * taper * (REAL)scale[plane]);
    image[at(slot[plane], y, x, ny, nx)] = value;
    if (copies) copy[at(copies == 1 ? slot[plane] : plane, y, x, ny, nx)] = value;
    if (copies == 1) cleared[at(slot[plane], y, x, ny, nx)] = 0;
}

// padded = image * taper * taper of w * exp(+2 pi i w (n - 1 - centre)), before an FFT of one plane of w.
extern "C" __global__ void pad_w_plane(const float* __restrict__ image, const REAL* __restrict__ taper_y,
                                       const REAL* __restrict__ taper_x, const REAL* __restrict__ taper_w,
                                       const double* __restrict__ height, double w, const int* __restrict__ slot, int ny,
                                       int nx, int fft_y, int fft_x, COMPLEX* __restrict__ padded) {
    const int place_x = COLUMN, place_y = ROW, plane = blockIdx.z;
    if (place_x >= fft_x || place_y >= fft_y) return;
    const int x = pixel_at(place_x, nx, fft_x), y = pixel_at(place_y, ny, fft_y);
    COMPLEX value;
    value.x = 0, value.y = 0;
    if (x < nx && y < ny) {
        const long long pixel = (long long)y * nx + x;
        const REAL brightness = image[at(slot[plane], y, x, ny, nx)] * taper_y[y] * taper_x[x] * taper_w[pixel];
        double sine, cosine;
        sincospi(2.0 * w * height[pixel], &sine, &cosine);
        value.x = brightness * (REAL)cosine, value.y = brightness * (REAL)sine;
    }
    padded[at(plane, place_y, place_x, fft_y, fft_x)] = value;
}

// padded (plane, 2 ny, 2 nx) = image, zero elsewhere.
extern "C" __global__ void pad_twice(const float* __restrict__ image, const int* __restrict__ slot, int ny, int nx,
                                     float* __restrict__ padded) {
    const int x = COLUMN, y = ROW, plane = blockIdx.z;
    if (x >= 2 * nx || y >= 2 * ny) return;
    padded[at(plane, y, x, 2 * ny, 2 * nx)] = x < nx && y < ny ? image[at(slot[plane], y, x, ny, nx)] : 0.0f;
}

// spectrum (slot, ny, columns) = (-1)^(y + x) Re(transform) / size: of a PSF centred in its array of (ny, 2 (columns - 1)).
// A PSF is even, so its transform about its centre is real; the sign moves the centre to pixel (0, 0).
extern "C" __global__ void psf_spectrum(const float2* __restrict__ transform, const int* __restrict__ slot, int ny,
                                        int columns, float* __restrict__ spectrum) {
    const int x = COLUMN, y = ROW, plane = blockIdx.z;
    if (x >= columns || y >= ny) return;
    const float scale = (float)(1.0 / (2.0 * ny * (columns - 1)));
    const float value = transform[at(plane, y, x, ny, columns)].x * scale;
    spectrum[at(slot[plane], y, x, ny, columns)] = (x + y) % 2 == 0 ? value : -value;
}

// transform *= spectrum, in place.
extern "C" __global__ void multiply_spectrum(const float* __restrict__ spectrum, const int* __restrict__ slot, int ny,
                                             int columns, float2* __restrict__ transform) {
    const int x = COLUMN, y = ROW, plane = blockIdx.z;
    if (x >= columns || y >= ny) return;
    const long long i = at(plane, y, x, ny, columns);
    const float factor = spectrum[at(slot[plane], y, x, ny, columns)];
    transform[i].x *= factor;
    transform[i].y *= factor;
}
