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
