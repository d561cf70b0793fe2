// Linears: products of some rows with weights of each kind.

INLINE void finish(const Linear& l, const Output& to, int64_t row, int64_t n, F v) {
  float* y = to.y + row * to.stride + n - to.first;
  const int64_t rest = l.out - n;
  if (rest <= 0) return;
  if (l.bias != nullptr) v += load(l.bias + n, rest);
  store(y, to.add ? v + load(y, rest) : v, rest);
}

#if LEVEL >= 2
INLINE I start(int32_t sum) { return I{} + sum; }
template <int ZERO> INLINE I dot(I c, I w, I x) { return (I)_mm512_dpbusd_epi32((__m512i)c, (__m512i)w, (__m512i)x); }
#elif LEVEL == 1
INLINE I start(int32_t) { return I{}; }
template <int ZERO> INLINE I dot(I c, I w, I x) {  // pairs of products fit 16 bits, as no weight is below -127
  const __m256i s = _mm256_sub_epi8((__m256i)w, _mm256_set1_epi8(static_cast<char>(ZERO))), a = (__m256i)x;
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(s, a));
  return c + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#else
INLINE I start(int32_t) { return I{}; }
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

struct Ahead {  // weights that come next; the processor foresees reads along one line only, so they are asked for in order
  const char* at;
  int64_t lines;  // of 64 bytes, at each step
  __attribute__((always_inline)) void ask() {
    for (int64_t i = 0; i < lines; i++, at += 64) __builtin_prefetch(at, 0, 3);
  }
};

// Vectors of outputs at a time, so that sums stay in registers; a whole block with AVX-512, so that it is read in order.
template <int M> constexpr int across() { return LEVEL < 2 && M <= 2 ? 4 : 2; }

INLINE F halves(const uint8_t* p) {  // half-precision numbers: the exponent's start is moved by a product
  const I bits = __builtin_convertvector(get<U16>(p), I);
  return (F)((bits & 0x8000) << 16 | (bits & 0x7fff) << 13) * 0x1p112f;
}

// 32 outputs of the M rows of a tile. Weights are read once and in order, which a loop that is unrolled more would not do.
template <int M, int KIND>
static void packed_rows(const Linear& l, const Input& in, int64_t row, const Output& to, int64_t n, Ahead ahead) {
  constexpr int NB = across<M>(), ZERO = KIND == INT8 ? 128 : 8, STEPS = KIND == INT8 ? 16 : 4;
  constexpr int64_t SCALES = KIND == INT8 ? 0 : 64, SIZE = SCALES + STEPS * 128;  // of a group in a block
  for (int v0 = 0; v0 < 32 / L; v0 += NB) {
    const uint8_t* block = static_cast<const uint8_t*>(l.weight) + n / 32 * in.groups * SIZE;
    const int8_t* q = static_cast<const int8_t*>(in.data) + row * in.width;
    F total[M][NB] = {};
    for (int64_t g = 0, at = row * in.groups; g < in.groups; g++, at += M, block += SIZE) {
      ahead.ask();
      const uint8_t* w = block + SCALES + v0 * 4 * L;
      I c[M][NB];
      for (int m = 0; m < M; m++)
        for (int v = 0; v < NB; v++) c[m][v] = start(in.starts[at + m]);
      const auto step = [&](int64_t j) __attribute__((always_inline)) {
        I low[NB], high[NB];
        for (int v = 0; v < NB; v++) {
          low[v] = get<I>(w + j * 128 + v * 4 * L);
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
      };
#pragma GCC unroll 1
      for (int64_t j = 0; j < STEPS; j += 2) step(j), step(j + 1);
      q += STEPS * M * (KIND == INT8 ? 4 : 8);
      for (int v = 0; v < NB; v++) {
        F rate = all(1);
        if constexpr (KIND == INT4) rate = halves(block + (v0 + v) * 2 * L);
        for (int m = 0; m < M; m++)
          total[m][v] += __builtin_convertvector(c[m][v], F) * (KIND == INT8 ? all(in.scales[at + m]) : rate * in.scales[at + m]);
      }
    }
    for (int m = 0; m < M; m++)
      for (int v = 0; v < NB; v++) {
        const int64_t i = n + (v0 + v) * L;
        finish(l, to, row + m, i, KIND == INT8 ? total[m][v] * load(l.scale + i) : total[m][v]);
      }
  }
}

INLINE F part(const float* w, int) { return load(w); }
INLINE F part(const uint16_t* w, int odd) {
  const I both = get<I>(w);
  return (F)(odd ? both & static_cast<int32_t>(0xffff0000) : both << 16);
}

#if LEVEL == 3
template <int R, int M> INLINE void step(F (&c)[R][M], const uint16_t* w, int64_t stride, const uint16_t* x) {
  for (int m = 0; m < M; m++)
    for (int r = 0; r < R; r++)
      c[r][m] = (F)_mm512_dpbf16_ps((__m512)c[r][m], get<__m512bh>(w + r * stride), get<__m512bh>(x + m * 2 * L));
}
#endif

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

// R weight rows against the M <= 4 rows of a tile.
template <int M, int R, class W>
static void weight_rows(const Linear& l, const Input& in, int64_t row, const Output& to, int64_t n, Ahead ahead) {
  constexpr int64_t S = 4 * L / static_cast<int64_t>(sizeof(W));
  using X = std::conditional_t<PAIRS && sizeof(W) == 2, uint16_t, float>;
  const W* w = static_cast<const W*>(l.weight) + n * l.in;
  const X* x = static_cast<const X*>(in.data) + row * in.width;
  const int64_t length = l.in;
  F c[R][M] = {};
  int64_t k = 0;
  for (; k + S <= length; k += S, x += S * M) {
    ahead.ask();
    step<R, M>(c, w + k, length, x);
  }
  if (k < length) {
    W tail[R][S] = {};
    for (int r = 0; r < R; r++) std::memcpy(tail[r], w + r * length + k, static_cast<size_t>(length - k) * sizeof(W));
    step<R, M>(c, tail[0], S, x);
  }
  for (int r = 0; r < R; r++) {
    const F found = sums(c[r][0], c[r][M > 1], c[r][M > 2 ? 2 : 0], c[r][M - 1]);
    for (int m = 0; m < M; m++) {
      float& y = to.y[(row + m) * to.stride + n + r - to.first];
      y = found[m == M - 1 ? 3 : m] + (l.bias == nullptr ? 0.0f : l.bias[n + r]) + (to.add ? y : 0.0f);
    }
  }
}

// Outputs at once: with the rows of a tile, as many sums as registers hold.
constexpr int64_t together(int64_t kind) { return kind >= INT8 ? 32 : LEVEL < 2 ? 2 : kind == FP32 || PAIRS ? 6 : 4; }

template <int M, int KIND>
static void tile(const Linear& l, const Input& in, int64_t row, int64_t end, const Output& to, int64_t n, int64_t last, Ahead ahead) {
  if (end - row != M) {
    if constexpr (M > 1) tile<M - 1, KIND>(l, in, row, end, to, n, last, ahead);
  } else if constexpr (KIND >= INT8) {
    packed_rows<M, KIND>(l, in, row, to, n, ahead);
  } else if constexpr (M <= 4) {
    constexpr int R = together(KIND);
    using W = std::conditional_t<KIND == FP32, float, uint16_t>;
    if (n + R <= last) return weight_rows<M, R, W>(l, in, row, to, n, ahead);
    for (; n < last; n++) weight_rows<M, 1, W>(l, in, row, to, n, ahead);
  }
}

// Some outputs for one tile of rows after another, while their weights are in the cache and the next ones are on their way.
// Where reading takes all the time, weights are read one line after another, and asked for 4 KiB ahead.
template <int KIND> static void outputs(const Work& work, const Input& in, int64_t first, int64_t last) {
  constexpr int64_t SOME = together(KIND), LINES = KIND == INT8 ? 32 : KIND == INT4 ? 9 : SOME;
  const Linear& l = work.linear;
  const bool in_order = KIND >= INT8 ? in.tiles == 1 : in.rows < 4;
  const int64_t some = KIND <= BF16 && in_order ? 1 : SOME, lines = some == 1 ? 1 : (LINES + in.tiles - 1) / in.tiles;
  const int64_t size = KIND == FP32 ? l.in * 4 : KIND == BF16 ? l.in * 2 : KIND == INT8 ? in.width : in.width / 32 * 18;
  for (int64_t n = first; n < last; n += some)
    for (int64_t t = 0; t < in.tiles; t++) {
      const char* ahead = static_cast<const char*>(l.weight) + n * size + (in_order ? 4096 : some * size * (in.tiles + t) / in.tiles);
      tile<MOST, KIND>(l, in, in.start(t), in.start(t + 1), work.to, n, n + some < last ? n + some : last, {ahead, lines});
    }
}

// Outputs first to last of all rows.
static void outputs(const Work& work, const Input& in, int64_t first, int64_t last) {
  if (in.kind == FP32) outputs<FP32>(work, in, first, last);
  else if (in.kind == BF16) outputs<BF16>(work, in, first, last);
  else if (in.kind == INT8) outputs<INT8>(work, in, first, last);
  else outputs<INT4>(work, in, first, last);
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
