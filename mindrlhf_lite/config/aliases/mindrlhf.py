"""What of a MindRLHF configuration is worked out from several settings.

There, chunk_size counts prompts of a data-parallel rank of the rollout, and batch_size completions of a data-parallel
rank of the actor and micro-batch; here both count over all ranks. Read from the trainers of mindspore-ai/mindrlhf, in
the versions of 2025.
"""

from __future__ import annotations

from typing import Any

from mindrlhf_lite.config.aliases.tables import MINDRLHF, table
from mindrlhf_lite.config.aliases.translation import Translation, assume_defaults, defaults_of_ours, take_all
from mindrlhf_lite.config.model_file import read_model_file
from mindrlhf_lite.errors import short_repr

_OF_MODEL_FILES = ("generate_config.sampling_config", "generate_config")  # in the oldest files
_OWN_NAMES = {"deepseek": "", "deepseekv3": "", "llama": "llama3"}  # families that are not looked at, or called so


def translate_mindrlhf(values: dict[str, Any], num_ranks: int = 0) -> Translation:
    """Args: values: of the file, and of the command line in its terms, by full dotted key; num_ranks: 0: not known."""
    is_flat = not any(key.startswith("rl_config.") for key in values if key in table(MINDRLHF))
    values, translation = _with_sections(values), Translation(MINDRLHF)
    values = {**_degrees_of_models(values), **values}
    left = take_all(translation, values, defaults_of_ours())
    assume_defaults(translation, values, left, left_out=("flat", *(_OF_MODEL_FILES if is_flat else ())))
    ours = translation.values
    if is_flat:
        _of_the_oldest(translation, values)
    _fill_degrees(ours, num_ranks)
    for key in ("rl_config.model_name", "rl_config.tokenizer_type"):
        if ours.get(key) in _OWN_NAMES:
            ours[key] = _OWN_NAMES[ours[key]]
    try:
        _quantities(translation, left, values)
        _actor(translation, left)
        _rest(translation, left)
    except (TypeError, ValueError) as error:  # values of a wrong type, of which most are reported by their keys
        translation.problems.append(f"settings that do not fit together: {error}")
    translation.finish()
    return translation


def _with_sections(values: dict[str, Any]) -> dict[str, Any]:
    """Keys of the oldest files, which had no sections, where the later ones have them."""
    rows, found = table(MINDRLHF), {}
    for key, value in values.items():
        row = rows.get(key)
        if row is not None and row.section == "flat" and row.kind == "to":
            found[row.ours] = row.translated(value)
        else:
            found[key] = value
    return found


def _degrees_of_models(values: dict[str, Any]) -> dict[str, Any]:
    """Parallel degrees that MindFormers' model files name, of roles that have none in the settings."""
    found = {}
    for role in ("actor_config", "ref_config", "generate_config"):
        path = values.get(f"{role}.model_config")
        if not path or any(key.startswith(f"{role}.parallel_config.") for key in values):
            continue
        try:
            strategies = list(read_model_file(str(path)).strategies.values())
        except ValueError:
            continue  # reported where the file is needed
        if len(strategies) == 1:
            for key, value in strategies[0].items():
                if key.startswith("actor_config.parallel_config."):
                    found[key.replace("actor_config", role)] = value
    return found


def _of_the_oldest(translation: Translation, values: dict[str, Any]) -> None:
    """What differs in files without sections."""
    ours = translation.values
    if "generate_config.use_vllm" not in values:
        ours["generate_config.use_vllm"] = 0
    if ours.get("generate_config.use_vllm"):
        ours.setdefault("generate_config.gpu_memory_utilization", 0.8)
    translation.missing.append(
        "a file without sections: degrees, lengths and sampling stand in model files there; what is not given is at "
        "this toolkit's defaults"
    )


def _fill_degrees(ours: dict[str, Any], num_ranks: int) -> None:
    """data_parallel where it is not given: the ranks that the other degrees leave, as here."""
    for role in ("actor", "ref", "generate"):
        if f"{role}_config.parallel_config.data_parallel" not in ours and num_ranks:
            others = 1
            for name in ("model_parallel", "pipeline_stage", "context_parallel"):
                others *= _degree(ours, role, name)
            ours[f"{role}_config.parallel_config.data_parallel"] = max(1, num_ranks // others)


def _degree(values: dict[str, Any], role: str, name: str) -> int:
    value = values.get(f"{role}_config.parallel_config.{name}", 1)
    return value if isinstance(value, int) and value > 0 else 1


def _quantities(translation: Translation, left: dict[str, Any], values: dict[str, Any]) -> None:
    """Prompts generated together, completions an update, micro-batches."""
    ours = translation.values
    chunk, batch = left.pop("rl_config.chunk_size", 1), left.pop("rl_config.batch_size", 1)
    of_rollout, of_actor = _degree(ours, "generate", "data_parallel"), _degree(ours, "actor", "data_parallel")
    micro = left.pop("actor_config.parallel_config.micro_batch_num", None)
    has_stages = _degree(ours, "actor", "pipeline_stage") > 1
    interleaved = left.pop("rl_config.micro_batch_interleaved", 1)
    if left.pop("rl_config.global_max_decode_len", 0) and values.get("rl_config.enable_segment_rollout"):
        length = values["rl_config.global_max_decode_len"]
        ours["generate_config.sampling_config.max_tokens"] = length
        translation.remark(
            "rl_config.global_max_decode_len", length, f"max_tokens: {length}", "of the whole completion"
        )
    ours["rl_config.chunk_size"] = chunk * of_rollout
    translation.remark(
        "rl_config.chunk_size", chunk, f"{chunk * of_rollout}", f"prompts of all {of_rollout} data-parallel rank(s)"
    )
    completions = chunk * of_rollout * ours.get("rl_config.num_rollouts", 1) * ours.get("rl_config.num_generations", 8)
    factor = of_actor * ((micro or 1) if has_stages else 1)
    # versions without msprobe put pack_num completions in a row, of which batch_size counts
    packed = ours.get("rl_config.packing", True) and "msprobe_config.msprobe" not in ours
    update = batch * factor * (values.get("rl_config.pack_num", 1) if packed else 1)
    ours["rl_config.batch_size"] = 0 if update >= completions else update
    updates = "all of the step" if update >= completions else f"{completions // update} updates a step"
    translation.remark(
        "rl_config.batch_size",
        batch,
        str(ours["rl_config.batch_size"]),
        f"completions an update over all ranks: {update} of {completions}, {updates}",
    )
    if micro is not None:
        number = micro * interleaved if has_stages else 0
        ours["actor_config.parallel_config.micro_batch_num"] = number
        if number != micro:
            why = "follows from memory: there it does nothing without stages" if not has_stages else "x interleaved"
            translation.remark("actor_config.parallel_config.micro_batch_num", micro, str(number), why)
    if left.pop("rl_config.enable_oldpolicy", True) is False:
        if update < completions or ours.get("rl_config.num_iterations", 1) > 1:
            ours["rl_config.ratio_to"] = "update"
            translation.remark("rl_config.enable_oldpolicy", False, "ratio_to: update", "to the policy of each update")
        else:
            translation.accepted.append("rl_config.enable_oldpolicy: false: a step is one update, and the ratio is 1")
    else:
        translation.num_same += 1


def _actor(translation: Translation, left: dict[str, Any]) -> None:
    """Layers of the stages, recomputation, the reference's moves."""
    ours = translation.values
    select = left.pop("actor_config.recompute_config.select_recompute", False)
    ours["actor_config.recompute_config.select_recompute"] = bool(select)
    if not isinstance(select, bool):
        translation.remark("actor_config.recompute_config.select_recompute", select, "true", "attention, of all layers")
    for key in [key for key in left if key.startswith("actor_config.recompute_config.select_recompute.")]:
        ours["actor_config.recompute_config.select_recompute"] = True
        translation.remark(key, left.pop(key), "select_recompute: true", "attention, of all layers")
    for role in ("actor", "ref"):
        offset = left.pop(f"{role}_config.offset", 0)
        stages = _degree(ours, role, "pipeline_stage")
        if offset in (0, [0]) or (isinstance(offset, list) and not any(offset)) or stages == 1:
            translation.accepted.append(f"{role}_config.offset: {offset}: stages are even")
        elif not isinstance(offset, list) or len(offset) != stages:
            translation.problems.append(
                f"{role}_config.offset={short_repr(offset)}: a list of {stages} numbers, one a stage"
            )
        else:
            _stage_layers(translation, role, offset)
    if ours.get("generate_config.sampling_config.temperature", 1.0) != 1.0:
        ours.setdefault("rl_config.logprob_temperature", "1")
        translation.remarks.append("rl_config.logprob_temperature: 1: logits are not divided by the temperature there")
    if ours.get("ref_config.sync_ref_model"):
        ours["ref_config.ref_model_mixup_alpha"] = 1.0
    if ours.get("context.device_target", "Ascend") == "Ascend":
        ours.setdefault("rl_config.swap", True)
        ours.setdefault("context.device_target", "Ascend")
        translation.remarks.append("rl_config.swap: true: what is idle leaves the device, as there")
    elif ours.get("rl_config.reshard_mem_opt_level") == 1 or ours.get("actor_config.optimizer.opt_offload"):
        ours.setdefault("rl_config.swap", True)


def _stage_layers(translation: Translation, role: str, offset: list[int]) -> None:
    ours = translation.values
    path = ours.get("actor_config.load") or ours.get("actor_config.model_config") or ""
    try:
        layers = read_model_file(path).shape.num_hidden_layers
    except ValueError:
        translation.missing.append(f"{role}_config.offset: {offset}: the number of layers is not known without a model")
        return
    counts = [layers // len(offset) + each for each in offset]
    ours[f"{role}_config.parallel_config.stage_layers"] = counts
    translation.remark(f"{role}_config.offset", offset, f"{role}_config.parallel_config.stage_layers: {counts}")


def _rest(translation: Translation, left: dict[str, Any]) -> None:
    """Verifiers, steps that count from 0, ranges of steps."""
    ours = translation.values
    verifiers = left.pop("reward_config.verifier_function", None)
    if verifiers is not None:
        names = [verifiers] if isinstance(verifiers, str) else list(verifiers)
        is_qwen = "qwen" in str(ours.get("rl_config.model_name", "qwen")).lower()
        renamed = ["qwen_accuracy_reward" if is_qwen and name == "accuracy_reward" else name for name in names]
        ours["reward_config.verifier_function"] = renamed
        if renamed != names:
            translation.remark("reward_config.verifier_function", names, str(renamed), "as there with a Qwen model")
        else:
            translation.num_same += 1
    first, last = left.pop("profiler_config.profile_step_start", 0), left.pop("profiler_config.profile_step_end", 1)
    if ours.get("profiler_config.profile"):
        ours["profiler_config.profile_step_start"], ours["profiler_config.profile_step_end"] = first + 1, last + 1
    steps = left.pop("monitor_config.host_monitor_steps", None)
    if isinstance(steps, list):
        ranges = [[step, step] if isinstance(step, int) else step for step in steps]
        if not all(isinstance(each, list) and [type(number) for number in each] == [int, int] for each in ranges):
            translation.problems.append(
                f"monitor_config.host_monitor_steps={short_repr(steps)}: numbers of steps, or pairs [first, last], "
                "are needed"
            )
            ranges = []
        ours["monitor_config.host_monitor_steps"] = sorted(
            {step for start, stop in ranges for step in range(start, stop + 1)}
        )
        translation.num_same += 1
