#!/usr/bin/env bash
# Installs mindrlhf_lite with the tested versions of everything it needs. See --help.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    cat <<'EOF'
usage: bash build.sh [--here] [--test] [--vllm] [--mindformers] [--quantize] [--python PYTHON]

Creates .venv and installs the package into it; a second run finds everything in place and stops at once.

  --here            install into the active environment instead of .venv
  --test            also what the tests need (pytest, torch, ruff, mypy, ...)
  --vllm            also vLLM 0.11.0 without kernels, for rollouts through this project's platform plugin (its wheel is built from the
                    registry's source package; no compiler is needed)
  --mindformers     also MindFormers 1.9.0, which a test loads converted weights into; converting needs it not
  --quantize        also Golden Stick 1.4.1 for tools/quantize.py, in a folder of its own without its dependencies (it asks for an older MindSpore),
                    and MindFormers
  --python PYTHON   interpreter to make .venv with (default: the first of python3.11, python3.12, python3.10, python3 that fits)

examples:
  bash build.sh                  then: source .venv/bin/activate
  bash build.sh --here --test
  bash build.sh --vllm           then: bash examples/qwen_grpo/run_grpo_vllm.sh
EOF
}

fail() { echo "error: $*" >&2; exit 2; }

fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

here=0 test=0 vllm=0 mindformers=0 quantize=0 python=""
while [ $# -gt 0 ]; do
    case "$1" in
        --here) here=1 ;;
        --test) test=1 ;;
        --vllm) vllm=1 ;;
        --mindformers) mindformers=1 ;;
        --quantize) quantize=1 mindformers=1 ;;
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

# C++ operators for this machine's processors; a run does without them where they cannot be built, and says so
build_operators() { "$python" -m mindrlhf_lite.native.build || echo "note: without native operators runs are slower; everything works"; }

# what is installed is a function of these files, the interpreter and the extras
wanted="$(cat setup.py constraints.txt build.sh | sha256sum | cut -d' ' -f1) $("$python" -c 'import sys; print(sys.version_info[:2])') $PWD"
prefix="$("$python" -c 'import sys; print(sys.prefix)')"
if [ "$(head -n 1 "$stamp" 2>/dev/null || true)" = "$wanted" ]; then # extras installed before stay
    has() { if grep -qx "$1" "$stamp"; then echo 1; else echo 0; fi; }
    has_test="$(has test)" has_vllm="$(has vllm)" has_mindformers="$(has mindformers)" has_quantize="$(has quantize)"
    if [ "$has_test" -ge "$test" ] && [ "$has_vllm" -ge "$vllm" ] && [ "$has_mindformers" -ge "$mindformers" ] &&
        [ "$has_quantize" -ge "$quantize" ]; then
        build_operators
        echo "already built: $prefix"
        exit 0
    fi
    test=$((test | has_test)) vllm=$((vllm | has_vllm)) mindformers=$((mindformers | has_mindformers)) quantize=$((quantize | has_quantize))
fi

# what pip says, in a few lines as it goes on: packages of 5 MB and more, and how many are installed
progress() {
    awk '
        /Downloading .*\(.* [kMG]?B\)/ {
            size = $0; sub(/.*\(/, "", size); sub(/ [kMG]?B\).*/, "", size)
            if ($0 ~ / GB\)/) size *= 1000; else if ($0 !~ / MB\)/) size = 0
            total += size; name = $0; sub(/.*Downloading /, "", name); sub(/-[0-9].*/, "", name)
            if (size >= 5) { printf "  fetched %s (%d MB, %d MB in all)\n", name, size, total; fflush() }
        }
        /^Installing collected packages/ { printf "  installing %d packages\n", gsub(/,/, ",") + 1; fflush() }
        /^Successfully installed/ { printf "  installed\n"; fflush() }'
}

install() { # in the tested versions
    "$python" -m pip install --disable-pip-version-check --progress-bar off --no-build-isolation --constraint constraints.txt "$@" | progress ||
        fail "pip could not install $*; the message above says why (a package index is needed)"
}

# The registry's vLLM wheel is for CUDA. Its source package, built for the device "empty", has everything but kernels; pip refuses to
# install that by itself, because its version is then 0.11.0+empty, so the source is fetched and built in two steps.
build_vllm_wheel() { # into the folder $1
    echo "building vLLM without kernels, on torch (0.2 GB) and its build tools"
    install torch==2.13.0 setuptools_scm packaging jinja2 ninja
    local scratch source
    scratch="$(mktemp -d)"
    TMPDIR="$scratch" VLLM_TARGET_DEVICE=empty "$python" -m pip download --quiet --disable-pip-version-check --no-clean --no-binary=vllm --no-deps \
        --no-build-isolation --dest "$scratch/unused" vllm==0.11.0 > "$scratch/log" 2>&1 || true
    source="$(find "$scratch" -mindepth 2 -maxdepth 2 -type d -name 'vllm_*' | head -n 1)"
    [ -n "$source" ] || { tail -n 5 "$scratch/log" >&2; fail "the source package of vLLM 0.11.0 could not be fetched; is the package registry reachable?"; }
    VLLM_TARGET_DEVICE=empty "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$1" "$source" ||
        fail "vLLM's wheel could not be built; the message above says why"
    rm -rf "$scratch"
}

extras=() options=()
[ "$test" = 0 ] || extras+=(test)
[ "$mindformers" = 0 ] || extras+=(mindformers)
if [ "$vllm" = 1 ]; then
    extras+=(vllm)
    options+=(--find-links "$prefix/.vllm_wheel")
fi
echo "installing mindrlhf_lite and what it needs: about 0.8 GB the first time (with --test or --vllm 1.5), some minutes"
install setuptools wheel
if [ "$vllm" = 1 ] && ! compgen -G "$prefix/.vllm_wheel/vllm-0.11.0+empty-*.whl" > /dev/null; then
    build_vllm_wheel "$prefix/.vllm_wheel"
fi
names="$(IFS=,; echo "${extras[*]}")"
install --editable ".${names:+[$names]}" "${options[@]}"
"$python" -m pip check
if [ "$quantize" = 1 ]; then
    rm -rf "$prefix/.golden_stick"
    install --no-deps --target "$prefix/.golden_stick" mindspore_gs==1.4.1 mindone==0.5.0 prettytable==3.17.0
    extras+=(quantize)
fi
build_operators
{ echo "$wanted"; printf '%s\n' "${extras[@]}"; } > "$stamp" || true
echo "built: $prefix"
