// One thread makes jobs, several work on them, and the caller gets them back in the order in which
// they were made: parallel work with an output that does not depend on the number of threads.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "src/core/status.h"

namespace mnemo {

template <typename Job>
class OrderedPipeline {
 public:
  // Runs a function on a new thread; throws where there can be no more threads.
  using StartThread = std::function<std::thread(std::function<void()>)>;

  // `make` runs on one thread and returns null at the end; `work` runs on `threads` threads. At
  // most `in_flight` jobs exist between make and Next(). Failures that are expected travel inside
  // the job; what the functions throw becomes an error of Next(). `start` is for tests.
  OrderedPipeline(
      int threads, int in_flight, std::function<std::unique_ptr<Job>()> make,
      std::function<void(Job&)> work,
      const StartThread& start = [](auto body) { return std::thread(std::move(body)); })
      : make_(std::move(make)), work_(std::move(work)), in_flight_(in_flight) {
    try {
      threads_.reserve(1 + static_cast<size_t>(threads));
      threads_.push_back(start([this] { MakeLoop(); }));
      for (int i = 0; i < threads; ++i) threads_.push_back(start([this] { WorkLoop(); }));
    } catch (const std::exception& error) {
      // Those that run would wait for ever, and end the program if they were not joined.
      started_ = absl::ResourceExhaustedError(fmt::format(
          "cannot start {} threads: {}: use fewer --threads", threads + 1, error.what()));
      Stop();
    }
  }

  // Stops after the jobs at hand and drops the rest.
  ~OrderedPipeline() { Stop(); }

  // The next job, worked on; null after the last one. Where `make` or `work` threw, an error in the
  // place of that job: ResourceExhausted for memory, else Internal; `make` is not called again.
  // ResourceExhausted, and nothing else, if the threads could not be started. One caller at a time.
  absl::StatusOr<std::unique_ptr<Job>> Next() {
    if (!started_.ok()) return started_;
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return order_.empty() ? made_all_ : order_.front()->done; });
    if (order_.empty()) return nullptr;
    const std::shared_ptr<Entry> entry = std::move(order_.front());
    order_.pop_front();
    lock.unlock();
    changed_.notify_all();
    if (!entry->status.ok()) return entry->status;
    return std::move(entry->job);
  }

 private:
  struct Entry {
    std::unique_ptr<Job> job;
    absl::Status status;  // of what was thrown
    bool done = false;
  };

  void Stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  // An exception that leaves a thread would end the program.
  template <typename F>
  static absl::Status Guarded(F&& body) {
    try {
      body();
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError("out of memory: use fewer --threads");
    } catch (const std::exception& error) {
      return Internal("a worker thread failed: {}", error.what());
    }
    return absl::OkStatus();
  }

  void MakeLoop() {
    while (true) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock,
                      [this] { return stop_ || static_cast<int>(order_.size()) < in_flight_; });
        if (stop_) return;
      }
      std::unique_ptr<Job> job;
      const absl::Status status = Guarded([&] { job = make_(); });
      {
        std::lock_guard<std::mutex> lock(mutex_);
        made_all_ = job == nullptr;
        const bool failed = !status.ok();
        if (failed || job != nullptr) {
          order_.push_back(std::make_shared<Entry>(Entry{std::move(job), status, failed}));
          if (!failed) waiting_.push_back(order_.back());
        }
      }
      changed_.notify_all();
      if (made_all_) return;  // written by this thread only
    }
  }

  void WorkLoop() {
    while (true) {
      std::shared_ptr<Entry> entry;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return stop_ || made_all_ || !waiting_.empty(); });
        if (stop_ || waiting_.empty()) return;
        entry = std::move(waiting_.front());
        waiting_.pop_front();
      }
      const absl::Status status = Guarded([&] { work_(*entry->job); });
      {
        std::lock_guard<std::mutex> lock(mutex_);
        entry->status = status;
        entry->done = true;
      }
      changed_.notify_all();
    }
  }

  const std::function<std::unique_ptr<Job>()> make_;
  const std::function<void(Job&)> work_;
  const int in_flight_;
  absl::Status started_;  // written by the constructor only
  std::mutex mutex_;      // guards what follows
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Entry>> order_;    // made, not yet handed out
  std::deque<std::shared_ptr<Entry>> waiting_;  // of these, not yet taken by a worker
  bool made_all_ = false;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace mnemo
