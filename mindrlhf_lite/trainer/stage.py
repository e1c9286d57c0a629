"""What a run's episodes of several turns are played on; none where completions have one."""

from __future__ import annotations

from mindrlhf_lite.config.environment_settings import changed_past, spec_of, told_at_the_start
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.episodes.bridge import Bridge
from mindrlhf_lite.episodes.failures import FailureRecord
from mindrlhf_lite.episodes.host import EnvironmentHost
from mindrlhf_lite.episodes.past import ChangedPast
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
    generate = config.generate_config
    of_turns = (environment.max_turns, environment.max_turn_tokens, generate.max_prompt_length)
    limits = EpisodeLimits(*of_turns, generate.sampling_config.max_tokens, config.rl_config.seq_length)
    failures = FailureRecord(spec.name, environment.on_failure == "end")
    past = ChangedPast(environment.on_changed_past, bridge, tokenizer, told_at_the_start(spec))
    notes = [f"note: {note}; {past.consequence}" for note in changed_past(bridge, spec)]
    return Stage(host, bridge, tokenizer, limits, failures, past, mesh.tensor), notes
