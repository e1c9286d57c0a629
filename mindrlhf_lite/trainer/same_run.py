"""Whether a checkpoint may continue under a configuration: what would change the run's numbers must be equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.fingerprint import model_fingerprint
from mindrlhf_lite.types import Prompt

# lines about settings inside a section's parts that may differ: to train on after the end of a decay; same bits
_FREE_LINES = ("actor_config.lr_schedule.decay_steps was ", "actor_config.optimizer.opt_offload")
_DEFAULTS = asdict(Config())
# what older versions did of settings that they did not have, where that is not today's default
_AT_FIRST: dict[str, dict[str, Any]] = {"rl_config": {"logprob_temperature": "1"}}
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
        "on_sigterm",
        "save_hf_model",
        "save_hf_dtype",
        "resume_training",
        "save_prompt_completions_data",
        "save_prompt_completions_interval",
        "save_prompt_completions_dir",
        "save_ckpt_format",
        "save_strategy_dir",
        "save_data_file",
        "performance_stats",
        "tensorboard",
        "tensorboard_dir",
        "tensorboard_queue_size",
        "eval_interval",
        "eval_samples",
        "eval_temperature",
        "eval_verifier",
        "save_best",
        "early_stopping",
        "eval_max_prompts",
        "swap",
        "swap_dir",
        "reshard_transport",
        "reshard_bucket_mb",
        "reshard_check_interval",
        "reshard_mem_opt_level",
    },
    "actor_config": {"save", "model_config", "load"},  # of load counts what is in the folder: `_model_differences`
    "reward_config": {"verifier_timeout_s", "num_workers"},
    "ref_config": {"model_config", "load"},
    "generate_config": {"model_config", "load"},  # empty, or the actor's
    **{section: set(_DEFAULTS[section]) for section in ("monitor_config", "profiler_config", "msprobe_config")},
    "context": {
        "num_threads",
        "max_call_depth",
        "max_device_memory",
        "memory_optimize_level",
        "save_graphs",
        "save_graphs_path",
    },
}
# settings that may differ too, but change the order of additions, and so the last bits of all that follows
_ROUNDING = {
    "actor_config": {"parallel_config", "enable_parallel_optimizer", "recompute_config"},
    "ref_config": {"parallel_config", "ref_model_batch_size"},
    "generate_config": {"parallel_config"},
}


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """SHA-256 over token ids and gold answers, in order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        more = [dict(prompt.columns)] if prompt.columns else []  # verifiers see them
        digest.update(json.dumps([prompt.ids, prompt.gold, *more]).encode())
    return digest.hexdigest()


def model_folders(config: dict[str, Any]) -> dict[str, str]:
    """The folders that actor and reference start from, by the setting that names them."""
    actor = config["actor_config"]["load"]
    return {"actor_config.load": actor, "ref_config.load": config["ref_config"]["load"] or actor}


def model_fingerprints(config: dict[str, Any]) -> dict[str, str]:
    """`model_fingerprint` of each of `model_folders`; a checkpoint keeps them."""
    folders = model_folders(config)
    of_folder = {folder: model_fingerprint(folder) for folder in set(folders.values())}
    return {key: of_folder[folder] for key, folder in folders.items()}


def _model_differences(state: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Lines for folders that hold other models than those of the checkpoint; their paths may be others."""
    before, now = model_folders(state["config"]), model_folders(config)
    if saved := state.get("models"):
        found = model_fingerprints(config)
        others = [key for key in now if saved.get(key) != found[key]]
    else:  # checkpoints of older versions have none
        others = [key for key in now if now[key] != before[key] and not _hold_the_same(now[key], before[key])]
    return [f"{key} was {before[key]!r}, is {now[key]!r}, which holds another model" for key in others]


def _hold_the_same(folder: str, other: str) -> bool:
    try:
        return model_fingerprint(folder) == model_fingerprint(other)
    except (ValueError, OSError):  # the folder of an older run need not be there any more
        return False


def _differences(old: Any, new: Any, key: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for name in sorted(old.keys() | new.keys())
            for line in _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if old == new else [f"{key} was {old!r}, is {new!r}"]


def is_exact(state: dict[str, Any], config: dict[str, Any], world_size: int) -> bool:
    """Whether the run goes on bit for bit, not only up to the order of additions."""
    before = state["config"]
    return state["world_size"] == world_size and all(
        before[s].get(name) == config[s][name] for s, names in _ROUNDING.items() for name in names
    )


def check_same_run(state: dict[str, Any], config: dict[str, Any], digest: str) -> None:
    """Raises ValueError that names every difference that would break exact continuation."""
    differences = []
    for section, values in config.items():
        free = _FREE.get(section, set()) | _ROUNDING.get(section, set())
        # a setting that an older version did not have was at what is its default
        saved = {**_DEFAULTS[section], **_AT_FIRST.get(section, {}), **state["config"].get(section, {})}
        before = {name: value for name, value in saved.items() if name not in free}
        differences += _differences(
            before, {name: value for name, value in values.items() if name not in free}, section
        )
    free_lines: tuple[str, ...] = _FREE_LINES
    if config["generate_config"]["sampling_config"]["temperature"] == 1.0:  # the same then
        free_lines = (*free_lines, "rl_config.logprob_temperature was ")
    differences = [line for line in differences if not line.startswith(free_lines)]
    differences += _model_differences(state, config)
    if state["prompts_digest"] != digest:
        differences.append("the data file's prompts or gold answers are others")
    if differences:
        listed = "\n".join(f"  - {line}" for line in differences)
        raise UserError(
            f"resume_training: the checkpoint was made with other settings:\n{listed}\nuse the old values, or "
            "start a new run in another --rl_config.output_dir"
        )
