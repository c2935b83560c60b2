#include "tests/bench/memory_scan/scan_compare.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <sstream>
#include <thread>

namespace mnemo::memory_bench {
namespace {

using memory_reference::Gradients;
using memory_reference::Mat;
using memory_reference::Outputs;
using memory_reference::State;

// Operands of every product are rounded to bf16 (relative 2^-9 at most, a third of it in the
// mean); some ten roundings in a row stay under this. alpha's gradient is a small difference of
// large terms, as the norm hardly feels the scale of W2.
constexpr double kTolerance = 1e-2;
constexpr double kAlphaTolerance = 2e-2;
// Over several chunks the roundings of the states add to those of the chunk itself: there the bound
// is this multiple of what exact arithmetic on rounded operands leaves, if that is more.
constexpr double kManyChunks = 2;
// Of alpha's gradient, a sum that cancels, a draw decides how far: 0.8 to 2.3 times were seen.
constexpr double kManyChunksAlpha = 3;

double Relative(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0, norm = 1e-300;
  for (size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::isfinite(error) ? std::sqrt(error / norm) : INFINITY;
}

// Worst row's error over the root-mean-square row.
double WorstRow(const Mat& got, const Mat& want) {
  double worst = 0, norm = 1e-300;
  for (int t = 0; t < got.rows; ++t) {
    double error = 0;
    for (int i = 0; i < got.cols; ++i) {
      error += std::pow(got(t, i) - want(t, i), 2);
      norm += want(t, i) * want(t, i) / got.rows;
    }
    worst = std::max(worst, std::isfinite(error) ? error : INFINITY);
  }
  return std::sqrt(worst / norm);
}

struct Row {
  const char* name;
  double error, rounded, tolerance;  // rounded: the error of exact arithmetic on rounded operands
  std::string profile;               // of the error over the tensor, told when it is too large
};

// Relative errors of `parts` equal parts of the rows (the last may be shorter): by chunk for
// tokens, by slice for weights.
std::string Profile(const Mat& got, const Mat& want, int rows_each, int begin_col, int cols) {
  std::ostringstream text;
  for (int t0 = 0; t0 < want.rows; t0 += rows_each) {
    double error = 0, norm = 1e-300;
    for (int t = t0; t < std::min(want.rows, t0 + rows_each); ++t) {
      for (int i = begin_col; i < begin_col + cols; ++i) {
        error += std::pow(got(t, i) - want(t, i), 2);
        norm += want(t, i) * want(t, i);
      }
    }
    char number[24];
    std::snprintf(number, sizeof(number), " %.0e", std::sqrt(error / norm));
    text << number;
  }
  return text.str();
}

std::string ByChunk(const Mat& got, const Mat& want, int chunk) {
  return "by chunk" + Profile(got, want, chunk, 0, want.cols);
}

// Of W1 [hidden, f] or W2 [f, hidden]; the whole of a square one.
std::string BySlice(const Mat& got, const Mat& want) {
  if (want.rows >= want.cols) return "by slice" + Profile(got, want, 64, 0, want.cols);
  std::string text = "by slice";
  for (int col = 0; col < want.cols; col += 64) text += Profile(got, want, want.rows, col, 64);
  return text;
}

bool Within(const Row& r, bool one_chunk) {
  const double factor = r.tolerance == kAlphaTolerance ? kManyChunksAlpha : kManyChunks;
  const double bound = one_chunk ? r.tolerance : std::max(r.tolerance, factor * r.rounded);
  return r.error <= bound;  // false for NaN
}

bool Report(const char* title, const std::vector<Row>& rows, bool one_chunk) {
  bool good = true;
  std::printf("%s:", title);
  for (const Row& r : rows) {
    const bool within = Within(r, one_chunk);
    std::printf(" %s %.1e/%.1e%s", r.name, r.error, r.rounded, within ? "" : "(!)");
    good = good && within;
  }
  std::printf("%s\n", good ? "" : "  FAILED");
  for (const Row& r : rows) {
    if (!Within(r, one_chunk)) std::printf("    %s: %s\n", r.name, r.profile.c_str());
  }
  std::fflush(stdout);
  return good;
}

// Without biases and the biases alone, of weights that have them in a last column.
Mat Columns(const Mat& a, int begin, int end) {
  Mat part(a.rows, end - begin);
  for (int i = 0; i < a.rows; ++i)
    for (int j = begin; j < end; ++j) part(i, j - begin) = a(i, j);
  return part;
}
Mat Weights(const DeviceCase& d, const Mat& a) {
  return Columns(a, 0, a.cols - (d.HasWeights(4) ? 1 : 0));
}
Mat Biases(const Mat& a) { return Columns(a, a.cols - 1, a.cols); }

void CompareStates(const char* const (&names)[8], const DeviceCase& d, const State& got,
                   const State& rounded, const State& want, std::vector<Row>& rows) {
  for (int i = 0; i < 4; ++i) {
    if (!d.HasWeights(i)) continue;
    const auto part = [&](const State& s) { return Weights(d, (i < 2 ? s.w : s.s)[i % 2]); };
    rows.push_back({names[i], Relative(part(got).v, part(want).v),
                    Relative(part(rounded).v, part(want).v), kTolerance,
                    BySlice(part(got), part(want))});
  }
  for (int i = 4; i < 8; ++i) {
    if (!d.HasWeights(i)) continue;
    const auto part = [&](const State& s) { return Biases((i < 6 ? s.w : s.s)[i % 2]); };
    rows.push_back({names[i], Relative(part(got).v, part(want).v),
                    Relative(part(rounded).v, part(want).v), kTolerance, ""});
  }
}

void CompareOutputs(const DeviceCase& d, const Outputs& got, const Outputs& rounded,
                    const Outputs& want, std::vector<Row>& rows) {
  rows.push_back({"y", Relative(got.y.v, want.y.v), Relative(rounded.y.v, want.y.v), kTolerance,
                  ByChunk(got.y, want.y, d.chunk())});
  rows.push_back(
      {"y/token", WorstRow(got.y, want.y), WorstRow(rounded.y, want.y), 4 * kTolerance, ""});
  CompareStates({"W1", "W2", "S1", "S2", "c1", "c2", "t1", "t2"}, d, got.carry, rounded.carry,
                want.carry, rows);
}

void CompareGradients(const DeviceCase& d, const Gradients& got, const Gradients& rounded,
                      const Gradients& want, std::vector<Row>& rows) {
  const auto compare = [&](const char* name, const Mat& x, const Mat& r, const Mat& y) {
    rows.push_back(
        {name, Relative(x.v, y.v), Relative(r.v, y.v), kTolerance, ByChunk(x, y, d.chunk())});
  };
  compare("dq", got.q, rounded.q, want.q);
  compare("dk", got.k, rounded.k, want.k);
  compare("dv", got.v, rounded.v, want.v);
  CompareStates({"dW1", "dW2", "dS1", "dS2", "dc1", "dc2", "dt1", "dt2"}, d, got.carry,
                rounded.carry, want.carry, rows);
}

struct Expected {
  Outputs outputs;
  Gradients gradients;
};

Expected Compute(const Case& c, const DeviceCase& d, int64_t sequence, bool round_operands) {
  const MemoryScanShape& s = c.shape;
  const memory_reference::Rule rule{s.depth,   s.chunk, s.norm,         s.residual,
                                    s.epsilon, s.gelu,  round_operands, s.towards_initial,
                                    s.clamp,   s.biases};
  const memory_reference::Inputs in = d.HostInputs(sequence);
  Expected e;
  e.outputs = memory_reference::Forward(rule, in);
  if (c.backward)
    e.gradients = memory_reference::Backward(rule, in, d.HostDy(sequence), d.HostDcarry(sequence));
  return e;
}

// The norm's gradients sum over the batch: `exact` holds every sequence.
void CompareNorm(const Case& c, const DeviceCase& d, const std::vector<Expected>& exact,
                 const std::vector<Expected>& rounded, std::vector<Row>& rows) {
  std::vector<double> got[2], want[2], emulated[2];
  for (int64_t h = 0; h < c.shape.heads; ++h) {
    const Gradients g = d.DeviceGradients(h);
    for (int i = 0; i < 64; ++i) {
      double sums[4] = {};
      for (size_t s = h; s < exact.size(); s += c.shape.heads) {
        sums[0] += exact[s].gradients.gain[i], sums[1] += exact[s].gradients.bias[i];
        sums[2] += rounded[s].gradients.gain[i], sums[3] += rounded[s].gradients.bias[i];
      }
      got[0].push_back(g.gain[i]), got[1].push_back(g.bias[i]);
      want[0].push_back(sums[0]), want[1].push_back(sums[1]);
      emulated[0].push_back(sums[2]), emulated[1].push_back(sums[3]);
    }
  }
  const char* names[] = {"dgain", "dbias"};
  for (int i = 0; i < 2; ++i)
    rows.push_back(
        {names[i], Relative(got[i], want[i]), Relative(emulated[i], want[i]), kTolerance, ""});
}

// W_0's gradient, which sums over the batch too, and the count of clamped gradients.
void CompareOptions(const Case& c, const DeviceCase& d, const std::vector<Expected>& exact,
                    const std::vector<Expected>& rounded, std::vector<Row>& rows) {
  const int parts = c.shape.depth * (c.shape.biases ? 2 : 1);
  const auto piece = [&](const Mat& x, int part) {
    return part < c.shape.depth ? Weights(d, x) : Biases(x);
  };
  const auto initial = [&](const std::vector<Expected>& all, int64_t head, int part) {
    const int layer = part % c.shape.depth;
    Mat sum = all[head].gradients.initial[layer];
    for (size_t s = head + c.shape.heads; s < all.size(); s += c.shape.heads)
      memory_reference::Axpy(sum, 1, all[s].gradients.initial[layer]);
    return piece(sum, part);
  };
  const char* flat_names[] = {"dW0", "dc0", "", ""};
  const char* deep_names[] = {"dW0_1", "dW0_2", "dc0_1", "dc0_2"};
  const auto& names = c.shape.depth == 1 ? flat_names : deep_names;
  // Without resets and without forgetting towards it nothing depends on W_0.
  const bool used = c.shape.towards_initial || c.shape.resets;
  for (int part = 0; part < parts && c.backward; ++part) {
    Row worst{names[part], 0, 0, kTolerance, ""};
    for (int64_t h = 0; h < c.shape.heads; ++h) {
      const Mat got = piece(d.DeviceGradients(h).initial[part % c.shape.depth], part);
      const Mat want = initial(exact, h, part);
      const double size = std::sqrt(memory_reference::Dot(got, got));
      const double error = used ? Relative(got.v, want.v) : std::isfinite(size) ? size : INFINITY;
      if (!(error <= worst.error)) worst.error = error, worst.profile = BySlice(got, want);
      if (used) {
        worst.rounded = std::max(worst.rounded, Relative(initial(rounded, h, part).v, want.v));
      }
    }
    rows.push_back(worst);
  }
  if (c.shape.row_scale && c.backward) {
    const auto sum = [](const std::vector<Expected>& all) {
      std::vector<double> total(all[0].gradients.row_scale.size());
      for (const Expected& e : all)
        for (size_t t = 0; t < total.size(); ++t) total[t] += e.gradients.row_scale[t];
      return total;
    };
    const std::vector<double> want = sum(exact);
    rows.push_back({"drow", Relative(d.DeviceRowScale(), want), Relative(sum(rounded), want),
                    kAlphaTolerance, ""});
  }
  if (!(c.shape.clamp > 0)) return;
  double hits = 0;
  for (const Expected& e : exact) hits += static_cast<double>(e.outputs.clamp_hits);
  char text[64];
  std::snprintf(text, sizeof(text), "%.0f of %.0f", d.DeviceHits(), hits);
  // Norms beside the limit may fall to either side: one of a few hits, or a small part of many.
  const double tolerance = std::max(3e-2, 1 / std::max(hits, 1.0));
  rows.push_back(
      {"hits", std::fabs(d.DeviceHits() - hits) / std::max(hits, 1.0), 0, tolerance, text});
}

// Over all sequences together: one sequence's can by chance all but vanish beside its error, as
// alpha's, a small difference of large terms, does.
void CompareGates(const Case& c, const std::vector<Gradients>& got,
                  const std::vector<Expected>& rounded, const std::vector<Expected>& exact,
                  std::vector<Row>& rows) {
  const auto compare = [&](const char* name, auto member, double tolerance) {
    std::vector<double> x, r, y;
    const auto append = [&](std::vector<double>& to, const Gradients& from) {
      to.insert(to.end(), (from.*member).begin(), (from.*member).end());
    };
    for (size_t i = 0; i < got.size(); ++i) {
      append(x, got[i]), append(r, rounded[i].gradients), append(y, exact[i].gradients);
    }
    std::ostringstream profile;
    profile << "by sequence";
    for (size_t i = 0; i < got.size(); ++i) {
      char number[24];
      std::snprintf(number, sizeof(number), " %.0e",
                    Relative(got[i].*member, exact[i].gradients.*member));
      profile << number;
    }
    rows.push_back({name, Relative(x, y), Relative(r, y), tolerance, profile.str()});
  };
  compare("dtheta", &Gradients::theta, kTolerance);
  if (c.momentum) compare("deta", &Gradients::eta, kTolerance);
  if (c.forgetting) compare("dalpha", &Gradients::alpha, kAlphaTolerance);
}

uint64_t RunOnce(const Case& c, int call, DeviceCase& d) {
  if (c.before_call != nullptr) c.before_call(call);
  d.PoisonOutputs();
  Check(d.Forward(c.stream), "forward");
  if (c.backward) Check(d.Backward(c.stream), "backward");
  Check(cudaDeviceSynchronize(), "run");
  d.Fetch();
  return d.Checksum();
}

// Two calls, the second into poisoned memory, and one that retains what backward needs: whether
// they agree bit by bit. With before_call, which lets the calls differ in more, two do.
bool RunAgain(const Case& c, const char* title, DeviceCase& d) {
  const uint64_t first = RunOnce(c, 0, d);
  bool good = true;
  if (c.before_call == nullptr || !c.backward) {
    if (RunOnce(c, 1, d) != first) {
      std::printf("%s: two runs differ  FAILED\n", title);
      good = false;
    }
  }
  if (!c.backward) return good;
  Case other = c;
  other.retain = true;
  DeviceCase retaining(other, true);
  if (RunOnce(other, 2, retaining) != first) {
    std::printf("%s: differs where retained  FAILED\n", title);
    good = false;
  }
  return good;
}

}  // namespace

bool CheckCase(const Case& c, const char* title, int sequences_to_check) {
  DeviceCase d(c, true);
  const bool same = RunAgain(c, title, d);
  const int64_t sequences = c.shape.batch * c.shape.heads;
  const int n = static_cast<int>(std::min<int64_t>(sequences, sequences_to_check));
  std::vector<std::vector<Row>> rows(n);
  std::vector<Expected> exact(n), rounded(n);
  std::vector<Gradients> got(n);
  std::vector<std::thread> threads;
  for (int i = 0; i < n; ++i) {
    threads.emplace_back([&, i] {
      const int64_t sequence = (i * (sequences - 1)) / std::max(1, n - 1);
      exact[i] = Compute(c, d, sequence, false), rounded[i] = Compute(c, d, sequence, true);
      CompareOutputs(d, d.DeviceOutputs(sequence), rounded[i].outputs, exact[i].outputs, rows[i]);
      if (!c.backward) return;
      got[i] = d.DeviceGradients(sequence);
      CompareGradients(d, got[i], rounded[i].gradients, exact[i].gradients, rows[i]);
    });
  }
  for (std::thread& t : threads) t.join();
  std::vector<Row> worst = rows[0];
  for (const auto& r : rows) {
    for (size_t i = 0; i < r.size(); ++i) {
      if (!(r[i].error <= worst[i].error)) worst[i].profile = r[i].profile;
      worst[i].error = std::isfinite(r[i].error) ? std::max(worst[i].error, r[i].error) : INFINITY;
      worst[i].rounded = std::max(worst[i].rounded, r[i].rounded);
    }
  }
  if (c.backward) CompareGates(c, got, rounded, exact, worst);
  if (c.backward && c.shape.norm && n == sequences) CompareNorm(c, d, exact, rounded, worst);
  if (!c.shape.plain() && n == sequences) CompareOptions(c, d, exact, rounded, worst);
  return Report(title, worst, c.shape.tokens <= c.shape.chunk) && same;
}

}  // namespace mnemo::memory_bench
