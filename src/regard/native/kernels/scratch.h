// Memory for what is in between, and how work is shared among threads.
#pragma once

#include <cstdlib>
#include <cstring>

#include "structures.h"

namespace {

constexpr int64_t SLAB = 256;  // outputs of all rows that are looked through while they are in the cache

constexpr int64_t padded(int64_t n) { return (n + 63) / 64 * 64; }

constexpr int64_t MOST = 8;  // rows that are read together

constexpr int64_t LONG = 64, TALL = 6;  // tokens of a sequence from which on queries are multiplied so many together
constexpr int64_t tiles_size(int64_t keys, int64_t dim) {
  return 4 * (2 * TALL * padded(keys) + (TALL + 1) * padded(dim) + 2 * padded(keys) * padded(dim));
}

struct Scratch {  // a thread's own, kept between calls
  char* memory = nullptr;
  size_t size = 0, used = 0;
  ~Scratch() { std::free(memory); }
  bool reserve(size_t bytes) {
    used = 0;
    if (bytes <= size) return true;
    std::free(memory);
    size = (bytes + 4095) / 4096 * 4096;
    memory = static_cast<char*>(std::aligned_alloc(64, size));
    if (memory == nullptr) size = 0;
    return memory != nullptr;
  }
  template <class T> T* take(int64_t count) {
    T* found = reinterpret_cast<T*>(memory + used);
    used += static_cast<size_t>(padded(count * static_cast<int64_t>(sizeof(T))));
    return found;
  }
};
thread_local Scratch scratch;

struct Share {  // which part of the work is this thread's
  int64_t index, count;
  void of(int64_t total, int64_t& first, int64_t& last) const {
    first = total * index / count, last = total * (index + 1) / count;
  }
};

struct Input {  // rows as a linear wants them: floats, or bytes with a scale and a start for each group
  float* x;  // (rows, width)
  // The same in tiles of rows: for each vector of floats or four bytes of a row, those of all rows of the tile one after
  // another. What is read together lies together, and never only in a few sets of the cache.
  void* data;
  float* scales;    // tile by tile, for each group those of all rows
  int32_t* starts;  // likewise: what sums start from, as weights are not below zero
  int64_t rows, width, groups, kind, tiles;  // width: of a row, rounded up
  static int64_t bytes(int64_t rows, int64_t width) { return rows * padded(width) * 9 + 4 * 64; }
  Input(Scratch& from, int64_t rows_, const Linear& linear)
      : rows(rows_), width(padded(linear.in)), groups(width / (linear.kind == INT4 ? 32 : 64)), kind(linear.kind) {
    const int64_t most = kind < INT8 ? 4 : rows <= MOST ? MOST : 6;  // so many sums stay in registers
    tiles = (rows + most - 1) / most;
    x = from.take<float>(rows * width);
    data = from.take<float>(rows * width);
    scales = from.take<float>(rows * groups);
    starts = from.take<int32_t>(rows * groups);
  }
  struct Tile {
    int64_t first, rows;
  };
  int64_t start(int64_t tile) const { return rows * tile / tiles; }
  Tile around(int64_t row) const {
    const int64_t tile = ((row + 1) * tiles - 1) / rows;
    return {start(tile), start(tile + 1) - start(tile)};
  }
};

struct Output {
  float* y;
  int64_t stride;
  bool add;           // to what is there
  int64_t first = 0;  // the output that column 0 holds
};

struct Work {  // a linear and where its results go
  const Linear& linear;
  Output to;
};

int64_t grain(const Linear& l) { return l.kind >= INT8 ? 64 : 16; }
int64_t grains(const Linear& l) { return (l.out + grain(l) - 1) / grain(l); }
int64_t bytes(const Linear& l) { return l.kind == NONE ? 0 : l.out * l.in * (l.kind == FP32 ? 4 : l.kind == BF16 ? 2 : 1); }

// More threads than there is work for only wait for each other.
int team(int64_t threads, int64_t weights) {
  const int64_t useful = 1 + weights / 32768;
  return static_cast<int>(threads < useful ? threads : useful);
}

}  // namespace
