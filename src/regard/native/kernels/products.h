// Linears: products of some rows with weights of each kind.

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

constexpr int64_t BESIDE = 64;  // rows whose sums for 32 outputs stay in the nearest cache

// Vectors of outputs at a time, so that sums stay in registers; a whole block with AVX-512, so that it is read in order.
template <int M> constexpr int across() { return LEVEL < 2 && M <= 2 ? 4 : 2; }

INLINE F halves(const uint8_t* p) {  // half-precision numbers: the exponent's start is moved by a product
  const I bits = __builtin_convertvector(get<U16>(p), I);
  return (F)((bits & 0x8000) << 16 | (bits & 0x7fff) << 13) * 0x1p112f;
}

// A group of inputs of a tile against 32 outputs, added to total (M, 32). Put into its caller, it was a fifth slower.
template <int M, int KIND>
__attribute__((noinline)) static void add_group(const uint8_t* block, const int8_t* q, const float* scales, const int32_t* sums, float* total) {
  constexpr int NB = across<M>(), ZERO = KIND == INT8 ? 128 : 8, SCALES = KIND == INT8 ? 0 : 64, STEPS = KIND == INT8 ? 16 : 4;
  for (int v0 = 0; v0 < 32 / L; v0 += NB) {
    const uint8_t* w = block + SCALES + v0 * 4 * L;
    I c[M][NB];
    for (int m = 0; m < M; m++)
      for (int v = 0; v < NB; v++) c[m][v] = start<ZERO>(sums[m]);
    for (int j = 0; j < STEPS; j++, w += 128) {
      I low[NB], high[NB];
      for (int v = 0; v < NB; v++) {
        low[v] = get<I>(w + v * 4 * L);
        if constexpr (KIND == INT4) high[v] = (low[v] >> 4) & 0x0f0f0f0f, low[v] &= 0x0f0f0f0f;
      }
      for (int m = 0; m < M; m++) {
        const I x = word(q + (j * M + m) * 4);
        for (int v = 0; v < NB; v++) c[m][v] = dot<ZERO>(c[m][v], low[v], x);
        if constexpr (KIND == INT4) {
          const I y = word(q + ((j + 4) * M + m) * 4);
          for (int v = 0; v < NB; v++) c[m][v] = dot<ZERO>(c[m][v], high[v], y);
        }
      }
    }
    for (int v = 0; v < NB; v++) {
      F rate = all(1);
      if constexpr (KIND == INT4) rate = halves(block + (v0 + v) * 2 * L);
      for (int m = 0; m < M; m++) {
        float* at = total + m * 32 + (v0 + v) * L;
        put(at, load(at) + __builtin_convertvector(c[m][v], F) * (KIND == INT8 ? all(scales[m]) : rate * scales[m]));
      }
    }
  }
}

template <int KIND, int M = PACKED_TILE>
INLINE void add_group(const Input& in, int64_t row, int64_t rows, int64_t g, const uint8_t* block, float* total) {
  if (rows == M) {
    const int64_t at = row * in.groups + g * M;
    const int8_t* q = static_cast<const int8_t*>(in.tiles) + row * in.width + g * M * (KIND == INT8 ? 64 : 32);
    add_group<M, KIND>(block, q, in.scales + at, in.sums + at, total);
  } else if constexpr (M > 1) {
    add_group<KIND, M - 1>(in, row, rows, g, block, total);
  }
}

// Weights are read once and in order, for one group of inputs of all rows after another.
template <int KIND>
static void packed(const Linear& l, const Input& in, int64_t row, int64_t end, const Output& to, int64_t first, int64_t last) {
  constexpr int64_t SIZE = KIND == INT8 ? 32 * 64 : 576;  // of a group in a block
  alignas(64) float total[BESIDE * 32];
  for (int64_t n = first; n < last; n += 32) {
    const uint8_t* block = static_cast<const uint8_t*>(l.weight) + n / 32 * in.groups * SIZE;
    std::memset(total, 0, static_cast<size_t>(end - row) * 32 * sizeof(float));
    for (int64_t g = 0; g < in.groups; g++, block += SIZE)
      for (int64_t r = row; r < end; r += in.tile)
        add_group<KIND>(in, r, end - r < in.tile ? end - r : in.tile, g, block, total + (r - row) * 32);
    for (int64_t r = row; r < end; r++)
      for (int i = 0; i < 32; i += L) {
        const F y = load(total + (r - row) * 32 + i);
        finish(l, to, r, n + i, KIND == INT8 ? y * load(l.scale + n + i) : y);
      }
  }
}

INLINE F part(const float* w, int) { return load(w); }
INLINE F part(const uint16_t* w, int odd) {
  const I both = get<I>(w);
  return (F)(odd ? both & static_cast<int32_t>(0xffff0000) : both << 16);
}

// R * M dot products of 4 L bytes of weights: a vector of floats, or two of bf16.
template <int R, int M, class W> INLINE void step(F (&c)[R][M], const W* w, int64_t stride, const float* x) {
  for (int odd = 0; odd < 4 / static_cast<int>(sizeof(W)); odd++, x += M * L) {
    F v[R];
    for (int r = 0; r < R; r++) v[r] = part(w + r * stride, odd);
    for (int m = 0; m < M; m++) {
      const F from = load(x + m * L);
      for (int r = 0; r < R; r++) c[r][m] += v[r] * from;
    }
  }
}

// R weight rows against the M rows of a tile. The processor reads ahead along one line only, so what comes next, wherever
// the rows are, is asked for in order: `ask` times 64 bytes at each step.
template <int M, int R, class W>
static void weight_rows(const Linear& l, const Input& in, int64_t row, const Output& to, int64_t n, const char*& ahead, int64_t ask) {
  constexpr int64_t S = 4 * L / static_cast<int64_t>(sizeof(W));
  const W* w = static_cast<const W*>(l.weight) + n * l.in;
  const float* x = static_cast<const float*>(in.tiles) + row * in.width;
  const int64_t length = l.in;
  F c[R][M] = {};
  int64_t k = 0;
  for (; k + S <= length; k += S, x += S * M) {
    for (int64_t i = 0; i < ask; i++, ahead += 64) __builtin_prefetch(ahead, 0, 2);
    step<R, M>(c, w + k, length, x);
  }
  if (k < length) {
    W tail[R][S] = {};
    for (int r = 0; r < R; r++) std::memcpy(tail[r], w + r * length + k, static_cast<size_t>(length - k) * sizeof(W));
    step<R, M>(c, tail[0], S, x);
  }
  for (int r = 0; r < R; r++)
    for (int m = 0; m < M; m++) {
      float& y = to.y[(row + m) * to.stride + n + r - to.first];
      y = sum(c[r][m]) + (l.bias == nullptr ? 0.0f : l.bias[n + r]) + (to.add ? y : 0.0f);
    }
}

// Weight rows at once: with the rows of a tile, as many sums as registers hold.
constexpr int together(int64_t kind) { return LEVEL < 2 ? 2 : kind == FP32 ? 6 : 4; }

struct Slab {  // outputs [first, last), the weights that come after them, and how much of those to ask for at each step
  int64_t first, last;
  const char* ahead;
  int64_t ask;
};

template <int M, int KIND> static void plain_rows(const Linear& l, const Input& in, int64_t row, const Output& to, Slab s) {
  constexpr int R = together(KIND);
  using W = std::conditional_t<KIND == FP32, float, uint16_t>;
  int64_t n = s.first;
  for (; s.ask && n + R <= s.last; n += R) weight_rows<M, R, W>(l, in, row, to, n, s.ahead, s.ask);
  for (; n < s.last; n++) weight_rows<M, 1, W>(l, in, row, to, n, s.ahead, 0);
}

template <int M = TILE> static void tile(const Linear& l, const Input& in, int64_t row, const Output& to, const Slab& s) {
  if (in.beside(row) != M) {
    if constexpr (M > 1) tile<M - 1>(l, in, row, to, s);
  } else if (l.kind == FP32) {
    plain_rows<M, FP32>(l, in, row, to, s);
  } else {
    plain_rows<M, BF16>(l, in, row, to, s);
  }
}

// A slab of weights that stays in the cache is gone through for one tile after another. A single row that stays in the
// nearest cache beside them reads weights as fast as they come, one line after another.
static void plain(const Linear& l, const Input& in, const Output& to, int64_t first, int64_t last) {
  const int64_t tiles = (in.rows + in.tile - 1) / in.tile, size = bytes(l) / l.out, fits = (int64_t{256} << 10) / (size + 1) / 64 * 64;
  const int64_t slab = tiles == 1 ? last - first : fits < 64 ? 64 : fits, most = together(l.kind);
  const int64_t ask = in.rows == 1 && l.in <= 1024 ? 0 : (most + tiles - 1) / tiles;
  for (int64_t n = first; n < last; n += slab) {
    const int64_t end = n + slab < last ? n + slab : last, after = tiles == 1 ? n + most : end;
    for (int64_t row = 0; row < in.rows; row += in.tile) {
      const int64_t asked = (end - n) * size / tiles * (row / in.tile);
      tile(l, in, row, to, {n, end, static_cast<const char*>(l.weight) + after * size + asked, ask});
    }
  }
}

// Outputs first to last of all rows.
static void outputs(const Work& work, const Input& in, int64_t first, int64_t last) {
  const Linear& l = work.linear;
  if (l.kind <= BF16) return plain(l, in, work.to, first, last);
  const int64_t some = BESIDE / in.tile * in.tile;
  for (int64_t row = 0; row < in.rows; row += some) {
    const int64_t end = row + some < in.rows ? row + some : in.rows;
    if (l.kind == INT8) packed<INT8>(l, in, row, end, work.to, first, last);
    else packed<INT4>(l, in, row, end, work.to, first, last);
  }
}

// This thread's share of the outputs of one linear: [first, last).
static void share_of(Share share, const Linear& l, int64_t& first, int64_t& last) {
  share.of(grains(l), first, last);
  first *= grain(l), last *= grain(l);
  last = last < l.out ? last : l.out;
}

// Several linears of the same rows, their outputs shared out as if they were one.
template <int COUNT> static void linears(Share share, const Work (&works)[COUNT], const Input& in) {
  int64_t total = 0, first, last, before = 0;
  for (const Work& work : works) total += grains(work.linear);
  share.of(total, first, last);
  for (const Work& work : works) {
    const int64_t size = grain(work.linear), count = grains(work.linear);
    const int64_t a = first > before ? first - before : 0, b = last - before < count ? last - before : count;
    if (a < b) outputs(work, in, a * size, b * size < work.linear.out ? b * size : work.linear.out);
    before += count;
  }
}

static void linear(const Linear& l, int64_t rows, int64_t threads, const float* x, float* y, Scratch& from) {
  const Input in(from, rows, l);
#pragma omp parallel num_threads(team(threads, bytes(l)))
  {
    const Share share{omp_get_thread_num(), omp_get_num_threads()};
    prepare(share, Norm{}, l.in, x, in);
#pragma omp barrier
    linears(share, {Work{l, {y, l.out, false}}}, in);
  }
}
