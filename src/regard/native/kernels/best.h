// The largest outputs of a linear, found while its products are in the cache.

// Let y[i], output n + i, come in where it is larger than what was found before; values stay sorted.
static void insert(float y, int64_t id, int64_t count, float* values, int64_t* ids) {
  int64_t at = count - 1;
  for (; at > 0 && values[at - 1] < y; at--) values[at] = values[at - 1], ids[at] = ids[at - 1];
  values[at] = y, ids[at] = id;
}

// mass = sum(exp(seen - peak)), a larger peak and more of y[0 .. n) taken in; y is filled up to a whole vector.
static void weigh(float* y, int64_t n, float high, float& peak, float& mass) {
  if (high > peak) {
    mass = peak == -INFINITY ? 0 : mass * exp(all(peak - high))[0];
    peak = high;
  }
  for (int64_t i = n; i < (n + L - 1) / L * L; i++) y[i] = -INFINITY;
  F total = F{};
  for (int64_t i = 0; i < n; i += L) total += exp(load(y + i) - peak);
  mass += sum(total);
}

static void best(const Linear& l, int64_t rows, int64_t threads, const float* x, const float* rule, const Best& to, Scratch& from) {
  const int64_t count = to.count;
  const bool weighed = to.peak != nullptr;
  const Input in(from, rows, l);
  float *slabs = from.take<float>(threads * rows * SLAB), *values = from.take<float>(threads * rows * count);
  int64_t* ids = from.take<int64_t>(threads * rows * count);
  float *peaks = from.take<float>(threads * rows), *masses = from.take<float>(threads * rows);
#pragma omp parallel num_threads(team(threads, bytes(l)))
  {
    const Share share{omp_get_thread_num(), omp_get_num_threads()};
    prepare(share, Norm{}, l.in, x, in);
    float *slab = slabs + share.index * rows * SLAB, *own = values + share.index * rows * count;
    int64_t *own_ids = ids + share.index * rows * count, first, last;
    float *peak = peaks + share.index * rows, *mass = masses + share.index * rows;
    for (int64_t i = 0; i < rows * count; i++) own[i] = -INFINITY, own_ids[i] = 0;
    for (int64_t r = 0; r < rows; r++) peak[r] = -INFINITY, mass[r] = 0;
    share_of(share, l, first, last);
#pragma omp barrier
    for (int64_t n = first; n < last; n += SLAB) {
      const int64_t end = n + SLAB < last ? n + SLAB : last;
      outputs({l, {slab, SLAB, false, n}}, in, n, end);
      for (int64_t r = 0; r < rows; r++) {
        float *y = slab + r * SLAB, *found = own + r * count, high = -INFINITY;
#pragma omp simd reduction(max : high)
        for (int64_t i = 0; i < end - n; i++) high = y[i] > high ? y[i] : high;
        for (int64_t i = 0; i < end - n && high > found[count - 1]; i++) {
          const float ruled = rule == nullptr ? y[i] : y[i] + rule[n + i];
          if (ruled > found[count - 1]) insert(ruled, n + i, count, found, own_ids + r * count);
        }
        if (weighed) weigh(y, end - n, high, peak[r], mass[r]);
      }
    }
#pragma omp barrier
    share.of(rows, first, last);
    for (int64_t r = first; r < last; r++) {
      float *found = to.values + r * count, high = -INFINITY, total = 0;
      int64_t* found_ids = to.ids + r * count;
      for (int64_t i = 0; i < count; i++) found[i] = -INFINITY, found_ids[i] = 0;
      for (int64_t t = 0; t < share.count; t++) {
        const int64_t at = t * rows + r;
        for (int64_t i = 0; i < count && values[at * count + i] > found[count - 1]; i++)
          insert(values[at * count + i], ids[at * count + i], count, found, found_ids);
        high = peaks[at] > high ? peaks[at] : high;
      }
      if (!weighed) continue;
      for (int64_t t = 0; t < share.count; t++) {
        const int64_t at = t * rows + r;
        if (masses[at] > 0) total += masses[at] * exp(all(peaks[at] - high))[0];
      }
      to.peak[r] = high, to.mass[r] = total;
    }
  }
}
