#!/usr/bin/env bash
# Installs mindrlhf_lite with the tested versions of everything it needs. See --help.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    cat <<'EOF'
usage: bash build.sh [--here] [--test] [--python PYTHON]

Creates .venv and installs the package into it; a second run finds everything in place and stops at once.

  --here            install into the active environment instead of .venv
  --test            also what the tests need (pytest, torch, ruff, mypy, ...)
  --python PYTHON   interpreter to make .venv with (default: the first of python3.11, python3.12, python3.10, python3 that fits)

examples:
  bash build.sh                  then: source .venv/bin/activate
  bash build.sh --here --test
EOF
}

fail() { echo "error: $*" >&2; exit 2; }

fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

here=0 extras="" python=""
while [ $# -gt 0 ]; do
    case "$1" in
        --here) here=1 ;;
        --test) extras="[test]" ;;
        --python) shift; [ $# -gt 0 ] || fail "--python needs an interpreter"; python="$1" ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; fail "unknown option $1" ;;
    esac
    shift
done

if [ "$here" = 1 ]; then
    python="${python:-python3}"
    fits "$python" || fail "$python is $("$python" --version 2>&1 || true); MindSpore 2.9.0 needs Python 3.10, 3.11 or 3.12"
    stamp="$("$python" -c 'import sys; print(sys.prefix)')/.mindrlhf_lite_build"
else
    if [ ! -x .venv/bin/python ]; then
        if [ -z "$python" ]; then
            for candidate in python3.11 python3.12 python3.10 python3; do
                if fits "$candidate"; then python="$candidate"; break; fi
            done
            [ -n "$python" ] || fail "no Python 3.10, 3.11 or 3.12 found (python3 is $(python3 --version 2>&1 || echo missing)); install one, or name it with --python"
        else
            fits "$python" || fail "$python is $("$python" --version 2>&1 || true); MindSpore 2.9.0 needs Python 3.10, 3.11 or 3.12"
        fi
        echo "creating .venv with $("$python" --version)"
        "$python" -m venv .venv
    fi
    python="$PWD/.venv/bin/python"
    fits "$python" || fail ".venv has $("$python" --version 2>&1); MindSpore 2.9.0 needs Python 3.10, 3.11 or 3.12; remove .venv and run again"
    stamp=".venv/.mindrlhf_lite_build"
fi

# what is installed is a function of these files, the interpreter and the options
wanted="$(cat setup.py constraints.txt build.sh | sha256sum | cut -d' ' -f1) $("$python" -c 'import sys; print(sys.version_info[:2])') $PWD"
if [ -f "$stamp" ] && grep -qxF "$wanted $extras" "$stamp"; then
    echo "already built: $("$python" -c 'import sys; print(sys.prefix)')"
    exit 0
fi
"$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt setuptools wheel
"$python" -m pip install --disable-pip-version-check --progress-bar off --no-build-isolation --constraint constraints.txt --editable ".$extras" | grep -v "already satisfied" || [ "${PIPESTATUS[0]}" = 0 ]
"$python" -m pip check
# the test extra contains the plain installation
{ [ "$extras" = "[test]" ] && echo "$wanted "; echo "$wanted $extras"; } > "$stamp" || true
echo "built: $("$python" -c 'import sys; print(sys.prefix)')"
