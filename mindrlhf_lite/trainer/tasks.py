"""What each program on rows trains, by its name."""

from __future__ import annotations

from mindrlhf_lite.trainer.preference_task import PreferenceTask
from mindrlhf_lite.trainer.reward_task import RewardTask
from mindrlhf_lite.trainer.stage_run import TaskOf
from mindrlhf_lite.trainer.stage_task import SupervisedTask

TASKS: dict[str, TaskOf] = {"sft": SupervisedTask, "dpo": PreferenceTask, "reward_model": RewardTask}
