"""Every setting is read by something besides the code that checks it."""

from dataclasses import fields

import pytest
from config.setting_reads import is_read, settings_read_by
from helpers import ROOT

from mindrlhf_lite.algorithms.losses import LOSS_OPTIONS
from mindrlhf_lite.config.load import known_keys
from mindrlhf_lite.config.sections.rl import RlConfig

CHECKS = ("load.py", "validate.py", "objectives.py", "same_run.py")  # a setting that only they read changes nothing


def test_every_setting_is_read_somewhere():
    files = [path for path in (ROOT / "mindrlhf_lite").rglob("*.py") if path.name not in CHECKS]
    found = set().union(*(settings_read_by(path.read_text(encoding="utf-8")) for path in files))
    # a loss names its options, and takes them from the settings of these names
    found |= {(RlConfig, option.name) for kind in LOSS_OPTIONS.values() for option in fields(kind)}
    unread = {key for key in known_keys() if not is_read(key, found)}
    assert unread == set()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(rl: RlConfig):\n    return rl.beta", True),
        ("rl, actor = config.rl_config, config.actor_config\nprint(rl.beta)", True),
        ("class A:\n    def f(self):\n        self.rl = x.rl_config\n        return self.rl.beta", True),
        ("def f(adam):\n    return adam.beta", False),  # another thing's
        ("config.rl_config.beta = 1", False),
        ("config.reward_config.beta", False),
        ("# config.rl_config.beta", False),
    ],
)
def test_the_search_finds_what_it_should(source, expected):
    assert is_read("rl_config.beta", settings_read_by(source)) is expected
