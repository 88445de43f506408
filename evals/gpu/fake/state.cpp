// Settings, counters and memory of the fake GPU, and the report that it leaves.
#include "fake.h"

#include <cxxabi.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

namespace fake {

std::recursive_mutex mutex;

// Never destroyed: libtorch frees memory while the process ends.
struct State {
  std::map<std::string, double> counters;
  std::map<std::string, long> launches;
  std::map<std::string, long> violations;
  std::map<const char*, Block> blocks;
  std::map<int, size_t> used, peak;
};

static State& state() {
  static State* state = new State;
  return *state;
}

static double setting(const char* name, double otherwise) {
  const char* text = getenv(name);
  return text ? atof(text) : otherwise;
}

int device_count() { return setting("FAKE_GPUS", 1); }
size_t memory_bytes() { return setting("FAKE_MEM_GB", 78) * (1ull << 30); }
int capability() { return setting("FAKE_SM", 90); }
int driver_version() { return setting("FAKE_DRIVER", 13000); }

bool tracing() {
  static bool on = getenv("FAKE_TRACE");
  return on;
}

void count(const std::string& name, double by) {
  LOCKED;
  state().counters[name] += by;
  if (tracing()) fprintf(stderr, "FAKE %s %.0f\n", name.c_str(), by);
}

void launched(const std::string& mangled_kernel) {
  LOCKED;
  state().launches[mangled_kernel]++;
  if (tracing()) fprintf(stderr, "FAKE launch %s\n", mangled_kernel.c_str());
}

void violation(const std::string& what) {
  LOCKED;
  if (state().violations[what]++ == 0) fprintf(stderr, "fake GPU: %s\n", what.c_str());
}

void add_block(void* start, const Block& block) {
  LOCKED;
  state().blocks[(const char*)start] = block;
  if (block.place != Place::device) return;
  size_t& used = state().used[block.device];
  used += block.bytes;
  state().peak[block.device] = std::max(state().peak[block.device], used);
}

bool remove_block(void* start, Block* removed) {
  LOCKED;
  auto found = state().blocks.find((const char*)start);
  if (found == state().blocks.end()) return false;
  *removed = found->second;
  if (removed->place == Place::device) state().used[removed->device] -= removed->bytes;
  state().blocks.erase(found);
  return true;
}

const Block* find_block(const void* address, size_t* left) {
  LOCKED;
  auto after = state().blocks.upper_bound((const char*)address);
  if (after == state().blocks.begin()) return nullptr;
  const auto& [start, block] = *--after;
  size_t offset = (const char*)address - start;
  if (offset >= block.bytes) return nullptr;
  if (left) *left = block.bytes - offset;
  return &block;
}

Place place_of(const void* address) {
  const Block* block = find_block(address, nullptr);
  return block ? block->place : Place::pageable;
}

size_t used_bytes(int device) {
  LOCKED;
  return state().used[device];
}

bool on_device(const void* address, size_t bytes, int device, const char* what) {
  size_t left = 0;
  const Block* block = find_block(address, &left);
  const char* wrong = nullptr;
  if (!block || block->place != Place::device) wrong = "is not in a GPU's memory";
  else if (block->device != device) wrong = "is in another GPU's memory";
  else if (left < bytes) wrong = "reaches beyond its block";
  if (wrong) violation(std::string(what) + " " + wrong);
  return !wrong;
}

static std::string readable(const std::string& mangled) {
  int status;
  char* text = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  std::string name = text ? text : mangled;
  free(text);
  return name.substr(0, 300);
}

template <typename Map, typename Name, typename Value>
static void object(FILE* file, const char* key, const Map& map, Name name, Value value) {
  fprintf(file, ",\n \"%s\": {", key);
  const char* comma = "\n  ";
  for (const auto& [each, counted] : map) {
    std::string escaped;
    for (char c : name(each)) {
      if (c == '"' || c == '\\') escaped += '\\';
      if ((unsigned char)c >= ' ') escaped += c;
    }
    fprintf(file, "%s\"%s\": %.15g", comma, escaped.c_str(), (double)value(counted));
    comma = ",\n  ";
  }
  fprintf(file, "}");
}

// FAKE_REPORT: counts as JSON.
struct Report {
  ~Report() {
    LOCKED;
    const State& s = state();
    auto same = [](const auto& value) { return value; };
    auto number = [](int device) { return std::to_string(device); };
    long launches = 0;
    for (const auto& [kernel, counted] : s.launches) launches += counted;
    const char* path = getenv("FAKE_REPORT");
    if (FILE* file = path ? fopen(path, "w") : nullptr) {
      fprintf(file, "{\n \"launches\": %ld", launches);
      object(file, "peak_bytes", s.peak, number, same);
      object(file, "bytes_at_the_end", s.used, number, same);
      object(file, "violations", s.violations, same, same);
      object(file, "counters", s.counters, same, same);
      object(file, "kernels", s.launches, readable, same);
      fprintf(file, "\n}\n");
      fclose(file);
    }
    if (!s.violations.empty() && !getenv("FAKE_LENIENT")) _exit(99);
  }
};
static Report report;

}  // namespace fake
