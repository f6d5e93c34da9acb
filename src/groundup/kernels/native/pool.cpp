#include "pool.h"

#include <algorithm>
#include <system_error>
#include <thread>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace {

constexpr uint64_t CLOSED = uint64_t(1) << 24;
constexpr int SPINS = 4000, MOST = 64;  // about a tenth of a millisecond

}  // namespace

static Pool* current = nullptr;

Pool* Pool::made() {
#if !defined(_WIN32)
  pthread_atfork(nullptr, nullptr, [] { current = new Pool; });  // the parent's threads are not here; its pool is left
#endif
  return current = new Pool;  // never deleted: its threads outlive every destructor
}

Pool& Pool::shared() {
  static Pool* first = made();
  (void)first;
  return *current;
}

void Pool::region(int threads, bool all, Function f, const void* d) {
  std::unique_lock<std::mutex> alone(busy, std::try_to_lock);
  if (threads < 2 || !alone.owns_lock()) return f(d, 0, 1);
  function = f;
  data = d;
  const int others = open(std::min(threads, MOST) - 1);
  f(d, 0, others + 1);
  const auto settle = [&](const auto& done) {
    for (int i = 0; !done(gate.load(std::memory_order_acquire)); i++)
      i < SPINS ? pause_a_little() : std::this_thread::yield();
  };
  if (all) settle([&](uint64_t g) { return int(g >> 8 & 0xff) == others; });
  gate.fetch_or(CLOSED);
  settle([](uint64_t g) { return (g & 0xff) == 0; });
}

// Lets up to `others` threads in, and says how many there are to come.
int Pool::open(int others) {
  try {
    for (; workers < others; workers++) std::thread([this] { wait_for_work(); }).detach();
  } catch (const std::system_error&) {
    // no more threads to be had: fewer share the work
  }
  others = std::min(others, workers);
  count = others + 1;
  const uint64_t round = (gate.load() >> 32) + 1;
  gate.store(round << 32 | uint64_t(others) << 16);
  if (asleep.load()) {
    std::lock_guard<std::mutex> hold(sleep);
    wake.notify_all();
  }
  return others;
}

// The number of this thread among those of the region, or 0: it is closed, or full.
int Pool::enter(uint32_t round) {
  uint64_t g = gate.load(std::memory_order_acquire);
  while (uint32_t(g >> 32) == round && !(g & CLOSED) && (g >> 8 & 0xff) < (g >> 16 & 0xff))
    if (gate.compare_exchange_weak(g, g + 0x101, std::memory_order_acq_rel)) return int(g >> 8 & 0xff) + 1;
  return 0;
}

void Pool::wait_for_work() {
  uint32_t seen = 0;
  const auto news = [&] { return uint32_t(gate.load() >> 32) != seen; };
  for (;;) {
    for (int i = 0; i < SPINS && !news(); i++) pause_a_little();
    if (!news()) {
      std::unique_lock<std::mutex> hold(sleep);
      asleep.fetch_add(1);
      wake.wait(hold, news);
      asleep.fetch_sub(1);
    }
    seen = uint32_t(gate.load() >> 32);
    const int number = enter(seen);
    if (!number) continue;
    function(data, number, count);
    gate.fetch_sub(1, std::memory_order_release);
  }
}

void Barrier::give_way() { std::this_thread::yield(); }
