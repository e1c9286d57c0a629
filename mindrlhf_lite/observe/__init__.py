"""What a run shows and leaves behind: console, metrics.jsonl, TensorBoard, completions, plots."""
