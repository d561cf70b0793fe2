// Rows made ready for a linear: normed, padded, rounded to bytes where its weights are packed.

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
static void quantize(const Input& in, int64_t row, const float* x) {
  const auto [first, beside] = in.around(row);
  const int64_t group = in.width / in.groups;
  int8_t* q = static_cast<int8_t*>(in.data) + first * in.width + (row - first) * 4;
  const float magic = 12582912.0f;  // as in `exp`
  for (int64_t g = 0; g < in.groups; g++, x += group) {
    F high = F{}, total = F{};
    for (int64_t i = 0; i < group; i += L) {
      const F v = load(x + i);
      high = most(high, most(v, -v));
    }
    const float peak = highest(high), rate = peak > 0 ? 127.0f / peak : 0.0f;
    int8_t bytes[64];
    for (int64_t i = 0; i < group; i += L) {
      const F near = load(x + i) * rate + magic;
      total += near - magic;
      put(bytes + i, __builtin_convertvector((I)near - 0x4B400000, I8));  // the number lies in the low bits
    }
    for (int64_t i = 0; i < group; i += 4, q += 4 * beside) std::memcpy(q, bytes + i, 4);
    const int64_t at = first * in.groups + g * beside + row - first;
    in.scales[at] = peak / 127.0f, in.starts[at] = (in.kind == INT8 ? -128 : -8) * static_cast<int32_t>(sum(total));
  }
}

template <int... I> INLINE void take_apart(F& a, F& b, std::integer_sequence<int, I...>) {  // even ones to a, odd ones to b
  const F even = __builtin_shufflevector(a, b, (2 * I)...);
  b = __builtin_shufflevector(a, b, (2 * I + 1)...), a = even;
}

// Floats as weights meet them. Those of bf16 weights are rounded to bf16 too: in pairs where an instruction multiplies
// pairs, else L even ones and then L odd ones, as a shift takes the pairs of weights apart.
static void deal(const Input& in, int64_t row, const float* x) {
  const auto [first, beside] = in.around(row);
  char* to = static_cast<char*>(in.data) + first * in.width * (PAIRS && in.kind == BF16 ? 2 : 4) + (row - first) * 4 * L;
  for (int64_t i = 0; i < in.width; i += 2 * L, to += 4 * L * beside) {
    F a = load(x + i), b = load(x + i + L);
#if LEVEL == 3
    if (in.kind == BF16) {
      put(to, _mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
      continue;
    }
#endif
    if (in.kind == BF16) a = rounded(a), b = rounded(b), take_apart(a, b, Lanes());
    put(to, a), put(to += 4 * L * beside, b);
  }
}

static void prepare(Share share, const Norm& norm, int64_t dim, const float* from, const Input& in) {
  int64_t first, last;
  share.of(in.rows, first, last);
  for (int64_t r = first; r < last; r++) {
    float* x = in.x + r * in.width;
    if (norm.kind == NO_NORM) std::memcpy(x, from + r * dim, static_cast<size_t>(dim) * sizeof(float));
    else normalise(norm, dim, from + r * dim, x);
    for (int64_t i = dim; i < in.width; i++) x[i] = 0;
    if (in.kind >= INT8) quantize(in, r, x);
    else deal(in, r, x);
  }
}
