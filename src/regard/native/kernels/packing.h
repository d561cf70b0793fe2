// Weights put into the order of the packed kinds.

static void pack8(const int8_t* weight, int64_t out, int64_t in, uint8_t* packed, int64_t threads) {
  const int64_t width = padded(in);
#pragma omp parallel for num_threads(static_cast<int>(threads))
  for (int64_t block = 0; block < padded(out) / 64; block++)
    for (int64_t k = 0; k < width; k++)
      for (int64_t n = 0; n < 64; n++) {
        const int64_t row = block * 64 + n;
        const int value = row < out && k < in ? weight[row * in + k] : 0;
        packed[block * 64 * width + k / 4 * 256 + n * 4 + k % 4] = static_cast<uint8_t>(value + 128);
      }
}
