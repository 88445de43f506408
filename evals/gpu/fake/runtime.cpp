// The CUDA runtime, as far as libtorch 2.11 uses it: device memory is host memory, kernels are counted and not run.
#define CUDARTAPI_NO_INLINE
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

#include "fake.h"

using namespace fake;

static std::unordered_map<const void*, std::string> kernel_names;
static std::unordered_map<void*, int> stream_devices;
static thread_local int current = 0;

namespace fake {
int current_device() { return current; }
}

// What is copied to a device is not, and what comes back is zero: without kernels any other number would be chance.
static bool driver_too_old() { return driver_version() < 13000; }

static bool right_stream(cudaStream_t stream, const char* what) {
  LOCKED;
  auto found = stream_devices.find(stream);
  if (found == stream_devices.end() || found->second == current) return true;
  violation(std::string(what) + " on another GPU's stream");
  return false;
}

static cudaError_t launch(const void* kernel, cudaStream_t stream) {
  LOCKED;
  auto found = kernel_names.find(kernel);
  launched(found == kernel_names.end() ? "unknown" : found->second);
  return right_stream(stream, "a kernel is launched") ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

// A host that waits for the GPU.
static cudaError_t waited(const char* how) {
  count("host waits");
  count(std::string("host waits: ") + how);
  return cudaSuccess;
}

static cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, bool blocking) {
  if (bytes == 0) return cudaSuccess;
  Place source = place_of(from), target = place_of(to);
  if (kind == cudaMemcpyDefault) {
    kind = target == Place::device ? (source == Place::device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice)
                                   : (source == Place::device ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost);
  }
  bool fine = true;
  if (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice)
    fine &= on_device(to, bytes, current, "the target of a copy");
  if (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice)
    fine &= on_device(from, bytes, current, "the source of a copy");
  if (!fine) return cudaErrorInvalidValue;
  const char* what = kind == cudaMemcpyHostToDevice   ? (source == Place::pinned ? "to device, pinned" : "to device, pageable")
                     : kind == cudaMemcpyDeviceToHost ? (target == Place::pinned ? "to host, pinned" : "to host, pageable")
                     : kind == cudaMemcpyDeviceToDevice ? "within the device" : "within the host";
  count(std::string("copied bytes: ") + what, bytes);
  count(std::string("copies: ") + what);
  if (blocking) waited("blocking copy");
  if (kind == cudaMemcpyDeviceToHost) memset(to, 0, bytes);
  if (kind == cudaMemcpyHostToHost) memcpy(to, from, bytes);
  return cudaSuccess;
}

struct Dimensions {
  unsigned x, y, z;
};
static thread_local struct {
  Dimensions grid, block;
  size_t shared;
  void* stream;
} pushed;

static int driver_call() { return 0; }
static int current_context(void** context) {
  *context = (void*)0x1;
  return 0;
}
static int primary_context(int, unsigned* flags, int* active) {
  if (flags) *flags = 0;
  if (active) *active = 1;
  return 0;
}

extern "C" {

// ---- kernels
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*, void*, void*, int*) {
  LOCKED;
  kernel_names[host] = name;
}
void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
cudaError_t __cudaGetKernel(void** kernel, const void* host) {
  *kernel = (void*)host;
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(void* kernel, Dimensions, Dimensions, void**, size_t, cudaStream_t s) { return launch(kernel, s); }
cudaError_t cudaLaunchKernel(const void* kernel, dim3, dim3, void**, size_t, cudaStream_t s) { return launch(kernel, s); }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void**) { return launch(kernel, config->stream); }
unsigned __cudaPushCallConfiguration(Dimensions grid, Dimensions block, size_t shared, void* stream) {
  pushed = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(Dimensions* grid, Dimensions* block, size_t* shared, void* stream) {
  *grid = pushed.grid, *block = pushed.block, *shared = pushed.shared, *(void**)stream = pushed.stream;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void*) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024, a->numRegs = 32, a->maxDynamicSharedSizeBytes = 232448;
  a->binaryVersion = a->ptxVersion = capability();
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) {
  *n = 2;
  return cudaSuccess;
}

// ---- devices
cudaError_t cudaDriverGetVersion(int* version) {
  *version = driver_version();
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* n) {
  *n = driver_too_old() ? 0 : device_count();
  return driver_too_old() ? cudaErrorInsufficientDriver : *n == 0 ? cudaErrorNoDevice : cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= device_count()) return cudaErrorInvalidDevice;
  current = device;
  return cudaSuccess;
}
// A Hopper GPU in all but FAKE_SM.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "FAKE GPU");
  p->totalGlobalMem = memory_bytes(), p->major = capability() / 10, p->minor = capability() % 10;
  p->sharedMemPerBlock = 49152, p->sharedMemPerBlockOptin = 232448, p->sharedMemPerMultiprocessor = 233472;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536, p->warpSize = 32, p->maxThreadsPerBlock = 1024;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->multiProcessorCount = 132, p->maxThreadsPerMultiProcessor = 2048, p->maxBlocksPerMultiProcessor = 32;
  p->l2CacheSize = 50 << 20, p->memoryBusWidth = 5120, p->unifiedAddressing = 1, p->concurrentKernels = 1, p->textureAlignment = 512;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch ((int)attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrComputeCapabilityMajor: *value = capability() / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = capability() % 10; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 233472; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = 32; break;
    default: *value = 0;
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int device) {
  snprintf(id, bytes, "0000:%02d:00.0", device);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0, *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** call, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* result) {
  *call = !strcmp(name, "cuDevicePrimaryCtxGetState") ? (void*)primary_context
          : !strcmp(name, "cuCtxGetCurrent")          ? (void*)current_context : (void*)driver_call;
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

// ---- streams and events
cudaError_t cudaDeviceSynchronize() { return waited("device"); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return waited("stream"); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return waited("event"); }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  LOCKED;
  static long made = 0x1000;
  *stream = (cudaStream_t)(++made);
  stream_devices[*stream] = current;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) { return cudaStreamCreateWithPriority(stream, flags, 0); }
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
  count("streams wait for events");
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* status, unsigned long long* id, cudaGraph_t*, const cudaGraphNode_t**, const cudaGraphEdgeData**, size_t*) {
  *status = cudaStreamCaptureStatusNone;
  if (id) *id = 0;
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  LOCKED;
  static long made = 0x9000;
  *event = (cudaEvent_t)(++made);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t stream) { return right_stream(stream, "an event is recorded") ? cudaSuccess : cudaErrorInvalidResourceHandle; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) { return cudaEventRecord(event, stream); }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = 1.0f;
  return cudaSuccess;
}

// ---- memory
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = memory_bytes();
  *free = *total - std::min(*total, used_bytes(current));
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  LOCKED;
  *memory = nullptr;
  count("cudaMalloc");
  if (used_bytes(current) + bytes > memory_bytes()) {
    count("cudaMalloc refused");
    return cudaErrorMemoryAllocation;
  }
  void* made = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (made == MAP_FAILED) return cudaErrorMemoryAllocation;
  add_block(made, {Place::device, bytes, current});
  *memory = made;
  return cudaSuccess;
}
// The real one waits for the GPU.
cudaError_t cudaFree(void* memory) {
  Block block;
  if (!memory) return cudaSuccess;
  if (!remove_block(memory, &block)) return cudaErrorInvalidValue;
  munmap(memory, block.bytes);
  count("cudaFree");
  return waited("cudaFree");
}
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  if (posix_memalign(memory, 4096, (bytes + 4095) / 4096 * 4096)) return cudaErrorMemoryAllocation;
  add_block(*memory, {Place::pinned, bytes, -1});
  count("cudaHostAlloc");
  count("cudaHostAlloc bytes", bytes);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) { return cudaHostAlloc(memory, bytes, 0); }
cudaError_t cudaFreeHost(void* memory) {
  Block block;
  if (!remove_block(memory, &block)) return cudaErrorInvalidValue;
  free(memory);
  count("cudaFreeHost");
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void* memory, size_t bytes, unsigned) {
  add_block(memory, {Place::pinned, bytes, -1});
  count("cudaHostRegister bytes", bytes);
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* memory) {
  Block block;
  return remove_block(memory, &block) ? cudaSuccess : cudaErrorHostMemoryNotRegistered;
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = host;
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* address) {
  memset(a, 0, sizeof *a);
  const Block* block = find_block(address, nullptr);
  a->type = !block ? cudaMemoryTypeUnregistered : block->place == Place::device ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
  a->device = block && block->place == Place::device ? block->device : 0;
  if (block && block->place == Place::device) a->devicePointer = (void*)address;
  if (block && block->place == Place::pinned) a->hostPointer = a->devicePointer = (void*)address;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (!right_stream(stream, "a copy is made")) return cudaErrorInvalidResourceHandle;
  return copy(to, from, bytes, kind, false);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) { return copy(to, from, bytes, kind, true); }
cudaError_t cudaMemcpyPeerAsync(void*, int, const void*, int, size_t bytes, cudaStream_t) {
  count("copied bytes: between devices", bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  if (!on_device(memory, bytes, current, "memory that is set")) return cudaErrorInvalidValue;
  count("set bytes", bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* memory, int value, size_t bytes) { return cudaMemsetAsync(memory, value, bytes, nullptr); }

}  // extern "C"
