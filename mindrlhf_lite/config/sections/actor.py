"""actor_config: the trained model, its types, optimizer and learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.config.sections.lora import LoraConfig
from mindrlhf_lite.config.sections.parallel import ActorParallelConfig
from mindrlhf_lite.config.setting import (
    BELOW_ONE,
    FLOAT_TYPES,
    FLOAT_TYPES_OR_EMPTY,
    FREE,
    NOT_NEGATIVE,
    POSITIVE,
    ROUNDING,
    Bounds,
    setting,
)


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
    scale_window: int = setting(
        1000, "updates in a row without an overflow until the scale grows", bounds=POSITIVE, unit="updates"
    )


@dataclass(frozen=True)
class RecomputeConfig:
    recompute: bool = setting(
        False,
        "keep of every layer its input only, and compute the other activations again in the backward pass",
        resume=ROUNDING,
    )
    select_recompute: bool = setting(
        False,
        "keep of every layer what its matrix products gave, and compute attention again in the backward pass: its "
        "probabilities grow with the square of the length",
        resume=ROUNDING,
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
        resume=FREE,
    )
    opt_offload_bucket_mb: int = setting(
        1024,
        "opt_offload: MiB of the optimizer's state that are in memory together",
        bounds=POSITIVE,
        unit="MiB",
        resume=FREE,
    )


@dataclass(frozen=True)
class LrScheduleConfig:
    lr_decay_style: str = setting("constant", "decay after the warm-up", ("constant", "linear", "cosine"))
    lr: float = setting(1e-6, "peak learning rate", bounds=POSITIVE)
    min_lr: float = setting(0.0, "learning rate at decay_steps", bounds=NOT_NEGATIVE)
    warmup_step: int = setting(0, "updates over which the rate rises linearly", bounds=NOT_NEGATIVE, unit="updates")
    decay_steps: int = setting(
        0, "updates until min_lr; 0: all updates of the run", bounds=NOT_NEGATIVE, unit="updates", resume=FREE
    )


@dataclass(frozen=True)
class ActorConfig:
    load: str = setting("", "Hugging Face folder of the starting model (config.json and safetensors)", resume=FREE)
    model_config: str = setting(
        "",
        "YAML of model_configs/ or of MindFormers, or a Hugging Face folder: a YAML's strategies for this number "
        "of ranks replace those of the configuration file (not of the command line); must fit `load`",
        resume=FREE,
    )
    takes_strategies: bool = setting(
        True, "false: strategies of model_config replace nothing (as main.py --search writes it)", resume=FREE
    )
    save: str = setting("", "folder of checkpoints; empty: OUTPUT/checkpoints", resume=FREE)
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
        FLOAT_TYPES_OR_EMPTY,
    )
    frozen: list[str] = setting(
        [],
        "parameters that are not trained, by name; * stands for any text: model.embed_tokens.*, model.layers.0.*",
    )
    lora: LoraConfig = field(default_factory=LoraConfig)
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)
    parallel_config: ActorParallelConfig = field(default_factory=ActorParallelConfig)
    enable_parallel_optimizer: bool = setting(
        False, "share the optimizer's state among the data-parallel ranks (ZeRO stage 1)", resume=ROUNDING
    )
    recompute_config: RecomputeConfig = field(default_factory=RecomputeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr_schedule: LrScheduleConfig = field(default_factory=LrScheduleConfig)
