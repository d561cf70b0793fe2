// Attention of long texts, by products of matrices: some queries and all keys that they see at a time, so that their
// scores stay in the cache. Numbers are E: floats, or bf16 where an instruction multiplies pairs and weights are small.

constexpr int WIDE = LEVEL < 2 ? 2 : 4, ACROSS = WIDE * L;  // vectors of keys, or of channels: sums stay in registers

template <class E> constexpr int64_t LANE = 4 / static_cast<int64_t>(sizeof(E));  // numbers of a lane

INLINE void put_as(float* to, F v) { put(to, v); }
INLINE void put_as(uint16_t* to, F v) { put(to, halved(v)); }

INLINE F meet(F c, const float* w, const float* x) { return c + load(w) * *x; }
#if LEVEL == 3
INLINE F meet(F c, const uint16_t* w, const uint16_t* x) {
  int32_t pair;
  std::memcpy(&pair, x, 4);
  return (F)_mm512_dpbf16_ps((__m512)c, get<__m512bh>(w), (__m512bh)(I{} + pair));
}
#endif

// c[m][v] += rows[m] . panel[..][v], numbers `first` to `last` of each; a panel lies [number / LANE][ACROSS][LANE].
template <class E>
INLINE void products(F (&c)[TALL][WIDE], const E* rows, int64_t stride, const E* panel, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; i += LANE<E>)
    for (int m = 0; m < TALL; m++)
      for (int v = 0; v < WIDE; v++) c[m][v] = meet(c[m][v], panel + i * ACROSS + v * L * LANE<E>, rows + m * stride + i);
}

template <class E> struct Tiles {  // a thread's own, in `tiles_size` bytes
  int64_t keys, dim;               // rounded up
  float* scores;                   // (TALL, keys)
  E *q, *p, *row, *k, *v;          // queries (TALL, dim), weights (TALL, keys), a key or value; keys and values in panels
  Tiles(char* memory, int64_t keys_, int64_t dim_) : keys(padded(keys_)), dim(padded(dim_)) {
    scores = reinterpret_cast<float*>(memory);
    q = reinterpret_cast<E*>(scores + TALL * keys), p = q + TALL * dim, row = p + TALL * keys;
    k = row + dim, v = k + keys * dim;
  }
};

template <class E, class T> static void copied(const T* from, int64_t n, E* to) {  // zeros fill the last vector
  for (int64_t i = 0; i < n; i += L) put_as(to + i, load(from + i, n - i));
}

// Keys and values of one head of sequence b, in panels.
template <class E, class T> static void lay_out(const Tiles<E>& to, const View& v, int64_t b, int64_t dim, const T* keys, const T* values) {
  constexpr int64_t N = LANE<E>;
  const int64_t* origins = v.origins == nullptr ? &b : v.origins + b * v.origin_by_row;
  const int64_t step = v.origins == nullptr ? 0 : v.origin_by_key;
  std::memset(to.k, 0, static_cast<size_t>(to.keys * to.dim) * sizeof(E));
  std::memset(to.v, 0, static_cast<size_t>(to.keys * to.dim) * sizeof(E));
  for (int64_t t = 0; t < v.keys; t++) {
    const int64_t at = origins[t * step] * v.by_row + t * v.by_key;
    copied(keys + at, dim, to.row);
    E* k = to.k + t / ACROSS * ACROSS * to.dim + t % ACROSS * N;
    for (int64_t d = 0; d < dim; d += N) std::memcpy(k + d * ACROSS, to.row + d, 4);
    copied(values + at, dim, to.row);
    E* w = to.v + t / N * N * ACROSS + t % N;
    for (int64_t d = 0; d < dim; d++) w[d / ACROSS * ACROSS * to.keys + d % ACROSS * N] = to.row[d];
  }
}

// The keys that some tokens see lie within [first, last).
static void within(const View& v, const uint8_t* mask, int64_t count, int64_t& first, int64_t& last) {
  first = 0, last = v.keys;
  if (mask == nullptr) return;
  const auto seen = [&](int64_t k) {
    for (int64_t t = 0; t < count; t++)
      if (mask[t * v.mask_by_token + k]) return true;
    return false;
  };
  while (last > 0 && !seen(last - 1)) last--;
  while (first < last && !seen(first)) first++;
}

// One head's output of `count` tokens of one sequence.
template <class E>
static void look(const Attention& a, const View& v, const Tiles<E>& at, int64_t count, const float* q, const uint8_t* mask, const float* bias, float* out) {
  const int64_t dim = a.head_dim, stride = a.heads * dim;
  int64_t first, last;
  within(v, mask, count, first, last);
  first = first / ACROSS * ACROSS, last = (last + ACROSS - 1) / ACROSS * ACROSS;
  for (int64_t m = 0; m < TALL; m++) {
    const float* from = q + (m < count ? m : 0) * stride;
    for (int64_t d = 0; d < dim; d += L) put_as(at.q + m * at.dim + d, load(from + d, dim - d) * a.scale);
  }
  for (int64_t t = first; t < last; t += ACROSS) {
    F c[TALL][WIDE] = {};
    products(c, at.q, at.dim, at.k + t * at.dim, 0, (dim + LANE<E> - 1) / LANE<E> * LANE<E>);
    for (int m = 0; m < TALL; m++)
      for (int i = 0; i < WIDE; i++) put(at.scores + m * at.keys + t + i * L, c[m][i]);
  }
  float rates[TALL] = {};
  for (int64_t m = 0; m < count; m++) {
    float* s = at.scores + m * at.keys;
    F peaks = all(-INFINITY), total = F{};
    for (int64_t t = first; t < last; t += L) {
      const int64_t rest = v.keys - t < L ? v.keys - t : L;
      F x = load(s + t);
      if (a.softcap != 0) x = a.softcap * tanh(x / a.softcap);
      if (bias != nullptr && rest > 0) x += load(bias + m * v.bias_by_token + t, rest);
      if (mask != nullptr && rest == L) x = __builtin_convertvector(get<I8>(mask + m * v.mask_by_token + t), I) != 0 ? x : all(-INFINITY);
      else
        for (int64_t i = 0; i < L; i++)
          if (i >= rest || (mask != nullptr && !mask[m * v.mask_by_token + t + i])) x[i] = -INFINITY;
      put(s + t, x);
      peaks = most(peaks, x);
    }
    const float peak = highest(peaks);
    for (int64_t t = first; t < last; t += L) {
      const F x = load(s + t), e = x == -INFINITY ? F{} : exp(x - peak);
      put_as(at.p + m * at.keys + t, e);
      total += e;
    }
    const float mass = sum(total);
    rates[m] = mass > 0 ? 1.0f / mass : 0.0f;
  }
  for (int64_t m = count; m < TALL; m++) std::memset(at.p + m * at.keys + first, 0, static_cast<size_t>(last - first) * sizeof(E));
  for (int64_t d = 0; d < dim; d += ACROSS) {
    F c[TALL][WIDE] = {};
    products(c, at.p, at.keys, at.v + d * at.keys, first, last);
    for (int64_t m = 0; m < count; m++)
      for (int64_t i = 0; i < WIDE && d + i * L < dim; i++) store(out + m * stride + d + i * L, c[m][i] * rates[m], dim - d - i * L);
  }
}

// This thread's share of the outputs, heads after heads.
template <class E, class T>
static void look_all(Share share, const Attention& a, const View& v, const Tiles<E>& at, const float* q, const T* keys, const T* values, float* out) {
  const int64_t group = a.heads / a.kv_heads;
  int64_t first, last, laid = -1;
  share.of(v.rows * a.heads, first, last);
  for (int64_t i = first, count; i < last; i += count) {
    const int64_t b = i / (v.length * a.heads), h = i / v.length % a.heads, t = i % v.length, left = v.length - t < last - i ? v.length - t : last - i;
    count = left < TALL ? left : TALL;
    const int64_t head = h / group * v.by_head, place = ((b * v.length + t) * a.heads + h) * a.head_dim;
    if (b * a.kv_heads + h / group != laid) lay_out(at, v, b, a.head_dim, keys + head, values + head);
    laid = b * a.kv_heads + h / group;
    const uint8_t* mask = v.mask == nullptr ? nullptr : v.mask + b * v.mask_by_row + t * v.mask_by_token;
    const float* bias = v.bias == nullptr ? nullptr : v.bias + b * v.bias_by_row + h * v.bias_by_head + t * v.bias_by_token;
    look(a, v, at, count, q + place, mask, bias, out + place);
  }
}
