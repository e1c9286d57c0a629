"""From settings to `SamplingParams`: the one place, by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from mindrlhf_lite.config.sections.generate import SamplingConfig
from mindrlhf_lite.types import SamplingParams

_OTHER_NAMES = {"eos_token_id": "stop_token_ids"}


def sampling_params(settings: SamplingConfig, **others: Any) -> SamplingParams:
    """Args: others: fields that replace the settings'.

    Raises:
        UserError: as of `SamplingParams`.
    """
    given = {_OTHER_NAMES.get(field.name, field.name): getattr(settings, field.name) for field in fields(settings)}
    given["stop_token_ids"] = tuple(given["stop_token_ids"])
    return SamplingParams(**{**given, **others})
