// A simulation of CUDA's driver, of cuBLASLt and of NCCL on the CPU, for tests of the host's side of the driver: which functions are called, in which
// order, and what is in use at that time. Work on a stream is executed as late as CUDA permits: when the host waits for it.
//
// It has one device. Environment variables change it: SIMULATED_VERSION, SIMULATED_DEVICES, SIMULATED_MAJOR and SIMULATED_MEMORY (bytes).
// Of all kernels, only `fill_f32` is known; of all epilogues, none and the bias.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500 };
enum { LT_INVALID_VALUE = 7, LT_NOT_SUPPORTED = 15 };

struct Stream {
    std::deque<std::function<void()>> work;
};
struct Event {
    Stream* stream = nullptr;
    bool is_pending = false, is_recorded = false;
};
struct Function {
    std::string name;
    int shared_bytes = 48 << 10;
};
struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t ld;
};
struct Operation {
    int transposed[2] = {0, 0};
    uint32_t epilogue = 1;
    uint64_t bias = 0;
};

std::map<uint64_t, size_t> memory;
size_t used = 0;
int host_allocations = 0, streams = 0, events = 0, modules = 0, contexts = 0, lt_objects = 0, heuristics = 0;
thread_local int current = 0;

long variable(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text ? atol(text) : otherwise;
}
size_t total() { return variable("SIMULATED_MEMORY", 1l << 30); }

void run(Stream* stream) {
    while (!stream->work.empty()) {
        auto next = std::move(stream->work.front());
        stream->work.pop_front();
        next();
    }
}
// Executes the work of the event's stream until the event has happened.
void reach(Event* event) {
    while (event->is_pending && !event->stream->work.empty()) {
        auto next = std::move(event->stream->work.front());
        event->stream->work.pop_front();
        next();
    }
}
}  // namespace

#define NEEDS_CONTEXT \
    if (!current) return INVALID_CONTEXT

EXPORT int cuInit(unsigned) { return variable("SIMULATED_DEVICES", 1) == 0 ? NO_DEVICE : SUCCESS; }
EXPORT int cuDriverGetVersion(int* version) { return *version = (int)variable("SIMULATED_VERSION", 13000), SUCCESS; }
EXPORT int cuGetErrorName(int, const char** text) { return *text = "CUDA_ERROR_SIMULATED", SUCCESS; }
EXPORT int cuGetErrorString(int, const char** text) { return *text = "simulated error", SUCCESS; }
EXPORT int cuDeviceGetCount(int* count) { return *count = (int)variable("SIMULATED_DEVICES", 1), SUCCESS; }
EXPORT int cuDeviceGet(int* device, int index) { return *device = index, SUCCESS; }
EXPORT int cuDeviceGetName(char* name, int length, int) { return strncpy(name, "Simulated", length), SUCCESS; }
EXPORT int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = total(), SUCCESS; }
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 16: *value = 132; break;
        case 75: *value = (int)variable("SIMULATED_MAJOR", 9); break;
        case 76: *value = 0; break;
        case 97: *value = 227 << 10; break;
        default: return INVALID_VALUE;
    }
    return SUCCESS;
}
EXPORT int cuDevicePrimaryCtxRetain(uintptr_t* context, int) { return *context = 77, contexts++, SUCCESS; }
EXPORT int cuDevicePrimaryCtxRelease_v2(int) { return contexts--, SUCCESS; }
EXPORT int cuCtxSetCurrent(uintptr_t context) { return current = context == 77, current ? SUCCESS : INVALID_CONTEXT; }
EXPORT int cuMemGetInfo_v2(size_t* free, size_t* all) {
    NEEDS_CONTEXT;
    return *free = total() - used, *all = total(), SUCCESS;
}
EXPORT int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    NEEDS_CONTEXT;
    if (bytes > total() - used) return OUT_OF_MEMORY;
    *address = (uint64_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
    memory[*address] = bytes;
    used += bytes;
    return SUCCESS;
}
EXPORT int cuMemFree_v2(uint64_t address) {
    NEEDS_CONTEXT;
    if (!memory.count(address)) return INVALID_VALUE;
    used -= memory[address];
    memory.erase(address);
    free((void*)address);
    return SUCCESS;
}
EXPORT int cuMemAllocHost_v2(void** address, size_t bytes) {
    NEEDS_CONTEXT;
    return *address = malloc(bytes), host_allocations++, SUCCESS;
}
EXPORT int cuMemFreeHost(void* address) { return free(address), host_allocations--, SUCCESS; }
static int copy(void* to, const void* from, size_t bytes, Stream* stream) {
    NEEDS_CONTEXT;
    stream->work.push_back([=] { memcpy(to, from, bytes); });
    return SUCCESS;
}
EXPORT int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* stream) { return copy((void*)to, from, bytes, stream); }
EXPORT int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* stream) { return copy(to, (void*)from, bytes, stream); }
EXPORT int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream* stream) { return copy((void*)to, (void*)from, bytes, stream); }
EXPORT int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream* stream) {
    NEEDS_CONTEXT;
    stream->work.push_back([=] { memset((void*)to, value, bytes); });
    return SUCCESS;
}
EXPORT int cuStreamCreate(Stream** stream, unsigned flags) {
    NEEDS_CONTEXT;
    if (flags != 1) return INVALID_VALUE;
    return *stream = new Stream, streams++, SUCCESS;
}
EXPORT int cuStreamDestroy_v2(Stream* stream) { return run(stream), delete stream, streams--, SUCCESS; }
EXPORT int cuStreamSynchronize(Stream* stream) {
    NEEDS_CONTEXT;
    return run(stream), SUCCESS;
}
EXPORT int cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    NEEDS_CONTEXT;
    stream->work.push_back([=] { reach(event); });
    return SUCCESS;
}
EXPORT int cuEventCreate(Event** event, unsigned) {
    NEEDS_CONTEXT;
    return *event = new Event, events++, SUCCESS;
}
EXPORT int cuEventDestroy_v2(Event* event) { return delete event, events--, SUCCESS; }
EXPORT int cuEventRecord(Event* event, Stream* stream) {
    NEEDS_CONTEXT;
    event->stream = stream;
    event->is_pending = event->is_recorded = true;
    stream->work.push_back([=] { event->is_pending = false; });
    return SUCCESS;
}
EXPORT int cuEventSynchronize(Event* event) {
    NEEDS_CONTEXT;
    return reach(event), SUCCESS;
}
EXPORT int cuEventElapsedTime(float* milliseconds, Event* start, Event* end) {
    if (!start->is_recorded || !end->is_recorded) return INVALID_HANDLE;
    return *milliseconds = 2.5f, SUCCESS;
}
EXPORT int cuModuleLoadData(uintptr_t* module, const void* image) {
    NEEDS_CONTEXT;
    if ((uintptr_t)image % 16 != 0) return INVALID_VALUE;  // real drivers read structures of up to 8 bytes
    if (memcmp(image, "\x7f" "ELF", 4) != 0) return INVALID_VALUE;
    return *module = (uintptr_t)image, modules++, SUCCESS;
}
EXPORT int cuModuleUnload(uintptr_t) { return modules--, SUCCESS; }
EXPORT int cuModuleGetFunction(Function** function, uintptr_t, const char* name) {
    // A cubin of a few kernels has their names in its table of symbols; the simulation trusts the manifest.
    return *function = new Function{name}, SUCCESS;
}
EXPORT int cuFuncSetAttribute(Function* function, int attribute, int value) {
    if (attribute != 8) return INVALID_VALUE;
    return function->shared_bytes = value, SUCCESS;
}
EXPORT int cuLaunchKernel(Function* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned shared_bytes,
                          Stream* stream, void** parameters, void**) {
    NEEDS_CONTEXT;
    if ((int)shared_bytes > function->shared_bytes || function->name != "fill_f32") return INVALID_VALUE;
    float value = *(float*)parameters[0];
    float* out = *(float**)parameters[1];
    long long count = *(long long*)parameters[2];
    stream->work.push_back([=] {
        for (long long i = 0; i < count; i++) out[i] = value;
    });
    return SUCCESS;
}

EXPORT size_t cublasLtGetVersion() { return 130005; }
EXPORT const char* cublasLtGetStatusName(int) { return "CUBLAS_STATUS_SIMULATED"; }
EXPORT const char* cublasLtGetStatusString(int) { return "simulated error"; }
EXPORT int cublasLtCreate(uintptr_t* handle) {
    NEEDS_CONTEXT;
    return *handle = 5, lt_objects++, SUCCESS;
}
EXPORT int cublasLtDestroy(uintptr_t) { return lt_objects--, SUCCESS; }
EXPORT int cublasLtMatmulDescCreate(Operation** operation, int compute, int scale) {
    if (compute != 68 || scale != 0) return LT_INVALID_VALUE;
    return *operation = new Operation, lt_objects++, SUCCESS;
}
EXPORT int cublasLtMatmulDescDestroy(Operation* operation) { return delete operation, lt_objects--, SUCCESS; }
EXPORT int cublasLtMatmulDescSetAttribute(Operation* operation, int attribute, const void* value, size_t bytes) {
    void* to = attribute == 3   ? (void*)&operation->transposed[0]
               : attribute == 4 ? (void*)&operation->transposed[1]
               : attribute == 7 ? (void*)&operation->epilogue
                                : (void*)&operation->bias;
    if (bytes != (attribute <= 7 ? 4 : 8)) return LT_INVALID_VALUE;
    if (attribute <= 8) memcpy(to, value, bytes);
    return SUCCESS;
}
EXPORT int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    return *layout = new Layout{type, rows, columns, ld}, lt_objects++, SUCCESS;
}
EXPORT int cublasLtMatrixLayoutDestroy(Layout* layout) { return delete layout, lt_objects--, SUCCESS; }
EXPORT int cublasLtMatrixLayoutSetAttribute(Layout*, int, const void*, size_t) { return LT_INVALID_VALUE; }
EXPORT int cublasLtMatmulPreferenceCreate(uintptr_t* preference) { return *preference = 9, lt_objects++, SUCCESS; }
EXPORT int cublasLtMatmulPreferenceDestroy(uintptr_t) { return lt_objects--, SUCCESS; }
EXPORT int cublasLtMatmulPreferenceSetAttribute(uintptr_t, int attribute, const void*, size_t bytes) {
    return bytes == (attribute == 1 ? 8 : 4) ? SUCCESS : LT_INVALID_VALUE;
}
struct Result {
    uint64_t algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
EXPORT int cublasLtMatmulAlgoGetHeuristic(uintptr_t, Operation* operation, Layout*, Layout*, Layout*, Layout* d, uintptr_t, int,
                                          Result* result, int* count) {
    heuristics++;
    *count = 0;
    if (operation->epilogue != 1 && operation->epilogue != 4) return LT_NOT_SUPPORTED;
    *count = 1;
    *result = Result{};
    // Algorithms for more than 256 rows do not fit 300 rows, so that the driver must query another one.
    result->algorithm[0] = d->columns;
    return SUCCESS;
}
EXPORT int cublasLtMatmul(uintptr_t, Operation* o, const float* alpha, const float* a, Layout* la, const float* b, Layout* lb, const float* beta,
                          const float* c, Layout* lc, float* d, Layout* ld, const uint64_t* algorithm, void* workspace, size_t bytes,
                          Stream* stream) {
    NEEDS_CONTEXT;
    if (!workspace || bytes < 32 << 20 || la->type != 0) return LT_INVALID_VALUE;
    if (ld->columns == 300 && algorithm[0] != 300) return LT_NOT_SUPPORTED;
    Operation operation = *o;
    Layout A = *la, B = *lb, C = *lc, D = *ld;
    float x = *alpha, y = *beta;
    stream->work.push_back([=] {
        uint64_t k = operation.transposed[0] ? A.rows : A.columns;
        for (uint64_t j = 0; j < D.columns; j++) {
            for (uint64_t i = 0; i < D.rows; i++) {
                float sum = 0;
                for (uint64_t l = 0; l < k; l++) {
                    sum += (operation.transposed[0] ? a[l + i * A.ld] : a[i + l * A.ld]) *
                           (operation.transposed[1] ? b[j + l * B.ld] : b[l + j * B.ld]);
                }
                float value = x * sum + (y ? y * c[i + j * C.ld] : 0);
                if (operation.epilogue == 4) value += ((const float*)operation.bias)[i];
                d[i + j * D.ld] = value;
            }
        }
    });
    return SUCCESS;
}

// NCCL. A function of all ranks is executed when the streams of all of them have reached it.
struct UniqueId {
    char bytes[128];
};
struct Collective {
    std::vector<float*> values;
    std::vector<Stream*> streams;
    std::vector<bool> is_reached;
    size_t count;
    bool is_sum, is_done = false;
};
struct Group {
    std::deque<Collective> collectives;
    int ranks, error = 0;
};
struct Communicator {
    Group* group;
    int rank;
    size_t next = 0;
};
static std::map<std::string, Group*> groups;
static int communicators = 0;

static void reach(Group* group, size_t index, int rank) {
    Collective& all = group->collectives[index];
    all.is_reached[rank] = true;
    for (int other = 0; other < group->ranks; other++) {
        Stream* stream = all.streams[other];
        while (stream && !all.is_reached[other] && !stream->work.empty()) {
            auto next = std::move(stream->work.front());
            stream->work.pop_front();
            next();
        }
        // A device would wait for ever.
        if (!all.is_reached[other]) return (void)(group->error = 6);
    }
    if (all.is_done) return;
    all.is_done = true;
    for (size_t i = 0; i < all.count; i++) {
        float value = all.values[0][i];
        for (int other = 1; all.is_sum && other < group->ranks; other++) value += all.values[other][i];
        for (float* values : all.values) values[i] = value;
    }
}
static int collective(Communicator* communicator, uint64_t from, uint64_t to, size_t count, bool is_sum, Stream* stream) {
    if (!current || from != to) return 4;
    Group* group = communicator->group;
    size_t index = communicator->next++;
    if (index == group->collectives.size()) {
        size_t ranks = group->ranks;
        group->collectives.push_back({std::vector<float*>(ranks), std::vector<Stream*>(ranks), std::vector<bool>(ranks), count, is_sum});
    }
    Collective& all = group->collectives[index];
    if (all.count != count || all.is_sum != is_sum) return 5;
    int rank = communicator->rank;
    all.values[rank] = (float*)to;
    all.streams[rank] = stream;
    stream->work.push_back([=] { reach(group, index, rank); });
    return SUCCESS;
}

EXPORT int ncclGetVersion(int* version) { return *version = 23007, SUCCESS; }
EXPORT const char* ncclGetErrorString(int) { return "simulated error"; }
EXPORT const char* ncclGetLastError(void*) { return "first line\nsecond line"; }
EXPORT int ncclGetUniqueId(UniqueId* id) { return memset(id, 3, sizeof *id), SUCCESS; }
EXPORT int ncclCommInitRank(Communicator** communicator, int ranks, UniqueId id, int rank) {
    if (!current || rank >= ranks) return 4;
    Group*& group = groups[std::string(id.bytes, sizeof id.bytes)];
    if (!group) group = new Group{{}, ranks};
    return *communicator = new Communicator{group, rank}, communicators++, SUCCESS;
}
EXPORT int ncclCommAbort(Communicator* communicator) { return delete communicator, communicators--, SUCCESS; }
EXPORT int ncclCommGetAsyncError(Communicator* communicator, int* error) { return *error = communicator->group->error, SUCCESS; }
EXPORT int ncclAllReduce(uint64_t from, uint64_t to, size_t count, int type, int operation, Communicator* communicator, Stream* stream) {
    return type == 7 && operation == 0 ? collective(communicator, from, to, count, true, stream) : 4;
}
EXPORT int ncclBroadcast(uint64_t from, uint64_t to, size_t count, int type, int root, Communicator* communicator, Stream* stream) {
    return type == 7 && root == 0 ? collective(communicator, from, to, count, false, stream) : 4;
}

// What exists: memory, host memory, streams, events, modules, contexts and objects of cuBLASLt; the number of heuristic queries; and the
// communicators.
EXPORT void simulated_counts(int* counts) {
    int values[] = {(int)memory.size(), host_allocations, streams, events, modules, contexts, lt_objects, heuristics, communicators};
    memcpy(counts, values, sizeof values);
}
