#!/usr/bin/env bash
# Try on this machine all that needs a GPU, in less than eight minutes: tools/gpu_check.sh [--out DIR] [--doubles].
# It needs python3 with torch and no package index: wheels of what is missing lie in build/gpu-wheels, or where
# HUTEROX_WHEELS says (tools/gpu_wheels.sh fetches them). PYTHON names another interpreter. See docs/gpu.md.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
python="${PYTHON:-python3}"
wheels="${HUTEROX_WHEELS:-$root/build/gpu-wheels}"
needs() { "$python" -c "import importlib.util as u, sys; sys.exit(any(not u.find_spec(n) for n in sys.argv[1:]))" "$@"; }

packages="$(mktemp -d)"
trap 'rm -rf "$packages"' EXIT
export PYTHONPATH="$root/wire:$root/shm:$root/connector:$root/kernel:$root/clients/python:$root/bench:$packages"
is_installed() { "$python" -c "import importlib.metadata as m; m.version('$1')" 2>/dev/null; }

# Of the wheels only what is not there: torch has a numpy that fits it.
missing=()
for wheel in "$wheels"/*.whl; do
    if [ -e "$wheel" ] && ! is_installed "$(basename "$wheel" | cut -d- -f1)"; then
        missing+=("$wheel")
    fi
done
if [ ${#missing[@]} -gt 0 ]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$packages" "${missing[@]}"
fi
if ! is_installed huterox; then # a plain copy of the tree runs as it is, but the daemons tell their version
    about="$packages/huterox-0.dist-info"
    mkdir -p "$about"
    version="$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")"
    printf 'Metadata-Version: 2.1\nName: huterox\nVersion: %s\n' "$version" >"$about/METADATA"
fi
needs zmq msgspec ml_dtypes numpy psutil uvloop pynvml pytest hypothesis || {
    echo "packages are missing; their wheels belong into $wheels (tools/gpu_wheels.sh)" >&2
    exit 2
}
cd "$root"
"$python" tools/gpu/check.py "$@"
