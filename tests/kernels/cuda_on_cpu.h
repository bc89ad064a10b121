// Just enough of CUDA C++ for g++ to compile the CuPy backend's kernels: a thread after the other, in the order of their numbers.
#pragma once
#include <immintrin.h>
#include <cmath>
#include <cstring>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline

struct Index { unsigned x; };
static thread_local Index blockIdx, threadIdx, blockDim;
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(4) char4 { signed char x, y, z, w; };

static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }
static inline int __float_as_int(float x) { int bits; std::memcpy(&bits, &x, 4); return bits; }
static inline float __int_as_float(int bits) { float x; std::memcpy(&x, &bits, 4); return x; }
static inline void atomicAdd(unsigned long long* to, unsigned long long value) { *to += value; }

// A letter per parameter, and a launch through addresses of arguments, as the driver's cuLaunchKernel takes them.
template <class T> constexpr char letter() {
    if (std::is_pointer_v<T>) return 'p';
    if (std::is_same_v<T, long long>) return 'q';
    if (std::is_same_v<T, int>) return 'i';
    if (std::is_same_v<T, unsigned>) return 'I';
    if (std::is_same_v<T, double>) return 'd';
    return '?';
}
template <class... A> void describe(void (*)(A...), char* out) {
    const char letters[] = {letter<A>()..., 0};
    std::memcpy(out, letters, sizeof letters);
}
template <class... A, std::size_t... I>
void call(void (*kernel)(A...), void** args, std::index_sequence<I...>) { kernel(*static_cast<A*>(args[I])...); }
template <class... A> void launch(void (*kernel)(A...), unsigned grid, unsigned block, void** args) {
    blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x) call(kernel, args, std::index_sequence_for<A...>{});
}
#define LAUNCHER(name)                                                                                            \
    extern "C" void launch_##name(unsigned grid, unsigned block, void** args) { launch(name, grid, block, args); } \
    extern "C" void describe_##name(char* out) { describe(name, out); }

// Whether subnormal numbers count as zero, as CuPy's -ftz=true has it for float32.
extern "C" void flush_subnormals(int on) { _mm_setcsr(on ? _mm_getcsr() | 0x8040 : _mm_getcsr() & ~0x8040); }
