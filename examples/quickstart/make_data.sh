#!/usr/bin/env bash
# Makes the quickstart's prompts, two-digit sums, where they are not there yet, or are older than the code that writes them: bash examples/quickstart/make_data.sh FOLDER
set -euo pipefail
[ $# = 1 ] && [ "${1#-}" = "$1" ] || { echo "usage: bash examples/quickstart/make_data.sh FOLDER   (example: output/quickstart_data)" >&2; exit 2; }
root="$(cd "$(dirname "$0")/../.." && pwd)"
for split in train held_out; do
    if [ ! "$1/$split.mindrecord" -nt "$root/mindrlhf_lite/data/records.py" ] || [ ! "$1/$split.mindrecord" -nt "$root/mindrlhf_lite/data/sources.py" ]; then
        rows=4000; [ "$split" = train ] || rows=200
        python "$root/tools/rlhf_data.py" --tokenizer_dir "$root/examples/quickstart/model" --dataset_type arithmetic --num_rows $rows --split $split \
            --max_prompt_length 8 --seq_length 48 --output_path "$1/$split.mindrecord" --overwrite
    fi
done
