"""The programs that read settings, by their scripts and modules."""

from mindrlhf_lite.launch.program import DPO, GRPO, REWARD_MODEL, SFT

MAIN = "examples/qwen_grpo/main.py"
STAGES = {f"mindrlhf_lite.{name}": f"examples/qwen_sft/{name}.py" for name in ("dpo", "reward_model")}
STAGES["mindrlhf_lite.sft"] = "examples/qwen_sft/main.py"
PROGRAMS = {MAIN: GRPO, **dict(zip(STAGES.values(), (DPO, REWARD_MODEL, SFT), strict=True))}
MODULES = {**STAGES, "mindrlhf_lite.job": "tools/start_job.py"}
