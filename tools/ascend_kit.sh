#!/usr/bin/env bash
# The acceptance kit: bash tools/ascend_kit.sh [options of tools/ascend_kit.py]. See --help, and docs/ascend.md.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
[ ! -d "$root/.venv" ] || export PATH="$root/.venv/bin:$PATH"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python "$root/tools/ascend_kit.py" "$@"
