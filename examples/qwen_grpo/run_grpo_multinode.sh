#!/usr/bin/env bash
# GRPO under msrun over several nodes: the same command on every node, only NODE_RANK differs. See --help.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"

usage() {
    cat <<'EOF'
usage: NNODES=N NPUS_PER_NODE=N MASTER_ADDR=IP NODE_RANK=I [MODEL=DIR DATASET=FILE] [CONFIG=FILE] [DEVICE=CPU|Ascend]
       bash examples/qwen_grpo/run_grpo_multinode.sh [--section.key=value ...]

Run it on every node with the same settings, NODE_RANK from 0 to NNODES - 1; node 0 is the one at MASTER_ADDR. The output folder (and
rl_config.swap_dir's parent) must be one that all nodes see; so must MODEL and DATASET, or lie under the same path on every node.

  NNODES          nodes (default: 1)
  NPUS_PER_NODE   ranks a node: devices on Ascend, processes on CPU (default: with MODEL 8 on Ascend, 2 on CPU; without, four ranks over all nodes)
  MASTER_ADDR     address of node 0, as the others see it (default: 127.0.0.1, for one node)
  MASTER_PORT     a free port there, the same on every node (default: 8118)
  NODE_RANK       this node (default: 0)
  MODEL, DATASET  (or QWEN_MODEL_PATH, DATASET_FILE) Hugging Face folder of the starting model and MindRecord file (default: the quickstart's, with four_ranks.yaml)
  CONFIG          YAML (default: grpo_config.yaml with MODEL, else four_ranks.yaml)
  DEVICE          CPU (default) or Ascend (not run by this project's tests)
  LOG_DIR         where this node's ranks log (default: msrun_log/node_NODE_RANK in the output folder)
  SOCKET_IFNAME   network interface between the nodes, for HCCL, Gloo and vLLM (default: they choose)
  SAVE_CHECKPOINT_DIR  folder of checkpoints, one that all nodes see (default: the configuration's)
  CLUSTER_TIMEOUT seconds that a node waits for the others (default: 600)

example, on two hosts at 10.0.0.1 and 10.0.0.2:
  NNODES=2 NPUS_PER_NODE=2 MASTER_ADDR=10.0.0.1 NODE_RANK=0 bash examples/qwen_grpo/run_grpo_multinode.sh --rl_config.output_dir=/shared/run
  NNODES=2 NPUS_PER_NODE=2 MASTER_ADDR=10.0.0.1 NODE_RANK=1 bash examples/qwen_grpo/run_grpo_multinode.sh --rl_config.output_dir=/shared/run
EOF
}
fail() { usage >&2; echo "error: $*" >&2; exit 2; }
[ "${1:-}" != "-h" ] && [ "${1:-}" != "--help" ] || { usage; exit 0; }

MODEL="${MODEL:-${QWEN_MODEL_PATH:-}}" DATASET="${DATASET:-${DATASET_FILE:-}}"
DEVICE="${DEVICE:-CPU}" NNODES="${NNODES:-1}" NODE_RANK="${NODE_RANK:-0}"
MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}" MASTER_PORT="${MASTER_PORT:-8118}" CLUSTER_TIMEOUT="${CLUSTER_TIMEOUT:-600}"
case "$DEVICE" in CPU) usual=2 ;; Ascend) usual=8 ;; *) fail "DEVICE=$DEVICE: CPU or Ascend" ;; esac
# the example without MODEL lays its model out on four ranks
[ -n "${MODEL:-}" ] || [ -n "${CONFIG:-}" ] || case "$NNODES" in 1 | 2 | 4) usual=$((4 / NNODES)) ;; esac
NPUS_PER_NODE="${NPUS_PER_NODE:-$usual}"
for name in NNODES NPUS_PER_NODE NODE_RANK MASTER_PORT CLUSTER_TIMEOUT; do
    [[ "${!name}" =~ ^[0-9]+$ ]] || fail "$name=${!name}: a whole number is needed"
done
[ "$NNODES" -ge 1 ] && [ "$NPUS_PER_NODE" -ge 1 ] || fail "NNODES=$NNODES, NPUS_PER_NODE=$NPUS_PER_NODE: at least 1"
[ "$NODE_RANK" -lt "$NNODES" ] || fail "NODE_RANK=$NODE_RANK: must be below NNODES=$NNODES"
[ "$NNODES" = 1 ] || [[ "$MASTER_ADDR" != 127.* && "$MASTER_ADDR" != localhost ]] || [ "${ONE_HOST:-0}" = 1 ] ||
    fail "MASTER_ADDR=$MASTER_ADDR: other nodes cannot reach it; give node 0's address (ONE_HOST=1 if all nodes are this host)"

[ ! -d "$root/.venv" ] || export PATH="$root/.venv/bin:$PATH"
if [ -n "${SOCKET_IFNAME:-}" ]; then
    [ -d "/sys/class/net/$SOCKET_IFNAME" ] || fail "SOCKET_IFNAME=$SOCKET_IFNAME: no such interface here; there are $(ls /sys/class/net | tr '\n' ' ')"
    export HCCL_SOCKET_IFNAME="$SOCKET_IFNAME" GLOO_SOCKET_IFNAME="$SOCKET_IFNAME" TP_SOCKET_IFNAME="$SOCKET_IFNAME"
fi
if [ -z "${MODEL:-}" ]; then
    [ -z "${DATASET:-}" ] || fail "DATASET needs MODEL"
    MODEL="$root/examples/quickstart/model" data="$root/output/quickstart_data"
    bash "$root/examples/quickstart/make_data.sh" "$data"
    config="${CONFIG:-$root/examples/qwen_grpo/four_ranks.yaml}"
    files=(--dataset_file "$data/train.mindrecord" --rl_config.eval_dataset_file="$data/held_out.mindrecord" --rl_config.output_dir=output/multinode)
else
    [ -n "${DATASET:-}" ] || fail "MODEL needs DATASET"
    config="${CONFIG:-$root/examples/qwen_grpo/grpo_config.yaml}" files=(--dataset_file "$DATASET")
fi
[ "$DEVICE" != CPU ] || export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

ranks=$((NNODES * NPUS_PER_NODE))
[ -z "${SAVE_CHECKPOINT_DIR:-}" ] || files+=(--save_checkpoint_dir "$SAVE_CHECKPOINT_DIR")
[ -z "${QWEN_MODEL_PATH:-}" ] || files+=(--tokenizer_dir "$QWEN_MODEL_PATH")  # there the model's folder holds it
arguments=(--config "$config" --actor_checkpoint_path "$MODEL" "${files[@]}" --context.device_target="$DEVICE" "$@")
case " $* " in
    *" --dry_run "* | *" --only_save_strategy "*) ;; # nothing is started
    *)  # mistakes in the settings end here, before any rank starts
        MS_WORKER_NUM="$ranks" python "$root/examples/qwen_grpo/main.py" "${arguments[@]}" --dry_run
        export MINDRLHF_PLAN_SHOWN=1 ;;
esac
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
output="$(sed -n 's/^ *output_dir: *//p' "$config" | head -n 1)"
for argument in "${arguments[@]}"; do
    case "$argument" in --rl_config.output_dir=*) output="${argument#*=}" ;; esac
done
exec python "$root/tools/start_job.py" --ranks "$ranks" --local_ranks "$NPUS_PER_NODE" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" \
    --cluster_time_out "$CLUSTER_TIMEOUT" --log_dir "${LOG_DIR:-${output:-output}/msrun_log/node_$NODE_RANK}" "$root/examples/qwen_grpo/main.py" "${arguments[@]}"
