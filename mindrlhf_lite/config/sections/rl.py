"""rl_config: data, steps, the objective, what is written, evaluation, resharding and swapping."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.config.sections.objective import ObjectiveSettings
from mindrlhf_lite.config.setting import AT_MOST_ONE, FLOAT_TYPES, FREE, NOT_NEGATIVE, PORT_OR_NONE, POSITIVE, setting
from mindrlhf_lite.tracking.trackers import NAMES as TRACKERS

MODEL_NAMES = ("", "qwen", "qwen2", "qwen2.5", "qwen3", "llama", "llama3")


@dataclass(frozen=True)
class EarlyStopping:
    """By held-out accuracy, at evaluations (`rl_config.eval_interval`)."""

    patience: int = setting(
        0,
        "end the run after so many evaluations in a row without a gain; 0: it goes on",
        bounds=NOT_NEGATIVE,
        resume=FREE,
    )
    min_delta: float = setting(
        0.0, "an accuracy that is higher by no more than this is no gain", bounds=AT_MOST_ONE, resume=FREE
    )


@dataclass(frozen=True)
class RlConfig(ObjectiveSettings):
    model_name: str = setting(
        "", "family of the model, which must be that of actor_config.load; empty: not checked", MODEL_NAMES
    )
    dataset_file: str = setting("", "MindRecord file of training prompts, from tools/rlhf_data.py", resume=FREE)
    eval_dataset_file: str = setting("", "MindRecord file of held-out prompts; empty: no evaluation", resume=FREE)
    tokenizer_dir: str = setting("", "folder with the tokenizer's files; empty: actor_config.load", resume=FREE)
    tokenizer_type: str = setting(
        "", "family of the tokenizer, which must be that of actor_config.load; empty: not checked", MODEL_NAMES
    )
    output_dir: str = setting(
        "output",
        "folder of metrics.jsonl, completions, TensorBoard, plots, summary.json, hf; checkpoints too unless "
        "actor_config.save",
        resume=FREE,
    )
    seed: int = setting(0, "of prompt order and of every completion", bounds=NOT_NEGATIVE)
    epochs: int = setting(
        1,
        "passes over the prompts (as many steps, where dynamic sampling draws more); ignored when max_steps is given",
        bounds=POSITIVE,
        resume=FREE,
    )
    max_steps: int = setting(
        0, "steps to run; 0: as many as `epochs` needs", bounds=NOT_NEGATIVE, unit="steps", resume=FREE
    )
    seq_length: int = setting(2048, "longest prompt + completion, in tokens", unit="tokens")
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
        unit="tokens",
    )
    chunk_size: int = setting(8, "prompts generated together, over all ranks", bounds=POSITIVE, unit="prompts")
    num_rollouts: int = setting(1, "chunks a step: a step uses chunk_size * num_rollouts prompts", bounds=POSITIVE)
    num_generations: int = setting(8, "completions a prompt (the group)", unit="completions")
    batch_size: int = setting(
        0,
        "completions an optimizer update, over all ranks; 0: all of the step",
        bounds=NOT_NEGATIVE,
        unit="completions",
    )
    num_iterations: int = setting(1, "times that the step's completions are used", bounds=POSITIVE)
    save_ckpt_interval: int = setting(
        0, "steps between checkpoints; 0: none", bounds=NOT_NEGATIVE, unit="steps", resume=FREE
    )
    save_max_ckpt_num: int = setting(3, "newest checkpoints kept", bounds=POSITIVE, resume=FREE)
    save_ckpt_format: str = setting(
        "safetensors",
        "files of weights and moments in a checkpoint; ckpt: MindSpore's",
        ("safetensors", "ckpt"),
        resume=FREE,
    )
    save_strategy_dir: str = setting(
        "",
        "folder for every role's parallel strategy (actor.json, reference.json, rollout.json), as "
        "tools/transform_checkpoint.py reads them; empty: not written",
        resume=FREE,
    )
    save_data_file: str = setting(
        "",
        "MindRecord files of what every step trains on: of FILE.mindrecord, FILE_000001.mindrecord and so on, for "
        "tools/replay.py; empty: not written",
        resume=FREE,
    )
    on_sigterm: str = setting(
        "end",
        "what SIGTERM does; end: ends the run at once, save: after the step that is under way, with a checkpoint",
        ("end", "save"),
        resume=FREE,
    )
    save_hf_model: bool = setting(True, "write the trained model to OUTPUT/hf at the end", resume=FREE)
    save_hf_dtype: str = setting("float32", "type of the tensors in it, rounded from float32", FLOAT_TYPES, resume=FREE)
    resume_training: bool = setting(False, "continue from the newest complete checkpoint, if there is one", resume=FREE)
    save_prompt_completions_data: bool = setting(True, "write every completion with its rewards", resume=FREE)
    save_prompt_completions_interval: int = setting(1, "steps between completion files", bounds=POSITIVE, resume=FREE)
    save_prompt_completions_dir: str = setting("", "folder of completion files; empty: OUTPUT/completions", resume=FREE)
    tensorboard: bool = setting(False, "write metrics for TensorBoard too", resume=FREE)
    tensorboard_dir: str = setting("", "folder of TensorBoard's files; empty: OUTPUT/tensorboard", resume=FREE)
    tensorboard_queue_size: int = setting(
        10, "values that wait to be written to it, at most", bounds=POSITIVE, resume=FREE
    )
    trackers: list[str] = setting(
        [],
        f"where metrics, samples, settings and summary go besides: tensorboard, {', '.join(TRACKERS)}; offline, in "
        "OUTPUT/trackers, unless the tracker's own variables say otherwise",
        resume=FREE,
    )
    tracker_python: str = setting("", "Python that has the trackers' libraries; empty: this one", resume=FREE)
    watch_port: int = setting(
        0,
        "port on 127.0.0.1 of a page that shows this run while it goes on, as tools/watch.py does; 0: none",
        bounds=PORT_OR_NONE,
        resume=FREE,
    )
    performance_stats: bool = setting(
        False, "a second line a step on the console: seconds of every phase, tokens a second", resume=FREE
    )
    eval_interval: int = setting(
        0,
        "steps between evaluations, besides those before and after; 0: none between",
        bounds=NOT_NEGATIVE,
        unit="steps",
        resume=FREE,
    )
    eval_samples: int = setting(1, "completions a held-out prompt", bounds=POSITIVE, resume=FREE)
    eval_temperature: float = setting(
        0.0, "sampling temperature of evaluation; 0: greedy", bounds=NOT_NEGATIVE, resume=FREE
    )
    eval_verifier: str = setting(
        "",
        "verifier that says what is correct in evaluations: a built-in name or a function of your own; empty: the "
        "strictest of reward_config.verifier_function that judges answers",
        resume=FREE,
    )
    eval_max_prompts: int = setting(0, "held-out prompts used; 0: all", bounds=NOT_NEGATIVE, resume=FREE)
    save_best: bool = setting(
        False,
        "write the model of the highest held-out accuracy so far to OUTPUT/best, as a Hugging Face folder; while the "
        "model as it was before training is the best (summary.json: best), nothing is written",
        resume=FREE,
    )
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    reshard_transport: str = setting(
        "auto",
        "how weights get to the rollout layout; auto: shared_memory on one CPU host, else collective",
        ("auto", "shared_memory", "collective"),
        resume=FREE,
    )
    reshard_bucket_mb: int = setting(
        0,
        "size of a reshard bucket; at most two are in memory besides the models; 0: 8 on CPU, and on a device what "
        "makes a message's latency a twentieth of its time",
        bounds=NOT_NEGATIVE,
        unit="MiB",
        resume=FREE,
    )
    reshard_check_interval: int = setting(
        50,
        "steps between reshards whose checksums are compared, besides the first; 0: the first only",
        bounds=NOT_NEGATIVE,
        unit="steps",
        resume=FREE,
    )
    reshard_mem_opt_level: int = setting(
        0, "with swap: 0 keeps the actor's weights in memory while resharding, 1 reads them from the store", resume=FREE
    )
    swap: bool = setting(False, "keep only the weights in memory that the current phase needs", resume=FREE)
    swap_dir: str = setting("", "folder on a disk for swapped weights (CPU); empty: OUTPUT/swap", resume=FREE)
    swap_store: str = setting(
        "auto",
        "where swapped weights go: file (CPU), host (its memory; on CPU that saves none, and is for tests); auto: "
        "file on CPU, host on Ascend",
        ("auto", "file", "host"),
    )
