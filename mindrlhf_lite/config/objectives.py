"""Combinations of objective settings that make no sense, each with its reason."""

from __future__ import annotations

from mindrlhf_lite.algorithms.names import GAE, SCALED_BY_DEVIATION
from mindrlhf_lite.config.schema import Config

_BY_SEQUENCE = ("gspo", "gspo_token")


def objective_problems(config: Config) -> list[str]:
    """One line each, with key, value and fix."""
    return [
        *_losses(config),
        *_kl(config),
        *_distillation(config),
        *_critic(config),
        *_corrections(config),
        *_rewards(config),
    ]


def _losses(config: Config) -> list[str]:
    rl, problems = config.rl_config, []
    if rl.loss in _BY_SEQUENCE and rl.loss_aggregation not in ("sequence_mean", "sequence_sum"):
        problems.append(
            f"rl_config.loss_aggregation={rl.loss_aggregation}: the ratio of loss={rl.loss} belongs to a whole "
            "completion; use sequence_mean, or sequence_sum (LUSPO)"
        )
    if rl.loss == "gpg" and config.updates_per_step > 1:
        problems.append(
            f"rl_config.loss=gpg: has no ratio, so nothing corrects for the {config.updates_per_step} updates a step "
            "(batch_size, num_iterations); make one update a step, or use ppo"
        )
    if rl.dual_clip and rl.loss not in ("ppo", *_BY_SEQUENCE):
        problems.append(f"rl_config.dual_clip={rl.dual_clip:g}: loss={rl.loss} is not clipped that way; set it to 0")
    elif rl.dual_clip and rl.dual_clip <= 1 + rl.epsilon_high:
        problems.append(
            f"rl_config.dual_clip={rl.dual_clip:g}: must exceed 1 + epsilon_high = {1 + rl.epsilon_high:g}, e.g. 3.0"
        )
    return problems


def _kl(config: Config) -> list[str]:
    rl, problems = config.rl_config, []
    if not rl.beta:
        given = [name for name in ("kl_in_reward", "kl_unbiased_gradient") if getattr(rl, name)]
        if rl.kl_ctrl.type == "adaptive":
            given.append("kl_ctrl.type=adaptive")
        if given:
            problems.append(f"rl_config.beta=0: there is no KL for {', '.join(given)}; set beta, e.g. to 0.001")
        if config.ref_config.sync_ref_model:
            problems.append("ref_config.sync_ref_model=true: with rl_config.beta=0 there is no reference; set beta")
        return problems
    if rl.kl_in_reward and rl.advantage in SCALED_BY_DEVIATION:
        problems.append(
            f"rl_config.kl_in_reward=true: advantage={rl.advantage} scales what completions differ in, and where the "
            "verifiers find none that is the KL alone; use rloo, dr_grpo or reinforce_pp, or the KL in the loss"
        )
    if rl.kl_in_reward and rl.kl_unbiased_gradient:
        problems.append(
            "rl_config.kl_unbiased_gradient=true: no gradient flows through a KL in the reward; set one of it and "
            "kl_in_reward to false"
        )
    if rl.kl_unbiased_gradient and rl.kl_estimator in ("abs", "k2"):
        problems.append(
            f"rl_config.kl_estimator={rl.kl_estimator}: times the ratio its gradient is not that of the KL; use k3 or "
            "k1, or set kl_unbiased_gradient to false"
        )
    if rl.kl_estimator == "k1" and not rl.kl_in_reward and not rl.kl_unbiased_gradient:
        problems.append(
            "rl_config.kl_estimator=k1: in the loss its gradient is zero on average; use k3, or kl_in_reward, or "
            "kl_unbiased_gradient"
        )
    return problems


def _distillation(config: Config) -> list[str]:
    rl, own = config.rl_config, config.rl_config.distillation
    if not own.coef:
        given = [] if own.with_rewards else ["rl_config.distillation.with_rewards=false"]
        if config.teacher_config.load:
            given.append(f"teacher_config.load={config.teacher_config.load!r}")
        return [
            f"{each}: with rl_config.distillation.coef=0 there is no teacher; set it, e.g. to 1.0" for each in given
        ]
    if own.with_rewards:
        return []
    unread = {
        "rl_config.kl_in_reward=true": rl.kl_in_reward,
        "rl_config.dynamic_sampling.enabled=true": rl.dynamic_sampling.enabled,
        "rl_config.credit=turn": rl.credit == "turn",
    }
    return [
        f"{key}: rewards teach nothing here; set it to its default, or rl_config.distillation.with_rewards to true"
        for key, is_given in unread.items()
        if is_given
    ]


def _critic(config: Config) -> list[str]:
    rl, critic, problems = config.rl_config, config.critic_config, []
    if rl.advantage != GAE:
        given = {"load": critic.load, "warmup_steps": critic.warmup_steps}
        return [
            f"critic_config.{key}={value}: rl_config.advantage={rl.advantage} has no critic; use gae, or leave it out"
            for key, value in given.items()
            if value
        ]
    if rl.max_steps and critic.warmup_steps >= rl.max_steps:
        problems.append(
            f"critic_config.warmup_steps={critic.warmup_steps}: the actor would not learn in rl_config.max_steps="
            f"{rl.max_steps}"
        )
    if critic.optimizer.opt_offload:
        problems.append(
            "critic_config.optimizer.opt_offload=true: only the actor's state comes in parts; set it to false"
        )
    if rl.turn_discount != 1.0:
        problems.append(f"rl_config.turn_discount={rl.turn_discount:g}: advantage=gae discounts by rl_config.gamma")
    if config.has_teacher_alone:
        problems.append(
            "rl_config.advantage=gae: with distillation.with_rewards=false no reward teaches, and a critic has nothing "
            "to value; use dr_grpo"
        )
    return problems


def _corrections(config: Config) -> list[str]:
    rl, problems = config.rl_config, []
    is_mask = rl.rollout_correction.endswith("_mask")
    if rl.rollout_is_floor and not (is_mask and rl.rollout_is_cap):
        problems.append(
            f"rl_config.rollout_is_floor={rl.rollout_is_floor:g}: only the masks of rollout_correction have a floor, "
            "and need rollout_is_cap; set both, or this to 0"
        )
    elif rl.rollout_is_floor >= rl.rollout_is_cap > 0:
        problems.append(
            f"rl_config.rollout_is_floor={rl.rollout_is_floor:g}: must be below rollout_is_cap={rl.rollout_is_cap:g}"
        )
    if rl.rollout_correction != "token_truncate" and not rl.rollout_is_cap:
        problems.append(
            f"rl_config.rollout_correction={rl.rollout_correction}: rollout_is_cap=0 corrects nothing; set it, e.g. "
            "to 2.0"
        )
    return problems


def _rewards(config: Config) -> list[str]:
    rl, max_tokens, problems = config.rl_config, config.generate_config.sampling_config.max_tokens, []
    if rl.overlong.buffer > max_tokens:
        problems.append(
            f"rl_config.overlong.buffer={rl.overlong.buffer:g}: longer than a completion, "
            f"sampling_config.max_tokens={max_tokens}"
        )
    if rl.dynamic_sampling.enabled and rl.num_generations < 2:
        problems.append(
            "rl_config.dynamic_sampling.enabled=true: one completion never differs from the others of its prompt; set "
            "it to false, or num_generations to more"
        )
    return problems
