// Kernels for writing text on a CPU: a residual branch of a layer in one call, for a few rows at a time.
//
// With few rows the time goes into reading the weights once from memory; everything else is arranged so that it hides
// behind that. Weights are fp32 or bf16 as torch stores them, (out, in) row by row, or packed copies of int8 and int4:
//   int8  [out / 64][in / 4][64][4] bytes, weight + 128; one scale per output in `Linear::scale`
//   int4  [out / 64][in / 32] blocks of 64 half-precision scales and [4][64][4] bytes, weight + 8 in each half byte:
//         byte [j][n][i] holds input 4 * j + i of output n in its low half, input 16 + 4 * j + i in its high half
// where `out` and `in` are rounded up to 64. Inputs of packed weights are quantized on the way, one scale for each group
// of 64 (int8) or 32 (int4). Sums within a group are exact; groups are added in float.
//
// The file reads itself once for each level of instructions: the second half below is compiled three times, and the
// processor decides which is called. Nothing here knows torch; the caller passes addresses and sizes, which are checked.

#ifndef LEVEL

#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define API extern "C" __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

namespace {

// ---------------------------------------------------------------- what the caller describes (see layout.py)

enum Kind : int64_t { NONE, FP32, BF16, INT8, INT4 };
enum NormKind : int64_t { NO_NORM, LAYER_NORM, RMS_NORM };
enum Activation : int64_t { GELU, GELU_TANH, QUICK_GELU, RELU, RELU2, SILU, TANH, SIGMOID, MISH, IDENTITY, ACTIVATIONS };
enum Error : int {
  OK, NULL_POINTER, BAD_ROWS, BAD_SIZE, BAD_KIND, BAD_ALIGNMENT, BAD_SHAPE, BAD_COLUMN, BAD_LEVEL, BAD_VALUE, NO_MEMORY
};

constexpr int64_t MAX_ROWS = 1024, AT_ONCE = 128;  // of attention; of the rest, whose results must stay in the cache
constexpr int64_t MAX_BEST = 256, MAX_WIDTH = int64_t{1} << 24, MAX_KEYS = int64_t{1} << 28, MAX_THREADS = 1024;

struct Norm {
  const float *weight, *bias;
  float eps, offset;
  int64_t kind;
};

struct Linear {  // y = x W^T + bias
  const void* weight;
  const float *scale, *bias;
  int64_t out, in, kind;
};

struct Branch {  // what lies around a branch: x = after(x + scale * within(f(before(x))))
  int64_t dim;
  Norm before, within, after;
  const float* scale;
};

struct Attention {
  Branch branch;
  Linear q, k, v, out;  // cross-attention has no k and v: its keys lie in the cache already
  Norm q_norm, k_norm;
  int64_t heads, kv_heads, head_dim, norm_over_all, interleaved;
  float scale, softcap;  // softcap 0: none
};

struct FeedForward {
  Branch branch;
  Linear up, gate, down;
  int64_t activation;
};

struct View {  // what the rows of one step look at; rows are `length` tokens of each sequence, one after another
  int64_t rows, length, threads;
  int64_t keys, capacity, half;       // keys in sight, room in the cache, whether the cache is bf16
  int64_t by_row, by_head, by_key;    // strides of keys and values, in numbers
  int64_t start;                      // column of the first new token, unless `columns` (rows) tells each
  const int64_t* columns;
  const float *cos, *sin;             // (rows, rope_dim)
  int64_t rope_dim;
  const uint8_t* mask;                // (B, length, keys) by strides; 1 where a query may look
  int64_t mask_by_row, mask_by_token;
  const float* bias;                  // (B, heads, length, keys) by strides
  int64_t bias_by_row, bias_by_head, bias_by_token;
  const int64_t* origins;             // (B, keys) by strides: the row of the cache that holds a sequence's key; null: its own
  int64_t origin_by_row, origin_by_key, places;  // places: rows of the cache
};

struct Best {  // the largest outputs of each row, the first of equals first, and log(sum(exp)) = peak + log(mass) of all
  int64_t count;
  float* values;   // (rows, count)
  int64_t* ids;    // (rows, count)
  float *peak, *mass;  // (rows), or null
};

// ---------------------------------------------------------------- sizes, scratch and shares of work

constexpr int64_t SLAB = 256;  // outputs of all rows that are looked through while they are in the cache

constexpr int64_t padded(int64_t n) { return (n + 63) / 64 * 64; }

struct Scratch {  // a thread's own, kept between calls
  char* memory = nullptr;
  size_t size = 0, used = 0;
  ~Scratch() { std::free(memory); }
  bool reserve(size_t bytes) {
    used = 0;
    if (bytes <= size) return true;
    std::free(memory);
    size = (bytes + 4095) / 4096 * 4096;
    memory = static_cast<char*>(std::aligned_alloc(64, size));
    if (memory == nullptr) size = 0;
    return memory != nullptr;
  }
  template <class T> T* take(int64_t count) {
    T* found = reinterpret_cast<T*>(memory + used);
    used += static_cast<size_t>(padded(count * static_cast<int64_t>(sizeof(T))));
    return found;
  }
};
thread_local Scratch scratch;

struct Share {  // which part of the work is this thread's
  int64_t index, count;
  void of(int64_t total, int64_t& first, int64_t& last) const {
    first = total * index / count, last = total * (index + 1) / count;
  }
};

struct Input {  // rows as a linear wants them: floats, or bytes with a scale and a sum for each group
  float* x;
  int8_t* q;
  float* scales;
  int32_t* sums;
  int64_t width, groups, kind;  // width: of a row, rounded up
  static int64_t bytes(int64_t rows, int64_t width) { return rows * padded(width) * 6 + 4 * 64; }
  Input(Scratch& from, int64_t rows, const Linear& linear)
      : width(padded(linear.in)), groups(width / (linear.kind == INT4 ? 32 : 64)), kind(linear.kind) {
    x = from.take<float>(rows * width);
    q = from.take<int8_t>(rows * width);
    scales = from.take<float>(rows * groups);
    sums = from.take<int32_t>(rows * groups);
  }
};

struct Output {
  float* y;
  int64_t stride;
  bool add;           // to what is there
  int64_t first = 0;  // the output that column 0 holds
};

struct Work {  // a linear and where its results go
  const Linear& linear;
  Output to;
};

int64_t grain(const Linear& l) { return l.kind >= INT8 ? 64 : 16; }
int64_t grains(const Linear& l) { return (l.out + grain(l) - 1) / grain(l); }
int64_t bytes(const Linear& l) { return l.kind == NONE ? 0 : l.out * l.in * (l.kind == FP32 ? 4 : l.kind == BF16 ? 2 : 1); }

// More threads than there is work for only wait for each other.
int team(int64_t threads, int64_t weights) {
  const int64_t useful = 1 + weights / 32768;
  return static_cast<int>(threads < useful ? threads : useful);
}

// ---------------------------------------------------------------- checks

Error check(const Linear& l, int64_t in, int64_t out) {
  if (l.kind < FP32 || l.kind > INT4) return BAD_KIND;
  if (l.weight == nullptr || (l.kind == INT8 && l.scale == nullptr)) return NULL_POINTER;
  if (l.in <= 0 || l.out <= 0 || l.in > MAX_WIDTH || l.out > MAX_WIDTH) return BAD_SIZE;
  if (l.in != in || l.out != out) return BAD_SHAPE;
  const uintptr_t step = l.kind == FP32 ? 4 : l.kind == BF16 ? 2 : 64;
  return reinterpret_cast<uintptr_t>(l.weight) % step ? BAD_ALIGNMENT : OK;
}

Error check(const Norm& n) {
  if (n.kind < NO_NORM || n.kind > RMS_NORM) return BAD_KIND;
  return n.kind != NO_NORM && n.weight == nullptr ? NULL_POINTER : n.kind != NO_NORM && !(n.eps >= 0) ? BAD_VALUE : OK;
}

Error check(const Branch& b, int64_t rows, int64_t threads) {
  if (rows < 0 || rows > MAX_WIDTH || threads < 1 || threads > MAX_THREADS) return BAD_ROWS;
  if (b.dim <= 0 || b.dim > MAX_WIDTH) return BAD_SIZE;
  for (const Norm* n : {&b.before, &b.within, &b.after})
    if (const Error e = check(*n)) return e;
  return OK;
}

Error check(const View& v, const Attention& a) {
  if (v.length <= 0 || v.rows % v.length || v.rows > MAX_ROWS) return BAD_ROWS;
  if (v.keys <= 0 || v.keys > v.capacity || v.capacity > MAX_KEYS) return BAD_SIZE;
  if (v.by_row < 0 || v.by_head < 0 || v.by_key < 0 || v.mask_by_row < 0 || v.mask_by_token < 0) return BAD_VALUE;
  if (v.bias_by_row < 0 || v.bias_by_head < 0 || v.bias_by_token < 0) return BAD_VALUE;
  if (v.rope_dim < 0 || v.rope_dim % 2 || v.rope_dim > a.head_dim) return BAD_SHAPE;
  if (v.rope_dim && (v.cos == nullptr || v.sin == nullptr)) return NULL_POINTER;
  if (v.origins != nullptr) {
    if (v.origin_by_row < 0 || v.origin_by_key < 0) return BAD_VALUE;
    for (int64_t b = 0; b < v.rows / v.length; b++)
      for (int64_t t = 0; t < (v.origin_by_key ? v.keys : 1); t++) {
        const int64_t at = v.origins[b * v.origin_by_row + t * v.origin_by_key];
        if (at < 0 || at >= v.places) return BAD_COLUMN;
      }
  }
  if (a.k.kind == NONE) return OK;
  if (v.columns == nullptr) return v.start < 0 || v.start + v.length > v.capacity ? BAD_COLUMN : OK;
  for (int64_t r = 0; r < v.rows; r++)
    if (v.columns[r] < 0 || v.columns[r] >= v.capacity) return BAD_COLUMN;
  return OK;
}

Error check(const Attention& a, const View& v) {
  if (const Error e = check(a.branch, v.rows, v.threads)) return e;
  if (a.heads <= 0 || a.kv_heads <= 0 || a.head_dim <= 0 || a.heads > MAX_WIDTH || a.head_dim > MAX_WIDTH) return BAD_SIZE;
  if (a.heads % a.kv_heads || a.heads * a.head_dim > MAX_WIDTH) return BAD_SHAPE;
  const int64_t inner = a.heads * a.head_dim, inner_kv = a.kv_heads * a.head_dim;
  Error e = check(a.q, a.branch.dim, inner);
  if (!e) e = check(a.out, inner, a.branch.dim);
  if (!e && a.k.kind != NONE) e = check(a.k, a.branch.dim, inner_kv);
  if (!e && a.k.kind != NONE) e = check(a.v, a.branch.dim, inner_kv);
  if (!e && a.k.kind != NONE && (a.k.kind != a.q.kind || a.v.kind != a.q.kind)) e = BAD_KIND;
  if (!e) e = check(a.q_norm);
  if (!e) e = check(a.k_norm);
  return e ? e : check(v, a);
}

Error check(const FeedForward& f, int64_t rows, int64_t threads) {
  if (const Error e = check(f.branch, rows, threads)) return e;
  if (f.activation < 0 || f.activation >= ACTIVATIONS) return BAD_KIND;
  Error e = check(f.up, f.branch.dim, f.up.out);
  if (!e && f.gate.kind != NONE) e = f.gate.kind != f.up.kind ? BAD_KIND : check(f.gate, f.branch.dim, f.up.out);
  return e ? e : check(f.down, f.up.out, f.branch.dim);
}

}  // namespace

// ---------------------------------------------------------------- the levels

#define LEVEL 0
namespace portable {
#include __FILE__
}
#undef LEVEL

#if defined(__x86_64__)
#define LEVEL 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2")
namespace avx2 {
#include __FILE__
}
#pragma GCC pop_options
#undef LEVEL

#define LEVEL 2
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")
namespace avx512 {
#include __FILE__
}
#pragma GCC pop_options
#undef LEVEL
#endif

namespace {

struct Level {
  void (*attention)(const Attention&, const View&, void*, void*, const float*, float*, Scratch&);
  void (*feed_forward)(const FeedForward&, int64_t, int64_t, const float*, float*, Scratch&);
  void (*linear)(const Linear&, int64_t, int64_t, const float*, float*, Scratch&);
  void (*best)(const Linear&, int64_t, int64_t, const float*, const float*, const Best&, Scratch&);
  void (*norm)(const Norm&, int64_t, int64_t, const float*, float*);
  void (*pack8)(const int8_t*, int64_t, int64_t, uint8_t*, int64_t);
};

#define LEVEL_OF(space) {space::attention, space::feed_forward, space::linear, space::best, space::norms, space::pack8}
#if defined(__x86_64__)
const Level levels[] = {LEVEL_OF(portable), LEVEL_OF(avx2), LEVEL_OF(avx512)};
int best() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2")) return 0;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512vnni");
  return wide ? 2 : 1;
}
#else
const Level levels[] = {LEVEL_OF(portable)};
int best() { return 0; }
#endif
int level = best();

}  // namespace

// ---------------------------------------------------------------- what is called; all give an `Error`

// The level in use: 0 portable, 1 AVX2, 2 AVX-512 with VNNI.
API int rg_level() { return level; }

// Use a lower level, for tests; -1 goes back to the best.
API int rg_set_level(int wanted) {
  if (wanted > best() || wanted < -1) return BAD_LEVEL;
  level = wanted < 0 ? best() : wanted;
  return OK;
}

// The sizes of the structures above, so that the caller's can be compared.
API int64_t rg_size_of(int which) {
  const int64_t sizes[] = {sizeof(Norm),        sizeof(Linear), sizeof(Branch), sizeof(Attention),
                           sizeof(FeedForward), sizeof(View),   sizeof(Best)};
  return which < 0 || which > 6 ? -1 : sizes[which];
}

// out += attention branch of in; (rows, dim) both, perhaps the same. New keys and values go to their columns first.
API int rg_attention(const Attention* a, const View* v, void* keys, void* values, const float* in, float* out) {
  if (!a || !v || !keys || !values || !in || !out) return NULL_POINTER;
  if (const Error e = check(*a, *v)) return e;
  if (v->rows == 0) return OK;
  const int64_t inner = a->heads * a->head_dim, dim = a->branch.dim;
  const int64_t numbers = v->rows * (4 * padded(inner) + padded(dim)) + v->threads * padded(v->keys) * 5;
  const int64_t size = 4 * numbers + Input::bytes(v->rows, dim) + Input::bytes(v->rows, inner) + 64 * 64;
  if (!scratch.reserve(static_cast<size_t>(size))) return NO_MEMORY;
  levels[level].attention(*a, *v, keys, values, in, out, scratch);
  return OK;
}

// out += feed-forward branch of in; (rows, dim) both, perhaps the same.
API int rg_feed_forward(const FeedForward* f, int64_t rows, int64_t threads, const float* in, float* out) {
  if (!f || !in || !out) return NULL_POINTER;
  if (const Error e = check(*f, rows, threads)) return e;
  const int64_t hidden = f->up.out, dim = f->branch.dim, most = rows < AT_ONCE ? rows : AT_ONCE;
  const int64_t size = 4 * most * (2 * padded(hidden) + padded(dim)) + Input::bytes(most, dim) + Input::bytes(most, hidden);
  for (int64_t r = 0; r < rows; r += most) {
    if (!scratch.reserve(static_cast<size_t>(size) + 64 * 64)) return NO_MEMORY;
    levels[level].feed_forward(*f, rows - r < most ? rows - r : most, threads, in + r * dim, out + r * dim, scratch);
  }
  return OK;
}

// y (rows, out) = x (rows, in) W^T + bias.
API int rg_linear(const Linear* l, int64_t rows, int64_t threads, const float* x, float* y) {
  if (!l || !x || !y) return NULL_POINTER;
  if (rows < 0 || rows > MAX_WIDTH || threads < 1 || threads > MAX_THREADS) return BAD_ROWS;
  if (const Error e = check(*l, l->in, l->out)) return e;
  const int64_t most = rows < AT_ONCE ? rows : AT_ONCE;
  for (int64_t r = 0; r < rows; r += most) {
    if (!scratch.reserve(static_cast<size_t>(Input::bytes(most, l->in)) + 64 * 64)) return NO_MEMORY;
    levels[level].linear(*l, rows - r < most ? rows - r : most, threads, x + r * l->in, y + r * l->out, scratch);
  }
  return OK;
}

// The largest of x W^T + bias + rule in each row, and the mass of x W^T + bias; `rule` (out) is 0, or -infinity for
// outputs that are not to be found, and may be null. Nothing of the size (rows, out) is ever held.
API int rg_best(const Linear* l, int64_t rows, int64_t threads, const float* x, const float* rule, const Best* best) {
  if (!l || !x || !best || !best->values || !best->ids || !best->peak != !best->mass) return NULL_POINTER;
  if (rows < 0 || rows > MAX_ROWS || threads < 1 || threads > MAX_THREADS) return BAD_ROWS;
  if (const Error e = check(*l, l->in, l->out)) return e;
  if (best->count < 1 || best->count > MAX_BEST || best->count > l->out) return BAD_SIZE;
  if (rows == 0) return OK;
  const int64_t partial = rows * (best->count * 12 + 8 + SLAB * 4) + 5 * 64;
  if (!scratch.reserve(static_cast<size_t>(Input::bytes(rows, l->in) + threads * partial) + 64 * 64)) return NO_MEMORY;
  levels[level].best(*l, rows, threads, x, rule, *best, scratch);
  return OK;
}

// y = norm(x), (rows, dim) both, perhaps the same.
API int rg_norm(const Norm* n, int64_t rows, int64_t dim, const float* x, float* y) {
  if (!n || !x || !y) return NULL_POINTER;
  if (rows < 0 || dim <= 0 || dim > MAX_WIDTH) return BAD_SIZE;
  if (const Error e = check(*n)) return e;
  levels[level].norm(*n, rows, dim, x, y);
  return OK;
}

// int8 weights (out, in) to the packed layout above, of padded(out) * padded(in) bytes.
API int rg_pack8(const int8_t* weight, int64_t out, int64_t in, uint8_t* packed, int64_t threads) {
  if (!weight || !packed) return NULL_POINTER;
  if (out <= 0 || in <= 0 || out > MAX_WIDTH || in > MAX_WIDTH || threads < 1) return BAD_SIZE;
  levels[level].pack8(weight, out, in, packed, threads);
  return OK;
}

// int4 weights in two's complement, input 2i in the low half of byte i, (out, in / 2), and half-precision scales
// (out, in / 32), to the packed layout above: padded(out) / 64 * padded(in) / 32 blocks of 1152 bytes.
API int rg_pack4(const uint8_t* weight, const uint16_t* scales, int64_t out, int64_t in, uint8_t* packed) {
  if (!weight || !scales || !packed) return NULL_POINTER;
  if (out <= 0 || in <= 0 || in % 32 || out > MAX_WIDTH || in > MAX_WIDTH) return BAD_SIZE;
  const int64_t groups = padded(in) / 32;
  for (int64_t n = 0; n < padded(out); n++) {
    for (int64_t g = 0; g < groups; g++) {
      uint8_t* block = packed + (n / 64 * groups + g) * 1152;
      const bool real = n < out && g < in / 32;
      const uint16_t scale = real ? scales[n * (in / 32) + g] : 0;
      std::memcpy(block + n % 64 * 2, &scale, 2);
      for (int k = 0; k < 16; k++) {
        uint8_t pair = 0x88;
        if (real) {
          const uint8_t *row = weight + n * (in / 2) + g * 16, low = row[k / 2], high = row[8 + k / 2];
          const uint8_t a = k % 2 ? low >> 4 : low & 15, b = k % 2 ? high >> 4 : high & 15;
          pair = static_cast<uint8_t>((a ^ 8) | (b ^ 8) << 4);
        }
        block[128 + k / 4 * 256 + n % 64 * 4 + k % 4] = pair;
      }
    }
  }
  return OK;
}

// Reads memory and does nothing with it: the bound that all else is measured against.
API int64_t rg_read(const void* const* parts, const int64_t* sizes, int64_t count, int64_t threads) {
  int64_t total = 0;
#pragma omp parallel num_threads(static_cast<int>(threads)) reduction(^ : total)
  for (int64_t i = 0; i < count; i++) {
    int64_t first, last;
    Share{omp_get_thread_num(), omp_get_num_threads()}.of(sizes[i] / 64, first, last);
    const int64_t* words = static_cast<const int64_t*>(parts[i]);
    for (int64_t w = first * 8; w < last * 8; w++) total ^= words[w];
  }
  return total;
}

#else  // ================================================================ one level

// ---------------------------------------------------------------- vectors

#if LEVEL == 2
constexpr int L = 16;
#elif LEVEL == 1
constexpr int L = 8;
#else
constexpr int L = 4;
#endif
typedef float F __attribute__((vector_size(4 * L)));
typedef int32_t I __attribute__((vector_size(4 * L)));
typedef uint16_t U16 __attribute__((vector_size(2 * L)));
typedef int8_t I8 __attribute__((vector_size(L)));

template <class V> INLINE V get(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V> INLINE void put(void* p, V v) { std::memcpy(p, &v, sizeof v); }

INLINE F all(float x) { return F{} + x; }
INLINE F load(const float* p) { return get<F>(p); }
INLINE F load(const uint16_t* p) { return (F)(__builtin_convertvector(get<U16>(p), I) << 16); }  // bf16

template <class T> INLINE F load(const T* p, int64_t n) {  // the first n numbers, then zeros
  if (n >= L) return load(p);
  T part[L] = {};
  std::memcpy(part, p, static_cast<size_t>(n) * sizeof(T));
  return load(part);
}

INLINE void store(float* p, F v, int64_t n = L) {
  if (n >= L) put(p, v);
  else std::memcpy(p, &v, static_cast<size_t>(n) * sizeof(float));
}

template <int STEP> INLINE F folded(F a, F b) {  // sums of lanes i and i ^ STEP: of a where that bit of i is 0, else of b
  I near, far;
  for (int i = 0; i < L; i++) near[i] = i & STEP ? L + i : i, far[i] = near[i] ^ STEP;
  return __builtin_shuffle(a, b, near) + __builtin_shuffle(a, b, far);
}
INLINE F sums(F a, F b, F c, F d) {  // of four vectors, in the first four lanes
  F v = folded<2>(folded<1>(a, b), folded<1>(c, d));
  if constexpr (L > 4) v = folded<4>(v, v);
  if constexpr (L > 8) v = folded<8>(v, v);
  return v;
}
INLINE float sum(F v) { return sums(v, v, v, v)[0]; }

INLINE F least(F a, F b) { return a < b ? a : b; }
INLINE F most(F a, F b) { return a > b ? a : b; }

INLINE F exp(F x) {  // 2 ulp; 0 and infinity are never reached
  x = least(most(x, all(-87.0f)), all(88.0f));
  const F magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to whole numbers
  const F n = (x * 1.44269504f + magic) - magic;
  const F r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  F p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  return p * (F)((__builtin_convertvector(n, I) + 127) << 23);
}

INLINE F sigmoid(F x) { return 1.0f / (1.0f + exp(-x)); }
INLINE F tanh(F x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

INLINE F gelu(F x) {  // x * (1 + erf(x / sqrt 2)) / 2; erf as a quotient of polynomials, absolute error 2e-7
  const F z = least(most(x * 0.70710678f, all(-4.0f)), all(4.0f)), s = z * z;
  F p = all(-2.72614225801306e-10f), q = all(-1.45660718464996e-05f);
  for (const float c : {2.77068142495902e-08f, -2.10102402082508e-06f, -5.69250639462346e-05f, -7.34990630326855e-04f,
                        -2.95459980854025e-03f, -1.60960333262415e-02f})
    p = p * s + c;
  for (const float c : {-2.13374055278905e-04f, -1.68282697438203e-03f, -7.37332916720468e-03f, -1.42647390514189e-02f})
    q = q * s + c;
  return 0.5f * x * (1.0f + z * p / q);
}

template <int A> INLINE F activated(F x) {
  if constexpr (A == GELU) return gelu(x);
  if constexpr (A == GELU_TANH) return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));
  if constexpr (A == QUICK_GELU) return x * sigmoid(1.702f * x);
  if constexpr (A == RELU) return most(x, F{});
  if constexpr (A == RELU2) return most(x, F{}) * most(x, F{});
  if constexpr (A == SILU) return x * sigmoid(x);
  if constexpr (A == TANH) return tanh(x);
  if constexpr (A == SIGMOID) return sigmoid(x);
  if constexpr (A == MISH) {  // tanh(log(1 + e^x)) = n / (n + 2)
    const F e = exp(least(x, all(20.0f))), n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
  }
  return x;
}

template <int A> static void activate(float* up, const float* gate, int64_t n) {
  for (int64_t i = 0; i < n; i += L) {
    const F u = load(up + i, n - i);
    store(up + i, gate == nullptr ? activated<A>(u) : activated<A>(load(gate + i, n - i)) * u, n - i);
  }
}

// up = act(up), or act(gate) * up.
template <int A = 0> static void activate(int64_t which, float* up, const float* gate, int64_t n) {
  if constexpr (A < ACTIVATIONS) {
    if (which == A) activate<A>(up, gate, n);
    else activate<A + 1>(which, up, gate, n);
  }
}

// ---------------------------------------------------------------- norms, and rows made ready for a linear

static void normalise(const Norm& n, int64_t dim, const float* x, float* y) {
  float mean = 0, square = 0;
  if (n.kind == LAYER_NORM) {
#pragma omp simd reduction(+ : mean)
    for (int64_t i = 0; i < dim; i++) mean += x[i];
    mean /= static_cast<float>(dim);
  }
#pragma omp simd reduction(+ : square)
  for (int64_t i = 0; i < dim; i++) square += (x[i] - mean) * (x[i] - mean);
  const float rate = 1.0f / std::sqrt(square / static_cast<float>(dim) + n.eps);
#pragma omp simd
  for (int64_t i = 0; i < dim; i++) y[i] = (x[i] - mean) * rate * (n.weight[i] + n.offset);
  if (n.bias != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < dim; i++) y[i] += n.bias[i];
  }
}

static void norms(const Norm& n, int64_t rows, int64_t dim, const float* x, float* y) {
  for (int64_t r = 0; r < rows; r++) {
    if (n.kind != NO_NORM) normalise(n, dim, x + r * dim, y + r * dim);
    else if (x != y) std::memcpy(y + r * dim, x + r * dim, static_cast<size_t>(dim) * sizeof(float));
  }
}

// Bytes q = round(x / scale), scale = max |x| / 127 in each group.
static void quantize(const Input& in, int64_t row) {
  const int64_t group = in.width / in.groups;
  for (int64_t g = 0; g < in.groups; g++) {
    const float* x = in.x + row * in.width + g * group;
    F high = F{};
    for (int64_t i = 0; i < group; i += L) {
      const F v = load(x + i);
      high = most(high, v < 0 ? -v : v);
    }
    float peak = 0;
    for (int i = 0; i < L; i++) peak = high[i] > peak ? high[i] : peak;
    const float rate = peak > 0 ? 127.0f / peak : 0.0f;
    I total = I{};
    for (int64_t i = 0; i < group; i += L) {
      const I whole = (I)(load(x + i) * rate + 12582912.0f) - 0x4B400000;  // rounds, and leaves the number in the low bits
      total += whole;
      put(in.q + row * in.width + g * group + i, __builtin_convertvector(whole, I8));
    }
    int32_t sum = 0;
    for (int i = 0; i < L; i++) sum += total[i];
    in.scales[row * in.groups + g] = peak / 127.0f;
    in.sums[row * in.groups + g] = sum;
  }
}

// bf16 weights come in pairs that a shift takes apart: lay inputs out as L even ones, then L odd ones.
static void deal(float* x, int64_t width) {
  for (int64_t i = 0; i < width; i += 2 * L) {
    float pair[2 * L];
    std::memcpy(pair, x + i, sizeof pair);
    for (int j = 0; j < L; j++) x[i + j] = pair[2 * j], x[i + L + j] = pair[2 * j + 1];
  }
}

static void prepare(Share share, const Norm& norm, int64_t rows, int64_t dim, const float* from, const Input& in) {
  int64_t first, last;
  share.of(rows, first, last);
  for (int64_t r = first; r < last; r++) {
    float* x = in.x + r * in.width;
    if (norm.kind == NO_NORM) std::memcpy(x, from + r * dim, static_cast<size_t>(dim) * sizeof(float));
    else normalise(norm, dim, from + r * dim, x);
    for (int64_t i = dim; i < in.width; i++) x[i] = 0;
    if (in.kind == BF16) deal(x, in.width);
    if (in.kind == INT8 || in.kind == INT4) quantize(in, r);
  }
}

// ---------------------------------------------------------------- linears: M rows at once

INLINE void finish(const Linear& l, const Output& to, int64_t row, int64_t n, F v) {
  float* y = to.y + row * to.stride + n - to.first;
  const int64_t rest = l.out - n;
  if (rest <= 0) return;
  if (l.bias != nullptr) v += load(l.bias + n, rest);
  store(y, to.add ? v + load(y, rest) : v, rest);
}

#if LEVEL == 2
template <int ZERO> INLINE I start(int32_t sum) { return I{} - ZERO * sum; }
template <int ZERO> INLINE I dot(I c, I w, I x) { return (I)_mm512_dpbusd_epi32((__m512i)c, (__m512i)w, (__m512i)x); }
#elif LEVEL == 1
template <int ZERO> INLINE I start(int32_t) { return I{}; }
template <int ZERO> INLINE I dot(I c, I w, I x) {  // pairs of products fit 16 bits, as no weight is below -127
  const __m256i s = _mm256_sub_epi8((__m256i)w, _mm256_set1_epi8(static_cast<char>(ZERO))), a = (__m256i)x;
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(s, a));
  return c + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#else
template <int ZERO> INLINE I start(int32_t) { return I{}; }
template <int ZERO> INLINE I dot(I c, I w, I x) {
  for (int i = 0; i < 4; i++) c += (((w >> 8 * i) & 255) - ZERO) * (x << (24 - 8 * i) >> 24);
  return c;
}
#endif

INLINE I word(const int8_t* q) {
  int32_t four;
  std::memcpy(&four, q, 4);
  return I{} + four;
}

// Vectors of outputs at a time, so that sums stay in registers; a whole block where they fit, so that it is read in order.
template <int M> constexpr int across() { return LEVEL == 2 ? (M <= 6 ? 4 : 2) : M <= 2 ? 4 : 2; }

INLINE F halves(const uint8_t* p) {  // half-precision numbers: the exponent's start is moved by a product
  const I bits = __builtin_convertvector(get<U16>(p), I);
  return (F)((bits & 0x8000) << 16 | (bits & 0x7fff) << 13) * 0x1p112f;
}

template <int M, int KIND> static void packed_block(const Linear& l, const Input& in, int64_t row, const Output& to, int64_t n) {
  constexpr int NB = across<M>(), ZERO = KIND == INT8 ? 128 : 8, SCALES = KIND == INT8 ? 0 : 128, GROUP = KIND == INT8 ? 64 : 32;
  constexpr int64_t SIZE = KIND == INT8 ? 64 * 64 : 1152;  // of a group in a block
  for (int v0 = 0; v0 < 64 / L; v0 += NB) {
    const uint8_t* block = static_cast<const uint8_t*>(l.weight) + n / 64 * in.groups * SIZE;
    F total[M][NB] = {};
    for (int64_t g = 0; g < in.groups; g++, block += SIZE) {
      const int8_t* q = in.q + row * in.width + g * GROUP;
      const uint8_t* w = block + SCALES + v0 * 4 * L;
      I c[M][NB];
      for (int m = 0; m < M; m++)
        for (int v = 0; v < NB; v++) c[m][v] = start<ZERO>(in.sums[(row + m) * in.groups + g]);
      for (int j = 0; j < 16; j += KIND == INT8 ? 1 : 4, w += 256, q += 4) {
        I low[NB], high[NB];
        for (int v = 0; v < NB; v++) {
          low[v] = get<I>(w + v * 4 * L);
          if constexpr (KIND == INT4) high[v] = (low[v] >> 4) & 0x0f0f0f0f, low[v] &= 0x0f0f0f0f;
        }
        for (int m = 0; m < M; m++)
          for (int v = 0; v < NB; v++) {
            c[m][v] = dot<ZERO>(c[m][v], low[v], word(q + m * in.width));
            if constexpr (KIND == INT4) c[m][v] = dot<ZERO>(c[m][v], high[v], word(q + m * in.width + 16));
          }
      }
      for (int v = 0; v < NB; v++)
        for (int m = 0; m < M; m++) {
          const F sum = __builtin_convertvector(c[m][v], F);
          const float scale = in.scales[(row + m) * in.groups + g];
          if constexpr (KIND == INT8) total[m][v] += sum * scale;
          else total[m][v] += sum * (halves(block + (v0 + v) * 2 * L) * scale);
        }
    }
    for (int m = 0; m < M; m++)
      for (int v = 0; v < NB; v++) {
        const int64_t at = n + (v0 + v) * L;
        finish(l, to, row + m, at, KIND == INT8 ? total[m][v] * load(l.scale + at) : total[m][v]);
      }
  }
}

// A step of R times M dot products: L weights of fp32, 2 L of bf16. Each number is loaded once.
template <int R, int M> INLINE void step(F (&c)[R][M], const float* const* w, const float* x, int64_t width, int64_t k) {
  F v[R];
  for (int r = 0; r < R; r++) v[r] = load(w[r] + k);
  for (int m = 0; m < M; m++) {
    const F from = load(x + m * width + k);
    for (int r = 0; r < R; r++) c[r][m] += v[r] * from;
  }
}
template <int R, int M> INLINE void step(F (&c)[R][M], const uint16_t* const* w, const float* x, int64_t width, int64_t k) {
  F even[R], odd[R];
  for (int r = 0; r < R; r++) {
    const I both = get<I>(w[r] + k);
    even[r] = (F)(both << 16), odd[r] = (F)(both & static_cast<int32_t>(0xffff0000));
  }
  for (int m = 0; m < M; m++) {
    const F first = load(x + m * width + k), second = load(x + m * width + k + L);
    for (int r = 0; r < R; r++) c[r][m] += even[r] * first, c[r][m] += odd[r] * second;
  }
}

// R weight rows against M inputs, in U sums each. Memory is read in order, as few rows side by side as keeps the sums
// independent: the processor reads ahead along a line only.
template <int M, int R, class W>
static void weight_rows(const Linear& l, const Input& in, int64_t row, const Output& to, int64_t n) {
  constexpr int S = L * 4 / static_cast<int>(sizeof(W)), U = M == 1 ? 4 : M == 2 ? 2 : 1;
  const W* w[R];
  for (int r = 0; r < R; r++) w[r] = static_cast<const W*>(l.weight) + (n + r < l.out ? n + r : n) * l.in;
  const float* x = in.x + row * in.width;
  const int64_t width = in.width, length = l.in;
  F c[U][R][M] = {};
  int64_t k = 0;
  for (; k + S * U <= length; k += S * U)
    for (int u = 0; u < U; u++) step<R, M>(c[u], w, x, width, k + u * S);
  for (; k + S <= length; k += S) step<R, M>(c[0], w, x, width, k);
  if (k < length) {
    W tail[R][S] = {};
    const W* rest[R];
    for (int r = 0; r < R; r++) {
      std::memcpy(tail[r], w[r] + k, static_cast<size_t>(length - k) * sizeof(W));
      rest[r] = tail[r];
    }
    step<R, M>(c[0], rest, x + k, width, 0);
  }
  for (int r = 0; r < R && n + r < l.out; r++)
    for (int m = 0; m < M; m++) {
      F total = c[0][r][m];
      for (int u = 1; u < U; u++) total += c[u][r][m];
      float& y = to.y[(row + m) * to.stride + n + r - to.first];
      y = sum(total) + (l.bias == nullptr ? 0.0f : l.bias[n + r]) + (to.add ? y : 0.0f);
    }
}

template <int M>
static void some_rows(const Linear& l, const Input& in, int64_t row, const Output& to, int64_t first, int64_t last) {
  constexpr int R = M <= 4 ? 1 : 2;
  switch (l.kind) {
    case FP32: for (int64_t n = first; n < last; n += R) weight_rows<M, R, float>(l, in, row, to, n); break;
    case BF16: for (int64_t n = first; n < last; n += R) weight_rows<M, R, uint16_t>(l, in, row, to, n); break;
    case INT8: for (int64_t n = first; n < last; n += 64) packed_block<M, INT8>(l, in, row, to, n); break;
    case INT4: for (int64_t n = first; n < last; n += 64) packed_block<M, INT4>(l, in, row, to, n); break;
  }
}

template <int M = 8>
static void up_to_8(const Linear& l, const Input& in, int64_t row, int64_t rows, const Output& to, int64_t first, int64_t last) {
  if (rows == M) some_rows<M>(l, in, row, to, first, last);
  else if constexpr (M > 1) up_to_8<M - 1>(l, in, row, rows, to, first, last);
}

// Outputs first to last of all rows: a slab of weights that stays in the cache is gone through for some rows at a time.
static void outputs(const Work& work, const Input& in, int64_t rows, int64_t first, int64_t last) {
  const Linear& l = work.linear;
  const int64_t most = l.kind == INT8 ? 6 : 8, tiles = (rows + most - 1) / most;
  const int64_t fits = (int64_t{256} << 10) / (bytes(l) / l.out + 1) / 64 * 64;
  const int64_t slab = tiles == 1 ? last - first : fits < 64 ? 64 : fits;
  for (int64_t n = first; n < last; n += slab)
    for (int64_t i = 0; i < tiles; i++) {
      const int64_t row = rows * i / tiles, end = rows * (i + 1) / tiles;
      up_to_8(l, in, row, end - row, work.to, n, n + slab < last ? n + slab : last);
    }
}

// This thread's share of the outputs of one linear: [first, last).
static void share_of(Share share, const Linear& l, int64_t& first, int64_t& last) {
  share.of(grains(l), first, last);
  first *= grain(l), last *= grain(l);
  last = last < l.out ? last : l.out;
}

// Several linears of the same rows, their outputs shared out as if they were one.
template <int COUNT> static void linears(Share share, const Work (&works)[COUNT], const Input& in, int64_t rows) {
  int64_t total = 0, first, last, before = 0;
  for (const Work& work : works) total += grains(work.linear);
  share.of(total, first, last);
  for (const Work& work : works) {
    const int64_t size = grain(work.linear), count = grains(work.linear);
    const int64_t a = first > before ? first - before : 0, b = last - before < count ? last - before : count;
    if (a < b) outputs(work, in, rows, a * size, b * size < work.linear.out ? b * size : work.linear.out);
    before += count;
  }
}

static void linear(const Linear& l, int64_t rows, int64_t threads, const float* x, float* y, Scratch& from) {
  const Input in(from, rows, l);
#pragma omp parallel num_threads(team(threads, bytes(l)))
  {
    const Share share{omp_get_thread_num(), omp_get_num_threads()};
    prepare(share, Norm{}, rows, l.in, x, in);
#pragma omp barrier
    linears(share, {Work{l, {y, l.out, false}}}, in, rows);
  }
}

// ---------------------------------------------------------------- the largest outputs

// Let y[i], output n + i, come in where it is larger than what was found before; values stay sorted.
static void insert(float y, int64_t id, int64_t count, float* values, int64_t* ids) {
  int64_t at = count - 1;
  for (; at > 0 && values[at - 1] < y; at--) values[at] = values[at - 1], ids[at] = ids[at - 1];
  values[at] = y, ids[at] = id;
}

// mass = sum(exp(seen - peak)), a larger peak and more of y[0 .. n) taken in; y is filled up to a whole vector.
static void weigh(float* y, int64_t n, float high, float& peak, float& mass) {
  if (high > peak) {
    mass = peak == -INFINITY ? 0 : mass * exp(all(peak - high))[0];
    peak = high;
  }
  for (int64_t i = n; i < (n + L - 1) / L * L; i++) y[i] = -INFINITY;
  F total = F{};
  for (int64_t i = 0; i < n; i += L) total += exp(load(y + i) - peak);
  mass += sum(total);
}

static void best(const Linear& l, int64_t rows, int64_t threads, const float* x, const float* rule, const Best& to, Scratch& from) {
  const int64_t count = to.count;
  const bool weighed = to.peak != nullptr;
  const Input in(from, rows, l);
  float *slabs = from.take<float>(threads * rows * SLAB), *values = from.take<float>(threads * rows * count);
  int64_t* ids = from.take<int64_t>(threads * rows * count);
  float *peaks = from.take<float>(threads * rows), *masses = from.take<float>(threads * rows);
#pragma omp parallel num_threads(team(threads, bytes(l)))
  {
    const Share share{omp_get_thread_num(), omp_get_num_threads()};
    prepare(share, Norm{}, rows, l.in, x, in);
    float *slab = slabs + share.index * rows * SLAB, *own = values + share.index * rows * count;
    int64_t *own_ids = ids + share.index * rows * count, first, last;
    float *peak = peaks + share.index * rows, *mass = masses + share.index * rows;
    for (int64_t i = 0; i < rows * count; i++) own[i] = -INFINITY, own_ids[i] = 0;
    for (int64_t r = 0; r < rows; r++) peak[r] = -INFINITY, mass[r] = 0;
    share_of(share, l, first, last);
#pragma omp barrier
    for (int64_t n = first; n < last; n += SLAB) {
      const int64_t end = n + SLAB < last ? n + SLAB : last;
      outputs({l, {slab, SLAB, false, n}}, in, rows, n, end);
      for (int64_t r = 0; r < rows; r++) {
        float *y = slab + r * SLAB, *found = own + r * count, high = -INFINITY;
#pragma omp simd reduction(max : high)
        for (int64_t i = 0; i < end - n; i++) high = y[i] > high ? y[i] : high;
        for (int64_t i = 0; i < end - n && high > found[count - 1]; i++) {
          const float ruled = rule == nullptr ? y[i] : y[i] + rule[n + i];
          if (ruled > found[count - 1]) insert(ruled, n + i, count, found, own_ids + r * count);
        }
        if (weighed) weigh(y, end - n, high, peak[r], mass[r]);
      }
    }
#pragma omp barrier
    share.of(rows, first, last);
    for (int64_t r = first; r < last; r++) {
      float *found = to.values + r * count, high = -INFINITY, total = 0;
      int64_t* found_ids = to.ids + r * count;
      for (int64_t i = 0; i < count; i++) found[i] = -INFINITY, found_ids[i] = 0;
      for (int64_t t = 0; t < share.count; t++) {
        const int64_t at = t * rows + r;
        for (int64_t i = 0; i < count && values[at * count + i] > found[count - 1]; i++)
          insert(values[at * count + i], ids[at * count + i], count, found, found_ids);
        high = peaks[at] > high ? peaks[at] : high;
      }
      if (!weighed) continue;
      for (int64_t t = 0; t < share.count; t++) {
        const int64_t at = t * rows + r;
        if (masses[at] > 0) total += masses[at] * exp(all(peaks[at] - high))[0];
      }
      to.peak[r] = high, to.mass[r] = total;
    }
  }
}

// ---------------------------------------------------------------- the residual stream

static bool plain(const Branch& b) { return b.within.kind == NO_NORM && b.after.kind == NO_NORM && b.scale == nullptr; }

// The last linear of a branch, and what comes after it: straight into the stream where nothing does.
static void leave(Share share, const Branch& b, const Linear& l, const Input& in, int64_t rows, float* y, float* out) {
  if (plain(b)) return linears(share, {Work{l, {out, b.dim, true}}}, in, rows);
  linears(share, {Work{l, {y, b.dim, false}}}, in, rows);
#pragma omp barrier
  int64_t first, last;
  share.of(rows, first, last);
  for (int64_t r = first; r < last; r++) {
    float *to = out + r * b.dim, *add = y + r * b.dim;
    if (b.within.kind != NO_NORM) normalise(b.within, b.dim, add, add);
    for (int64_t i = 0; i < b.dim; i++) to[i] += b.scale == nullptr ? add[i] : add[i] * b.scale[i];
    if (b.after.kind != NO_NORM) normalise(b.after, b.dim, to, to);
  }
}

static void feed_forward(const FeedForward& f, int64_t rows, int64_t threads, const float* in, float* out, Scratch& from) {
  const int64_t hidden = f.up.out;
  const bool gated = f.gate.kind != NONE;
  const Input x(from, rows, f.up), middle(from, rows, f.down);
  float *up = from.take<float>(rows * hidden), *gate = from.take<float>(rows * hidden);
  float* y = from.take<float>(rows * f.branch.dim);
#pragma omp parallel num_threads(team(threads, bytes(f.up) + bytes(f.down)))
  {
    const Share share{omp_get_thread_num(), omp_get_num_threads()};
    prepare(share, f.branch.before, rows, f.branch.dim, in, x);
#pragma omp barrier
    int64_t first, last;
    share_of(share, f.up, first, last);
    outputs({f.up, {up, hidden, false}}, x, rows, first, last);
    if (gated) outputs({f.gate, {gate, hidden, false}}, x, rows, first, last);
    for (int64_t r = 0; r < rows && first < last; r++)
      activate(f.activation, up + r * hidden + first, gated ? gate + r * hidden + first : nullptr, last - first);
#pragma omp barrier
    prepare(share, Norm{}, rows, hidden, up, middle);
#pragma omp barrier
    leave(share, f.branch, f.down, middle, rows, y, out);
  }
}

// ---------------------------------------------------------------- attention

static void turn(float* x, const float* cos, const float* sin, int64_t dim, bool interleaved) {
  const int64_t half = dim / 2, near = interleaved ? 2 : 1, far = interleaved ? 1 : half;
  for (int64_t i = 0; i < half; i++) {
    const int64_t p = i * near, s = p + far;
    const float a = x[p], b = x[s];
    x[p] = a * cos[p] - b * sin[p];
    x[s] = b * cos[s] + a * sin[s];
  }
}

static void write(float* to, const float* x, int64_t n) { std::memcpy(to, x, static_cast<size_t>(n) * sizeof(float)); }
static void write(uint16_t* to, const float* x, int64_t n) {  // to the nearest bf16, ties to even
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    const bool nan = x[i] != x[i];
    to[i] = static_cast<uint16_t>(nan ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}

template <class T> INLINE F products(const float* q, const T* const (&k)[4], int64_t dim) {  // with four keys
  F c[4] = {};
  for (int64_t d = 0; d < dim; d += L) {
    const F x = load(q + d, dim - d);
    for (int i = 0; i < 4; i++) c[i] += x * load(k[i] + d, dim - d);
  }
  return sums(c[0], c[1], c[2], c[3]);
}

struct Keys {  // those that a token sees: where they lie, and which they are
  int64_t count;
  int64_t *offset, *number;
};

template <class T> INLINE void fetch(const T* p, int64_t n) {  // memory is slow where it is not read line after line
  for (int64_t i = 0; i < n; i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(p + i);
}

// out[0 .. NV * L) = sum of p[t] * values[t], `rest` < L numbers of one vector where that is all.
template <int NV, class T>
static void mixed(const float* p, const T* values, const Keys& seen, const T* next, float* out, int64_t rest = L) {
  F c[NV] = {};
  for (int64_t t = 0; t < seen.count; t++) {
    const T* v = values + seen.offset[t];
    fetch(next + seen.offset[t], NV * L);
    for (int i = 0; i < NV; i++) c[i] += p[t] * (rest < L ? load(v, rest) : load(v + i * L));
  }
  for (int i = 0; i < NV; i++) store(out + i * L, c[i], rest);
}

// One head's output; `next` is how far away the next head's keys are.
template <class T>
static void look(const Attention& a, const Keys& seen, int64_t next, const float* q, const float* bias, const T* keys, const T* values, float* p, float* out) {
  for (int64_t t = 0; t < seen.count; t += 4) {  // p has room for whole vectors
    const T* k[4];
    for (int64_t i = 0; i < 4; i++) {
      const int64_t at = seen.offset[t + i < seen.count ? t + i : t];
      k[i] = keys + at;
      fetch(values + at, a.head_dim);
    }
    const F s = products(q, k, a.head_dim) * a.scale;
    std::memcpy(p + t, &s, 4 * sizeof(float));
  }
  F peak = all(-INFINITY), total = F{};
  for (int64_t t = 0; t < seen.count; t += L) {
    const int64_t rest = seen.count - t < L ? seen.count - t : L;
    F s = load(p + t);
    if (a.softcap != 0) s = a.softcap * tanh(s / a.softcap);
    if (bias != nullptr)
      for (int64_t i = 0; i < rest; i++) s[i] += bias[seen.number[t + i]];
    for (int64_t i = rest; i < L; i++) s[i] = -INFINITY;
    put(p + t, s);
    peak = most(peak, s);
  }
  float highest = peak[0];
  for (int i = 1; i < L; i++) highest = peak[i] > highest ? peak[i] : highest;
  for (int64_t t = 0; t < seen.count; t += L) {
    F s = load(p + t);
    s = s == -INFINITY ? F{} : exp(s - highest);
    put(p + t, s);
    total += s;
  }
  int64_t d = 0;
  for (; d + 4 * L <= a.head_dim; d += 4 * L) mixed<4>(p, values + d, seen, keys + next + d, out + d);
  for (; d + L <= a.head_dim; d += L) mixed<1>(p, values + d, seen, keys + next + d, out + d);
  if (d < a.head_dim) mixed<1>(p, values + d, seen, keys + next + d, out + d, a.head_dim - d);
  const float mass = sum(total), rate = mass > 0 ? 1.0f / mass : 0.0f;
  for (int64_t i = 0; i < a.head_dim; i++) out[i] *= rate;
}

// Norms and rotary angles of this thread's heads; new keys and values to the cache.
template <class T>
static void turn_and_keep(Share share, const Attention& a, const View& v, float* q, float* k, const float* w, T* keys, T* values) {
  const int64_t dim = a.head_dim, each = a.heads + (a.k.kind == NONE ? 0 : a.kv_heads);
  int64_t first, last;
  share.of(v.rows * each, first, last);
  for (int64_t i = first; i < last; i++) {
    const int64_t r = i / each, h = i % each, g = h - a.heads;
    float* head = g < 0 ? q + (r * a.heads + h) * dim : k + (r * a.kv_heads + g) * dim;
    const Norm& norm = g < 0 ? a.q_norm : a.k_norm;
    if (norm.kind != NO_NORM && !a.norm_over_all) normalise(norm, dim, head, head);
    if (v.rope_dim) turn(head, v.cos + r * v.rope_dim, v.sin + r * v.rope_dim, v.rope_dim, a.interleaved);
    if (g < 0) continue;
    const int64_t column = v.columns == nullptr ? v.start + r % v.length : v.columns[r];
    const int64_t at = r / v.length * v.by_row + g * v.by_head + column * v.by_key;
    write(keys + at, head, dim);
    write(values + at, w + (r * a.kv_heads + g) * dim, dim);
  }
}

// What token t of sequence b sees.
static void find(const View& v, int64_t b, int64_t t, Keys& seen) {
  const int64_t* origins = v.origins == nullptr ? &b : v.origins + b * v.origin_by_row;
  const int64_t step = v.origins == nullptr ? 0 : v.origin_by_key;
  const uint8_t* mask = v.mask == nullptr ? nullptr : v.mask + b * v.mask_by_row + t * v.mask_by_token;
  seen.count = 0;
  for (int64_t k = 0; k < v.keys; k++) {
    seen.offset[seen.count] = origins[k * step] * v.by_row + k * v.by_key;
    seen.number[seen.count] = k;
    seen.count += mask == nullptr || mask[k];
  }
}

template <class T>
static void look_all(Share share, const Attention& a, const View& v, const float* q, const T* keys, const T* values, float* p, Keys seen, float* out) {
  const int64_t dim = a.head_dim, group = a.heads / a.kv_heads;
  int64_t first, last;
  share.of(v.rows * a.heads, first, last);
  for (int64_t i = first; i < last; i++) {  // tokens innermost: the keys of a head stay in the cache
    const int64_t b = i / (v.length * a.heads), h = i / v.length % a.heads, t = i % v.length;
    if (v.length > 1 || h == 0 || i == first) find(v, b, t, seen);
    const int64_t at = h / group * v.by_head, place = ((b * v.length + t) * a.heads + h) * dim;
    const int64_t next = h + 1 < a.heads && v.length == 1 ? (h + 1) / group * v.by_head - at : 0;
    const float* bias =
        v.bias == nullptr ? nullptr : v.bias + b * v.bias_by_row + h * v.bias_by_head + t * v.bias_by_token;
    look(a, seen, next, q + place, bias, keys + at, values + at, p, out + place);
  }
}

template <class T>
static void attend(const Attention& a, const View& v, T* keys, T* values, const float* in, float* out, Scratch& from) {
  const int64_t rows = v.rows, inner = a.heads * a.head_dim, inner_kv = a.kv_heads * a.head_dim, room = padded(v.keys);
  const bool cross = a.k.kind == NONE;
  const Input x(from, rows, a.q), middle(from, rows, a.out);
  float *q = from.take<float>(rows * inner), *k = from.take<float>(rows * inner_kv), *w = from.take<float>(rows * inner_kv);
  float *seen = from.take<float>(rows * inner), *y = from.take<float>(rows * a.branch.dim);
  float* scores = from.take<float>(v.threads * room);
  int64_t* places = from.take<int64_t>(v.threads * room * 2);
  const int64_t work = bytes(a.q) + bytes(a.k) + bytes(a.v) + bytes(a.out) + rows * v.keys * inner;
#pragma omp parallel num_threads(team(v.threads, work))
  {
    const Share share{omp_get_thread_num(), omp_get_num_threads()};
    prepare(share, a.branch.before, rows, a.branch.dim, in, x);
#pragma omp barrier
    const Work to_q{a.q, {q, inner, false}};
    if (cross) linears(share, {to_q}, x, rows);
    else linears(share, {to_q, Work{a.k, {k, inner_kv, false}}, Work{a.v, {w, inner_kv, false}}}, x, rows);
#pragma omp barrier
    if (a.norm_over_all) {
      int64_t first, last;
      share.of(rows, first, last);
      for (int64_t r = first; r < last; r++) {
        if (a.q_norm.kind != NO_NORM) normalise(a.q_norm, inner, q + r * inner, q + r * inner);
        if (a.k_norm.kind != NO_NORM && !cross) normalise(a.k_norm, inner_kv, k + r * inner_kv, k + r * inner_kv);
      }
#pragma omp barrier
    }
    turn_and_keep(share, a, v, q, k, w, keys, values);
#pragma omp barrier
    int64_t* place = places + share.index * room * 2;
    look_all(share, a, v, q, keys, values, scores + share.index * room, {0, place, place + room}, seen);
#pragma omp barrier
    prepare(share, Norm{}, rows, inner, seen, middle);
#pragma omp barrier
    leave(share, a.branch, a.out, middle, rows, y, out);
  }
}

static void attention(const Attention& a, const View& v, void* keys, void* values, const float* in, float* out, Scratch& from) {
  if (v.half) attend(a, v, static_cast<uint16_t*>(keys), static_cast<uint16_t*>(values), in, out, from);
  else attend(a, v, static_cast<float*>(keys), static_cast<float*>(values), in, out, from);
}

// ---------------------------------------------------------------- packing

static void pack8(const int8_t* weight, int64_t out, int64_t in, uint8_t* packed, int64_t threads) {
  const int64_t width = padded(in);
#pragma omp parallel for num_threads(static_cast<int>(threads))
  for (int64_t block = 0; block < padded(out) / 64; block++)
    for (int64_t k = 0; k < width; k++)
      for (int64_t n = 0; n < 64; n++) {
        const int64_t row = block * 64 + n;
        const int value = row < out && k < in ? weight[row * in + k] : 0;
        packed[block * 64 * width + k / 4 * 256 + n * 4 + k % 4] = static_cast<uint8_t>(value + 128);
      }
}

#endif
