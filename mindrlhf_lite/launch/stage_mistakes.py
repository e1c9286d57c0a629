"""Mistakes in the rows, tokenizer, disk and device of a run on rows, found before any rank starts."""

from __future__ import annotations

from mindrlhf_lite.config.file_checks import disk_problems, tokenizer_problems
from mindrlhf_lite.config.stages import StageConfig, reading_of
from mindrlhf_lite.data.supervised_rows import left_out, read_supervised
from mindrlhf_lite.launch.command_line import Command
from mindrlhf_lite.launch.data_mistakes import device_mistakes

_SHOWN = 20  # bad rows


def stage_mistakes(command: Command) -> list[str]:
    """As `data_mistakes`."""
    config = command.config
    assert isinstance(config, StageConfig)
    if not config.actor_config.load:
        return []
    rl = config.rl_config
    if problems := tokenizer_problems(config):
        return problems
    for key, path in (("dataset_file", rl.dataset_file), ("eval_dataset_file", rl.eval_dataset_file)):
        if path:
            problems += _of_file(config, f"rl_config.{key}", path)
    return [*problems, *disk_problems(config), *device_mistakes(command)]


def rows_left_out(command: Command) -> list[str]:
    """Lines for a dry run, whose rows are without mistakes, or may be left out."""
    config = command.config
    assert isinstance(config, StageConfig)
    rl = config.rl_config
    files = [path for path in (rl.dataset_file, rl.eval_dataset_file) if path and config.actor_config.load]
    return left_out([bad for path in files for bad in read_supervised(path, reading_of(config))[1]])


def _of_file(config: StageConfig, key: str, path: str) -> list[str]:
    supervised = config.supervised_config
    try:
        rows, bad = read_supervised(path, reading_of(config))
    except ValueError as error:
        return [f"{key}={path!r}: {error}"]
    if bad and not supervised.skip_bad_rows:
        lines = [f"{key}: {path}:{each.row}: {each.reason}" for each in bad[:_SHOWN]]
        more = f" ({len(bad) - _SHOWN} more are not listed)" if len(bad) > _SHOWN else ""
        return [*lines, f"{key}: {len(bad)} bad row(s){more}: mend them, or set supervised_config.skip_bad_rows=true"]
    if not rows:
        return [f"{key}={path!r}: it has no row that can be used"]
    if key == "rl_config.dataset_file" and len(rows) < supervised.batch_size:
        return [
            f"supervised_config.batch_size={supervised.batch_size}: more than the {len(rows)} rows of {path} that can "
            "be used"
        ]
    return []
