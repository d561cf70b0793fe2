// Weights put into the order of the packed kinds, block by block of 32 outputs; what was padded is zero.

static void pack8(const int8_t* weight, int64_t out, int64_t in, uint8_t* packed, int64_t threads) {
  const int64_t width = padded(in);
#pragma omp parallel for num_threads(static_cast<int>(threads))
  for (int64_t n = 0; n < padded(out); n++)
    for (int64_t k = 0; k < width; k += 4) {
      const int64_t rest = n >= out ? 0 : in - k;
      uint32_t four = 0;
      if (rest > 0) std::memcpy(&four, weight + n * in + k, static_cast<size_t>(rest < 4 ? rest : 4));
      four ^= 0x80808080;  // + 128 in each byte
      std::memcpy(packed + n / 32 * 32 * width + k * 32 + n % 32 * 4, &four, 4);
    }
}

static void pack4(const uint8_t* weight, const uint16_t* scales, int64_t out, int64_t in, uint8_t* packed, int64_t threads) {
  const int64_t groups = padded(in) / 32;
#pragma omp parallel for num_threads(static_cast<int>(threads))
  for (int64_t n = 0; n < padded(out); n++)
    for (int64_t g = 0; g < groups; g++) {
      uint8_t *block = packed + (n / 32 * groups + g) * 576, pairs[16];
      const bool real = n < out && g < in / 32;
      const uint16_t scale = real ? scales[n * (in / 32) + g] : 0;
      std::memcpy(block + n % 32 * 2, &scale, 2);
      std::memset(pairs, 0x88, 16);
      for (int i = 0; i < 8 && real; i++) {
        const uint8_t *low = weight + n * (in / 2) + g * 16 + i, *high = low + 8;
        pairs[2 * i] = static_cast<uint8_t>(((*low & 15) | (*high & 15) << 4) ^ 0x88);
        pairs[2 * i + 1] = static_cast<uint8_t>((*low >> 4 | (*high & 0xf0)) ^ 0x88);
      }
      for (int j = 0; j < 4; j++) std::memcpy(block + 64 + j * 128 + n % 32 * 4, pairs + 4 * j, 4);
    }
}
