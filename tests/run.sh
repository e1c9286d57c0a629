#!/usr/bin/env bash
# Builds if needed, then runs every check: ruff, mypy, codespell, pytest (two files at a time). --full adds the long tests, one at a time.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
    -h | --help)
        echo "usage: bash tests/run.sh [--full] [pytest arguments]"
        echo "examples: bash tests/run.sh;  bash tests/run.sh tests/rewards -k boxed;  bash tests/run.sh --full"
        exit 0 ;;
esac
bash build.sh --test --vllm --quantize
export PATH="$PWD/.venv/bin:$PATH"
# one thread a rank, quiet native logs, nothing from the network
export OMP_NUM_THREADS=1 GLOG_v=3 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

python -c "from mindrlhf_lite.observe.host import versions; print('tested on:', ', '.join(f'{name} {version}' for name, version in versions().items()))"
full=0
if [ "${1:-}" = "--full" ]; then full=1; shift; fi
ruff check .
ruff format --check .
mypy
codespell
run_tests() { # with --full, arguments may name files that have none of one kind: exit code 5
    python -m pytest "$@" || { code=$?; [ "$full" = 1 ] && [ "$code" = 5 ]; }
}
# two files at a time, jobs of several ranks one at a time (tests/conftest.py says in which order)
run_tests -n 2 --dist loadfile --no-loadscope-reorder --durations=15 --durations-min=10 -m "not full" "$@"
[ "$full" = 0 ] || run_tests -m full "$@"
