// Twins of `mbarrier` and `cp.async.bulk` from global to shared memory, from the PTX ISA 9.0 (sections 9.7.13.15 and 9.7.9.25.4).
//
// A phase of a barrier ends when all expected threads have arrived and the bytes of all copies that it expects were copied. In late
// schedules, a copy happens when a thread waits for its barrier and all threads have arrived, and its destination is poisoned until then;
// in early schedules it happens when it is issued.
#pragma once
#include "proxies.h"

namespace emulator {

// The 64 bits of a barrier: on a device, their meaning is not specified.
struct Mbarrier {
    uint64_t expected : 20, missing : 20;
    // Bytes that are expected and not copied; negative if they were copied before they are expected.
    int64_t bytes : 22;
    uint64_t parity : 1, is_valid : 1;
};
static_assert(sizeof(Mbarrier) == 8, "a barrier has 64 bits");

struct BulkCopy {
    void* to;
    const void* from;
    uint32_t bytes;
    unsigned long long* barrier;
};
static thread_local std::vector<BulkCopy> bulk_copies;

static Mbarrier read_mbarrier(const char* what, const unsigned long long* at, const char* file, int line) {
    check_shared(what, at, sizeof(Mbarrier), sizeof(Mbarrier), file, line);
    Mbarrier barrier;
    memcpy(&barrier, at, sizeof barrier);
    // The poison has all bits, but no barrier expects more than a block of threads.
    if (!barrier.is_valid || barrier.expected > MAX_THREADS) fail("%s (%s:%d): the barrier was not initialised", what, file, line);
    return barrier;
}

// Ends the phase if nothing is missing, and stores the barrier. Threads that wait look at it again.
static void store_mbarrier(unsigned long long* at, Mbarrier barrier) {
    if (barrier.missing == 0 && barrier.bytes == 0) {
        barrier.missing = barrier.expected;
        barrier.parity = !barrier.parity;
    }
    proxies.update(at, &barrier, sizeof barrier);
    for (unsigned i = 0; i < block->threads; i++)
        if (block->fibers[i].state == State::at_mbarrier) block->fibers[i].state = State::ready;
}

static void arrive(const char* what, unsigned long long* at, unsigned bytes, const char* file, int line) {
    Mbarrier barrier = read_mbarrier(what, at, file, line);
    if (barrier.missing == 0) fail("%s (%s:%d): more threads arrive than the barrier expects", what, file, line);
    if (bytes >= 1u << 20) fail("%s (%s:%d): %u bytes", what, file, line, bytes);
    barrier.missing--;
    barrier.bytes += bytes;
    store_mbarrier(at, barrier);
}

static void perform(const BulkCopy& copy, const char* file, int line) {
    proxies.write(copy.to, copy.from, copy.bytes);
    Mbarrier barrier = read_mbarrier("bulk_copy", copy.barrier, file, line);
    barrier.bytes -= copy.bytes;
    store_mbarrier(copy.barrier, barrier);
}

// Performs the oldest pending copy of a barrier. Returns whether there was one.
static bool perform_oldest(const unsigned long long* barrier, const char* file, int line) {
    for (size_t i = 0; i < bulk_copies.size(); i++) {
        if (bulk_copies[i].barrier != barrier) continue;
        BulkCopy copy = bulk_copies[i];
        bulk_copies.erase(bulk_copies.begin() + i);
        perform(copy, file, line);
        return true;
    }
    return false;
}

}  // namespace emulator

static inline void mbarrier_init(unsigned long long* at, unsigned threads, SITE) {
    emulator::check_shared("mbarrier_init", at, sizeof *at, sizeof *at, file, line);
    if (threads == 0 || threads > emulator::MAX_THREADS) emulator::fail("mbarrier_init (%s:%d): %u threads", file, line, threads);
    emulator::Mbarrier barrier = {threads, threads, 0, 0, 1};
    memcpy(at, &barrier, sizeof barrier);
}
static inline void mbarrier_arrive(unsigned long long* at, SITE) { emulator::arrive("mbarrier_arrive", at, 0, file, line); }
static inline void mbarrier_arrive_expect(unsigned long long* at, unsigned bytes, SITE) {
    emulator::arrive("mbarrier_arrive_expect", at, bytes, file, line);
}
static inline void mbarrier_wait(unsigned long long* at, unsigned parity, SITE) {
    for (;;) {
        emulator::Mbarrier barrier = emulator::read_mbarrier("mbarrier_wait", at, file, line);
        if (barrier.parity != (parity & 1)) return;
        if (barrier.missing == 0 && emulator::perform_oldest(at, file, line)) continue;
        emulator::Fiber& fiber = *emulator::block->current;
        fiber.state = emulator::State::at_mbarrier;
        fiber.what = "mbarrier_wait", fiber.file = file, fiber.line = line;
        emulator::leave();
    }
}
static inline void bulk_copy(void* to, const void* from, unsigned bytes, unsigned long long* barrier, SITE) {
    using namespace emulator;
    check_shared("bulk_copy", to, bytes, 16, file, line);
    if (uintptr_t(from) % 16 != 0) fail("bulk_copy (%s:%d): the source is not a multiple of 16", file, line);
    if (bytes % 16 != 0) fail("bulk_copy (%s:%d): %u bytes are not a multiple of 16", file, line, bytes);
    for (auto [first, size] : {std::pair<const void*, size_t>(to, bytes), {barrier, sizeof *barrier}})
        if (unsigned writer = proxies.writer(first, size))
            fail("bulk_copy (%s:%d): thread %u has written the destination or the barrier without a later fence_proxy_async", file, line,
                 writer - 1);
    BulkCopy copy = {to, from, bytes, barrier};
    if (block->schedule.early_copies) return perform(copy, file, line);
    std::vector<unsigned char> poison(bytes, POISON);
    proxies.write(to, poison.data(), bytes);
    bulk_copies.push_back(copy);
}
