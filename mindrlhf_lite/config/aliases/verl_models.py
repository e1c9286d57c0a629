"""The further models of a verl configuration: PPO's critic, and a reward model."""

from __future__ import annotations

from mindrlhf_lite.config.aliases.translation import Worked

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


def translate_models(worked: Worked) -> None:
    """Sets ours of what `worked` holds."""
    ours, left, translation = worked.ours, worked.left, worked.translation
    if worked.get("algorithm.adv_estimator") == "gae":
        ours["rl_config.advantage_whiten"] = True
        ours["critic_config.enable_parallel_optimizer"] = True
        for theirs, key in _OF_CRITIC.items():
            if (value := worked.get(theirs)) is not None:
                worked.set(key, value, theirs)
        for name, beta in zip(("adam_beta1", "adam_beta2"), worked.get("critic.optim.betas"), strict=True):
            ours[f"critic_config.optimizer.{name}"] = beta
        if warmup := ours["critic_config.warmup_steps"]:
            ours["critic_config.warmup_steps"] = warmup - 1  # there the actor learns from that step on
    else:
        translation.accepted += [
            f"{key}: {left[key]}: of gae, not read by the others"
            for key in (*_OF_CRITIC, "critic.optim.betas")
            if key in left and key not in worked.assumed
        ]
    if worked.get("reward_model.enable"):
        if path := worked.get("reward_model.model.path"):
            worked.set("reward_config.reward_model.load", path, "reward_model.model.path")
        ours["reward_config.verifier_weight"] = [0.0]
        translation.remarks.append(
            "reward_model.enable: true -> reward_config.verifier_weight: [0.0] (there the model's score is the whole "
            "reward; the verifier measures accuracy)"
        )
