"""What of a MindSpeed-RL configuration is worked out from several settings.

There, Megatron's keys stand in three sections and a model file, the later of which counts; a step takes
global_batch_size prompts, and train_iters steps are made. Read from the trainers of Ascend/MindSpeed-RL, in the
versions of 2025.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindrlhf_lite.config.aliases.linears import peft_names
from mindrlhf_lite.config.aliases.loggers import flagged_trackers
from mindrlhf_lite.config.aliases.tables import MINDSPEED_RL, AliasRow, find_row
from mindrlhf_lite.config.aliases.translation import Translation, Worked, assume_defaults
from mindrlhf_lite.errors import UserError, short_repr
from mindrlhf_lite.files.strict_yaml import read_yaml_file

_OF_MEGATRON = ("megatron_training", "actor_config", "ref_config", "reward_config", "critic_config")
# of versions in which mini_batch_size counted completions
_OLD_KEYS = ("experience_count", "update_micro_batch_size", "colocate_all_models", "missing_eos_penalty")
_UNLIMITED = 1000


def translate_mindspeed_rl(values: dict[str, Any], path: str, num_ranks: int = 0) -> Translation:
    """Args: values: of the file, by full dotted key; path: the file, beside which its model file is looked for;
    num_ranks: 0: as the file says.
    """
    translation = Translation(MINDSPEED_RL)
    given = {key.replace("-", "_"): _number(value) for key, value in values.items()}
    model = _model_file(given, path)
    settings = _merged(given, model)
    left: dict[str, Any] = {}
    for key, value in settings.items():
        row: AliasRow | None = find_row(MINDSPEED_RL, key)
        name = key.replace("megatron.", "megatron_training.")
        if row is None and key.startswith("megatron."):
            translation.problems.append(f"{name}={short_repr(value)}: unknown key")
        elif row is None:
            translation.values[key] = value
        elif row.kind == "work":
            translation.work_out(name, value, row, left)
            if row.full_key in left:
                left[key] = left.pop(row.full_key)
        else:
            translation.take(name, value, row)
    assume_defaults(translation, settings, left, left_out=("data", "profiler_config.integrated"))
    wanted = settings.get("megatron.model")
    if wanted and not model:
        translation.missing.append(
            f"model: {wanted}: neither model/{wanted}.yaml nor {wanted}.yaml beside the file: the shape comes from "
            "tokenizer_name_or_path, or --model_config"
        )
    if model:
        translation.values["actor_config.model_config"] = str(model)
        translation.remark("model", left.get("megatron.model", ""), f"actor_config.model_config: {model}")
    is_old = "ref_config.load" in given or any(f"rl_config.{key}" in given for key in _OLD_KEYS)
    try:
        _Worked(translation, left, is_old, settings.get("megatron.stage") == "ray_dapo", num_ranks).run()
    except (
        TypeError,
        ValueError,
        KeyError,
    ) as error:  # values of a wrong type, of which most are reported by their keys
        translation.problems.append(f"settings that do not fit together: {error}")
    translation.finish()
    return translation


def _merged(given: dict[str, Any], model: Path | None) -> dict[str, Any]:
    """The settings as that toolkit merges them: its model file, megatron_training and actor_config are one section."""
    megatron = {
        **{key: _number(value) for key, value in (_read_model(model) if model else {}).items()},
        **_section(given, "megatron_training"),
        **_section(given, "actor_config"),
    }
    others = {
        key: value
        for key, value in given.items()
        if key.partition(".")[0] not in _OF_MEGATRON and key.partition(".")[0] not in ("defaults", "hydra", "model")
    }
    return {**{f"megatron.{key}": value for key, value in megatron.items()}, **others}


def _number(value: Any) -> Any:
    """Numbers that YAML reads as text, as their loader does not."""
    if isinstance(value, str) and value[:1].isdigit():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{name}.")}


def _model_file(values: dict[str, Any], path: str) -> Path | None:
    """The model's YAML: in the folder `model` beside the file, or beside it."""
    name = values.get("actor_config.model") or values.get("megatron_training.model")
    folder = Path(path).parent
    candidates = [folder / "model" / f"{name}.yaml", folder / f"{name}.yaml"]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _read_model(path: Path) -> dict[str, Any]:
    """Keys of a model file, which stand below its name."""
    values = read_yaml_file(path)
    inner = next(iter(values.values()), None) if isinstance(values, dict) else None
    if not isinstance(inner, dict):
        raise UserError(f"{path}: a mapping below the model's name is needed")
    return inner


class _Worked(Worked):
    """Fills in a translation what is made of several settings. Args: left: those settings; is_old: whether
    mini_batch_size counts completions; is_dapo: whether the trainer is ray_dapo's.
    """

    def __init__(self, translation: Translation, left: dict[str, Any], is_old: bool, is_dapo: bool, num_ranks: int):
        super().__init__(translation, left)
        self.is_old, self.is_dapo, self.num_ranks = is_old, is_dapo, num_ranks

    def run(self) -> None:
        self._layout()
        self._sizes()
        self._objective()
        self._precision_and_memory()
        self._rest()

    def set(self, key: str, value: Any, source: str, note: str = "") -> None:
        if key.startswith("ref_config.parallel"):  # as the actor's, which is said
            self.ours[key] = value
        else:
            super().set(key, value, source, note)

    def name_of(self, source: str) -> str:
        return source.replace("megatron.", "megatron_training.")

    def _layout(self) -> None:
        degrees = {
            "model_parallel": "megatron.tensor_model_parallel_size",
            "pipeline_stage": "megatron.pipeline_model_parallel_size",
            "context_parallel": "megatron.context_parallel_size",
            "use_seq_parallel": "megatron.sequence_parallel",
        }
        for role in ("actor_config", "ref_config"):
            for name, source in degrees.items():
                value = self.get(source, False if name == "use_seq_parallel" else 1)
                # one tensor-parallel rank has no others to split tokens with
                if name == "use_seq_parallel" and self.get(degrees["model_parallel"], 1) == 1:
                    value = False
                self.set(f"{role}.parallel_config.{name}", value, source)
        if layers := self.get("megatron.num_layer_list"):
            counts = [int(each) for each in (layers.split(",") if isinstance(layers, str) else layers)]
            for role in ("actor_config", "ref_config"):
                self.set(f"{role}.parallel_config.stage_layers", counts, "megatron.num_layer_list")
        ranks = self.left.get("rl_config.actor_resource.num_npus")
        if ranks:
            self.translation.remarks.append(
                f"rl_config.actor_resource.num_npus: {ranks} -> {ranks} ranks: msrun --worker_num={ranks}, or --ranks"
            )
        self.num_ranks = self.num_ranks or (ranks if isinstance(ranks, int) else 0)

    def _sizes(self) -> None:
        ours = self.ours
        self.given_prompts = ours.get("rl_config.chunk_size", 1)
        group, mini = ours.get("rl_config.num_generations", 1), self.get("rl_config.mini_batch_size", 1)
        kept = self.get("rl_config.filter_groups_train_batch_size")
        if self.is_dapo and kept and ours.get("rl_config.dynamic_sampling.enabled"):
            self.set(
                "rl_config.chunk_size", kept, "rl_config.filter_groups_train_batch_size", "groups a step trains on"
            )
            theirs = "megatron_training.global_batch_size"
            self.translation.remarks = [line for line in self.translation.remarks if not line.startswith(theirs)]
            self.translation.missing.append(
                f"{theirs}: {self.given_prompts}: prompts of every attempt there; here an attempt draws what is missing"
            )
        prompts = ours.get("rl_config.chunk_size", 1)
        completions = prompts * group
        is_old = self.is_old or mini > prompts
        update = mini if is_old else mini * group
        unit = "completions" if is_old else "prompts"
        self.set(
            "rl_config.batch_size",
            0 if update >= completions else update,
            "rl_config.mini_batch_size",
            f"{unit} an update there: {min(update, completions)} of {completions} completions a step",
        )
        tokens = ours.get("generate_config.sampling_config.max_tokens", 128)
        length = ours.get("generate_config.max_prompt_length", 512) + tokens
        self.set("rl_config.seq_length", length, "megatron.seq_length", "max_prompt_length + max_tokens")
        parallel = "actor_config.parallel_config."
        others = (
            ours[f"{parallel}model_parallel"] * ours[f"{parallel}pipeline_stage"] * ours[f"{parallel}context_parallel"]
        )
        share = min(update, completions) // max(1, self.num_ranks // others)
        if self.get("rl_config.use_dynamic_bsz", False) and self.get("rl_config.update_max_packing_token_size"):
            tokens = self.left["rl_config.update_max_packing_token_size"]
            self.set("rl_config.micro_batch_tokens", tokens, "rl_config.update_max_packing_token_size")
        elif (micro := self.get("megatron.micro_batch_size")) and self.num_ranks:
            number = max(1, share // micro, ours[f"{parallel}pipeline_stage"])
            self.set(f"{parallel}micro_batch_num", min(number, max(1, share)), "megatron.micro_batch_size")
        if forward := self.get("rl_config.ref_forward_micro_batch_size"):
            self.set("ref_config.ref_model_batch_size", forward, "rl_config.ref_forward_micro_batch_size")
        updates = ours.get("rl_config.num_iterations", 1) * max(1, completions // max(1, update))
        steps = ours.get("rl_config.max_steps", 0)
        if fraction := self.get("megatron.lr_warmup_fraction"):
            warmup = round(fraction * steps * updates)
            self.set("actor_config.lr_schedule.warmup_step", warmup, "megatron.lr_warmup_fraction")
        for theirs, name in (("lr_warmup_iters", "warmup_step"), ("lr_decay_iters", "decay_steps")):
            if iterations := self.get(f"megatron.{theirs}"):
                self.set(f"actor_config.lr_schedule.{name}", iterations * updates, f"megatron.{theirs}")

    def _objective(self) -> None:
        ours, low, high = self.ours, self.get("rl_config.clip_ratio", 0.2), None
        if self.get("rl_config.adv_estimator", "group_norm") != "group_norm":
            self.translation.problems.append(
                f"rl_config.adv_estimator={short_repr(self.left['rl_config.adv_estimator'])}: there is no critic; "
                "use group_norm"
            )
        if self.is_dapo and self.get("rl_config.clip_higher_enable", False):
            low, high = self.get("rl_config.clip_ratio_low", 0.1), self.get("rl_config.clip_ratio_high", 0.1)
        self.set("rl_config.epsilon_low", low, "rl_config.clip_ratio")
        ours["rl_config.epsilon_high"] = low if high is None else high
        is_mean = self.is_dapo and self.get("rl_config.token_level_loss", True) is False
        ours["rl_config.loss_aggregation"] = "sequence_mean" if is_mean else "token_mean"
        if self.is_dapo:
            ours["rl_config.beta"] = 0.0
            self.translation.remarks.append("rl_config.beta: 0: ray_dapo has no KL and no reference")
        if ours.get("rl_config.dynamic_sampling.enabled"):
            most = self.get("rl_config.filter_groups_max_batches", 1)
            source = "rl_config.filter_groups_max_batches"
            self.set("rl_config.dynamic_sampling.max_attempts", most if most > 0 else _UNLIMITED, source)
        if self.get("rl_config.overlong_buffer_enable", False):
            buffer = float(self.get("rl_config.overlong_buffer", 0))
            self.set("rl_config.overlong.buffer", buffer, "rl_config.overlong_buffer")
            penalty, source = (
                self.get("rl_config.overlong_buffer_penalty_factor", 1.0),
                "overlong_buffer_penalty_factor",
            )
            self.set("rl_config.overlong.penalty", float(penalty), f"rl_config.{source}")
        verifiers = self.get("rl_config.verifier_function", ["base_acc"])
        ours["reward_config.verifier_function"] = [verifiers] if isinstance(verifiers, str) else list(verifiers)

    def _precision_and_memory(self) -> None:
        ours = self.ours
        compute = "float16" if self.get("megatron.fp16", False) else "bfloat16"
        if self.get("megatron.bf16", True) is False and compute != "float16":
            compute = "float32"
        self.set("actor_config.compute_dtype", compute, "megatron.bf16")
        dtype = str(self.get("generate_config.dtype", compute))
        if dtype in ("float16", "float32", "bfloat16") and dtype != compute:
            self.set("generate_config.compute_dtype", dtype, "generate_config.dtype")
        ours["context.device_target"] = "Ascend"
        ours["generate_config.use_vllm"] = 1
        granularity, source = self.get("megatron.recompute_granularity"), "megatron.recompute_granularity"
        if granularity == "full":
            self.set("actor_config.recompute_config.recompute", True, source)
        elif granularity == "selective":
            self.set("actor_config.recompute_config.select_recompute", True, source)
        offloads = ("offload_train_optimizer", "offload_train_grad", "offload_train_param")
        if any(self.get(f"generate_config.{key}", False) for key in offloads) or self.get(
            "megatron.swap_optimizer", False
        ):
            ours["rl_config.swap"] = True
            self.translation.remarks.append("generate_config.offload_train_*: rl_config.swap: true")
        if self.get("megatron.swap_optimizer", False):
            self.set("actor_config.optimizer.opt_offload", True, "megatron.swap_optimizer")

    def _rest(self) -> None:
        ours = self.ours
        ours["rl_config.trackers"] = flagged_trackers(self.translation, self.left)
        if data := self.get("megatron.data_path"):
            path = data if str(data).endswith(".mindrecord") else f"{data}.mindrecord"
            note = "python tools/rlhf_data.py --config DATA.yaml makes it"
            self.set("rl_config.dataset_file", path, "megatron.data_path", note)
        style = ours.get("actor_config.lr_schedule.lr_decay_style")
        if style not in ("constant", "linear", "cosine"):
            self.translation.problems.append(
                f"megatron_training.lr_decay_style={short_repr(style)}: constant, linear or cosine"
            )
        # a rate that is constant has no end
        if style == "constant":
            ours.pop("actor_config.lr_schedule.min_lr", None)
        if not ours.get("actor_config.lora.rank"):
            ours.pop("actor_config.lora.alpha", None)
        elif targets := self.get("megatron.lora_target_modules"):
            self.set("actor_config.lora.target_modules", peft_names(targets), "megatron.lora_target_modules")
        first, last = self.get("msprobe_config.step_start", 0), self.get("msprobe_config.step_end", 0)
        if last > first:
            self.set("msprobe_config.dump_steps", list(range(first, last + 1)), "msprobe_config.step_end")
