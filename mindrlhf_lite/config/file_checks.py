"""What must hold for the files that a configuration names: model, data, tokenizer, output; all problems are returned,
with key, value and fix.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from mindrlhf_lite.config.adapters import with_adapters
from mindrlhf_lite.config.model_file import read_model_file, vocabulary_problem
from mindrlhf_lite.config.roles import RoleSpec, reads_own_tokens
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.experience_file import experience_path
from mindrlhf_lite.data.records import read_header
from mindrlhf_lite.data.rows import output_problem
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.data.tokenizer_reader import TOKENIZER_FILES
from mindrlhf_lite.errors import short_repr
from mindrlhf_lite.files.durable import why_not_a_folder
from mindrlhf_lite.models.hf_weights import check_names_and_shapes, tensor_shapes
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import FLOAT32_BYTES, count_parameters, parameter_specs


def file_problems(config: Config, needs_prompts: bool = True) -> list[str]:
    """What is wrong with the files that the settings name, without reading data or weights."""
    rl, problems = config.rl_config, []
    if needs_prompts and not rl.dataset_file:
        problems.append(
            "rl_config.dataset_file='': give the MindRecord file of training prompts (--dataset_file FILE), made "
            "by tools/rlhf_data.py"
        )
    for key, path in (
        ("rl_config.dataset_file", rl.dataset_file),
        ("rl_config.eval_dataset_file", rl.eval_dataset_file),
    ):
        if path and needs_prompts and not Path(path).is_file():
            problems.append(f"{key}={path!r}: no such file; make it with tools/rlhf_data.py")
    problems += _problems_of_models(config)
    if needs_prompts and not rl.resume_training and has_run(Path(rl.output_dir), Path(config.checkpoint_dir)):
        problems.append(
            f"rl_config.output_dir={rl.output_dir!r}: a run is there already; continue it with "
            "--resume_training, or give another folder"
        )
    rollout = config.generate_config.load
    if rollout and Path(rollout).resolve() != Path(config.actor_config.load).resolve():
        problems.append(
            f"generate_config.load={config.generate_config.load!r}: rollouts use the actor's weights; leave it empty"
        )
    if config.tokenizer_dir and not any(
        (Path(config.tokenizer_dir) / name).is_file() for name in ("tokenizer.json", "vocab.json")
    ):
        problems.append(
            f"rl_config.tokenizer_dir={config.tokenizer_dir!r}: neither tokenizer.json nor vocab.json there"
        )
    if rl.save_data_file and (reason := output_problem(experience_path(rl.save_data_file, config.rl_config.max_steps))):
        problems.append(f"rl_config.save_data_file={rl.save_data_file!r}: {reason}")
    for key, path in (("rl_config.output_dir", rl.output_dir), ("actor_config.save", config.actor_config.save)):
        if path and (reason := why_not_a_folder(Path(path))):
            problems.append(f"{key}={path!r}: {reason}; give another folder")
    return problems


def _problems_of_models(config: Config) -> list[str]:
    """Of the folders that the roles start from, and of model files that contradict them."""
    problems = []
    if not config.actor_config.load:
        problems.append(
            "actor_config.load='': give the Hugging Face folder of the starting model (--actor_checkpoint_path DIR)"
        )
    else:
        problems += _model_problems("actor_config.load", config.actor_config.load, config, config.trains_scores)
        for role in config.roles:
            path = role.section_of(config).model_config
            problems += _shape_differences(role.section, role.folder(config), path)
    for role in config.roles:
        own = "" if role.starts_from_actor else role.section_of(config).load
        if role.has_own_model:
            problems += _problems_of_own_model(role, own, config)
        if own and (own != config.actor_config.load or role.gives_scores):
            needs_scores = role.gives_scores and (not role.is_trained or _gives_scores(own))  # a critic begins with any
            own_tokens = reads_own_tokens(role, config)
            problems += _model_problems(f"{role.section}.load", own, config, needs_scores, own_tokens)
    return problems


def _gives_scores(folder: str) -> bool:
    try:
        return ModelConfig.from_dir(folder).has_score
    except ValueError:
        return False  # reported with the others


def _problems_of_own_model(role: RoleSpec, folder: str, config: Config) -> list[str]:
    """Of a role that has nothing of the actor's, where the run uses it."""
    if not folder and role.is_trained:  # from the actor's, then
        return []
    if not folder:
        return [f"{role.section}.load='': give the Hugging Face folder of the {role.name}"]
    try:
        shape, actors = ModelConfig.from_dir(folder), ModelConfig.from_dir(config.actor_config.load)
    except ValueError:
        return []  # reported with the others
    problem = vocabulary_problem(role, shape, actors, config)
    return [f"{role.section}.load={folder!r}: {problem}; give a model of its vocabulary"] if problem else []


def _other_vocabularies(config: Config, tokenizer: Tokenizer) -> list[str]:
    """Of roles with tokenizers of their own, which would give the actor's ids another meaning."""
    problems = []
    for role in config.roles:
        is_alike = role.has_own_model and not reads_own_tokens(role, config)
        folder = role.section_of(config).load if is_alike else ""
        if folder and any((Path(folder) / name).is_file() for name in TOKENIZER_FILES):
            try:
                other = Tokenizer(folder).vocabulary
            except ValueError as error:
                problems.append(f"{role.section}.load={folder!r}: {error}")
                continue
            if differing := [token for token, text in tokenizer.vocabulary.items() if other.get(token) != text]:
                token = min(differing)
                problems.append(
                    f"{role.section}.load={folder!r}: another vocabulary than the actor's: id {token} is "
                    f"{short_repr(other.get(token))} there, {short_repr(tokenizer.vocabulary[token])} here"
                )
    return problems


def data_problems(config: Config) -> list[str]:
    """What is wrong with data, tokenizer and disk for a run whose settings are valid: read before anything starts,
    without MindSpore.
    """
    rl, generate = config.rl_config, config.generate_config
    if problems := tokenizer_problems(config):
        return problems
    tokenizer, vocab_size = Tokenizer(config.tokenizer_dir), ModelConfig.from_dir(config.actor_config.load).vocab_size
    problems += _other_vocabularies(config, tokenizer)
    for key, path in (
        ("rl_config.dataset_file", rl.dataset_file),
        ("rl_config.eval_dataset_file", rl.eval_dataset_file),
    ):
        if not path:
            continue
        try:
            header = read_header(path)
            if header is None:  # of an older version: read whole by the run
                continue
            header.check(tokenizer, config.tokenizer_dir, path)
        except ValueError as error:
            problems.append(f"{key}={path!r}: {str(error).removeprefix(f'dataset_file {path}: ')}")
            continue
        if header.longest > generate.max_prompt_length:
            problems.append(
                f"{key}={path!r}: its longest prompt has {header.longest} tokens, over "
                f"generate_config.max_prompt_length={generate.max_prompt_length}; raise it, or convert again"
            )
        if header.largest_id >= vocab_size:
            problems.append(
                f"{key}={path!r}: a prompt has token id {header.largest_id}, but the model's vocabulary has "
                f"{vocab_size}; choose a template without that token"
            )
        num_prompts = sum(header.counts.values())
        if key == "rl_config.dataset_file" and 0 < num_prompts < config.prompts_per_step:
            problems.append(
                f"{key}={path!r}: {num_prompts} prompts, but a step takes chunk_size * num_rollouts = "
                f"{config.prompts_per_step}; lower them, or give more prompts"
            )
    return problems + disk_problems(config)


def tokenizer_problems(config: Config) -> list[str]:
    """Why the tokenizer cannot be read, or is not the model's."""
    key = f"rl_config.tokenizer_dir={config.tokenizer_dir!r}"
    try:
        tokenizer = Tokenizer(config.tokenizer_dir)
    except ValueError as error:
        return [f"{key}: {error}"]
    vocab_size = ModelConfig.from_dir(config.actor_config.load).vocab_size
    if tokenizer.num_ordinary > vocab_size:  # a pad token beyond the embedding is no harm: it is never used
        return [f"{key}: {tokenizer.size} ids, but the model's vocabulary has {vocab_size}; give the model's own"]
    return []


def disk_problems(config: Config) -> list[str]:
    """Where not even the trained model and one checkpoint would find room. A run that goes on has some of its files
    already: not looked at.
    """
    if config.rl_config.resume_training:
        return []
    shape = ModelConfig.from_dir(config.actor_config.load)
    model, trained = (FLOAT32_BYTES * count_parameters(each) for each in (shape, with_adapters(config, shape).moved))
    rl, needs = config.rl_config, {}
    if rl.save_hf_model:
        needs[_disk_of(rl.output_dir)] = model
    if rl.save_ckpt_interval:  # weights and two moments
        there = _disk_of(config.checkpoint_dir)
        needs[there] = needs.get(there, 0) + 3 * trained
    return [
        f"rl_config.output_dir={rl.output_dir!r}: what the run writes at least takes {needed / 2**20:,.1f} MiB, "
        f"{shutil.disk_usage(there).free / 2**20:,.1f} MiB "
        f"are free in {there}; make room, or give another folder"
        for there, needed in needs.items()
        if needed > shutil.disk_usage(there).free
    ]


def _disk_of(path: str) -> Path:
    """The nearest folder that is there: one path for a disk is enough to ask for its room."""
    return next(parent for parent in (Path(path).absolute(), *Path(path).absolute().parents) if parent.is_dir())


def _shape_differences(key: str, folder: str, model_config: str) -> list[str]:
    """Where a model file contradicts the checkpoint's own config.json."""
    if not model_config:
        return []
    try:
        given, actual = asdict(read_model_file(model_config).shape), asdict(ModelConfig.from_dir(folder))
    except ValueError:
        return []  # reported elsewhere
    return [
        f"{key}.model_config={model_config!r}: {name} is {given[name]}, but {value} in {folder}/config.json"
        for name, value in actual.items()
        if given[name] != value
        and name
        not in (
            "max_position_embeddings",
            "rms_norm_eps",
        )  # base and instruct models differ in these; config.json is used
    ]


# families that a name stands for
_MODEL_TYPES = {
    "qwen": ("qwen2", "qwen3"),
    "qwen2": ("qwen2",),
    "qwen2.5": ("qwen2",),
    "qwen3": ("qwen3",),
    "llama": ("llama",),
    "llama3": ("llama",),
}


def has_run(output_dir: Path, checkpoint_dir: Path) -> bool:
    """Whether an earlier run left metrics or checkpoints there."""
    metrics = output_dir / "metrics.jsonl"
    return (metrics.is_file() and metrics.stat().st_size > 0) or any(checkpoint_dir.glob("step_*"))


def _model_problems(
    key: str, folder: str, config: Config, may_score: bool = False, own_tokens: bool = False
) -> list[str]:
    try:
        model = ModelConfig.from_dir(folder)
        shapes = tensor_shapes(Path(folder), model)
        check_names_and_shapes(shapes, parameter_specs(model), folder)
    except ValueError as error:
        return [f"{key}={folder!r}: {error}"]
    if model.has_score and not may_score:
        return [f"{key}={folder!r}: a reward model, which writes no text; give a language model"]
    if may_score and not config.trains_scores:
        return _scoring_problems(f"{key}={folder!r}", model, config, own_tokens)
    rl = config.rl_config
    for setting, name in (("model_name", rl.model_name), ("tokenizer_type", rl.tokenizer_type)):
        if name and model.model_type not in _MODEL_TYPES[name]:
            family = f"{model.model_type} ({model.architecture.models})"
            return [f"rl_config.{setting}={name!r}: the model of {key} is {family}; leave it empty"]
    if config.rl_config.seq_length > model.max_position_embeddings:
        return [
            f"rl_config.seq_length={config.rl_config.seq_length}: the model of {key} has "
            f"max_position_embeddings={model.max_position_embeddings}"
        ]
    return []


def _scoring_problems(given: str, model: ModelConfig, config: Config, own_tokens: bool) -> list[str]:
    """Of a reward model that scores what the actor writes."""
    if not model.has_score:
        return [
            f"{given}: a language model, which gives no score; python -m mindrlhf_lite.reward_model makes one of it"
        ]
    try:
        size = ModelConfig.from_dir(config.actor_config.load).vocab_size
    except ValueError:
        return []  # reported elsewhere
    if model.vocab_size != size and not own_tokens:
        return [
            f"{given}: a vocabulary of {model.vocab_size}, the actor's has {size}; it must be the same, or it "
            "needs a reward_config.reward_model.template"
        ]
    if config.rl_config.seq_length > model.max_position_embeddings:
        length = config.rl_config.seq_length
        return [f"rl_config.seq_length={length}: {given} has max_position_embeddings={model.max_position_embeddings}"]
    return []
