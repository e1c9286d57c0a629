"""The further models of a verl configuration: PPO's critic, and a reward model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindrlhf_lite.config.aliases.translation import Translation

# of the critic: theirs, and ours
_OF_CRITIC = {
    "algorithm.gamma": "rl_config.gamma",
    "algorithm.lam": "rl_config.lam",
    "critic.cliprange_value": "rl_config.cliprange_value",
    "trainer.critic_warmup": "critic_config.warmup_steps",
    "critic.model.path": "critic_config.load",
    "critic.optim.lr": "critic_config.lr_schedule.lr",
    "critic.optim.weight_decay": "critic_config.optimizer.weight_decay",
    "critic.grad_clip": "critic_config.optimizer.max_grad_norm",
    "critic.model.enable_gradient_checkpointing": "critic_config.recompute_config.recompute",
    "critic.ulysses_sequence_parallel_size": "critic_config.parallel_config.context_parallel",
    "critic.megatron.tensor_model_parallel_size": "critic_config.parallel_config.model_parallel",
    "critic.megatron.pipeline_model_parallel_size": "critic_config.parallel_config.pipeline_stage",
}


def translate_models(translation: Translation, left: Mapping[str, Any]) -> None:
    """Args: left: the settings that are to be worked out."""

    def take(theirs: str, ours: str) -> None:
        value = left.get(theirs)
        if value is not None:
            translation.values[ours] = value
            translation.origins[ours] = theirs
            if theirs not in translation.assumed:
                translation.remark(theirs, value, f"{ours}: {value}")

    if left.get("algorithm.adv_estimator") == "gae":
        translation.values["rl_config.advantage_whiten"] = True
        translation.values["critic_config.enable_parallel_optimizer"] = True
        for theirs, ours in _OF_CRITIC.items():
            take(theirs, ours)
        names = ("adam_beta1", "adam_beta2")
        for name, beta in zip(names, left["critic.optim.betas"], strict=True):
            translation.values[f"critic_config.optimizer.{name}"] = beta
    else:
        translation.accepted += [
            f"{key}: {left[key]}: of gae, not read by the others"
            for key in (*_OF_CRITIC, "critic.optim.betas")
            if key in left and key not in translation.assumed
        ]
    if warmup := translation.values.get("critic_config.warmup_steps"):
        translation.values["critic_config.warmup_steps"] = warmup - 1  # there the actor learns from that step on
    if left.get("reward_model.enable"):
        take("reward_model.model.path", "reward_config.reward_model.load")
        translation.values["reward_config.verifier_weight"] = [0.0]
        translation.remarks.append(
            "reward_model.enable: true -> reward_config.verifier_weight: [0.0] (there the model's score is the whole "
            "reward; the verifier measures accuracy)"
        )
