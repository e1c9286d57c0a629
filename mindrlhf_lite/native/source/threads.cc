// A pool whose workers spin for a moment after each piece of work, and then sleep: the next operator of a graph finds
// them awake, and an idle process leaves its cores to others. The caller waits for those only that have begun: on a busy
// machine it does the work of a worker that the system has not let run.
#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace native {
namespace {

constexpr auto kSpin = std::chrono::microseconds(200);
constexpr int64_t kOpen = int64_t{1} << 32;  // beside the number of workers that are at work
thread_local bool at_work = false;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  explicit Pool(int count) : count_(count) {
    for (int index = 1; index < count; index++) std::thread([this] { work(); }).detach();
  }

  // False: the pool is busy with another thread's work.
  bool run(const std::function<void(int)> &f) {
    std::unique_lock<std::mutex> mine(callers_, std::try_to_lock);
    if (!mine) return false;
    job_ = &f;
    next_.store(0);
    gate_.store(kOpen);
    {
      std::lock_guard<std::mutex> lock(sleepers_);
      turn_.fetch_add(1);
    }
    if (asleep_.load() > 0) wake_.notify_all();
    take_parts();
    gate_.fetch_sub(kOpen);
    for (int round = 1; gate_.load() > 0; round++) {
      pause();
      if (round % 1024 == 0) sched_yield();
    }
    return true;
  }

 private:
  void take_parts() {
    at_work = true;
    for (int index; (index = next_.fetch_add(1)) < count_;) (*job_)(index);
    at_work = false;
  }

  void work() {
    for (uint64_t seen = 0;;) {
      wait_after(seen);
      seen = turn_.load();
      int64_t gate = gate_.load();
      while (gate >= kOpen && !gate_.compare_exchange_weak(gate, gate + 1)) {
      }
      if (gate < kOpen) continue;  // came too late
      take_parts();
      gate_.fetch_sub(1);
    }
  }

  void wait_after(uint64_t seen) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    for (int round = 1; turn_.load() == seen; round++) {
      pause();
      if (round % 64 == 0 && std::chrono::steady_clock::now() > until) {
        std::unique_lock<std::mutex> lock(sleepers_);
        asleep_++;
        wake_.wait(lock, [&] { return turn_.load() != seen; });
        asleep_--;
        return;
      }
    }
  }

  const int count_;
  const std::function<void(int)> *job_ = nullptr;
  std::atomic<int> next_{0}, asleep_{0};
  std::atomic<int64_t> gate_{0};
  std::atomic<uint64_t> turn_{0};
  std::mutex callers_, sleepers_;
  std::condition_variable wake_;
};

std::mutex making;
Pool *pool = nullptr;
int wanted = 1;

Pool &the_pool() {
  std::lock_guard<std::mutex> lock(making);
  if (pool == nullptr) {
    pool = new Pool(wanted);  // never taken down: its threads wait when the process ends
    static const int registered = pthread_atfork(nullptr, nullptr, [] { pool = nullptr; });  // a child has no threads
    (void)registered;
  }
  return *pool;
}

}  // namespace

int num_threads() { return wanted; }

void set_num_threads(int count) {
  std::lock_guard<std::mutex> lock(making);
  if (count == wanted) return;
  wanted = count;
  pool = nullptr;  // the old one's threads sleep on
}

bool is_at_work() { return at_work; }

void on_all_threads(const std::function<void(int)> &f) {
  const int count = num_threads();
  if (count > 1 && !at_work && the_pool().run(f)) return;
  for (int index = 0; index < count; index++) f(index);
}

void in_turn(int64_t count, const std::function<void(int64_t)> &f) {
  std::atomic<int64_t> next{0};
  on_all_threads([&](int) {
    for (int64_t number; (number = next.fetch_add(1)) < count;) f(number);
  });
}

}  // namespace native
