// One thread makes jobs, several work on them, and the caller gets them back in the order in which
// they were made: parallel work with an output that does not depend on the number of threads.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace mnemo {

template <typename Job>
class OrderedPipeline {
 public:
  // `make` runs on one thread and returns null at the end; `work` runs on `threads` threads. At
  // most `in_flight` jobs exist between make and Next(). Failures travel inside the job; neither
  // function may throw.
  OrderedPipeline(int threads, int in_flight, std::function<std::unique_ptr<Job>()> make,
                  std::function<void(Job&)> work)
      : make_(std::move(make)), work_(std::move(work)), in_flight_(in_flight) {
    threads_.emplace_back([this] { MakeLoop(); });
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { WorkLoop(); });
  }

  // Stops after the jobs at hand and drops the rest.
  ~OrderedPipeline() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  // The next job, worked on; null after the last one. One caller at a time.
  std::unique_ptr<Job> Next() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return order_.empty() ? made_all_ : order_.front()->done; });
    if (order_.empty()) return nullptr;
    std::unique_ptr<Job> job = std::move(order_.front()->job);
    order_.pop_front();
    lock.unlock();
    changed_.notify_all();
    return job;
  }

 private:
  struct Entry {
    std::unique_ptr<Job> job;
    bool done = false;
  };

  void MakeLoop() {
    while (true) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock,
                      [this] { return stop_ || static_cast<int>(order_.size()) < in_flight_; });
        if (stop_) return;
      }
      std::unique_ptr<Job> job = make_();
      {
        std::lock_guard<std::mutex> lock(mutex_);
        if (job == nullptr) {
          made_all_ = true;
        } else {
          order_.push_back(std::make_shared<Entry>(Entry{std::move(job)}));
          waiting_.push_back(order_.back());
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
      work_(*entry->job);
      {
        std::lock_guard<std::mutex> lock(mutex_);
        entry->done = true;
      }
      changed_.notify_all();
    }
  }

  const std::function<std::unique_ptr<Job>()> make_;
  const std::function<void(Job&)> work_;
  const int in_flight_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Entry>> order_;    // made, not yet handed out
  std::deque<std::shared_ptr<Entry>> waiting_;  // of these, not yet taken by a worker
  bool made_all_ = false;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace mnemo
