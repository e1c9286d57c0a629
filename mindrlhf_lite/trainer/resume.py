"""Whether a checkpoint may continue under a configuration: what would change the run's numbers must be equal."""

from __future__ import annotations

from typing import Any

# settings that may differ: where things go, how often, how long
_FREE = {
    "rl_config": {
        "dataset_file",
        "eval_dataset_file",
        "tokenizer_dir",
        "output_dir",
        "epochs",
        "max_steps",
        "save_ckpt_interval",
        "save_max_ckpt_num",
        "save_hf_model",
        "resume_training",
        "save_prompt_completions_data",
        "save_prompt_completions_interval",
        "tensorboard",
        "eval_interval",
        "eval_samples",
        "eval_temperature",
        "eval_max_prompts",
    },
    "actor_config": {"load", "save"},
    "ref_config": {"load", "ref_model_batch_size"},
    "generate_config": {"load"},
    "monitor_config": {"progress_bar", "print_interval", "plots"},
    "profiler_config": {"enabled", "start_step", "stop_step"},
    "context": {"num_threads"},
}


def _differences(old: Any, new: Any, key: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [line for name in sorted(old.keys() | new.keys()) for line in _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)]
    return [] if old == new else [f"{key} was {old!r}, is {new!r}"]


def check_same_run(state: dict[str, Any], config: dict[str, Any], num_prompts: int) -> None:
    """Raises ValueError that names every difference that would break exact continuation."""
    differences = []
    for section, values in config.items():
        free = _FREE.get(section, set())
        before = {name: value for name, value in state["config"].get(section, {}).items() if name not in free}
        differences += _differences(before, {name: value for name, value in values.items() if name not in free}, section)
    if state["num_prompts"] != num_prompts:
        differences.append(f"the data file had {state['num_prompts']} prompts, has {num_prompts}")
    if differences:
        listed = "\n".join(f"  - {line}" for line in differences)
        raise ValueError(
            f"resume_training: the checkpoint was made with other settings:\n{listed}\nuse the old values, or start a new run in another --rl_config.output_dir"
        )
