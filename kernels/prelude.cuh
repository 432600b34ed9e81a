// What the kernels share: precision, complex numbers, dynamic shared memory, and small things about floats, warps and blocks.
//
// Kernels include nothing. gpucube.devices.cuda.kernel_sources puts this file in front of each.
//
// -DREAL=double for double precision, -DSUPPORT=n for the gridding kernel's support in cells (3 to 16).

#ifndef SHARED_DYN  // the tests' host build has its own
#define SHARED_DYN(T, name)                                     \
    extern __shared__ __align__(16) unsigned char name##_raw[]; \
    T* name = reinterpret_cast<T*>(name##_raw)
#endif
#ifndef REAL
#define REAL float
#endif
#ifndef SUPPORT
#define SUPPORT 6
#endif

template <typename T> struct Pair;
template <> struct Pair<float> { typedef float2 type; };
template <> struct Pair<double> { typedef double2 type; };
typedef Pair<REAL>::type COMPLEX;

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int AHEAD = 8;  // loads in flight per thread, to cover the latency of memory

// Bits of |value|: magnitudes compare as integers in the order of floats of one sign, with NaN above all else.
__device__ __forceinline__ unsigned magnitude(float value) { return __float_as_uint(value) & 0x7fffffffu; }

// How many lanes below this one have voted: where each puts its element when a warp packs them in order.
__device__ __forceinline__ int votes_below(unsigned votes, int lane) { return __popc(votes & ((1u << lane) - 1)); }

// Replaces values[t] by the sum of values[0] to values[t] (Hillis & Steele 1986). All COUNT threads of a block call it. A thread
// may read the value of another only after a barrier.
template <int COUNT, typename T> __device__ __forceinline__ void inclusive_scan(T* values, int t) {
    for (int d = 1; d < COUNT; d *= 2) {
        __syncthreads();
        const T left = t >= d ? values[t - d] : T(0);
        __syncthreads();
        values[t] += left;
    }
}
