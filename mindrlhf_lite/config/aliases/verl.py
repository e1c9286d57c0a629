"""What of a verl configuration is worked out from several settings.

There, a step takes train_batch_size prompts, an update ppo_mini_batch_size of them, and weights are sharded over data
parallelism (FSDP) or laid out by Megatron's degrees. Read from the trainers of volcengine/verl, in the versions of 2025
and 2026.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindrlhf_lite.config.aliases.loggers import with_trackers
from mindrlhf_lite.config.aliases.tables import VERL, find_row
from mindrlhf_lite.config.aliases.translation import Translation, Worked, assume_defaults
from mindrlhf_lite.config.aliases.verl_models import translate_models
from mindrlhf_lite.errors import short_repr

_ACTOR, _REF = "actor_rollout_ref.actor.", "actor_rollout_ref.ref."
_ROLLOUT, _MODEL = "actor_rollout_ref.rollout.", "actor_rollout_ref.model."
_UNLIMITED = 1000
_ADVANTAGES = {
    "gae": "gae",
    "rloo": "rloo",
    "reinforce_plus_plus": "reinforce_pp",
    "reinforce_plus_plus_baseline": "reinforce_pp_baseline",
    "grpo_passk": "passk",
}
_LOSSES = {"vanilla": "ppo", "gspo": "gspo", "sapo": "sapo", "gpg": "gpg", "cispo": "cispo"}
_AGGREGATIONS = {
    "token-mean": "token_mean",
    "seq-mean-token-sum": "sequence_sum",
    "seq-mean-token-mean": "sequence_mean",
    "seq-mean-token-sum-norm": "constant",
}
_ESTIMATORS = {"kl": "k1", "k1": "k1", "abs": "abs", "mse": "k2", "k2": "k2", "low_var_kl": "k3", "k3": "k3"}
_TYPES = {"bfloat16": "bfloat16", "bf16": "bfloat16", "float16": "float16", "fp16": "float16"}
_TYPES |= {"float32": "float32", "fp32": "float32"}


def translate_verl(values: dict[str, Any], num_ranks: int = 0) -> Translation:
    """Args: values: given ones by full dotted key, resolved; num_ranks: 0: as they say."""
    translation, left = Translation(VERL), dict[str, Any]()
    given = {key: _at_home(value) for key, value in values.items() if not key.endswith("_target_") and value != "???"}
    for key, value in given.items():
        row = find_row(VERL, key)
        if row is None:
            translation.values[key] = value
        elif row.kind != "work":
            translation.take(key, value, row)
        elif value is not None:  # null is what it is without
            translation.work_out(key, value, row, left)
    assume_defaults(translation, given, left)
    try:
        _Worked(translation, left, num_ranks).run()
    except (TypeError, ValueError) as error:  # values of a wrong type, of which most are reported by their keys
        translation.problems.append(f"settings that do not fit together: {error}")
    translation.finish()
    return translation


def _at_home(value: Any) -> Any:
    """Folders as ~/models, which that toolkit writes out itself."""
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~/") else value


class _Worked(Worked):
    """Fills in a translation what is made of several settings. Args: left: those settings."""

    def __init__(self, translation: Translation, left: dict[str, Any], num_ranks: int):
        super().__init__(translation, left)
        self.num_ranks = num_ranks

    def run(self) -> None:
        self._layout()
        self._sizes()
        self._objective()
        self._kl()
        self._correction()
        self._precision_and_memory()
        self._adapters()
        self._data_and_rewards()
        translate_models(self)

    def _choice(self, choices: dict[str, str], key: str, advice: str) -> str:
        """Ours in the place of theirs; the first, and a problem, where there is none."""
        value = self.get(key)
        if value not in choices:
            self.translation.problems.append(f"{key}={short_repr(value)}: {advice}")
        return choices.get(value, next(iter(choices.values())))

    def _layout(self) -> None:
        is_megatron = self.get(f"{_ACTOR}strategy") == "megatron"
        for role, prefix in (("actor_config", _ACTOR), ("ref_config", _REF)):
            degrees = {"model_parallel": 1, "pipeline_stage": 1, "context_parallel": 1}
            sources = {
                "model_parallel": "megatron.tensor_model_parallel_size",
                "pipeline_stage": "megatron.pipeline_model_parallel_size",
                "context_parallel": "megatron.context_parallel_size",
            }
            if not is_megatron:
                newer = "fsdp_config.ulysses_sequence_parallel_size"
                is_newer = self.get(prefix + newer, 1) > 1
                sources = {"context_parallel": newer if is_newer else "ulysses_sequence_parallel_size"}
            for degree, source in sources.items():
                degrees[degree] = self.get(prefix + source, self.get(_ACTOR + source, 1))
                self.set(f"{role}.parallel_config.{degree}", degrees[degree], prefix + source)
            has_others = is_megatron and degrees["model_parallel"] > 1
            splits = has_others and self.get(f"{_ACTOR}megatron.sequence_parallel")
            self.ours[f"{role}.parallel_config.use_seq_parallel"] = splits
            if role == "actor_config":
                self.shards = degrees["model_parallel"] * degrees["pipeline_stage"] * degrees["context_parallel"]
                self.stages = degrees["pipeline_stage"]
        self.set("actor_config.enable_parallel_optimizer", True, f"{_ACTOR}fsdp_config.fsdp_size")
        nodes, devices = self.get("trainer.nnodes", 1), self.get("trainer.n_gpus_per_node", 0)
        if devices:
            ranks = nodes * devices
            self.translation.remarks.append(
                f"trainer.n_gpus_per_node: {devices} -> {ranks} ranks: msrun --worker_num={ranks}, or --ranks"
            )
            self.num_ranks = self.num_ranks or ranks

    def _sizes(self) -> None:
        ours, group = self.ours, self.ours["rl_config.num_generations"]
        prompts = self.get("data.train_batch_size")
        self.set("rl_config.chunk_size", prompts, "data.train_batch_size", "prompts a step")
        mini = min(self.get(f"{_ACTOR}ppo_mini_batch_size"), prompts)
        update, completions = mini * group, prompts * group
        note = f"prompts an update there: {update} of {completions} completions a step"
        whole = 0 if update == completions else update
        self.set("rl_config.batch_size", whole, f"{_ACTOR}ppo_mini_batch_size", note)
        ours["rl_config.seq_length"] = (
            ours["generate_config.max_prompt_length"] + ours["generate_config.sampling_config.max_tokens"]
        )
        share = update // max(1, self.num_ranks // self.shards)
        if self.get(f"{_ACTOR}use_dynamic_bsz"):
            tokens = f"{_ACTOR}ppo_max_token_len_per_gpu"
            self.set("rl_config.micro_batch_tokens", self.get(tokens), tokens)
        elif (micro := self.get(f"{_ACTOR}ppo_micro_batch_size_per_gpu")) and self.num_ranks:
            number = min(max(1, share // micro, self.stages), max(1, share))
            key = "actor_config.parallel_config.micro_batch_num"
            self.set(key, number, f"{_ACTOR}ppo_micro_batch_size_per_gpu")
        if forward := self.get(f"{_REF}log_prob_micro_batch_size_per_gpu"):
            key = "ref_config.ref_model_batch_size"
            self.set(key, forward, f"{_REF}log_prob_micro_batch_size_per_gpu")
        self._schedule(ours["rl_config.num_iterations"] * (prompts // mini))

    def _schedule(self, updates: int) -> None:
        """Args: updates: of a step."""
        ours, rate, optim = self.ours, "actor_config.lr_schedule.", f"{_ACTOR}optim."
        if style := self.get(f"{optim}warmup_style"):
            self.set(f"{rate}lr_decay_style", style, f"{optim}warmup_style")
        steps, share = self.get(f"{optim}lr_warmup_steps"), self.get(f"{optim}lr_warmup_steps_ratio")
        total = ours.get("rl_config.max_steps", 0)
        if steps > 0:
            self.set(f"{rate}warmup_step", steps * updates, f"{optim}lr_warmup_steps")
        elif share and total:
            self.set(f"{rate}warmup_step", round(share * total * updates), f"{optim}lr_warmup_steps_ratio")
        elif share:
            self.translation.missing.append(
                f"{optim}lr_warmup_steps_ratio: {share}: of steps that total_training_steps does not say; set "
                f"{rate}warmup_step"
            )
        if ours[f"{rate}lr_decay_style"] != "constant" and (ratio := self.get(f"{optim}min_lr_ratio")):
            self.set(f"{rate}min_lr", ours[f"{rate}lr"] * ratio, f"{optim}min_lr_ratio")
        betas = self.get(f"{optim}betas")
        for name, beta in zip(("adam_beta1", "adam_beta2"), betas, strict=True):
            self.set(f"actor_config.optimizer.{name}", beta, f"{optim}betas")

    def _objective(self) -> None:
        ours, estimator = self.ours, self.get("algorithm.adv_estimator")
        is_scaled = self.get("algorithm.norm_adv_by_std_in_grpo")
        choices = {"grpo": "grpo" if is_scaled else "dr_grpo", "gpg": "dr_grpo", **_ADVANTAGES}
        advice = f"{', '.join(choices)} are there"
        source = "algorithm.adv_estimator"
        self.set("rl_config.advantage", self._choice(choices, source, advice), source)
        mode = f"{_ACTOR}policy_loss.loss_mode"
        loss = self._choice(_LOSSES, mode, f"{', '.join(_LOSSES)} are there")
        self.set("rl_config.loss", "gpg" if estimator == "gpg" else loss, mode)
        clip = self.get(f"{_ACTOR}clip_ratio")
        for name in ("low", "high"):
            source = f"{_ACTOR}clip_ratio_{name}"
            value, given = self.get(source, clip), source if source in self.left else f"{_ACTOR}clip_ratio"
            self.set(f"rl_config.epsilon_{name}", value, given)
        if ours["rl_config.loss"] == "ppo":
            self.set("rl_config.dual_clip", self.get(f"{_ACTOR}clip_ratio_c"), f"{_ACTOR}clip_ratio_c")
        mode = f"{_ACTOR}loss_agg_mode"
        average = self._choice(_AGGREGATIONS, mode, f"{', '.join(_AGGREGATIONS)} are there")
        if ours["rl_config.loss"] == "gspo":
            average = "sequence_mean"  # whatever the file says
        self.set("rl_config.loss_aggregation", average, mode)
        if ours.get("rl_config.dynamic_sampling.enabled"):
            source = "algorithm.filter_groups.max_num_gen_batches"
            self.set("rl_config.dynamic_sampling.max_attempts", self.get(source) or _UNLIMITED, source)

    def _kl(self) -> None:
        in_loss, in_reward = f"{_ACTOR}use_kl_loss", "algorithm.use_kl_in_reward"
        self.ours["rl_config.beta"] = 0.0
        if self.get(in_loss) and self.get(in_reward):
            self.translation.problems.append(f"{in_loss}=true, {in_reward}=true: one of them")
        elif self.get(in_loss) or self.get(in_reward):
            is_loss = self.get(in_loss)
            kind, weight = ("kl_loss_type", "kl_loss_coef") if is_loss else ("kl_penalty", "kl_ctrl.kl_coef")
            prefix = _ACTOR if is_loss else "algorithm."
            self.set("rl_config.beta", self.get(prefix + weight), prefix + weight)
            name = str(self.get(prefix + kind))
            estimators = {f"{each}{more}": ours for each, ours in _ESTIMATORS.items() for more in ("", "+")}
            advice = f"{', '.join(_ESTIMATORS)} are there"
            self.set("rl_config.kl_estimator", self._choice(estimators, prefix + kind, advice), prefix + kind)
            self.ours["rl_config.kl_unbiased_gradient"] = bool(is_loss and name.endswith("+"))
        self.set("rl_config.kl_in_reward", bool(self.get(in_reward)), in_reward)

    def _correction(self) -> None:
        prefix = "algorithm.rollout_correction."
        weighted, rejected = self.get(f"{prefix}rollout_is"), self.get(f"{prefix}rollout_rs")
        source = f"{prefix}{'rollout_rs' if rejected else 'rollout_is'}"
        if rejected or weighted:
            forms = {"token": "token", "sequence": "sequence", "token_k1": "token", "seq_sum_k1": "sequence"}
            form = self._choice(forms, source, f"{', '.join(forms)} are there")
            self.set("rl_config.rollout_correction", f"{form}_{'mask' if rejected else 'truncate'}", source)
            threshold = f"{prefix}rollout_{'rs' if rejected else 'is'}_threshold"
            high, low = self.get(threshold, 2.0), self.get(f"{prefix}rollout_rs_threshold_lower", 0.0)
            if isinstance(high, str):  # "0.5_2.0": both bounds
                low, _, high = high.rpartition("_")
            self.set("rl_config.rollout_is_cap", float(high), threshold)
            if rejected and low:
                self.set("rl_config.rollout_is_floor", float(low), threshold)
            if rejected and weighted:
                self.translation.missing.append(f"{prefix}rollout_is: {weighted}: rollout_rs alone is taken")

    def _precision_and_memory(self) -> None:
        fsdp = f"{_ACTOR}fsdp_config."
        advice = "bfloat16, float16 or float32"
        compute = self._choice(_TYPES, f"{fsdp}dtype", advice)
        self.set("actor_config.compute_dtype", compute, f"{fsdp}dtype")
        stored = self._choice(_TYPES, f"{fsdp}model_dtype", advice)
        if stored != "float32":
            self.set("actor_config.param_dtype", stored, f"{fsdp}model_dtype")
        rollout = self._choice({**_TYPES, "half": "float16", "auto": compute}, f"{_ROLLOUT}dtype", advice)
        if rollout != compute:
            self.set("generate_config.compute_dtype", rollout, f"{_ROLLOUT}dtype")
        engine, source = self.get(f"{_ROLLOUT}name"), f"{_ROLLOUT}name"
        note = "" if engine in ("vllm", "hf") else "vLLM in its place"
        self.set("generate_config.use_vllm", 0 if engine == "hf" else 1, source, note)
        for prefix in (fsdp, f"{_ACTOR}megatron.", f"{_REF}fsdp_config.", f"{_REF}megatron."):
            for name in ("param_offload", "optimizer_offload", "offload_policy"):
                if self.get(f"{prefix}{name}"):
                    self.set("rl_config.swap", True, f"{prefix}{name}")
                    if name != "param_offload" and prefix.startswith(_ACTOR):
                        self.set("actor_config.optimizer.opt_offload", True, f"{prefix}{name}")

    def _adapters(self) -> None:
        if self.ours.get("actor_config.lora.rank"):
            targets = self.get(f"{_MODEL}target_modules")
            names = [targets] if isinstance(targets, str) else list(targets)
            self.set("actor_config.lora.alpha", float(self.get(f"{_MODEL}lora_alpha")), f"{_MODEL}lora_alpha")
            self.set("actor_config.lora.target_modules", names, f"{_MODEL}target_modules")
            if self.ours["generate_config.use_vllm"]:
                self.ours["actor_config.lora.rollout"] = "merge"

    def _data_and_rewards(self) -> None:
        ours = self.ours
        for source, key in (("data.train_files", "dataset_file"), ("data.val_files", "eval_dataset_file")):
            if files := self.get(source):
                given = [files] if isinstance(files, str) else list(files)
                path = str(Path(given[0]).with_suffix(".mindrecord"))
                how = "tools/rlhf_data.py --dataset_type verl --keep_columns extra_info --file_path"
                note = f"python {how} {' '.join(map(str, given))} makes it"
                self.set(f"rl_config.{key}", path, source, note)
        sampled = self.get(f"{_ROLLOUT}val_kwargs.do_sample", False)
        temperature = self.get(f"{_ROLLOUT}val_kwargs.temperature", 0)
        source = f"{_ROLLOUT}val_kwargs.temperature"
        self.set("rl_config.eval_temperature", float(temperature if sampled else 0), source)
        if path := self.get("custom_reward_function.path"):
            function = f"{path}:{self.get('custom_reward_function.name', 'compute_score')}"
            self.set("reward_config.verifier_function", [function], "custom_reward_function.path")
        else:
            ours["reward_config.verifier_function"] = ["qwen_accuracy_reward"]
            self.translation.remarks.append(
                "reward_config.verifier_function: qwen_accuracy_reward, in the place of verl's rules by data_source"
            )
        ours["reward_config.verifier_weight"] = [1.0]
        for prefix in ("reward_model.overlong_buffer.", "reward_model.reward_kwargs.overlong_buffer_cfg."):
            if self.get(f"{prefix}enable"):
                self.set("rl_config.overlong.buffer", float(self.get(f"{prefix}len", 0)), f"{prefix}len")
                factor = f"{prefix}penalty_factor"
                self.set("rl_config.overlong.penalty", float(self.get(factor, 1.0)), factor)
        if "trainer.logger" not in self.assumed:
            ours["rl_config.trackers"] = with_trackers(self.translation, "trainer.logger", self.get("trainer.logger"))
