// The generic and the async proxy of shared memory, and the twin of `fence.proxy.async`, from the PTX ISA 9.0 (sections 8.2 and 9.7.13.4).
//
// `wgmma` and bulk copies access shared memory through the async proxy, which sees what threads and `cp.async` have written (the generic
// proxy) after a fence only. The emulator has a second copy of shared memory for the async proxy. Whenever a thread lets others run, words
// that have changed are marked with its index; its fence copies them and removes the marks. An operation of the async proxy that reads a
// marked word fails. The ISA also permits that another thread, which has observed the write, executes the fence; the emulator does not.
#pragma once
#include "tensor_core.h"

namespace emulator {

// Shared memory begins at this address of the shared window, so that addresses without an offset are found.
constexpr uint32_t SHARED_WINDOW = SHARED_ALIGNMENT;

struct Proxies {
    // Shared memory as the async proxy sees it, and as it was when threads were last compared.
    std::vector<uint32_t> async, compared;
    // Of each word, the index of the thread that wrote it without a fence, plus one, or zero.
    std::vector<uint16_t> writers;
    // Of each thread, the words that it wrote after its last fence, and perhaps others after it.
    std::vector<std::vector<uint32_t>> written;
    // A copy in whole words.
    std::vector<uint32_t> now;

    void begin() {
        size_t words = (block->shared_bytes + 3) / 4;
        now.assign(words, 0);
        memcpy(now.data(), block->shared, block->shared_bytes);
        async = compared = now;
        writers.assign(words, 0);
        written.assign(block->threads, {});
    }

    // Marks the words that the current thread has written since it was resumed.
    void compare() {
        if (memcmp(compared.data(), block->shared, block->shared_bytes) == 0) return;
        memcpy(now.data(), block->shared, block->shared_bytes);
        unsigned thread = block->current->index;
        // Most words are equal.
        constexpr size_t STEP_WORDS = 64;
        for (size_t first = 0, words = now.size(); first < words; first += STEP_WORDS) {
            size_t last = first + STEP_WORDS < words ? first + STEP_WORDS : words;
            if (memcmp(&now[first], &compared[first], (last - first) * sizeof(uint32_t)) == 0) continue;
            for (size_t i = first; i < last; i++) {
                if (now[i] == compared[i]) continue;
                compared[i] = now[i];
                writers[i] = uint16_t(thread + 1);
                written[thread].push_back(uint32_t(i));
            }
        }
    }

    void fence() {
        compare();
        unsigned thread = block->current->index;
        for (uint32_t i : written[thread]) {
            if (writers[i] != thread + 1) continue;
            async[i] = compared[i];
            writers[i] = 0;
        }
        written[thread].clear();
    }

    // Reads whole words at an address of the shared window. Returns false after an error.
    bool read(void* to, uint32_t address, size_t bytes, const char* what, const char* file, int line) const {
        size_t at = size_t(address) - SHARED_WINDOW;
        if (address < SHARED_WINDOW || at + bytes > block->shared_bytes) {
            record_error("%s (%s:%d): address %u is outside of the %zu bytes of shared memory, which begin at %u", what, file, line,
                         address, block->shared_bytes, SHARED_WINDOW);
            return false;
        }
        for (size_t i = at / 4; i < (at + bytes) / 4; i++) {
            if (writers[i] == 0) continue;
            record_error("%s (%s:%d) reads byte %zu of shared memory, which thread %u has written without a later fence_proxy_async", what,
                         file, line, i * 4, writers[i] - 1u);
            return false;
        }
        memcpy(to, reinterpret_cast<const unsigned char*>(async.data()) + at, bytes);
        return true;
    }

    // The thread that has written a word of a range without a fence, plus one, or zero.
    unsigned writer(const void* first, size_t bytes) {
        compare();
        size_t at = size_t(static_cast<const unsigned char*>(first) - block->shared);
        for (size_t i = at / 4; i < (at + bytes + 3) / 4; i++)
            if (writers[i]) return writers[i];
        return 0;
    }

    // Writes through the async proxy; both proxies see it.
    void write(void* to, const void* from, size_t bytes) {
        update(to, from, bytes);
        size_t at = size_t(static_cast<unsigned char*>(to) - block->shared);
        for (size_t i = at / 4; i < (at + bytes + 3) / 4; i++) writers[i] = 0;
    }

    // Changes the value of a barrier. Both proxies see it if they saw the barrier before.
    void update(void* to, const void* from, size_t bytes) {
        compare();
        size_t at = size_t(static_cast<unsigned char*>(to) - block->shared);
        for (std::vector<uint32_t>* copy : {&async, &compared}) memcpy(reinterpret_cast<unsigned char*>(copy->data()) + at, from, bytes);
        memcpy(to, from, bytes);
    }
};
static thread_local Proxies proxies;

static inline uint32_t window_address(const void* p) {
    return uint32_t(static_cast<const unsigned char*>(p) - block->shared) + SHARED_WINDOW;
}

}  // namespace emulator

static inline unsigned shared_address(const void* p) { return emulator::window_address(p); }
static inline void fence_proxy_async() { emulator::proxies.fence(); }
