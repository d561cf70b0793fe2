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
