// Vectors of as many numbers as this level of instructions has, and functions of them.

#if LEVEL >= 2
constexpr int L = 16;
#elif LEVEL == 1
constexpr int L = 8;
#else
constexpr int L = 4;
#endif
constexpr bool PAIRS = LEVEL == 3;  // products of pairs of bf16
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

INLINE F all(float x) { return x - F{}; }
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

typedef std::make_integer_sequence<int, L> Lanes;

template <int STEP, int... I>  // sums of lanes i and i ^ STEP: of a where that bit of i is 0, else of b
INLINE F folded(F a, F b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I & STEP ? L + I : I)...) +
         __builtin_shufflevector(a, b, ((I & STEP ? L + I : I) ^ STEP)...);
}
template <int STEP> INLINE F folded(F a, F b) { return folded<STEP>(a, b, Lanes()); }
INLINE F sums(F a, F b, F c, F d) {  // of four vectors, in the first four lanes
  F v = folded<2>(folded<1>(a, b), folded<1>(c, d));
  if constexpr (L > 4) v = folded<4>(v, v);
  if constexpr (L > 8) v = folded<8>(v, v);
  return v;
}
INLINE float sum(F v) { return sums(v, v, v, v)[0]; }

INLINE F least(F a, F b) { return a < b ? a : b; }
INLINE F most(F a, F b) { return a > b ? a : b; }

INLINE F rounded(F v) {  // to the nearest bf16, ties to even
  const I bits = (I)v;
  return v == v ? (F)((bits + 0x7fff + (bits >> 16 & 1)) & static_cast<int32_t>(0xffff0000)) : v;
}

INLINE U16 halved(F v) { return __builtin_convertvector((I)rounded(v) >> 16, U16); }  // as bf16

template <int STEP, int... I> INLINE F higher(F v, std::integer_sequence<int, I...> lanes) {
  v = most(v, __builtin_shufflevector(v, v, (I ^ STEP)...));
  if constexpr (STEP > 1) v = higher<STEP / 2>(v, lanes);
  return v;
}
INLINE float highest(F v) { return higher<L / 2>(v, Lanes())[0]; }

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
