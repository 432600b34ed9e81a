// Run CUDA kernels on the host: what nvcc and NVRTC build into the language, written for g++.
//
// In: a .cu source, compiled as C++ with this header in front (see __init__.py). Out: the same kernels as functions of the
// CPU. Every CUDA thread of a block is a fiber on one OS thread; a fiber runs until it meets a barrier, a shuffle or a
// vote, so between two of those a thread is never interrupted. Which thread goes first is chosen by `order`: a kernel
// that lacks a barrier gives other results in another order. Blocks run one after another. Shared memory is filled with
// NaN before every block.
//
// Not seen here: races between blocks or within one statement, memory order, speed, a GPU's own rounding of exp, sin ...
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>
#include <sys/mman.h>
#include <ucontext.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// ---- the language ------------------------------------------------------------------------------------------------
#define __CUDAHOST__ 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define SHARED_DYN(T, name) T* name = reinterpret_cast<T*>(cudahost::machine.dynamic_shared)

#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static  // an ordinary global: AddressSanitizer then watches its ends
#else
#define __shared__ __attribute__((section("cudahost_shared"))) static  // all in one place, to be filled with NaN
extern "C" char __start_cudahost_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_cudahost_shared[] __attribute__((weak, visibility("hidden")));
#endif

struct alignas(8) float2 { float x, y; };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(8) int2 { int x, y; };
struct int3 { int x, y, z; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

// ---- fibers and their scheduler ------------------------------------------------------------------------------------
namespace cudahost {

enum class State : uint8_t { unstarted, ready, at_barrier, in_warp, done };
enum class WarpOperation : uint8_t { shuffle, synchronise, vote, maximum, sum };

struct Fiber {
    ucontext_t context;
    void* stack_pointer = nullptr;
    char* stack = nullptr;
    void* fake_stack = nullptr;  // AddressSanitizer's
};

struct Thread {
    State state;
    Fiber* fiber;
    uint3 index;
    unsigned lane, warp;
    const char* where;        // the barrier or warp operation it waits in
    unsigned mask;            // of the warp operation, with its operands and result:
    WarpOperation operation;
    uint64_t given, result;
    unsigned source, ballot;
};

struct Machine {
    std::vector<Thread> threads;
    std::vector<unsigned> sequence;  // in which threads are started and resumed
    std::vector<Fiber*> idle;
    Fiber main;
    unsigned current = 0, count = 0, next = 0, finished = 0;
    uint64_t random = 0;
    void (*call)(void*) = nullptr;
    void* arguments = nullptr;
    unsigned char* dynamic_shared = nullptr;
    std::string error;
    const void* main_stack = nullptr;
    size_t main_stack_size = 0;
};
inline Machine machine;
inline constexpr size_t stack_size = 256 << 10, guard_size = 4096;

#if defined(__x86_64__)
// Saves what the calling convention lets a function count on, and no more: ten times as fast as swapcontext.
extern "C" void cudahost_switch(void** save, void* to);
asm(R"(.text
.weak cudahost_switch
.type cudahost_switch,@function
cudahost_switch:
 pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
 movq %rsp,(%rdi); movq %rsi,%rsp
 popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
 ret
.size cudahost_switch,.-cudahost_switch
)");
#endif

void fiber_main();

inline void arrived(Fiber* at) {  // tell AddressSanitizer which stack is in use now
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(at ? at->fake_stack : nullptr, &bottom, &size);
    if (at != &machine.main && !machine.main_stack) machine.main_stack = bottom, machine.main_stack_size = size;
#else
    (void)at;
#endif
}

inline void switch_fiber(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
    const bool home = &to == &machine.main;
    __sanitizer_start_switch_fiber(&from.fake_stack, home ? machine.main_stack : to.stack,
                                   home ? machine.main_stack_size : stack_size);
#endif
#if defined(__x86_64__)
    cudahost_switch(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
    arrived(&from);
}

inline Fiber* new_fiber() {
    auto* fiber = new Fiber;
    char* memory = (char*)mmap(nullptr, stack_size + guard_size, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == (char*)MAP_FAILED) std::perror("mmap"), std::abort();
    mprotect(memory, guard_size, PROT_NONE);
    fiber->stack = memory + guard_size;
#if defined(__x86_64__)
    void** top = (void**)(fiber->stack + stack_size);
    *(top -= 2) = (void*)&fiber_main;  // rsp is 8 modulo 16 at the entry of a function
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fiber->stack_pointer = top;
#else
    getcontext(&fiber->context);
    fiber->context.uc_stack = {fiber->stack, 0, stack_size};
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, fiber_main, 0);
#endif
    return fiber;
}

inline Thread& me() { return machine.threads[machine.current]; }
inline void enter(unsigned k) { machine.current = k, threadIdx = machine.threads[k].index; }
inline void leave() { Fiber* fiber = me().fiber; switch_fiber(*fiber, machine.main); }

inline std::string name(const Thread& t) {
    auto triple = [](uint3 i) { return "(" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")"; };
    return "block " + triple(blockIdx) + " thread " + triple(t.index);
}
inline bool fail(const std::string& what) {
    if (machine.error.empty()) machine.error = what;
    return false;
}

__attribute__((noinline)) inline void fiber_main() {
    arrived(nullptr);
    for (;;) {
        machine.call(machine.arguments);
        Thread& t = me();
        Fiber* fiber = t.fiber;
        t.state = State::done, t.fiber = nullptr, machine.finished++;
        if (machine.next < machine.count && machine.error.empty()) {  // start the next thread here, without a switch
            const unsigned k = machine.sequence[machine.next++];
            machine.threads[k].fiber = fiber, machine.threads[k].state = State::ready;
            enter(k);
            continue;
        }
        machine.idle.push_back(fiber);
        switch_fiber(*fiber, machine.main);
    }
}

inline void wait(State state, const char* where) {
    Thread& t = me();
    const unsigned k = machine.current;
    t.state = state, t.where = where;
    leave();
    enter(k);
}

// One warp operation of the lanes in `mask`: complete it if all of them have come.
inline bool complete_warp(unsigned low, unsigned high, Thread& t, bool& any) {
    auto& threads = machine.threads;
    const unsigned existing = high - low == 32 ? ~0u : (1u << (high - low)) - 1, mask = t.mask;
    if (mask & ~existing) return fail(std::string(t.where) + ": the mask names lanes beyond the block, " + name(t));
    unsigned come = 0, ballot = 0;
    uint64_t maximum = 0, sum = 0;
    for (unsigned j = low; j < high; j++) {
        Thread& u = threads[j];
        if (!(mask >> u.lane & 1)) continue;
        if (u.state == State::done) return fail(std::string(t.where) + ": the mask names a lane that has returned, " + name(u));
        if (u.state != State::in_warp) continue;
        if (u.mask != mask || u.operation != t.operation)
            return fail(std::string(t.where) + " and " + u.where + ": lanes of a warp disagree, " + name(t) + " and " + name(u));
        come |= 1u << u.lane;
        if (u.given) ballot |= 1u << u.lane;
        maximum = std::max(maximum, u.given), sum += u.given;
    }
    if (come != mask) return true;
    for (unsigned j = low; j < high; j++) {
        Thread& u = threads[j];
        if (!(mask >> u.lane & 1)) continue;
        if (t.operation == WarpOperation::shuffle && !(mask >> u.source & 1))
            return fail("a shuffle reads a lane outside its mask, " + name(u));
        u.ballot = ballot;
        u.result = t.operation == WarpOperation::maximum ? maximum : t.operation == WarpOperation::sum ? sum : threads[low + u.source].given;
    }
    for (unsigned j = low; j < high; j++)
        if (mask >> threads[j].lane & 1) threads[j].state = State::ready;
    return any = true;
}

// Let go whoever may go on; false if nobody can.
inline bool release() {
    auto& threads = machine.threads;
    unsigned waiting = 0;
    for (auto& t : threads) waiting += t.state == State::at_barrier;
    if (waiting && waiting + machine.finished == machine.count) {
        for (auto& t : threads)
            if (t.state == State::at_barrier) t.state = State::ready;
        return true;
    }
    bool any = false;
    for (unsigned low = 0; low < machine.count; low += 32) {
        const unsigned high = std::min(machine.count, low + 32);
        for (unsigned i = low; i < high; i++)
            if (threads[i].state == State::in_warp && !complete_warp(low, high, threads[i], any)) return false;
    }
    return any;
}

inline void run_block() {
    auto& m = machine;
    m.next = m.finished = 0;
    for (auto& t : m.threads) t.state = State::unstarted, t.fiber = nullptr;
    while (m.finished < m.count && m.error.empty()) {
        bool ran = false;
        while (m.next < m.count && m.error.empty()) {
            const unsigned k = m.sequence[m.next++];
            if (m.idle.empty()) m.idle.push_back(new_fiber());
            Fiber* fiber = m.idle.back();
            m.idle.pop_back();
            m.threads[k].fiber = fiber, m.threads[k].state = State::ready;
            enter(k), switch_fiber(m.main, *fiber), ran = true;
        }
        for (unsigned i = 0; i < m.count && m.error.empty(); i++) {
            const unsigned k = m.sequence[i];
            if (m.threads[k].state == State::ready) enter(k), switch_fiber(m.main, *m.threads[k].fiber), ran = true;
        }
        if (m.finished == m.count || release() || ran) continue;
        std::string stuck = "threads wait for each other (divergent barrier):";
        unsigned named = 0;
        for (auto& t : m.threads)
            if ((t.state == State::at_barrier || t.state == State::in_warp) && named++ < 4) stuck += " " + name(t) + " in " + t.where + ";";
        fail(stuck);
    }
}

inline unsigned pick(unsigned below) {  // xorshift64
    machine.random ^= machine.random << 13, machine.random ^= machine.random >> 7, machine.random ^= machine.random << 17;
    return machine.random % below;
}

// order: 0 threads and blocks upwards, 1 both downwards, larger a seed that shuffles both.
inline const char* run(dim3 grid, dim3 block, size_t shared, unsigned order, void (*call)(void*), void* arguments) {
    auto& m = machine;
    m.error.clear();
    m.count = block.x * block.y * block.z;
    const size_t blocks = (size_t)grid.x * grid.y * grid.z;
    if (m.count == 0 || m.count > 1024 || block.z > 64) fail("a block must have 1 to 1024 threads, at most 64 in z");
    if (blocks == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) fail("a grid must have 1 to 2^31-1 x 65535 x 65535 blocks");
    if (shared > 227 * 1024) fail("a block may have 227 KiB of shared memory");
    if (!m.error.empty()) return m.error.c_str();
    m.threads.resize(m.count), m.sequence.resize(m.count);
    m.call = call, m.arguments = arguments, m.random = 88172645463325252ull * (order | 1);
    blockDim = block, gridDim = grid;
    for (unsigned i = 0; i < m.count; i++) {
        Thread& t = m.threads[i];
        t.index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)}, t.lane = i & 31, t.warp = i >> 5;
        m.sequence[i] = order == 1 ? m.count - 1 - i : i;
    }
    std::vector<unsigned> block_sequence(blocks);
    for (size_t b = 0; b < blocks; b++) block_sequence[b] = order == 1 ? blocks - 1 - b : b;
    if (order > 1) for (size_t b = blocks; b > 1; b--) std::swap(block_sequence[b - 1], block_sequence[pick(b)]);
    for (unsigned b : block_sequence) {
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
        if (order > 1) for (unsigned i = m.count; i > 1; i--) std::swap(m.sequence[i - 1], m.sequence[pick(i)]);
        m.dynamic_shared = nullptr;
        if (shared) {  // of the exact size, so that AddressSanitizer sees its end
            m.dynamic_shared = (unsigned char*)std::malloc(shared);
            std::memset(m.dynamic_shared, 0xff, shared);
        }
#if !defined(__SANITIZE_ADDRESS__)
        if (__start_cudahost_shared) std::memset(__start_cudahost_shared, 0xff, __stop_cudahost_shared - __start_cudahost_shared);
#endif
        run_block();
        std::free(m.dynamic_shared);
        if (m.error.empty()) continue;
        m.idle.clear();  // fibers in flight are abandoned
        return m.error.c_str();
    }
    return nullptr;
}

template <class... A, size_t... I>
const char* launch(void (*kernel)(A...), const unsigned* d, size_t shared, unsigned order, void** p, std::index_sequence<I...>) {
    struct Call { void (*kernel)(A...); std::tuple<A...> arguments; };
    Call call{kernel, std::tuple<A...>(*reinterpret_cast<A*>(p[I])...)};
    return run({d[0], d[1], d[2]}, {d[3], d[4], d[5]}, shared, order,
               [](void* v) { auto* c = (Call*)v; std::apply(c->kernel, c->arguments); }, &call);
}
template <class... A>
const char* launch(void (*kernel)(A...), const unsigned* dimensions, size_t shared, unsigned order, void** p) {
    return launch(kernel, dimensions, shared, order, p, std::index_sequence_for<A...>{});
}

// The parameters of a kernel as text, numpy's kind and size of each, pointers with a star: "*f4 i4".
template <class T> std::string describe() {
    using U = std::remove_cv_t<T>;
    if constexpr (std::is_pointer_v<U>) return "*" + describe<std::remove_pointer_t<U>>();
    const char* kind = std::is_same_v<U, bool> ? "b" : std::is_floating_point_v<U> ? "f" : std::is_integral_v<U> ? (std::is_signed_v<U> ? "i" : "u")
                     : std::is_same_v<U, float2> || std::is_same_v<U, double2> ? "c" : "V";
    return kind + std::to_string(sizeof(U));
}
template <class... A> const char* signature(void (*)(A...)) {
    static const std::string text = ((describe<A>() + " ") + ... + "");
    return text.c_str();
}

template <class T> uint64_t pack(T v) { static_assert(sizeof(T) <= 8); uint64_t u = 0; std::memcpy(&u, &v, sizeof v); return u; }
template <class T> T unpack(uint64_t u) { T v; std::memcpy(&v, &u, sizeof v); return v; }

inline void warp_operation(unsigned mask, WarpOperation operation, uint64_t given, unsigned source, const char* where) {
    Thread& t = me();
    if (!(mask >> t.lane & 1)) fail(std::string(where) + ": the calling lane is not in the mask, " + name(t)), leave();
    t.mask = mask, t.operation = operation, t.given = given, t.source = source;
    wait(State::in_warp, where);
}
template <class T> T shuffle(unsigned mask, T v, int source, int width, const char* where) {
    const int lane = me().lane, base = lane & ~(width - 1);
    if (source < base || source >= base + width || source >= (int)(machine.count - me().warp * 32)) source = lane;
    warp_operation(mask, WarpOperation::shuffle, pack(v), source, where);
    return unpack<T>(me().result);
}
inline int lane() { return (int)me().lane; }

// What CUDA's own overloads of atomic functions accept.
template <class T, class... Allowed> using one_of = std::enable_if_t<(std::is_same_v<T, Allowed> || ...), T>;
template <class T> using plain = std::common_type_t<T>;
template <class T, class F> T replace(T* p, F f) { const T old = *p; *p = f(old); return old; }
}  // namespace cudahost

// ---- the built-in functions ------------------------------------------------------------------------------------
inline void __syncthreads() { cudahost::wait(cudahost::State::at_barrier, "__syncthreads"); }
inline void __syncwarp(unsigned m = ~0u) { cudahost::warp_operation(m, cudahost::WarpOperation::synchronise, 0, 0, "__syncwarp"); }
template <class T> T __shfl_sync(unsigned m, T v, int l, int w = 32) { return cudahost::shuffle(m, v, (cudahost::lane() & ~(w - 1)) + (l & (w - 1)), w, "__shfl_sync"); }
template <class T> T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32) { return cudahost::shuffle(m, v, cudahost::lane() + (int)d, w, "__shfl_down_sync"); }
template <class T> T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32) { return cudahost::shuffle(m, v, cudahost::lane() - (int)d, w, "__shfl_up_sync"); }
template <class T> T __shfl_xor_sync(unsigned m, T v, int x, int w = 32) { return cudahost::shuffle(m, v, cudahost::lane() ^ x, w, "__shfl_xor_sync"); }
inline unsigned __ballot_sync(unsigned m, int p) { cudahost::warp_operation(m, cudahost::WarpOperation::vote, p != 0, 0, "__ballot_sync"); return cudahost::me().ballot; }
inline int __any_sync(unsigned m, int p) { return __ballot_sync(m, p) != 0; }
inline int __all_sync(unsigned m, int p) { return __ballot_sync(m, p) == m; }
inline unsigned __reduce_max_sync(unsigned m, unsigned v) { cudahost::warp_operation(m, cudahost::WarpOperation::maximum, v, 0, "__reduce_max_sync"); return (unsigned)cudahost::me().result; }
inline unsigned __reduce_add_sync(unsigned m, unsigned v) { cudahost::warp_operation(m, cudahost::WarpOperation::sum, v, 0, "__reduce_add_sync"); return (unsigned)cudahost::me().result; }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T> cudahost::one_of<T, int, unsigned, unsigned long long, float, double> atomicAdd(T* p, cudahost::plain<T> v) { return cudahost::replace(p, [&](T o) { return T(o + v); }); }
template <class T> cudahost::one_of<T, int, unsigned> atomicSub(T* p, cudahost::plain<T> v) { return cudahost::replace(p, [&](T o) { return T(o - v); }); }
template <class T> cudahost::one_of<T, int, unsigned, long long, unsigned long long> atomicMax(T* p, cudahost::plain<T> v) { return cudahost::replace(p, [&](T o) { return o < v ? v : o; }); }
template <class T> cudahost::one_of<T, int, unsigned, long long, unsigned long long> atomicMin(T* p, cudahost::plain<T> v) { return cudahost::replace(p, [&](T o) { return v < o ? v : o; }); }
template <class T> cudahost::one_of<T, int, unsigned, unsigned long long> atomicOr(T* p, cudahost::plain<T> v) { return cudahost::replace(p, [&](T o) { return T(o | v); }); }
template <class T> cudahost::one_of<T, int, unsigned, unsigned long long, float> atomicExch(T* p, cudahost::plain<T> v) { return cudahost::replace(p, [&](T) { return v; }); }
template <class T> cudahost::one_of<T, int, unsigned, unsigned long long> atomicCAS(T* p, cudahost::plain<T> c, cudahost::plain<T> v) { return cudahost::replace(p, [&](T o) { return o == c ? v : o; }); }

using std::max;
using std::min;
template <class T> T __ldg(const T* p) { return *p; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float __double2float_rn(double x) { return (float)x; }
inline int __float2int_rn(float x) { return (int)nearbyintf(x); }
inline int __float2int_rd(float x) { return (int)floorf(x); }
inline int __double2int_rn(double x) { return (int)nearbyint(x); }
inline int __double2int_rd(double x) { return (int)floor(x); }
inline long long __double2ll_rn(double x) { return (long long)nearbyint(x); }
inline double __ll2double_rn(long long x) { return (double)x; }
inline unsigned __float_as_uint(float f) { return cudahost::unpack<unsigned>(cudahost::pack(f)); }
inline float __uint_as_float(unsigned u) { return cudahost::unpack<float>(u); }
inline long long __double_as_longlong(double x) { long long bits; std::memcpy(&bits, &x, 8); return bits; }
inline int __float_as_int(float f) { return (int)__float_as_uint(f); }
inline float __int_as_float(int i) { return __uint_as_float((unsigned)i); }
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline void sincospi(double x, double* s, double* c) { const double r = std::remainder(x, 2.0); *s = sin(M_PI * r), *c = cos(M_PI * r); }
inline void sincospif(float x, float* s, float* c) { double a, b; sincospi(x, &a, &b), *s = (float)a, *c = (float)b; }
