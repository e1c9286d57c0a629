"""Memory does not grow while a run goes on."""

import pytest
from distributed.small_runs import metrics, single

STEPS, SETTLED = 300, 50


@pytest.mark.full
def test_three_hundred_steps_of_changing_lengths(data, tmp_path):
    """Under 1 % after the first 50 steps: completions of up to 60 tokens, three length buckets, checkpoints on the
    way.
    """
    settings = (
        "--rl_config.max_steps=300",
        "--rl_config.save_ckpt_interval=50",
        "--rl_config.length_buckets=[32,48,80]",
    )
    lengths = ("--rl_config.seq_length=80", "--generate_config.sampling_config.max_tokens=60")
    result = single(data, tmp_path / "run", *settings, *lengths, timeout=3000)
    assert result.returncode == 0, result.stderr
    rows = metrics(tmp_path / "run")
    assert len(rows) == STEPS and len({round(row["completion/mean_tokens"]) for row in rows}) > 10
    memory = [row["memory/rss_gb"] for row in rows]
    grown = max(memory[-10:]) / max(memory[SETTLED - 10 : SETTLED]) - 1
    print(
        f"resident memory: {memory[SETTLED - 1]:.3f} GiB after step {SETTLED}, {memory[-1]:.3f} after {STEPS}: "
        f"{grown:+.2%}"
    )
    assert grown < 0.01
