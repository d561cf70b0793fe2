// What a step of writing does beside its layers: tokens become vectors before them, and the next tokens are chosen after.
#pragma once

#include <cmath>

#include "structures.h"

namespace {

Error check(const Writing* w, int64_t rows) {
  if (!w || !w->ids || !w->columns) return NULL_POINTER;
  if (w->rows != rows || rows > MAX_ROWS) return BAD_ROWS;
  return w->at < 1 || w->at >= w->room ? BAD_COLUMN : OK;
}

// out (rows, dim) = vectors of the newest tokens and of their positions.
Error embed(const Embedding* e, int64_t rows, int64_t dim, float* out) {
  if (!e || !e->tokens || !out) return NULL_POINTER;
  if (const Error found = check(e->writing, rows)) return found;
  const Writing& w = *e->writing;
  for (int64_t r = 0; r < rows; r++, out += dim) {
    const int64_t id = w.ids[r * w.room + w.at - 1], place = w.columns[r];
    if (id < 0 || id >= e->vocab) return BAD_VALUE;
    if (e->positions != nullptr && (place < 0 || place >= e->places)) return BAD_COLUMN;
    if (!e->half) {
      std::memcpy(out, static_cast<const float*>(e->tokens) + id * dim, static_cast<size_t>(dim) * sizeof(float));
    } else {
      const uint16_t* from = static_cast<const uint16_t*>(e->tokens) + id * dim;
      for (int64_t i = 0; i < dim; i++) {
        const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
        std::memcpy(out + i, &bits, sizeof bits);
      }
    }
    if (e->scale != 1.0f)
      for (int64_t i = 0; i < dim; i++) out[i] *= e->scale;
    for (const float* add : {e->segment, e->positions == nullptr ? nullptr : e->positions + place * dim})
      if (add != nullptr)
        for (int64_t i = 0; i < dim; i++) out[i] += add[i];
  }
  return OK;
}

// What the newest tokens look at in layers of a sort: all tokens up to themselves, or the last `window` of these; and how
// they are turned there, and scored by distance.
Error see(const Sight* s, int64_t rows) {
  if (!s || !s->view || !s->mask || (s->turns && !s->turned) || (s->scores && !s->bias)) return NULL_POINTER;
  if (const Error found = check(s->writing, rows)) return found;
  const int64_t* at = s->writing->columns;
  View& v = *s->view;
  bool all = true;
  v.keys = 0, v.columns = at, v.mask = nullptr;
  for (int64_t r = 0; r < rows; r++) {
    if (at[r] < 0 || at[r] >= v.capacity) return BAD_COLUMN;
    if (at[r] >= v.keys) v.keys = at[r] + 1;
    all = all && at[r] == at[0] && (s->window == 0 || at[r] < s->window);
  }
  const size_t size = static_cast<size_t>(v.rope_dim) * sizeof(float);
  for (int64_t i = 0; i < 2 && s->turns; i++)  // cosines, then sines
    for (int64_t r = 0; r < rows; r++)
      std::memcpy(s->turned + (i * rows + r) * v.rope_dim, s->turns + (i * v.capacity + at[r]) * v.rope_dim, size);
  v.bias = s->bias, v.bias_by_row = s->heads * v.keys, v.bias_by_head = v.keys;
  for (int64_t i = 0; i < rows * s->heads && s->scores; i++) {
    const float* from = s->scores + i % s->heads * (2 * v.capacity - 1) + v.capacity - 1 - at[i / s->heads];
    std::memcpy(s->bias + i * v.keys, from, static_cast<size_t>(v.keys) * sizeof(float));
  }
  if (all) return OK;
  v.mask = s->mask, v.mask_by_row = v.mask_by_token = v.keys;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t k = 0; k < v.keys; k++)
      s->mask[r * v.keys + k] = k <= at[r] && (s->window == 0 || at[r] - k < s->window);
  return OK;
}

// p = softmax of x, both (n).
void softmax(const float* x, int64_t n, float* p) {
  float peak = -INFINITY;
  double total = 0;
  for (int64_t i = 0; i < n; i++) peak = x[i] > peak ? x[i] : peak;
  for (int64_t i = 0; i < n; i++) total += p[i] = std::exp(x[i] - peak);
  for (int64_t i = 0; i < n; i++) p[i] = static_cast<float>(p[i] / total);
}

// Which of a row's candidates, the likeliest first, the number `draw` chooses, after the cuts that the caller wants.
int64_t drawn(const Choice& c, const float* values, float draw) {
  const int64_t n = c.best.count;
  float x[MAX_BEST], p[MAX_BEST];
  for (int64_t i = 0; i < n; i++) x[i] = values[i] / c.temperature;
  double total = 0;
  if (c.tail > 0) {  // the least likely go, which together have no more than this
    softmax(x, n, p);
    for (int64_t i = n - 1; i > 0; i--)
      if (static_cast<float>(total += p[i]) <= c.tail) x[i] = -INFINITY;
  }
  if (c.least > 0) {  // those go that are less likely than this share of the likeliest
    softmax(x, n, p);
    for (int64_t i = 1; i < n; i++)
      if (p[i] < c.least * p[0]) x[i] = -INFINITY;
  }
  softmax(x, n, p);
  total = 0;
  for (int64_t i = 0; i < n; i++) total += p[i];
  const double at = draw * total;
  total = 0;
  for (int64_t i = 0; i < n; i++)
    if ((total += p[i]) > at) return i;
  return n - 1;
}

// The next tokens among the likeliest that were found, and what the model gave them.
Error write_down(const Choice& c, int64_t rows) {
  if (const Error found = check(c.writing, rows)) return found;
  const Writing& w = *c.writing;
  if (w.logs && !c.best.peak) return NULL_POINTER;
  if (w.draws && !(c.temperature > 0)) return BAD_VALUE;
  for (int64_t r = 0; r < rows; r++) {
    const float* values = c.best.values + r * c.best.count;
    const int64_t at = r * w.room + w.at, i = w.draws ? drawn(c, values, w.draws[at]) : 0;
    w.ids[at] = c.newest[r] = c.best.ids[r * c.best.count + i];
    if (w.logs) w.logs[at] = values[i] - c.best.peak[r] - std::log(c.best.mass[r]);
  }
  return OK;
}

}  // namespace
