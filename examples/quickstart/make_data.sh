#!/usr/bin/env bash
# Makes the quickstart's prompts, two-digit sums, where they are not there yet, or are older than the code that writes them: bash examples/quickstart/make_data.sh FOLDER
set -euo pipefail
[ $# = 1 ] && [ "${1#-}" = "$1" ] || { echo "usage: bash examples/quickstart/make_data.sh FOLDER   (example: output/quickstart_data)" >&2; exit 2; }
root="$(cd "$(dirname "$0")/../.." && pwd)"
for split in train held_out; do
    made="$1/$split.mindrecord" code="$root/mindrlhf_lite/data"
    if [ ! "$made" -nt "$code/records.py" ] || [ ! "$made" -nt "$code/sources.py" ] || [ ! "$made" -nt "$code/arithmetic.py" ]; then
        rows=4000; [ "$split" = train ] || rows=200
        python "$root/tools/rlhf_data.py" --tokenizer_dir "$root/examples/quickstart/model" --dataset_type arithmetic --num_rows $rows --split $split \
            --max_prompt_length 8 --seq_length 48 --output_path "$made" --overwrite
    fi
done
