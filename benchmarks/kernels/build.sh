#!/bin/sh
# Builds the kernels without llamabuild: build.sh OUTPUT ARCHITECTURES [NVCC FLAGS], one nvcc for
# each file, all at once. For measuring on a machine that has nothing but a CUDA toolkit.
set -e
output=$1 gencode=
for arch in $2; do gencode="$gencode -gencode arch=compute_$arch,code=sm_$arch"; done
shift 2
here=$(cd "$(dirname "$0")/../../kernels" && pwd)
objects=$(mktemp -d)
for source in "$here"/src/*.cu; do
    nvcc -std=c++17 -O3 $gencode "$@" -I"$here/include" -Xcompiler -fPIC,-fvisibility=hidden \
        -c "$source" -o "$objects/$(basename "$source").o" &
    children="$children $!"
done
for child in $children; do wait "$child"; done
nvcc -shared -cudart static $gencode "$objects"/*.o -o "$output"
rm -r "$objects"
