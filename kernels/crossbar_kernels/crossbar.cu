// Kernels of the CuPy backend: one thread, one piece of work; no shared memory, no warp intrinsics, so that any C++ compiler can
// run them on a CPU. Compile without contraction (-fmad=false) and with IEEE roots and quotients: every bit is prescribed, and where operations are fused.
// PHILOX_*, LOG_*, SIN_*, COS_*, LN_2, ANGLE, UNIT stand in front of this text: cupy_device.constants.

typedef unsigned int u32;
typedef long long i64;

__device__ __forceinline__ i64 thread() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }

// -- random numbers: the operations of philox.py, one by one ---------------------------------------------------------------

__device__ __forceinline__ void philox4x32(u32 (&c)[4], u32 k0, u32 k1) {
#pragma unroll
    for (int round = 0; round < PHILOX_ROUNDS; ++round) {
        const u32 high0 = __umulhi(PHILOX_M0, c[0]), low0 = PHILOX_M0 * c[0];
        const u32 high1 = __umulhi(PHILOX_M1, c[2]), low1 = PHILOX_M1 * c[2];
        c[0] = high1 ^ c[1] ^ k0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1;
        c[3] = low0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
}

// ln x of a normal positive float (Cephes logf).
__device__ __forceinline__ float logarithm(float x) {
    const int bits = __float_as_int(x) - 0x3F3504F3;
    const int exponent = bits >> 23;
    const float z = __int_as_float((bits & 0x007FFFFF) + 0x3F3504F3) - 1.0f;
    float y = LOG_0;
    y = fmaf(y, z, LOG_1);
    y = fmaf(y, z, LOG_2);
    y = fmaf(y, z, LOG_3);
    y = fmaf(y, z, LOG_4);
    y = fmaf(y, z, LOG_5);
    y = fmaf(y, z, LOG_6);
    y = fmaf(y, z, LOG_7);
    y = fmaf(y, z, LOG_8);
    return fmaf((float)exponent, LN_2, fmaf(fmaf(y, z, -0.5f), z * z, z));
}

// Cosine and sine of 2 pi w / 2^32 (Cephes cosf, sinf).
__device__ __forceinline__ void cos_sin(u32 w, float& c, float& s) {
    const u32 quadrant = (w + 0x20000000u) >> 30;
    const int rest = (int)(w - (quadrant << 30));
    const float t = (float)rest * ANGLE;
    const float t2 = t * t;
    const float p = fmaf(fmaf(SIN_0, t2, SIN_1), t2, SIN_2), q = fmaf(fmaf(COS_0, t2, COS_1), t2, COS_2);
    const float sine = fmaf(t * t2, p, t), cosine = fmaf(fmaf(q, t2, -0.5f), t2, 1.0f);
    const bool swap = quadrant & 1u;
    c = swap ? sine : cosine;
    s = swap ? cosine : sine;
    c = ((quadrant + 1u) & 2u) ? -c : c;
    s = (quadrant & 2u) ? -s : s;
}

// Two normals from two words (Box and Muller 1958).
__device__ __forceinline__ void box_muller(u32 radius, u32 angle, float& z0, float& z1) {
    const float u = ((float)(radius >> 8) + 0.5f) * UNIT;
    const float r = sqrtf(-2.0f * logarithm(u));
    float c, s;
    cos_sin(angle, c, s);
    z0 = r * c;
    z1 = r * s;
}

// The four normals of counter (group, row, stream, event) under key (k0, k1).
__device__ __forceinline__ void four_normals(u32 group, u32 row, u32 stream, u32 event, u32 k0, u32 k1, float (&z)[4]) {
    u32 words[4] = {group, row, stream, event};
    philox4x32(words, k0, k1);
    box_muller(words[0], words[1], z[0], z[1]);
    box_muller(words[2], words[3], z[2], z[3]);
}

// z [batch, cols]: a thread fills four columns of a row.
extern "C" __global__ void fill_normals(
    float* z, const u32* rows, i64 batch, i64 cols, u32 stream, u32 event, u32 k0, u32 k1) {
    const i64 groups = (cols + 3) / 4, n = thread();
    if (n >= batch * groups) return;
    const i64 b = n / groups, first = 4 * (n % groups);
    float four[4];
    four_normals((u32)(n % groups), rows[b], stream, event, k0, k1, four);
    for (int i = 0; i < 4 && first + i < cols; ++i) z[b * cols + first + i] = four[i];
}

// -- codes -------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ int code_at(const void* codes, int wide, i64 n) {
    return wide ? (int)((const short*)codes)[n] : (int)((const signed char*)codes)[n];
}

__device__ __forceinline__ void put_code(void* codes, int wide, i64 n, int value) {
    if (wide) ((short*)codes)[n] = (short)value;
    else ((signed char*)codes)[n] = (signed char)value;
}

// A number of an array of doubles, or of floats where it is not `wide`.
__device__ __forceinline__ double number_at(const void* x, int wide, i64 n) {
    return wide ? ((const double*)x)[n] : (double)((const float*)x)[n];
}

__device__ __forceinline__ double clipped(double x, double lo, double hi) { return fmin(fmax(x, lo), hi); }

// codes [batch, width] of x [batch, n] (double if x_wide, else float), zeros after column n; K = largest.
extern "C" __global__ void encode(
    const void* x, int x_wide, const double* full_scale, void* codes, int wide, i64 batch, i64 n, i64 width, double largest,
    int with_sign) {
    const i64 at = thread();
    if (at >= batch * width) return;
    const i64 b = at / width, i = at % width;
    int code = 0;
    if (i < n) {
        const double share = number_at(x, x_wide, b * n + i) / full_scale[b];
        code = with_sign ? (int)(rint((clipped(share, -1.0, 1.0) + 1.0) * largest) - largest)
                         : (int)rint(clipped(share, 0.0, 1.0) * largest);
    }
    put_code(codes, wide, at, code);
}

// digits [count, size] of codes [size]: of the magnitude, with the code's sign, least significant first.
extern "C" __global__ void split_planes(
    const void* codes, int wide, void* digits, int digits_wide, i64 size, int bits, int count) {
    const i64 n = thread();
    if (n >= size) return;
    const int code = code_at(codes, wide, n), magnitude = code < 0 ? -code : code;
    for (int k = 0; k < count; ++k) {
        const int digit = (magnitude >> (bits * k)) & ((1 << bits) - 1);
        put_code(digits, digits_wide, k * size + n, code < 0 ? -digit : digit);
    }
}

// sums [width] += squares of codes [rows, width]; a thread adds `chunk` rows of a column. Integers: any order gives the same.
extern "C" __global__ void sum_squares(const void* codes, int wide, unsigned long long* sums, i64 rows, i64 width, i64 chunk) {
    const i64 n = thread(), first = n / width * chunk, column = n % width;
    if (first >= rows) return;
    const i64 end = first + chunk < rows ? first + chunk : rows;
    unsigned long long sum = 0;
    for (i64 row = first; row < end; ++row) {
        const int code = code_at(codes, wide, row * width + column);
        sum += (unsigned long long)(code * code);
    }
    atomicAdd(&sums[column], sum);
}

// y [batch, m] = sums ((full_scale unit) columns), sums [batch, width]; where `base` is given, another column is subtracted first.
// A factor is an array, or a number where there is none (fixed, column).
extern "C" __global__ void decode(
    const void* sums, int wide, const double* full_scale, double fixed, double unit, const double* columns, double column,
    const i64* base, void* y, int y_wide, i64 batch, i64 m, i64 width) {
    const i64 n = thread();
    if (n >= batch * m) return;
    const i64 b = n / m, j = n % m, row = b * width;
    double sum = number_at(sums, wide, row + j);
    if (base) sum -= number_at(sums, wide, row + m + base[j]);
    const double result = sum * (((full_scale ? full_scale[b] : fixed) * unit) * (columns ? columns[j] : column));
    if (y_wide) ((double*)y)[n] = result;
    else ((float*)y)[n] = (float)result;
}

// -- inputs as matrices of digits ----------------------------------------------------------------------------------------

// Where the numbers of [planes, batch, tiles, rows] stand in matrices [tiles, padded, deep], a row for every input (k, b) with b
// in [first, first + count), zeros beyond; a thread fills four neighbours.
struct Packing {
    i64 batch, first, count, planes, tiles, rows, padded, deep;

    __device__ bool source(i64 n, i64& from, i64& left) const {
        const i64 quarter = deep / 4, i = 4 * (n % quarter), m = n / quarter % padded, t = n / quarter / padded;
        left = m < planes * count && i < rows ? rows - i : 0;
        from = ((m / count * batch + first + m % count) * tiles + t) * rows + i;
        return n < tiles * padded * quarter;
    }
};

extern "C" __global__ void pack_codes(
    const signed char* x, char4* out, i64 batch, i64 first, i64 count, i64 planes, i64 tiles, i64 rows, i64 padded, i64 deep) {
    const Packing packing = {batch, first, count, planes, tiles, rows, padded, deep};
    i64 from, left;
    if (!packing.source(thread(), from, left)) return;
    signed char four[4];
    for (int i = 0; i < 4; ++i) four[i] = i < left ? x[from + i] : 0;
    out[thread()] = {four[0], four[1], four[2], four[3]};
}

// Digits of squares q = 128 h + l: of the codes (given = 0), or of int16 numbers that are squares already. `digits` matrices, one
// after the other: l alone; h, l; or h, l, h - l.
extern "C" __global__ void pack_squares(
    const void* x, int given, char4* out, int digits, i64 batch, i64 first, i64 count, i64 planes, i64 tiles, i64 rows,
    i64 padded, i64 deep) {
    const Packing packing = {batch, first, count, planes, tiles, rows, padded, deep};
    i64 from, left;
    const i64 n = thread(), size = tiles * padded * (deep / 4);
    if (!packing.source(n, from, left)) return;
    signed char high[4], low[4], both[4];
    for (int i = 0; i < 4; ++i) {
        const int value = i < left ? code_at(x, given, from + i) : 0, square = given ? value : value * value;
        high[i] = (signed char)(square >> 7);
        low[i] = (signed char)(square & 127);
        both[i] = (signed char)(high[i] - low[i]);
    }
    if (digits > 1) out[n] = {high[0], high[1], high[2], high[3]};
    out[digits > 1 ? size + n : n] = {low[0], low[1], low[2], low[3]};
    if (digits > 2) out[2 * size + n] = {both[0], both[1], both[2], both[3]};
}

// -- what happens to partial sums ----------------------------------------------------------------------------------------

// Sums of digit products: p = sum_d 128^(digits - 1 - d) P_d, P [tiles, padded, digits, stride]; q = sum_n c_n Q_n, Q [products,
// tiles, padded, stride]. Columns are padded to whole fours.
struct DigitSums {
    const int *p, *q;
    i64 tiles, padded, digits, stride, products;
    i64 c[3];

    __device__ __forceinline__ void products_of(i64 t, i64 row, i64 first, i64 cols, double (&a)[4]) const {
        const int* at = p + (t * padded + row) * digits * stride + first;
        const int4 high = *(const int4*)at;
        i64 sum[4] = {high.x, high.y, high.z, high.w};
        if (digits > 1) {
            const int4 low = *(const int4*)(at + stride);
            sum[0] = 128 * sum[0] + low.x;
            sum[1] = 128 * sum[1] + low.y;
            sum[2] = 128 * sum[2] + low.z;
            sum[3] = 128 * sum[3] + low.w;
        }
        for (int i = 0; i < 4; ++i) a[i] = (double)sum[i];
    }

    __device__ __forceinline__ void variances(i64 t, i64 row, i64 first, i64 cols, double (&v)[4]) const {
        const int* at = q + (t * padded + row) * stride + first;
        i64 sum[4] = {0, 0, 0, 0};
#pragma unroll
        for (int n = 0; n < 3; ++n) {
            if (n >= products) break;
            const int4 one = *(const int4*)(at + n * tiles * padded * stride);
            sum[0] += c[n] * one.x;
            sum[1] += c[n] * one.y;
            sum[2] += c[n] * one.z;
            sum[3] += c[n] * one.w;
        }
        for (int i = 0; i < 4; ++i) v[i] = (double)sum[i];
    }
};

// Sums in double, p and q [tiles, padded, cols].
struct RealSums {
    const double *p, *q;
    i64 padded;

    __device__ __forceinline__ void read(const double* from, i64 t, i64 row, i64 first, i64 cols, double (&a)[4]) const {
        for (int i = 0; i < 4; ++i) a[i] = from[(t * padded + row) * cols + (first + i < cols ? first + i : cols - 1)];
    }
    __device__ __forceinline__ void products_of(i64 t, i64 row, i64 first, i64 cols, double (&a)[4]) const {
        read(p, t, row, first, cols, a);
    }
    __device__ __forceinline__ void variances(i64 t, i64 row, i64 first, i64 cols, double (&v)[4]) const {
        read(q, t, row, first, cols, v);
    }
};

// Read noise: kind & 1, of the cells; kind & 2, of the converter. Stream words count in steps over tiles and planes.
struct Noise {
    int kind;
    double scale;
    const double* sigma;
    const u32* rows;
    u32 word, tile_step, plane_step, event, k0, k1;

    __device__ __forceinline__ double deviation(double v, i64 cell) const {
        if (kind == 2) return sigma[cell];
        const double cells = scale * sqrt(v);
        return kind == 1 ? cells : sqrt(cells * cells + sigma[cell] * sigma[cell]);
    }
};

// Kind 0 converts nothing; 1 is one converter; 2 a table [tiles, cols] of each number.
struct Converter {
    int kind;
    double lo, hi, step;
    const double *los, *his, *bases, *steps, *values, *units;

    __device__ __forceinline__ double operator()(double a, i64 cell) const {
        if (kind == 0) return a;
        if (kind == 1) return lo + rint((clipped(a, lo, hi) - lo) / step) * step;
        const double code = rint((clipped(a, los[cell], his[cell]) - bases[cell]) / steps[cell]);
        return values[cell] + code * units[cell];
    }
};

// What is added to: y [batch, cols], over it if `add`; weights [planes].
struct Target {
    double* y;
    int add;
    const double* weights;
    i64 batch, cols, tiles, planes;
};

// y += weight_k ADC(p + noise), tiles before planes: a thread does four columns of a row and writes them once.
template <class Sums>
__device__ __forceinline__ void accumulate(const Sums& sums, const Target& to, const Noise& noise, const Converter& adc) {
    const i64 groups = (to.cols + 3) / 4, n = thread();
    if (n >= to.batch * groups) return;
    const i64 b = n / groups, group = n % groups, first = 4 * group;
    double* y = to.y + b * to.cols + first;
    double total[4];
    for (int i = 0; i < 4; ++i) total[i] = to.add && first + i < to.cols ? y[i] : 0.0;
    for (i64 t = 0; t < to.tiles; ++t)
        for (i64 k = 0; k < to.planes; ++k) {
            const i64 row = k * to.batch + b;
            double a[4], v[4] = {0.0, 0.0, 0.0, 0.0};
            float z[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            sums.products_of(t, row, first, to.cols, a);
            if (noise.kind & 1) sums.variances(t, row, first, to.cols, v);
            if (noise.kind) {
                const u32 word = noise.word + (u32)t * noise.tile_step + (u32)k * noise.plane_step;
                four_normals((u32)group, noise.rows[b], word, noise.event, noise.k0, noise.k1, z);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const i64 cell = t * to.cols + (first + i < to.cols ? first + i : to.cols - 1);
                if (noise.kind) a[i] += noise.deviation(v[i], cell) * (double)z[i];
                total[i] += to.weights[k] * adc(a[i], cell);
            }
        }
    for (int i = 0; i < 4 && first + i < to.cols; ++i) y[i] = total[i];
}

// A kernel for every kind of sums, noise (N) and converter (A): what a kind does not need costs no registers.
#define AFTERWARDS                                                                                                          \
    double *y, int add, const double *weights, i64 batch, i64 cols, i64 tiles, i64 planes, double scale,                    \
        const double *sigma, const u32 *rows, u32 word, u32 tile_step, u32 plane_step, u32 event, u32 k0, u32 k1, double lo, \
        double hi, double step, const double *los, const double *his, const double *bases, const double *steps,             \
        const double *values, const double *units
#define ACCUMULATE(sums, N, A)                                                                                              \
    accumulate(                                                                                                             \
        sums, Target{y, add, weights, batch, cols, tiles, planes},                                                          \
        Noise{N, scale, sigma, rows, word, tile_step, plane_step, event, k0, k1},                                           \
        Converter{A, lo, hi, step, los, his, bases, steps, values, units})
#define FINISH(N, A)                                                                                                        \
    extern "C" __global__ void finish_digits_##N##A(                                                                        \
        const int* p, const int* q, i64 padded, i64 digits, i64 stride, i64 products, i64 c0, i64 c1, i64 c2, AFTERWARDS) {  \
        const DigitSums sums = {p, q, tiles, padded, digits, stride, products, {c0, c1, c2}};                               \
        ACCUMULATE(sums, N, A);                                                                                             \
    }                                                                                                                       \
    extern "C" __global__ void finish_reals_##N##A(const double* p, const double* q, i64 padded, AFTERWARDS) {              \
        const RealSums sums = {p, q, padded};                                                                               \
        ACCUMULATE(sums, N, A);                                                                                             \
    }
#define FINISH_ALL(N) FINISH(N, 0) FINISH(N, 1) FINISH(N, 2)

FINISH_ALL(0)
FINISH_ALL(1)
FINISH_ALL(2)
FINISH_ALL(3)
