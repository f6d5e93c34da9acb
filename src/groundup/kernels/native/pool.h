// A few threads that wait for work by spinning for a moment and then sleep. One region of work at a time: whoever comes
// while another thread's region runs does its work alone. A child after fork() begins with no threads.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

class Pool {
 public:
  // Calls work() on this thread and on up to `threads` - 1 others, and returns when all have returned. The work is
  // shared out by what `work` claims: a thread that comes too late is not waited for.
  template <class Work>
  static void run(int threads, const Work& work) {
    shared().region(threads, false, [](const void* w, int, int) { (*static_cast<const Work*>(w))(); }, &work);
  }

  // Calls work(number, count) on `count` threads, `threads` at most, that all take part, so that they may wait for each other.
  template <class Work>
  static void together(int threads, const Work& work) {
    shared().region(threads, true, [](const void* w, int i, int n) { (*static_cast<const Work*>(w))(i, n); }, &work);
  }

 private:
  using Function = void (*)(const void*, int number, int count);
  static Pool& shared();
  static Pool* made();
  void region(int threads, bool all, Function function, const void* data);
  int open(int others);
  int enter(uint32_t round);
  void wait_for_work();

  // round << 32 | closed << 24 | threads wanted << 16 | threads that entered << 8 | threads inside
  std::atomic<uint64_t> gate{uint64_t(1) << 24};
  std::atomic<int> asleep{0};
  Function function = nullptr;
  const void* data = nullptr;
  int workers = 0, count = 1;
  std::mutex busy, sleep;
  std::condition_variable wake;
};

inline void pause_a_little() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Where threads that work together wait until all of them are there, or one of them has failed.
class Barrier {
 public:
  void wait(int count) {
    if (count < 2) return;
    const int turn = turns.load(std::memory_order_relaxed);
    if (there.fetch_add(1, std::memory_order_acq_rel) == count - 1) {
      there.store(0, std::memory_order_relaxed);
      turns.store(turn + 1, std::memory_order_release);
      return;
    }
    for (int i = 0; turns.load(std::memory_order_acquire) == turn && !failed; i++)
      i < 1000 ? pause_a_little() : give_way();
  }
  std::atomic<bool> failed{false};

 private:
  static void give_way();  // more threads than processors: let another one run
  alignas(64) std::atomic<int> there{0};
  alignas(64) std::atomic<int> turns{0};
};
