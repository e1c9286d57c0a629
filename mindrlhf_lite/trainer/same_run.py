"""Whether a checkpoint may continue under a configuration: what would change the run's numbers must be equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce
from typing import Any

from mindrlhf_lite.config.load import facts_of_settings
from mindrlhf_lite.config.roles import ROLES
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.setting import Resume
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.fingerprint import model_fingerprint
from mindrlhf_lite.types import Prompt

# what older versions did of settings that they did not have, where that is not today's default
_AT_FIRST = {"rl_config.logprob_temperature": "1"}


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """SHA-256 over token ids and gold answers, in order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        more = [dict(prompt.columns)] if prompt.columns else []  # verifiers see them
        digest.update(json.dumps([prompt.ids, prompt.gold, *more]).encode())
    return digest.hexdigest()


def model_folders(config: dict[str, Any]) -> dict[str, str]:
    """The folders that the roles start from, by the setting that names them."""
    actor = config["actor_config"]["load"]
    found = {}
    for role in ROLES:
        folder = reduce(lambda section, name: section.get(name, {}), role.section.split("."), config).get("load", "")
        # those with a model of their own are the actor's without it, or not there
        if not role.starts_from_actor and (folder or not role.has_own_model):
            found[f"{role.section}.load"] = folder or actor
    return found


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
        others = [key for key in now if saved.get(key, found[key]) != found[key]]
    else:  # checkpoints of older versions have none
        both = [key for key in before if key in now]
        others = [key for key in both if now[key] != before[key] and not _hold_the_same(now[key], before[key])]
    return [f"{key} was {before[key]!r}, is {now[key]!r}, which holds another model" for key in others]


def _hold_the_same(folder: str, other: str) -> bool:
    try:
        return model_fingerprint(folder) == model_fingerprint(other)
    except (ValueError, OSError):  # the folder of an older run need not be there any more
        return False


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """By full dotted key."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _that_are(resume: Resume) -> set[str]:
    return {key for key, facts in facts_of_settings().items() if facts.resume is resume}


def is_exact(state: dict[str, Any], config: dict[str, Any], world_size: int) -> bool:
    """Whether the run goes on bit for bit, not only up to the order of additions."""
    before, now = _flat(state["config"]), _flat(config)
    return state["world_size"] == world_size and all(before.get(key) == now[key] for key in _that_are(Resume.ROUNDING))


def check_same_run(state: dict[str, Any], config: dict[str, Any], digest: str) -> None:
    """Raises ValueError that names every difference that would break exact continuation."""
    now, defaults = _flat(config), _flat(asdict(Config()))
    # a setting that an older version did not have was at what is its default
    before = {**defaults, **_AT_FIRST, **_flat(state["config"])}
    may_differ = _that_are(Resume.FREE) | _that_are(Resume.ROUNDING)
    if now["generate_config.sampling_config.temperature"] == 1.0:  # the same then
        may_differ |= {"rl_config.logprob_temperature"}
    differences = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in dict.fromkeys((*now, *before))
        if key not in may_differ and before.get(key) != now.get(key)
    ]
    differences += _model_differences(state, config)
    if state["prompts_digest"] != digest:
        differences.append("the data file's prompts or answers are others")
    if differences:
        listed = "\n".join(f"  - {line}" for line in differences)
        raise UserError(
            f"resume_training: the checkpoint was made with other settings:\n{listed}\nuse the old values, or "
            "start a new run in another --rl_config.output_dir"
        )
