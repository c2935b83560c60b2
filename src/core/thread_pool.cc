#include "src/core/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "src/core/status.h"

namespace mnemo {
namespace {

using RangeBody = std::function<void(int64_t, int64_t)>;

// How long a worker looks for the next job before it sleeps (some tens of microseconds): kernels
// follow each other closely, and waking a sleeper costs more than the loop it would run.
constexpr int kSpins = 1000;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

thread_local bool inside_job = false;

// One call of ParallelFor.
struct Job {
  const RangeBody* body = nullptr;
  int64_t count = 0, grain = 1, ranges = 0;
  std::atomic<int64_t> next{0};
  std::mutex mutex;  // guards the two below
  std::exception_ptr error;
  int64_t error_range = 0;  // the first range that failed wins, whatever the timing

  void Start(const RangeBody& b, int64_t n, int64_t g) {
    body = &b;
    count = n;
    grain = g;
    ranges = (n + g - 1) / g;
    next.store(0, std::memory_order_relaxed);
    error = nullptr;
  }

  void Work() {
    inside_job = true;
    for (;;) {
      int64_t range = next.fetch_add(1, std::memory_order_relaxed);
      if (range >= ranges) break;
      try {
        (*body)(range * grain, std::min(count, (range + 1) * grain));
      } catch (...) {
        std::lock_guard<std::mutex> lock(mutex);
        if (error == nullptr || range < error_range) {
          error = std::current_exception();
          error_range = range;
        }
      }
    }
    inside_job = false;
  }
};

// Workers that serve one calling thread.
//
// state_ holds an epoch (one per job), a bit that says the job is open, and the number of workers
// inside it. A worker enters by incrementing the word while the job is open; the caller closes the
// job when no range is left and waits only for those inside. So a worker that wakes too late costs
// nothing, and job_ is never written while a worker may read it.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { WorkerLoop(); });
  }

  ~Pool() {
    stop_.store(true, std::memory_order_relaxed);
    Signal();
    for (std::thread& worker : workers_) worker.join();
  }

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  void Run(const RangeBody& body, int64_t count, int64_t grain) {
    job_.Start(body, count, grain);
    uint64_t epoch = (state_.load(std::memory_order_relaxed) >> kEpochShift) + 1;
    state_.store(epoch << kEpochShift | kOpen, std::memory_order_release);
    Signal();
    job_.Work();
    state_.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (int spins = 0; (state_.load(std::memory_order_acquire) & kInside) != 0; ++spins) {
      if (spins < kSpins) {
        Pause();
      } else {
        std::this_thread::yield();
      }
    }
    if (job_.error != nullptr) std::rethrow_exception(std::exchange(job_.error, nullptr));
  }

 private:
  static constexpr uint64_t kOpen = uint64_t{1} << 15;
  static constexpr uint64_t kInside = kOpen - 1;
  static constexpr int kEpochShift = 16;

  void Signal() {
    signal_.fetch_add(1, std::memory_order_release);
    signal_.notify_all();
  }

  void WorkerLoop() {
    uint64_t last = 0;
    for (;;) {
      int signal = signal_.load(std::memory_order_acquire);
      if (stop_.load(std::memory_order_relaxed)) return;
      uint64_t state = state_.load(std::memory_order_acquire);
      if ((state & kOpen) != 0 && state >> kEpochShift != last) {
        if (!state_.compare_exchange_strong(state, state + 1, std::memory_order_acq_rel)) continue;
        last = state >> kEpochShift;
        job_.Work();
        state_.fetch_sub(1, std::memory_order_acq_rel);
        continue;
      }
      int spins = 0;
      while (spins < kSpins && signal_.load(std::memory_order_relaxed) == signal) {
        ++spins;
        Pause();
      }
      if (spins == kSpins) signal_.wait(signal, std::memory_order_acquire);
    }
  }

  Job job_;
  std::atomic<uint64_t> state_{0};
  std::atomic<int> signal_{0};  // changes with every job; sleeping workers wait on it
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

int AvailableCores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

thread_local int thread_count = 0;  // 0: not set, use every core
thread_local std::unique_ptr<Pool> pool;

}  // namespace

void ParallelFor(int64_t count, int64_t grain, const RangeBody& body) {
  MNEMO_CHECK(grain > 0, "grain {}", grain);
  if (count <= 0) return;
  if (count <= grain) {
    body(0, count);
    return;
  }
  bool nested = inside_job;
  int threads = nested ? 1 : ThreadsForThisThread();
  if (threads > 1) {
    if (pool == nullptr || pool->threads() != threads) pool = std::make_unique<Pool>(threads);
    pool->Run(body, count, grain);
    return;
  }
  Job job;
  job.Start(body, count, grain);
  job.Work();
  inside_job = nested;
  if (job.error != nullptr) std::rethrow_exception(job.error);
}

void SetThreadsForThisThread(int threads) {
  MNEMO_CHECK(threads >= 1, "threads {}", threads);
  thread_count = threads;
  if (!inside_job && pool != nullptr && pool->threads() != threads) pool = nullptr;
}

int ThreadsForThisThread() {
  static const int cores = AvailableCores();
  return thread_count > 0 ? thread_count : cores;
}

}  // namespace mnemo
