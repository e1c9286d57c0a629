#!/usr/bin/env bash
# Proves that a change changed no run: the same small runs by the program of another commit and by this one, compared bit for bit.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
    "" | -h | --help)
        cat <<'EOF'
usage: bash tests/same_as.sh REV [--only CASE ...] [--list]

Runs the cases of tests/same_as.py in a worktree of REV and in this one. Compares metrics.jsonl (without times),
completions, weights and optimizer moments bit for bit. Exit code 1 if any differs. A quarter of an hour on two cores.
A version without native kernels is compared without them.

examples:
  bash tests/same_as.sh HEAD~1
  bash tests/same_as.sh origin/main --only quickstart float16
EOF
        exit 0 ;;
esac
revision="$(git rev-parse --verify --short=12 "$1^{commit}")" || { echo "error: $1: no such commit" >&2; exit 2; }
shift
export PATH="$PWD/.venv/bin:$PATH"
scratch="$(mktemp -d)"
trap 'git worktree remove --force "$scratch/tree" 2>/dev/null || true; rm -rf "$scratch"' EXIT
git worktree add --quiet --detach "$scratch/tree" "$revision"
if [ -d "$scratch/tree/mindrlhf_lite/native" ]; then
    for tree in "$PWD" "$scratch/tree"; do (cd "$tree" && python -m mindrlhf_lite.native.build); done
else
    export MINDRLHF_NATIVE_ISA=none
fi
python tests/same_as.py "$scratch/tree" "$scratch/runs" --name "$revision" "$@"
