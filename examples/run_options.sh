# Sourced by the examples' run_grpo.sh: reads their options. Needs root, usage(), runs (how the default output folder begins, below root)
# and ranks (empty: there is no --ranks). Sets ranks, output, seed, resume, overrides.
output="" seed=0 resume=() overrides=()
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --ranks | --output | --resume)
            [ "$1" != --ranks ] || [ -n "$ranks" ] || { echo "error: --ranks: this example runs on one rank" >&2; exit 2; }
            [ $# -gt 1 ] || { echo "error: $1 needs a value" >&2; exit 2; }
            case "$1" in --ranks) ranks="$2" ;; --output) output="$2" ;; --resume) output="$2"; resume=(--resume_training true) ;; esac
            shift ;;
        --rl_config.seed=*) seed="${1#*=}"; overrides+=("$1") ;;
        --rl_config.output_dir=*) output="${1#*=}" ;;
        *) overrides+=("$1") ;;
    esac
    shift
done
[[ "${ranks:-1}" =~ ^[1-9][0-9]*$ ]] || { echo "error: --ranks $ranks: a positive number is needed" >&2; exit 2; }
case "$output" in "") output="$root/$runs${seed}_$(date +%Y%m%d_%H%M%S)" ;; /*) ;; "$runs"*) output="$root/$output" ;; *) output="$PWD/$output" ;; esac
[ "${#resume[@]}" = 0 ] || [ -d "$output/checkpoints" ] || { echo "error: --resume $output: no checkpoints there" >&2; exit 2; }
export MINDRLHF_CALLED_FROM="$PWD"  # tools and verifiers of your own are looked for there
