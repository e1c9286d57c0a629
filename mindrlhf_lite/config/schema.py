"""Every setting, once: name, type, default, meaning. docs/config.md is generated from here.

Key names are those that GRPO users of MindSpore know. A setting that nothing reads does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mindrlhf_lite.algorithms.names import ADVANTAGE_NAMES, AGGREGATION_NAMES, CORRECTIONS, KL_ESTIMATORS, LOSS_NAMES
from mindrlhf_lite.config.roles import ROLES, RoleSpec


@dataclass(frozen=True)
class Bounds:
    """What a number must be. Example: POSITIVE.holds(0) is False"""

    text: str
    holds: Callable[[float], bool]


POSITIVE = Bounds("must be positive", lambda value: value > 0)
NOT_NEGATIVE = Bounds("must not be negative", lambda value: value >= 0)
AT_MOST_ONE = Bounds("must lie in [0, 1]", lambda value: 0 <= value <= 1)
SHARE = Bounds("must lie in (0, 1]", lambda value: 0 < value <= 1)
BELOW_ONE = Bounds("must lie in [0, 1)", lambda value: 0 <= value < 1)


def setting(default: Any, help: str, choices: tuple[str, ...] = (), bounds: Bounds | None = None) -> Any:
    """A dataclass field that carries its documentation and its bounds."""
    metadata = {"help": help, "choices": choices, "bounds": bounds}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ParallelConfig:
    data_parallel: int = setting(0, "data-parallel ranks; 0: all ranks that the other degrees leave")
    model_parallel: int = setting(1, "tensor-parallel ranks")
    pipeline_stage: int = setting(1, "pipeline stages; the rollout model has one")
    context_parallel: int = setting(
        1,
        "ranks that share the tokens of a sequence, in passes over whole sequences; of the rollout, which computes a "
        "token at a time, they share the completions, as data-parallel ranks do",
    )
    vocab_emb_dp: bool = setting(
        False, "true: every tensor-parallel rank holds the whole embedding table; not with tied embeddings"
    )

    def data_degree(self, world_size: int) -> int:
        """Ranks that have sequences of their own, or share them: `data_parallel`, or what the other degrees leave of
        `world_size`.
        """
        others = self.model_parallel * self.pipeline_stage * self.context_parallel
        return self.data_parallel or max(1, world_size // max(1, others))


@dataclass(frozen=True)
class StagedParallelConfig(ParallelConfig):
    stage_layers: list[int] = setting([], "layers of every pipeline stage; empty: even")
    use_seq_parallel: bool = setting(
        False, "split the tokens between the linears over the tensor-parallel ranks (sequence parallelism)"
    )


@dataclass(frozen=True)
class ActorParallelConfig(StagedParallelConfig):
    micro_batch_num: int = setting(
        0,
        "micro-batches that each rank cuts its share of an update into (gradient accumulation, pipelining); 0: as few "
        "as fit into memory, at least one a stage",
        bounds=NOT_NEGATIVE,
    )


FLOAT_TYPES = ("float32", "bfloat16", "float16")
_FLOAT_TYPES_OR_EMPTY = ("", *FLOAT_TYPES)


@dataclass(frozen=True)
class LossScaleConfig:
    """Where the actor computes in float16 or stores it; names of MindFormers' runner_wrapper.scale_sense."""

    loss_scale_value: float = setting(65536.0, "the loss is multiplied by it at first", bounds=POSITIVE)
    scale_factor: float = setting(
        2.0,
        "the scale is divided by it when gradients overflow (that update is left out), and multiplied by it after "
        "scale_window updates",
        bounds=Bounds("must be above 1", lambda value: value > 1),
    )
    scale_window: int = setting(1000, "updates in a row without an overflow until the scale grows", bounds=POSITIVE)


@dataclass(frozen=True)
class RecomputeConfig:
    recompute: bool = setting(
        False,
        "keep of every layer its input only, and compute the other activations again in the backward pass",
    )
    select_recompute: bool = setting(
        False,
        "keep of every layer what its matrix products gave, and compute attention again in the backward pass: its "
        "probabilities grow with the square of the length",
    )


@dataclass(frozen=True)
class KlControl:
    type: str = setting("fixed", "whether beta stays as it is, or follows the measured KL", ("fixed", "adaptive"))
    target: float = setting(0.1, "adaptive: the mean KL of a token that is wanted", bounds=POSITIVE)
    horizon: int = setting(10000, "adaptive: completions over which beta is adapted", bounds=POSITIVE)


@dataclass(frozen=True)
class DynamicSampling:
    enabled: bool = setting(
        False, "draw prompts until a step has chunk_size * num_rollouts groups whose rewards differ"
    )
    max_attempts: int = setting(
        10, "draws a step; then it takes what there is, and groups that teach nothing fill it up", bounds=POSITIVE
    )


@dataclass(frozen=True)
class Overlong:
    """What happens to completions that are too long."""

    filter: bool = setting(False, "tokens of completions that max_tokens cut off do not count")
    buffer: float = setting(
        0.0,
        "the last so many tokens before max_tokens, or below 1 this share of max_tokens, are punished, the more the "
        "later; 0: none",
        bounds=NOT_NEGATIVE,
    )
    penalty: float = setting(1.0, "what a completion of max_tokens loses", bounds=NOT_NEGATIVE)

    def buffer_tokens(self, max_tokens: int) -> int:
        """`buffer` in tokens."""
        if not self.buffer:
            return 0
        return max(1, round(self.buffer * max_tokens if self.buffer < 1 else self.buffer))


@dataclass(frozen=True)
class EarlyStopping:
    """By held-out accuracy, at evaluations (`rl_config.eval_interval`)."""

    patience: int = setting(
        0, "end the run after so many evaluations in a row without a gain; 0: it goes on", bounds=NOT_NEGATIVE
    )
    min_delta: float = setting(0.0, "an accuracy that is higher by no more than this is no gain", bounds=AT_MOST_ONE)


MODEL_NAMES = ("", "qwen", "qwen2", "qwen2.5", "qwen3", "llama", "llama3")


@dataclass(frozen=True)
class RlConfig:
    model_name: str = setting(
        "", "family of the model, which must be that of actor_config.load; empty: not checked", MODEL_NAMES
    )
    dataset_file: str = setting("", "MindRecord file of training prompts, from tools/rlhf_data.py")
    eval_dataset_file: str = setting("", "MindRecord file of held-out prompts; empty: no evaluation")
    tokenizer_dir: str = setting("", "folder with the tokenizer's files; empty: actor_config.load")
    tokenizer_type: str = setting(
        "", "family of the tokenizer, which must be that of actor_config.load; empty: not checked", MODEL_NAMES
    )
    output_dir: str = setting(
        "output",
        "folder of metrics.jsonl, completions, TensorBoard, plots, summary.json, hf; checkpoints too unless "
        "actor_config.save",
    )
    seed: int = setting(0, "of prompt order and of every completion", bounds=NOT_NEGATIVE)
    epochs: int = setting(
        1,
        "passes over the prompts (as many steps, where dynamic sampling draws more); ignored when max_steps is given",
        bounds=POSITIVE,
    )
    max_steps: int = setting(0, "steps to run; 0: as many as `epochs` needs", bounds=NOT_NEGATIVE)
    seq_length: int = setting(2048, "longest prompt + completion, in tokens")
    length_buckets: list[int] = setting(
        [], "lengths that prompts are padded to before generation; empty: two an octave, ending at seq_length"
    )
    packing: bool = setting(
        True, "completions of one prompt share it in a micro-batch; false: every sequence brings its own"
    )
    micro_batch_tokens: int = setting(
        0,
        "tokens that a micro-batch is filled with; 0: what a rank's completions of an update / micro_batch_num need at "
        "most, and that follows from memory where it is not given either",
        bounds=NOT_NEGATIVE,
    )
    chunk_size: int = setting(8, "prompts generated together, over all ranks", bounds=POSITIVE)
    num_rollouts: int = setting(1, "chunks a step: a step uses chunk_size * num_rollouts prompts", bounds=POSITIVE)
    num_generations: int = setting(8, "completions a prompt (the group)")
    batch_size: int = setting(
        0, "completions an optimizer update, over all ranks; 0: all of the step", bounds=NOT_NEGATIVE
    )
    num_iterations: int = setting(1, "times that the step's completions are used", bounds=POSITIVE)
    beta: float = setting(
        0.04, "weight of the KL to the reference; 0: no reference model is loaded", bounds=NOT_NEGATIVE
    )
    kl_estimator: str = setting("k3", "estimator of the KL of a token", KL_ESTIMATORS)
    logprob_temperature: str = setting(
        "sampling",
        "temperature of the policy that is trained, and of its reference, KL and entropy: that of sampling_config, as "
        "TRL, verl and MindSpeed-RL have it, or 1",
        ("sampling", "1"),
    )
    kl_in_reward: bool = setting(False, "subtract beta * KL from the reward of every token, not from the loss")
    kl_unbiased_gradient: bool = setting(
        False, "multiply the KL in the loss (k1, k3) by the policy's ratio: then its gradient is that of the KL"
    )
    kl_ctrl: KlControl = field(default_factory=KlControl)
    loss: str = setting("ppo", "policy loss", LOSS_NAMES)
    epsilon_low: float = setting(0.2, "the ratio is clipped below 1 - epsilon_low", bounds=AT_MOST_ONE)
    epsilon_high: float = setting(0.2, "the ratio is clipped above 1 + epsilon_high", bounds=NOT_NEGATIVE)
    dual_clip: float = setting(
        0.0,
        "most that the ratio multiplies a negative advantage by (ppo, gspo); 0: no limit; 3.0 is usual",
        bounds=NOT_NEGATIVE,
    )
    sapo_temperature_positive: float = setting(1.0, "sapo: of the gate of positive advantages", bounds=POSITIVE)
    sapo_temperature_negative: float = setting(1.05, "sapo: of the gate of negative advantages", bounds=POSITIVE)
    dppo_divergence: float = setting(0.2, "dppo: how far the probability of a token may move", bounds=POSITIVE)
    ratio_to: str = setting(
        "step",
        "where a step has several updates, the policy that the loss's ratio is taken to: the one before the step, or "
        "that of the update itself (the ratio is 1 then, and nothing is clipped)",
        ("step", "update"),
    )
    entropy_coeff: float = setting(0.0, "weight of the entropy bonus, averaged as the loss is", bounds=NOT_NEGATIVE)
    rollout_correction: str = setting(
        "token_truncate",
        "what policy / sampling distribution is taken of, and what happens to ratios out of bounds: they are cut off, "
        "or their tokens are left out",
        CORRECTIONS,
    )
    rollout_is_cap: float = setting(
        0.0,
        "every token's policy loss is multiplied by policy / sampling distribution, at most this; 0: off; 2.0 is usual",
        bounds=NOT_NEGATIVE,
    )
    rollout_is_floor: float = setting(
        0.0, "the masks of rollout_correction leave out ratios below this too", bounds=NOT_NEGATIVE
    )
    advantage: str = setting("grpo", "advantage estimator", ADVANTAGE_NAMES)
    loss_aggregation: str = setting("token_mean", "how per-token losses are averaged", AGGREGATION_NAMES)
    dynamic_sampling: DynamicSampling = field(default_factory=DynamicSampling)
    overlong: Overlong = field(default_factory=Overlong)
    save_ckpt_interval: int = setting(0, "steps between checkpoints; 0: none", bounds=NOT_NEGATIVE)
    save_max_ckpt_num: int = setting(3, "newest checkpoints kept", bounds=POSITIVE)
    save_ckpt_format: str = setting(
        "safetensors", "files of weights and moments in a checkpoint; ckpt: MindSpore's", ("safetensors", "ckpt")
    )
    save_strategy_dir: str = setting(
        "",
        "folder for every role's parallel strategy (actor.json, reference.json, rollout.json), as "
        "tools/transform_checkpoint.py reads them; empty: not written",
    )
    save_data_file: str = setting(
        "",
        "MindRecord files of what every step trains on: of FILE.mindrecord, FILE_000001.mindrecord and so on, for "
        "tools/replay.py; empty: not written",
    )
    on_sigterm: str = setting(
        "end",
        "what SIGTERM does; end: ends the run at once, save: after the step that is under way, with a checkpoint",
        ("end", "save"),
    )
    save_hf_model: bool = setting(True, "write the trained model to OUTPUT/hf at the end")
    save_hf_dtype: str = setting("float32", "type of the tensors in it, rounded from float32", FLOAT_TYPES)
    resume_training: bool = setting(False, "continue from the newest complete checkpoint, if there is one")
    save_prompt_completions_data: bool = setting(True, "write every completion with its rewards")
    save_prompt_completions_interval: int = setting(1, "steps between completion files", bounds=POSITIVE)
    save_prompt_completions_dir: str = setting("", "folder of completion files; empty: OUTPUT/completions")
    tensorboard: bool = setting(False, "write metrics for TensorBoard too")
    tensorboard_dir: str = setting("", "folder of TensorBoard's files; empty: OUTPUT/tensorboard")
    tensorboard_queue_size: int = setting(10, "values that wait to be written to it, at most", bounds=POSITIVE)
    performance_stats: bool = setting(
        False, "a second line a step on the console: seconds of every phase, tokens a second"
    )
    eval_interval: int = setting(
        0, "steps between evaluations, besides those before and after; 0: none between", bounds=NOT_NEGATIVE
    )
    eval_samples: int = setting(1, "completions a held-out prompt", bounds=POSITIVE)
    eval_temperature: float = setting(0.0, "sampling temperature of evaluation; 0: greedy", bounds=NOT_NEGATIVE)
    eval_verifier: str = setting(
        "",
        "verifier that says what is correct in evaluations: a built-in name or a function of your own; empty: the "
        "strictest of reward_config.verifier_function that judges answers",
    )
    eval_max_prompts: int = setting(0, "held-out prompts used; 0: all", bounds=NOT_NEGATIVE)
    save_best: bool = setting(
        False,
        "write the model of the highest held-out accuracy so far to OUTPUT/best, as a Hugging Face folder; while the "
        "model as it was before training is the best (summary.json: best), nothing is written",
    )
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    reshard_transport: str = setting(
        "auto",
        "how weights get to the rollout layout; auto: shared_memory on one CPU host, else collective",
        ("auto", "shared_memory", "collective"),
    )
    reshard_bucket_mb: int = setting(
        8, "size of a reshard bucket in MiB; at most two are in memory besides the models", bounds=POSITIVE
    )
    reshard_check_interval: int = setting(
        50,
        "steps between reshards whose checksums are compared, besides the first; 0: the first only",
        bounds=NOT_NEGATIVE,
    )
    reshard_mem_opt_level: int = setting(
        0, "with swap: 0 keeps the actor's weights in memory while resharding, 1 reads them from the store"
    )
    swap: bool = setting(False, "keep only the weights in memory that the current phase needs")
    swap_dir: str = setting("", "folder on a disk for swapped weights (CPU); empty: OUTPUT/swap")
    swap_store: str = setting(
        "auto",
        "where swapped weights go: file (CPU), host (its memory; on CPU that saves none, and is for tests); auto: "
        "file on CPU, host on Ascend",
        ("auto", "file", "host"),
    )


@dataclass(frozen=True)
class OptimizerConfig:
    type: str = setting("adamw", "optimizer", ("adamw",))
    adam_beta1: float = setting(0.9, "decay of the gradient's running mean", bounds=BELOW_ONE)
    adam_beta2: float = setting(0.95, "decay of the squared gradient's running mean", bounds=BELOW_ONE)
    eps: float = setting(1e-8, "added to the root of the squared gradient's mean", bounds=POSITIVE)
    weight_decay: float = setting(
        0.01, "decoupled weight decay of matrices; never on norms and biases", bounds=NOT_NEGATIVE
    )
    max_grad_norm: float = setting(1.0, "global gradient norm is clipped to this; 0: not clipped", bounds=NOT_NEGATIVE)
    opt_offload: bool = setting(
        False,
        "with rl_config.swap: the optimizer's state is not in memory during the backward passes, and comes in one "
        "bucket after the other to be updated",
    )
    opt_offload_bucket_mb: int = setting(
        1024, "opt_offload: MiB of the optimizer's state that are in memory together", bounds=POSITIVE
    )


@dataclass(frozen=True)
class LrScheduleConfig:
    lr_decay_style: str = setting("constant", "decay after the warm-up", ("constant", "linear", "cosine"))
    lr: float = setting(1e-6, "peak learning rate", bounds=POSITIVE)
    min_lr: float = setting(0.0, "learning rate at decay_steps", bounds=NOT_NEGATIVE)
    warmup_step: int = setting(0, "updates over which the rate rises linearly", bounds=NOT_NEGATIVE)
    decay_steps: int = setting(0, "updates until min_lr; 0: all updates of the run", bounds=NOT_NEGATIVE)


@dataclass(frozen=True)
class ActorConfig:
    load: str = setting("", "Hugging Face folder of the starting model (config.json and safetensors)")
    model_config: str = setting(
        "",
        "YAML of model_configs/ or of MindFormers, or a Hugging Face folder: a YAML's strategies for this number "
        "of ranks replace those of the configuration file (not of the command line); must fit `load`",
    )
    save: str = setting("", "folder of checkpoints; empty: OUTPUT/checkpoints")
    compute_dtype: str = setting(
        "float32",
        "type of matrix products and of what passes between them; norms, softmax, rotary embedding, logprobs and loss "
        "are float32; on CPU bfloat16 is emulated by rounding",
        FLOAT_TYPES,
    )
    param_dtype: str = setting(
        "",
        "type that the parameters are stored as (param_init_type); below float32 the optimizer keeps float32 masters; "
        "empty: compute_dtype",
        _FLOAT_TYPES_OR_EMPTY,
    )
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)
    parallel_config: ActorParallelConfig = field(default_factory=ActorParallelConfig)
    enable_parallel_optimizer: bool = setting(
        False, "share the optimizer's state among the data-parallel ranks (ZeRO stage 1)"
    )
    recompute_config: RecomputeConfig = field(default_factory=RecomputeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr_schedule: LrScheduleConfig = field(default_factory=LrScheduleConfig)


@dataclass(frozen=True)
class RefConfig:
    load: str = setting("", "Hugging Face folder of the reference model; empty: actor_config.load")
    model_config: str = setting(
        "", "as actor_config.model_config: types and strategies of the reference; empty: its own settings"
    )
    ref_model_batch_size: int = setting(
        0, "sequences a forward pass of a rank; 0: as many as an actor micro-batch", bounds=NOT_NEGATIVE
    )
    sync_ref_model: bool = setting(False, "move the reference towards the actor now and then")
    ref_model_sync_steps: int = setting(100, "steps between two such moves", bounds=POSITIVE)
    ref_model_mixup_alpha: float = setting(0.6, "the actor's share in the reference after it", bounds=SHARE)
    compute_dtype: str = setting("", "as actor_config.compute_dtype; empty: the actor's", _FLOAT_TYPES_OR_EMPTY)
    param_dtype: str = setting(
        "", "type that the parameters are stored as; empty: compute_dtype", _FLOAT_TYPES_OR_EMPTY
    )
    parallel_config: StagedParallelConfig = field(default_factory=StagedParallelConfig)


@dataclass(frozen=True)
class RewardConfig:
    verifier_function: list[str] = setting(
        ["qwen_accuracy_reward", "format_reward"],
        "verifiers: built-in names, or functions of your own: FILE.py:function, or a dotted path",
    )
    verifier_weight: list[float] = setting([1.0, 1.0], "weight of each verifier")
    verifier_timeout_s: float = setting(10.0, "seconds a verifier may take for one completion", bounds=POSITIVE)
    on_failure: str = setting(
        "minimum",
        "a completion on which a verifier fails: minimum gives it the verifier's worst score, leave_out takes it "
        "out of its group",
        ("minimum", "leave_out"),
    )
    shaping_function: str = setting(
        "",
        "a function of your own (FILE.py:function), (reward, completion) -> reward, that has the last word; it sees "
        "text, num_tokens and finish_reason",
    )
    missing_eos_penalty: float = setting(
        0.0, "subtracted from the reward of a completion that max_tokens cut off", bounds=NOT_NEGATIVE
    )
    num_workers: int = setting(
        0, "processes of a rank that run verifiers; 0: its share of this host's cores", bounds=NOT_NEGATIVE
    )


@dataclass(frozen=True)
class SamplingConfig:
    max_tokens: int = setting(512, "most tokens of a completion")
    min_tokens: int = setting(0, "stop tokens are forbidden before this many tokens")
    temperature: float = setting(1.0, "logits are divided by it; 0: greedy")
    top_k: int = setting(0, "sample among the k most probable tokens; 0: all")
    top_p: float = setting(1.0, "sample among the most probable tokens that reach this probability")
    min_p: float = setting(
        0.0, "leave out tokens less probable than this fraction of the most probable one's probability"
    )
    repetition_penalty: float = setting(1.0, "divides the logits of tokens seen before, in prompt or completion")
    presence_penalty: float = setting(0.0, "subtracted from the logits of tokens generated before")
    frequency_penalty: float = setting(0.0, "subtracted from a token's logit for every time it was generated")
    eos_token_id: list[int] = setting([], "tokens that end a completion; empty: the tokenizer's")


@dataclass(frozen=True)
class GenerateConfig:
    load: str = setting("", "must be empty or equal to actor_config.load: rollouts always use the actor's weights")
    model_config: str = setting("", "as actor_config.model_config: types of the rollout; empty: its own settings")
    use_vllm: int = setting(0, "rollout engine; 0: native, 1: vLLM (bash build.sh --vllm)")
    max_num_seqs: int = setting(128, "sequences that a rank decodes together", bounds=POSITIVE)
    max_model_len: int = setting(
        0, "vLLM: longest prompt + completion, in tokens, at most rl_config.seq_length; 0: that"
    )
    max_num_batched_tokens: int = setting(2048, "vLLM: tokens a step; longer prompts are computed in chunks")
    block_size: int = setting(16, "vLLM: tokens of a KV cache block")
    gpu_memory_utilization: float = setting(
        0.0, "vLLM on Ascend: share of a device's memory for weights and KV cache; not used on CPU", bounds=NOT_NEGATIVE
    )
    kv_cache_gb: float = setting(
        0.0,
        "vLLM on CPU: GiB of a rank's KV cache; 0: room for max_num_seqs sequences of max_model_len",
        bounds=NOT_NEGATIVE,
    )
    max_prompt_length: int = setting(1024, "longest prompt, in tokens", bounds=POSITIVE)
    compute_dtype: str = setting(
        "", "as actor_config.compute_dtype, and of the KV cache; empty: the actor's", _FLOAT_TYPES_OR_EMPTY
    )
    param_dtype: str = setting(
        "", "type that the parameters are stored as; empty: compute_dtype", _FLOAT_TYPES_OR_EMPTY
    )
    parallel_config: ParallelConfig = field(default_factory=ParallelConfig)
    sampling_config: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(frozen=True)
class HealthConfig:
    """When a run counts as unhealthy, and what is done then. A ruined model ends it in any case."""

    on_unhealthy: str = setting(
        "warn",
        "what a failing check does; warn: a line when it begins, stop: ends the run after the step, without saving it, "
        "ignore: nothing but metrics (health/...) and summary.json",
        ("warn", "stop", "ignore"),
    )
    patience: int = setting(
        5, "steps in a row until a check fails; for so many, all rewards of every group may be equal", bounds=POSITIVE
    )
    min_grad_norm: float = setting(
        1e-7,
        "the gradient norm may not be this small where there is something to learn (advantages, or a KL in the loss)",
        bounds=NOT_NEGATIVE,
    )
    min_entropy: float = setting(0.01, "share of the first step's entropy that must be left; 0: none", bounds=BELOW_ONE)
    max_entropy: float = setting(
        0.5,
        "share of log(vocabulary) that the entropy may reach, where it did not begin above; 0: any",
        bounds=AT_MOST_ONE,
    )
    max_kl: float = setting(2.0, "KL to the reference, in nats a token; 0: any", bounds=NOT_NEGATIVE)
    max_truncated: float = setting(
        0.95, "share of the completions that end at max_tokens or seq_length; 0: any", bounds=AT_MOST_ONE
    )
    max_weight_growth: float = setting(
        10.0,
        "what the largest absolute weight may be multiplied by; for this check one step is enough; 0: any",
        bounds=NOT_NEGATIVE,
    )
    max_weight: float = setting(
        1e4,
        "a larger absolute weight, or one that is not finite, ruins the model: the run ends, and nothing is saved or "
        "exported; 0: any finite one will do",
        bounds=NOT_NEGATIVE,
    )


@dataclass(frozen=True)
class MonitorConfig:
    progress_bar: bool = setting(True, "show a progress bar on the console")
    print_interval: int = setting(1, "steps between metric lines on the console", bounds=POSITIVE)
    plots: bool = setting(True, "write OUTPUT/plots at the end")
    host_monitor_interval: float = setting(
        -1.0, "seconds between samples of this host's memory and processors (metrics host/...); -1: none"
    )
    host_monitor_steps: list[int] = setting([], "steps whose samples go into the metrics; empty: all")
    host_memory_protection: bool = setting(
        False,
        "end the run, with a checkpoint, after a step in which the memory in use exceeded the threshold; at once where "
        "it is half the way from there to all of it",
    )
    host_max_memory_threshold: float = setting(
        0.95, "share of the memory that this process can have (host, cgroup, ulimit -v)", bounds=SHARE
    )
    health: HealthConfig = field(default_factory=HealthConfig)


@dataclass(frozen=True)
class ProfilerConfig:
    enabled: bool = setting(False, "write a Python profile of some steps to OUTPUT/profile, one file a rank")
    start_step: int = setting(2, "first step profiled (the first step also compiles)", bounds=POSITIVE)
    stop_step: int = setting(3, "last step profiled")
    profile: bool = setting(False, "write a trace of MindSpore's own profiler: operators, their times and shapes")
    profile_save_path: str = setting("", "folder of the traces, one below it a rank; empty: OUTPUT/profiler")
    profile_step_start: int = setting(2, "first step in the trace; 0: the first", bounds=NOT_NEGATIVE)
    profile_step_end: int = setting(3, "the step before which the trace ends", bounds=POSITIVE)
    profile_ranks: list[str] = setting(["all"], "ranks that write a trace, by number; all: every one")
    profile_level: str = setting(
        "level1", "detail of what Ascend collects", ("none", "level_none", "level0", "level1", "level2")
    )
    profile_with_memory: bool = setting(False, "memory of every operator (Ascend)")
    profile_with_stack: bool = setting(False, "Python's call stacks")
    profile_with_cpu: bool = setting(True, "what the host does")
    profile_with_npu: bool = setting(True, "what an Ascend device does")
    profile_analysis: bool = setting(
        True, "make readable files of the raw data when the trace ends; false: later, offline"
    )
    mstx: bool = setting(False, "marks of communication and data in the trace (Ascend)")


@dataclass(frozen=True)
class MsprobeConfig:
    """Dumps for tools/compare_dumps.py; names of MindStudio's msprobe, as toolkits of the field use them."""

    msprobe: bool = setting(False, "write dumps: JSON lines, one file a step and rank")
    dump_path: str = setting("", "folder of the dumps; empty: OUTPUT/dump")
    key_data_dump: bool = setting(
        True, "tokens, rewards, advantages and logprobs of the step, as statistics and checksums"
    )
    configurations_dump: bool = setting(True, "the configuration and versions, once")
    tensor_dump: bool = setting(
        True, "activations of every layer, gradients and weights, as statistics and checksums (copies them to the host)"
    )
    dump_steps: list[int] = setting([], "steps that are dumped; empty: all")
    dump_sequences: int = setting(4, "the step's first so many completions whose activations are dumped")


@dataclass(frozen=True)
class JitConfig:
    jit_level: str = setting("", "MindSpore: how graphs are compiled (Ascend)", ("", "O0", "O1", "O2"))


@dataclass(frozen=True)
class AscendConfig:
    precision_mode: str = setting(
        "",
        "MindSpore: types that Ascend's kernels may fall back to",
        (
            "",
            "force_fp16",
            "allow_fp32_to_fp16",
            "allow_mix_precision",
            "must_keep_origin_dtype",
            "force_fp32",
            "allow_fp32_to_bf16",
            "allow_mix_precision_fp16",
            "allow_mix_precision_bf16",
        ),
    )


@dataclass(frozen=True)
class ContextConfig:
    device_target: str = setting("CPU", "device (Ascend: compiled only by our tests)", ("CPU", "Ascend"))
    num_threads: int = setting(
        0,
        "threads of a rank that dispatch operators; 0: one on CPU, the fastest there; MindSpore's default elsewhere",
        bounds=NOT_NEGATIVE,
    )
    fused_kernels: bool = setting(
        True,
        "Ascend, with a compute_dtype below float32: one kernel for norm, rotary embedding, gated MLP and attention "
        "each (compiled only by our tests); CPU has none",
    )
    deterministic: bool = setting(
        True, "kernels and collectives of Ascend that give the same bits every time, as an exact resume needs; CPU's do"
    )
    max_call_depth: int = setting(10_000, "MindSpore: most calls within calls of a graph", bounds=POSITIVE)
    max_device_memory: str = setting("", "MindSpore: memory of a device that it may take, such as 58GB; empty: all")
    memory_optimize_level: str = setting("", "MindSpore: how hard it plans memory of a graph", ("", "O0", "O1"))
    save_graphs: bool = setting(False, "MindSpore: write the graphs that it compiles")
    save_graphs_path: str = setting("./graph", "MindSpore: folder for them, one below it a rank")
    jit_config: JitConfig = field(default_factory=JitConfig)
    ascend_config: AscendConfig = field(default_factory=AscendConfig)


@dataclass(frozen=True)
class Config:
    """The whole run."""

    rl_config: RlConfig = field(default_factory=RlConfig)
    actor_config: ActorConfig = field(default_factory=ActorConfig)
    ref_config: RefConfig = field(default_factory=RefConfig)
    reward_config: RewardConfig = field(default_factory=RewardConfig)
    generate_config: GenerateConfig = field(default_factory=GenerateConfig)
    monitor_config: MonitorConfig = field(default_factory=MonitorConfig)
    profiler_config: ProfilerConfig = field(default_factory=ProfilerConfig)
    msprobe_config: MsprobeConfig = field(default_factory=MsprobeConfig)
    context: ContextConfig = field(default_factory=ContextConfig)

    @property
    def prompts_per_step(self) -> int:
        return self.rl_config.chunk_size * self.rl_config.num_rollouts

    @property
    def completions_per_step(self) -> int:
        return self.prompts_per_step * self.rl_config.num_generations

    @property
    def completions_per_update(self) -> int:
        return self.rl_config.batch_size or self.completions_per_step

    @property
    def updates_per_step(self) -> int:
        return self.rl_config.num_iterations * (self.completions_per_step // self.completions_per_update)

    @property
    def keeps_frozen_policy(self) -> bool:
        """Whether the policy's logprobs before the first of several updates are kept, for the loss's ratio."""
        return self.updates_per_step > 1 and self.rl_config.ratio_to == "step"

    def micro_batch_tokens(self, data_degree: int, sequences: int = 0) -> int:
        """Tokens that a micro-batch is filled with: as set, or what `sequences` of the longest need at most; 0: as many
        as an actor's micro-batch has under so many data-parallel ranks.
        """
        rl, generate = self.rl_config, self.generate_config
        share = self.completions_per_update // data_degree
        rows = sequences or -(-share // (self.actor_config.parallel_config.micro_batch_num or 1))
        prompts = -(-rows // rl.num_generations) if rl.packing else rows
        longest = rows * generate.sampling_config.max_tokens + prompts * generate.max_prompt_length
        return rl.micro_batch_tokens or min(longest, rows * rl.seq_length)

    def rollout_slots(self, data_degree: int) -> int:
        """Sequences that a rank decodes together: max_num_seqs, or fewer where it never has so many."""
        rl, most = self.rl_config, self.generate_config.max_num_seqs
        if rl.eval_dataset_file:
            return most
        return min(most, -(-rl.chunk_size // data_degree) * rl.num_generations)

    @property
    def roles(self) -> tuple[RoleSpec, ...]:
        """The models of the run, used or not."""
        return ROLES

    def role(self, name: str) -> RoleSpec:
        return next(role for role in self.roles if role.name == name)

    def dtypes(self, role: str) -> tuple[str, str]:
        """(compute type, stored type) of a role, by name."""
        section = self.role(role).section_of(self)
        compute = section.compute_dtype or self.actor_config.compute_dtype
        return compute, section.param_dtype or compute

    def has_fused_kernels(self, role: str) -> bool:
        """Whether the models of a role compute with them."""
        context = self.context
        return context.fused_kernels and context.device_target == "Ascend" and self.dtypes(role)[0] != "float32"

    @property
    def engine_copies_weights(self) -> bool:
        """Whether the rollout engine computes with a copy of its own of the weights that a reshard gives it."""
        return self.context.device_target == "Ascend" and bool(self.generate_config.use_vllm)

    @property
    def tokenizer_dir(self) -> str:
        return self.rl_config.tokenizer_dir or self.actor_config.load

    @property
    def policy_temperature(self) -> float:
        """By which the logits of policy and reference are divided in training."""
        temperature = self.generate_config.sampling_config.temperature
        return temperature if self.rl_config.logprob_temperature == "sampling" and temperature > 0 else 1.0

    @property
    def reports_only_policy_logprobs(self) -> bool:
        """Whether the rollout engine does not say what the logprobs of the draw were, only those of the policy at
        temperature 1: vLLM on Ascend, with filters, penalties or another temperature.
        """
        s = self.generate_config.sampling_config
        filters = (s.temperature, s.top_k, s.top_p, s.min_p, s.repetition_penalty, s.presence_penalty)
        is_off_policy = (*filters, s.frequency_penalty, s.min_tokens) != (1.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, 0)
        return is_off_policy and bool(self.generate_config.use_vllm) and self.context.device_target == "Ascend"

    @property
    def completions_dir(self) -> str:
        return self.rl_config.save_prompt_completions_dir or f"{self.rl_config.output_dir}/completions"

    @property
    def checkpoint_dir(self) -> str:
        return self.actor_config.save or f"{self.rl_config.output_dir}/checkpoints"
