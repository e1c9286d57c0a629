# Sourced by the recipes' run.sh: reads their options, builds what is missing, and holds what their stages share. Needs root, usage(), and
# kind (without --short). Sets kind, output (empty: not given), seed; functions below need grpo (arguments of main.py) and output.
output="" seed=0
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --short) kind=short ;;
        --output | --seed)
            [ $# -gt 1 ] || { echo "error: $1 needs a value" >&2; exit 2; }
            case "$1" in --output) output="$(realpath -m "$2")" ;; --seed) seed="$2" ;; esac
            shift ;;
        *) echo "error: $1: unknown; see --help" >&2; exit 2 ;;
    esac
    shift
done
[[ "$seed" =~ ^[0-9]+$ ]] || { echo "error: --seed $seed: a whole number is needed" >&2; exit 2; }
cd "$root"
[ -n "${RECIPE_NO_BUILD:-}" ] || bash build.sh
export PATH="$root/.venv/bin:$PATH" PYTHONPATH="$root"

grpo_from() { # NAME MODEL [settings]
    local name="$1" from="$2"; shift 2
    [ -f "$output/$name/hf/model.safetensors" ] || python examples/qwen_grpo/main.py "${grpo[@]}" --actor_checkpoint_path "$from" \
        --rl_config.seed="$seed" --rl_config.output_dir="$output/$name" --rl_config.resume_training=true "$@"
}
rows_from() { # PROGRAM NAME MODEL ROWS [settings]: sft, dpo or reward_model on rows of a file
    local program="$1" name="$2" from="$3" file="$4"; shift 4
    [ -f "$output/$name/hf/model.safetensors" ] || python -m "mindrlhf_lite.$program" --actor_config.load="$from" \
        --rl_config.dataset_file="$file" --rl_config.seed="$seed" --rl_config.output_dir="$output/$name" --rl_config.resume_training=true "$@"
}
