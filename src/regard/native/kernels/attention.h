// Attention branches: new keys to the cache, and what each token finds there.

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
static void write(uint16_t* to, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += L) {
    const U16 part = halved(load(x + i, n - i));
    std::memcpy(to + i, &part, static_cast<size_t>(n - i < L ? n - i : L) * sizeof(uint16_t));
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
    for (int64_t i = 0; i < 4; i++) k[i] = keys + seen.offset[t + i < seen.count ? t + i : t];
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
  const int64_t each = v.length < LONG ? 0 : tiles_size(v.keys, a.head_dim);
  char* tiles = from.take<char>(v.threads * each);
  const int64_t work = bytes(a.q) + bytes(a.k) + bytes(a.v) + bytes(a.out) + rows * v.keys * inner;
#pragma omp parallel num_threads(team(v.threads, work))
  {
    const Share share{omp_get_thread_num(), omp_get_num_threads()};
    prepare(share, a.branch.before, a.branch.dim, in, x);
#pragma omp barrier
    const Work to_q{a.q, {q, inner, false}};
    if (cross) linears(share, {to_q}, x);
    else linears(share, {to_q, Work{a.k, {k, inner_kv, false}}, Work{a.v, {w, inner_kv, false}}}, x);
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
    using Small = std::conditional_t<PAIRS, uint16_t, float>;
    if (v.length < LONG) {
      int64_t* place = places + share.index * room * 2;
      look_all(share, a, v, q, keys, values, scores + share.index * room, {0, place, place + room}, seen);
    } else {
      char* own = tiles + share.index * each;
      if (a.q.kind >= INT8) look_all(share, a, v, Tiles<Small>(own, v.keys, a.head_dim), q, keys, values, seen);
      else look_all(share, a, v, Tiles<float>(own, v.keys, a.head_dim), q, keys, values, seen);
    }
#pragma omp barrier
    prepare(share, Norm{}, inner, seen, middle);
#pragma omp barrier
    leave(share, a.branch, a.out, middle, rows, y, out);
  }
}

static void attention(const Attention& a, const View& v, void* keys, void* values, const float* in, float* out, Scratch& from) {
  if (v.half) attend(a, v, static_cast<uint16_t*>(keys), static_cast<uint16_t*>(values), in, out, from);
  else attend(a, v, static_cast<float*>(keys), static_cast<float*>(values), in, out, from);
}
