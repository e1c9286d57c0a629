"""What a run's episodes of several turns are played on; none where completions have one."""

from __future__ import annotations

from mindrlhf_lite.config.environment_settings import changed_past, spec_of
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.episodes.bridge import Bridge
from mindrlhf_lite.episodes.failures import FailureRecord
from mindrlhf_lite.episodes.host import EnvironmentHost
from mindrlhf_lite.episodes.play import EpisodeLimits, Stage
from mindrlhf_lite.parallel.mesh import RoleMesh


def stage_of_run(
    config: Config, mesh: RoleMesh, tokenizer: Tokenizer, stops: tuple[int, ...]
) -> tuple[Stage | None, list[str]]:
    """(the stage, notes for the console). Args: mesh: of the rollout; the first of its tensor ranks asks."""
    environment = config.environment_config
    if not environment.is_used:
        return None, []
    spec = spec_of(config)
    bridge = Bridge(tokenizer, stops, spec.schemas)
    host = EnvironmentHost(spec, environment.step_timeout_s) if mesh.at.tensor == 0 else None
    limits = EpisodeLimits(environment.max_turns, environment.max_turn_tokens, config.generate_config.max_prompt_length)
    failures = FailureRecord(spec.name, environment.on_failure == "end")
    notes = [f"note: {note}; what was sampled is kept" for note in changed_past(bridge, spec)]
    return Stage(host, bridge, tokenizer, limits, failures, mesh.tensor), notes
