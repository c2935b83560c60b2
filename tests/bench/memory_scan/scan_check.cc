// The CUDA memory scan against the float64 reference, case by case.
#include "tests/bench/memory_scan/scan_check.h"

#include <algorithm>
#include <cstdio>
#include <string>

#include "tests/bench/memory_scan/scan_compare.h"

namespace mnemo::memory_bench {

MemoryScanShape Shape(int64_t batch, int64_t tokens, int64_t heads, int chunk) {
  MemoryScanShape s;
  s.batch = batch, s.tokens = tokens, s.heads = heads, s.chunk = chunk;
  return s;
}

Streams::Streams() {
  int lowest, highest;
  Check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "priorities");
  const auto make = [](cudaStream_t* s, int priority) {
    Check(cudaStreamCreateWithPriority(s, cudaStreamNonBlocking, priority), "stream");
  };
  make(&main, highest), make(&side[0], highest), make(&side[1], lowest);
}

namespace {

// What a network looks like; the clamp that about half of the random tokens reach, and one that
// nearly all do.
struct Network {
  const char* name;
  MemoryScanShape (*shape)(MemoryScanShape);
  float median_clamp, strong_clamp;
};
constexpr Network kDeep{"depth 2", [](MemoryScanShape s) { return s; }, 60, 15};
constexpr Network kDeepBare{"depth 2 without norm", BareShape, 9.5f, 5};
constexpr Network kFlat{"depth 1", FlatShape, 5, 1.5f};
constexpr Network kFlatNorm{"depth 1 with norm", FlatNormShape, 9, 2.5f};

// Every way through the kernels for one network and chunk length.
bool CheckChunk(const Network& network, int chunk, const CheckChoice& choice) {
  bool good = true;
  const auto check = [&](const char* what, Case c, int sequences) {
    c.backward = choice.backward, c.before_call = choice.before_call;
    char title[96];
    std::snprintf(title, sizeof(title), "%s, chunk %d, %s", network.name, chunk, what);
    good = CheckCase(c, title, sequences) && good;
  };
  const auto shape = [&](int64_t batch, int64_t tokens, int64_t heads) {
    return network.shape(Shape(batch, tokens, choice.small ? 2 : heads, chunk));
  };
  check("one chunk", {shape(2, chunk, 6), 1}, 12);
  check("one short chunk", {shape(2, chunk - 5, 3), 6}, 6);
  check("four chunks", {shape(2, 4 * chunk, 4), 2}, 8);
  check("last chunk short", {shape(2, 3 * chunk + 9, 4), 3}, 8);
  Case plain{shape(1, 2 * chunk + 2, 4), 4};
  plain.shape.residual = !plain.shape.residual;
  check(plain.shape.residual ? "residual" : "no residual", plain, 4);
  if (plain.shape.depth > 1) {
    Case gelu{shape(2, 4 * chunk - 1, 2), 7};
    gelu.shape.gelu = true;
    check("GELU", gelu, 4);
  }
  Case forgetful{shape(1, chunk, 4), 9};  // one chunk: over many this is where the rule explodes
  forgetful.alpha_max = 0.05f;
  check("strong forgetting", forgetful, 4);
  Case off{shape(1, 4 * chunk - 3, 4), 8};
  off.momentum = false;
  check("no momentum", off, 4);
  off.forgetting = false;
  check("no momentum, no forgetting", off, 4);
  off.momentum = true;
  check("no forgetting", off, 4);
  return good;
}

// Rules with options: each alone, all together, in segments.
bool CheckOptions(const Network& network, int chunk, const CheckChoice& choice) {
  bool good = true;
  const auto check = [&](const char* what, const Case& c, int sequences) {
    char title[96];
    std::snprintf(title, sizeof(title), "%s, options, chunk %d, %s", network.name, chunk, what);
    good = CheckCase(c, title, sequences) && good;
  };
  const float median = network.median_clamp;
  Case c{network.shape(Shape(2, 4 * chunk, choice.small ? 2 : 3, chunk)), 21, choice.backward};
  c.before_call = choice.before_call;
  c.alpha_max = 0.02f;
  const auto with = [&c](bool towards_initial, float clamp, bool resets) {
    Case x = c;
    x.shape.towards_initial = towards_initial, x.shape.clamp = clamp, x.shape.resets = resets;
    if (!towards_initial) x.alpha_max = 1e-3f;
    return x;
  };
  // Without an option that does anything: the second instance of every kernel.
  check("clamp out of reach", with(false, 1e6f, false), 6);
  check("resets", with(false, 0, true), 6);
  check("towards W_0", with(true, 0, false), 6);
  check("towards W_0, resets", with(true, 0, true), 6);
  check("clamp at the median", with(false, median, false), 6);
  check("strong clamp", with(false, network.strong_clamp, false), 6);
  Case one = with(true, median, true);
  one.shape.tokens = chunk;
  check("one chunk, all", one, 6);
  one.shape.tokens = 3 * chunk - 7, one.shape.gelu = one.shape.depth > 1;
  check(one.shape.gelu ? "GELU, last chunk short, all" : "last chunk short, all", one, 6);
  one.shape.residual = !one.shape.residual, one.momentum = false;
  check(one.shape.residual ? "no momentum, residual, all" : "no momentum, no residual, all", one,
        6);
  one.momentum = true, one.forgetting = false, one.shape.towards_initial = false;
  check("no forgetting, clamp, resets", one, 6);
  Case rows = with(false, 0, false);
  rows.shape.row_scale = true;
  check("row scale", rows, 6);
  rows.shape.clamp = median;
  check("row scale, clamp", rows, 6);
  rows = with(true, median, true);
  rows.shape.row_scale = true, rows.shape.tokens -= 7;
  rows.shape.residual = !rows.shape.residual;
  check("row scale, last chunk short, all", rows, 6);
  rows.shape.gelu = rows.shape.depth > 1;
  rows.momentum = false, rows.forgetting = false, rows.shape.towards_initial = false;
  check("row scale, no momentum, no forgetting", rows, 6);
  Case biases = with(false, 0, false);
  biases.shape.biases = true;
  check("biases", biases, 6);
  biases.shape.clamp = median;
  check("biases, clamp", biases, 6);
  biases = with(true, 0, true);
  biases.shape.biases = true;
  check("biases towards W_0, resets", biases, 6);
  biases.shape.row_scale = true, biases.shape.clamp = median, biases.shape.tokens -= 7;
  biases.shape.residual = !biases.shape.residual;
  check("biases, row scale, last chunk short, all", biases, 6);
  biases.momentum = false, biases.forgetting = false, biases.shape.towards_initial = false;
  check("biases, row scale, no momentum, no forgetting", biases, 6);
  if (choice.small) return good;
  Case many = with(true, median, true);
  many.shape.biases = many.shape.row_scale = true;
  // Every sequence is compared, as W_0's gradient needs them.
  many.shape.batch = many.shape.heads = 4, many.shape.tokens = 70 * chunk;
  const Streams streams;
  if (chunk == 64) {
    many.stream = streams.main, many.side_streams[0] = streams.side[0],
    many.side_streams[1] = streams.side[1];
  }
  check(chunk == 64 ? "two segments, side streams, all" : "two segments, all", many, 16);
  return good;
}

// Many sequences and chunks, so that the work falls into several segments.
bool CheckSegments(const MemoryScanShape& shape, bool backward, const Streams& streams) {
  Case many{shape, 5, backward};
  bool good = CheckCase(many, "several segments", 6);
  many.stream = streams.main, many.side_streams[0] = streams.side[0],
  many.side_streams[1] = streams.side[1];
  return CheckCase(many, "several segments, side streams", 6) && good;
}

}  // namespace

bool CheckAll(const CheckChoice& choice) {
  bool good = true;
  const Streams streams;
  for (const int chunk : {64, 32, 16}) {
    if (choice.chunk != 0 && choice.chunk != chunk) continue;
    for (const Network& network : {kDeep, kDeepBare, kFlat, kFlatNorm}) {
      good = CheckChunk(network, chunk, choice) && good;
      if (!choice.small || chunk == 64) good = CheckOptions(network, chunk, choice) && good;
    }
    if (chunk == 32 || choice.small) continue;
    const MemoryScanShape many = Shape(48, chunk == 64 ? 1700 : 1100, 4, chunk);
    good = CheckSegments(many, choice.backward, streams) && good;
    if (chunk == 64) {
      good = CheckSegments(FlatShape(many), choice.backward, streams) && good;
      good = CheckSegments(FlatNormShape(many), choice.backward, streams) && good;
    }
  }
  return good;
}

}  // namespace mnemo::memory_bench
