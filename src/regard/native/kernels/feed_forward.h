// The residual stream, and feed-forward branches.

static bool bare(const Branch& b) { return b.within.kind == NO_NORM && b.after.kind == NO_NORM && b.scale == nullptr; }

// The last linear of a branch, and what comes after it: straight into the stream where nothing does.
static void leave(Share share, const Branch& b, const Linear& l, const Input& in, int64_t rows, float* y, float* out) {
  if (bare(b)) return linears(share, {Work{l, {out, b.dim, true}}}, in);
  linears(share, {Work{l, {y, b.dim, false}}}, in);
#pragma omp barrier
  int64_t first, last;
  share.of(rows, first, last);
  for (int64_t r = first; r < last; r++) {
    float *to = out + r * b.dim, *add = y + r * b.dim;
    if (b.within.kind != NO_NORM) normalise(b.within, b.dim, add, add);
    for (int64_t i = 0; i < b.dim; i++) to[i] += b.scale == nullptr ? add[i] : add[i] * b.scale[i];
    if (b.after.kind != NO_NORM) normalise(b.after, b.dim, to, to);
  }
}

static void feed_forward(const FeedForward& f, int64_t rows, int64_t threads, const float* in, float* out, Scratch& from) {
  const int64_t hidden = f.up.out;
  const bool gated = f.gate.kind != NONE;
  const Input x(from, rows, f.up), middle(from, rows, f.down);
  float *up = from.take<float>(rows * hidden), *gate = from.take<float>(rows * hidden);
  float* y = from.take<float>(rows * f.branch.dim);
#pragma omp parallel num_threads(team(threads, bytes(f.up) + bytes(f.down)))
  {
    const Share share{omp_get_thread_num(), omp_get_num_threads()};
    prepare(share, f.branch.before, f.branch.dim, in, x);
#pragma omp barrier
    int64_t first, last;
    share_of(share, f.up, first, last);
    outputs({f.up, {up, hidden, false}}, x, first, last);
    if (gated) outputs({f.gate, {gate, hidden, false}}, x, first, last);
    for (int64_t r = 0; r < rows && first < last; r++)
      activate(f.activation, up + r * hidden + first, gated ? gate + r * hidden + first : nullptr, last - first);
#pragma omp barrier
    prepare(share, Norm{}, hidden, up, middle);
#pragma omp barrier
    leave(share, f.branch, f.down, middle, rows, y, out);
  }
}
