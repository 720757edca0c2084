#!/usr/bin/env bash
# Runs tests/crypto/test_lanes.py with the kernel under AddressSanitizer and
# UndefinedBehaviorSanitizer. Exits with 77 where the compiler has them not.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

cp -r "$root/ppfl" "$place/"
rm -f "$place"/ppfl/crypto/_lanes*
suffix=$("$python" -c 'import importlib.machinery as m; print(m.EXTENSION_SUFFIXES[0])')
flags=(-std=c11 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all)
echo 'int main(void) { return 0; }' | gcc "${flags[@]}" -x c - -o "$place/probe" || exit 77
runtime=$(gcc -print-file-name=libasan.so)
gcc "${flags[@]}" -shared -fPIC -Wall -Wextra -Werror \
    "$root"/ppfl/crypto/_kernel/{avx2,ifma}.c -o "$place/ppfl/crypto/_lanes$suffix"

# Python never frees some of its memory, which is no leak of the kernel's
export PPFL_SANITIZED=1 ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$place" PYTHONMALLOC=malloc
export LD_PRELOAD="$runtime"
cd "$place"
"$python" -c 'import ppfl.crypto.lanes as lanes; print(lanes._load())' | grep --quiet "$place"
# nothing is captured, because a sanitizer ends the process and its report would be lost
"$python" -m pytest --quiet --capture=no -p no:cacheprovider --noconftest --rootdir "$root" \
    -c "$root/pyproject.toml" "$root/tests/crypto/test_lanes.py"
