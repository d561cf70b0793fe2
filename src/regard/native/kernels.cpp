// Kernels for writing text on a CPU: a residual branch of a layer in one call, for a few rows at a time.
//
// With few rows the time goes into reading the weights once from memory; everything else is arranged so that it hides
// behind that. Weights are fp32 or bf16 as torch stores them, (out, in) row by row, or packed copies of int8 and int4:
//   int8  [out / 32][in / 4][32][4] bytes, weight + 128; one scale per output in `Linear::scale`
//   int4  [out / 32][in / 32] blocks of 32 half-precision scales and [4][32][4] bytes, weight + 8 in each half byte:
//         byte [j][n][i] holds input 4 * j + i of output n in its low half, input 16 + 4 * j + i in its high half
// where `out` and `in` are rounded up to 64. Inputs of packed weights are quantized on the way, one scale for each group
// of 64 (int8) or 32 (int4); those of bf16 weights are rounded to bf16. Sums within a group are exact; groups are added
// in float.
//
// kernels/level.h is compiled once for each level of instructions, and the processor decides which is called. Nothing here
// knows torch; the caller passes addresses and sizes, which are checked.

#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/scratch.h"
#include "kernels/structures.h"
#include "kernels/writing.h"

#define API extern "C" __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

// ---------------------------------------------------------------- the levels

#define LEVEL 0
namespace portable {
#include "kernels/level.h"
}
#undef LEVEL

#if defined(__x86_64__)
#define LEVEL 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2")
namespace avx2 {
#include "kernels/level.h"
}
#pragma GCC pop_options
#undef LEVEL

#define LEVEL 2
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")
namespace avx512 {
#include "kernels/level.h"
}
#pragma GCC pop_options
#undef LEVEL

#define LEVEL 3
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,prefer-vector-width=512")
namespace avx512bf16 {
#include "kernels/level.h"
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
  void (*pack4)(const uint8_t*, const uint16_t*, int64_t, int64_t, uint8_t*, int64_t);
};

#define LEVEL_OF(space) \
  {space::attention, space::feed_forward, space::linear, space::best, space::norms, space::pack8, space::pack4}
#if defined(__x86_64__)
const Level levels[] = {LEVEL_OF(portable), LEVEL_OF(avx2), LEVEL_OF(avx512), LEVEL_OF(avx512bf16)};
int best() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2")) return 0;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512vnni");
  return !wide ? 1 : __builtin_cpu_supports("avx512bf16") ? 3 : 2;
}
#else
const Level levels[] = {LEVEL_OF(portable)};
int best() { return 0; }
#endif
int level = best();

}  // namespace

// ---------------------------------------------------------------- what is called; all give an `Error`

// The level in use: 0 portable, 1 AVX2, 2 AVX-512 with VNNI, 3 with products of bf16 too.
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
                           sizeof(FeedForward), sizeof(View),   sizeof(Best),   sizeof(Call),
                           sizeof(Writing),     sizeof(Embedding), sizeof(Sight), sizeof(Choice)};
  return which < 0 || which > 11 ? -1 : sizes[which];
}

// out += attention branch of in; (rows, dim) both, perhaps the same. New keys and values go to their columns first.
API int rg_attention(const Attention* a, const View* v, void* keys, void* values, const float* in, float* out) {
  if (!a || !v || !keys || !values || !in || !out) return NULL_POINTER;
  if (const Error e = check(*a, *v)) return e;
  if (v->rows == 0) return OK;
  const int64_t inner = a->heads * a->head_dim, dim = a->branch.dim;
  const int64_t numbers = v->rows * (4 * padded(inner) + padded(dim)) + v->threads * padded(v->keys) * 5;
  const int64_t tiles = v->length < LONG ? 0 : v->threads * tiles_size(v->keys, a->head_dim);
  const int64_t size = 4 * numbers + tiles + Input::bytes(v->rows, dim) + Input::bytes(v->rows, inner) + 64 * 64;
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

// The next tokens of rows that are written, of x (rows, in), which may be changed.
static int choose(const Choice* c, int64_t rows, int64_t dim, int64_t threads, float* x) {
  if (!c || !c->linear || !c->newest || !x) return NULL_POINTER;
  if (c->linear->in != dim) return BAD_SHAPE;
  if (c->scale != 1.0f)
    for (int64_t i = 0; i < rows * dim; i++) x[i] *= c->scale;
  const int e = rg_best(c->linear, rows, threads, x, c->rule, &c->best);
  return e ? e : write_down(*c, rows);
}

// The calls of a pass one after another, up to the first error.
API int rg_run(const Call* calls, int64_t count, int64_t rows, int64_t dim, int64_t threads) {
  if (!calls) return NULL_POINTER;
  if (rows < 0 || rows > MAX_WIDTH || dim <= 0 || dim > MAX_WIDTH) return BAD_SIZE;
  for (const Call* c = calls; c < calls + count; c++) {
    int e = OK;
    if (c->task == ATTENTION) e = rg_attention(static_cast<const Attention*>(c->structure), c->view, c->keys, c->values, c->in, c->out);
    else if (c->task == FEED_FORWARD) e = rg_feed_forward(static_cast<const FeedForward*>(c->structure), rows, threads, c->in, c->out);
    else if (c->task == NORM) e = rg_norm(static_cast<const Norm*>(c->structure), rows, dim, c->in, c->out);
    else if (c->task == EMBED) e = embed(static_cast<const Embedding*>(c->structure), rows, dim, c->out);
    else if (c->task == SEE) e = see(static_cast<const Sight*>(c->structure), rows);
    else if (c->task == CHOOSE) e = choose(static_cast<const Choice*>(c->structure), rows, dim, threads, c->out);
    else if (c->task != COPY) e = BAD_KIND;
    else if (!c->in || !c->out) e = NULL_POINTER;
    else std::memcpy(c->out, c->in, static_cast<size_t>(rows * dim) * sizeof(float));
    if (e) return e;
  }
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
// (out, in / 32), to the packed layout above: padded(out) / 32 * padded(in) / 32 blocks of 576 bytes.
API int rg_pack4(const uint8_t* weight, const uint16_t* scales, int64_t out, int64_t in, uint8_t* packed, int64_t threads) {
  if (!weight || !scales || !packed) return NULL_POINTER;
  if (out <= 0 || in <= 0 || in % 32 || out > MAX_WIDTH || in > MAX_WIDTH || threads < 1) return BAD_SIZE;
  levels[level].pack4(weight, scales, out, in, packed, threads);
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
