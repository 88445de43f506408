// What the parts of the fake GPU share: its memory, its counters, and the report of both.
#pragma once
#include <cstddef>
#include <mutex>
#include <string>

namespace fake {

extern std::recursive_mutex mutex;
#define LOCKED std::lock_guard<std::recursive_mutex> guard(fake::mutex)

// ---- settings, from the environment
int device_count();       // FAKE_GPUS, 1
size_t memory_bytes();    // FAKE_MEM_GB, 78: of each device
int capability();         // FAKE_SM, 90
int driver_version();     // FAKE_DRIVER, 13000; a version below 13000 is too old for the runtime
bool tracing();           // FAKE_TRACE: every call as a line on stderr

// ---- counters
void count(const std::string& name, double by = 1);
void launched(const std::string& mangled_kernel);
// What a real GPU would refuse, or what the program must not do. The process ends with exit code 99, but for FAKE_LENIENT.
void violation(const std::string& what);

// ---- memory
enum class Place { pageable, pinned, device };
struct Block {
  Place place;
  size_t bytes;
  int device;
};
void add_block(void* start, const Block& block);
bool remove_block(void* start, Block* removed);
// The block that holds the address, or null; `left` receives the bytes from there to its end.
const Block* find_block(const void* address, size_t* left);
Place place_of(const void* address);
size_t used_bytes(int device);
// Whether `bytes` from `address` on are memory of this device; a violation if not.
bool on_device(const void* address, size_t bytes, int device, const char* what);

int current_device();

}  // namespace fake
