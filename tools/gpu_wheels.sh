#!/usr/bin/env bash
# Fetch wheels for tools/gpu_check.sh, for a machine without a package index: tools/gpu_wheels.sh [DIR].
# They are for Python 3.12 on x86-64; torch is not among them. A few megabytes.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
folder="${1:-$root/build/gpu-wheels}"
mkdir -p "$folder"
"${PYTHON:-python3}" -m pip download --quiet --dest "$folder" --only-binary=:all: --no-deps \
    --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_26_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any \
    --constraint "$root/constraints.txt" \
    pyzmq msgspec ml-dtypes psutil uvloop nvidia-ml-py pytest pytest-timeout hypothesis \
    iniconfig packaging pluggy pygments sortedcontainers
ls "$folder"
