// What the caller describes (see layout.py), and whether it can be so: nothing is computed before it was checked.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace {

enum Kind : int64_t { NONE, FP32, BF16, INT8, INT4 };
enum NormKind : int64_t { NO_NORM, LAYER_NORM, RMS_NORM };
enum Activation : int64_t { GELU, GELU_TANH, QUICK_GELU, RELU, RELU2, SILU, TANH, SIGMOID, MISH, IDENTITY, ACTIVATIONS };
enum Error : int {
  OK, NULL_POINTER, BAD_ROWS, BAD_SIZE, BAD_KIND, BAD_ALIGNMENT, BAD_SHAPE, BAD_COLUMN, BAD_LEVEL, BAD_VALUE, NO_MEMORY
};

constexpr int64_t MAX_ROWS = 2048, AT_ONCE = 128;  // of attention; of the rest, whose results must stay in the cache
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

enum Task : int64_t { ATTENTION, FEED_FORWARD, NORM, COPY, EMBED, SEE, CHOOSE };

struct Call {  // one of the calls that make up a pass, of rows (rows, dim)
  int64_t task;
  const void* structure;  // Attention, FeedForward, Norm, Embedding, Sight or Choice
  const View* view;       // of attention, as are keys and values
  void *keys, *values;
  const float* in;
  float* out;
};

struct Best {  // the largest outputs of each row, the first of equals first, and log(sum(exp)) = peak + log(mass) of all
  int64_t count;
  float* values;   // (rows, count)
  int64_t* ids;    // (rows, count)
  float *peak, *mass;  // (rows), or null
};

struct Writing {  // rows that are written: of their histories (rows, room) column `at` comes next, the one before was read
  int64_t rows, room, at;
  int64_t* ids;
  float* logs;             // laid out alike: what the model gave each token; null where nobody asks
  const float* draws;      // laid out alike: numbers in [0, 1) that choose; null: the likeliest is taken
  const int64_t* columns;  // (rows): where in the cache the token before goes, which is its position too
};

struct Embedding {
  const Writing* writing;
  const void* tokens;                // (vocab, dim), of bf16 if `half`
  const float *segment, *positions;  // (dim) and (places, dim), or null
  int64_t vocab, places, half;
  float scale;  // of tokens
};

struct Sight {  // how a view is renewed
  View* view;
  const Writing* writing;
  int64_t window;      // 0: tokens see all before them
  uint8_t* mask;       // (rows, capacity) to write to
  const float* turns;  // cosines and sines of all columns (2, capacity, rope_dim), or null
  float* turned;       // those of the rows (2, rows, rope_dim)
  const float* scores;  // of distances key - query from 1 - capacity on (heads, 2 * capacity - 1), or null
  float* bias;          // (rows, heads, capacity) to write to
  int64_t heads;
};

struct Choice {
  const Writing* writing;
  const Linear* linear;
  const float* rule;  // as of rg_best
  Best best;
  int64_t* newest;                       // (rows): the tokens once more
  float scale, temperature, tail, least;  // of what the linear reads; 0: no cut
};

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
