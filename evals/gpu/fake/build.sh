#!/bin/bash
# build.sh PYTHON OUT: builds the fake GPU for the CUDA torch 2.11 of that Python into OUT. Needs g++; the headers are those that
# the wheel's dependencies bring (nvidia/cu13/include, triton/backends/nvidia/include).
set -eu
here=$(cd "$(dirname "$0")" && pwd) python=$1
mkdir -p "$2/inc"
out=$(cd "$2" && pwd)
site=$("$python" -c 'import importlib.util as u, os; print(os.path.dirname(u.find_spec("torch").submodule_search_locations[0]))')
includes="-I$out/inc -I$site/nvidia/cu13/include -I$site/triton/backends/nvidia/include"
ln -sfn "$site/triton/backends/nvidia/include/crt" "$out/inc/crt"
printf 'struct __half { unsigned short x; };\n' > "$out/inc/cuda_fp16.h"
printf 'struct __nv_bfloat16 { unsigned short x; };\n' > "$out/inc/cuda_bf16.h"

# The driver, which libtorch_cuda links and calls only through the runtime.
{
    echo 'extern "C" {'
    while read -r name; do
        case $name in
            cuDevicePrimaryCtxGetState) echo "int $name(int, unsigned* flags, int* active) { if (flags) *flags = 0; if (active) *active = 1; return 0; }" ;;
            cuCtxGetCurrent) echo "int $name(void** context) { *context = (void*)1; return 0; }" ;;
            cuGetErrorString) echo "int $name(int, const char** text) { *text = \"an error of the fake driver\"; return 0; }" ;;
            *) echo "int $name(...) { return 0; }" ;;
        esac
    done < "$here/driver_symbols.txt"
    echo '}'
} > "$out/driver.cpp"
g++ -O1 -w -shared -fPIC -o "$out/libcuda.so.1" "$out/driver.cpp" -Wl,-soname,libcuda.so.1
# shellcheck disable=SC2086
g++ -O1 -w -std=c++17 -shared -fPIC $includes -o "$out/libfake.so" "$here"/{state,runtime,cublas}.cpp -ldl
gcc -O1 -w -shared -fPIC -o "$out/device_file.so" "$here/device_file.c" -ldl
echo "$site" > "$out/site"
