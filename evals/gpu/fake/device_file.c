// Pretends that an NVIDIA driver's device file is there, which `--device auto` looks for.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

int statx(int directory, const char* path, int flags, unsigned mask, struct statx* buffer) {
  static int (*real)(int, const char*, int, unsigned, struct statx*);
  if (!real) real = dlsym(RTLD_NEXT, "statx");
  // Rust's standard library asks with an address that is none whether the call exists.
  int is_device = (uintptr_t)path > 4096 && !strcmp(path, "/dev/nvidiactl");
  return real(directory, is_device ? "/dev/null" : path, flags, mask, buffer);
}
