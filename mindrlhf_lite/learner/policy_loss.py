"""What the actor minimises: the policy loss, corrections, KL and entropy of a micro-batch's tokens, in one graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops

from mindrlhf_lite.algorithms.correction import Correction, correction_weights
from mindrlhf_lite.algorithms.distillation import Distillation, distil
from mindrlhf_lite.algorithms.kl import kl_of_tokens
from mindrlhf_lite.algorithms.losses import LOSSES, ClipOptions, options_of
from mindrlhf_lite.algorithms.ratios import importance_ratio
from mindrlhf_lite.config.roles import TEACHER
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.logprobs import SlotLogprobs, names_of_ends
from mindrlhf_lite.scoring.batches import MicroBatch


@dataclass(frozen=True)
class Objective:
    """A token's loss: correction * loss + kl_coefficient * KL - entropy_coeff * entropy, by names of `algorithms`, and
    the reverse KL to a teacher, in it or in its advantages.

    `policy_is_frozen`: whether policy logprobs were recorded before the first of several updates; otherwise the ratio
        is to the policy of the update: it is 1, and its gradient is that of the logprob.
    `has_kl`: whether the loss has a KL term; its coefficient is data of the micro-batch.
    """

    loss: str = "ppo"
    options: Any = ClipOptions()  # of LOSS_OPTIONS
    correction: Correction = Correction()
    has_kl: bool = False
    kl_estimator: str = "k3"
    kl_has_unbiased_gradient: bool = False
    entropy_coeff: float = 0.0
    policy_is_frozen: bool = False
    temperature: float = 1.0  # of the policy, the reference and the teacher: logits are divided by it
    distillation: Distillation = Distillation()

    @staticmethod
    def of(config: Config) -> Objective:
        rl = config.rl_config
        return Objective(
            rl.loss,
            options_of(rl.loss, rl),
            Correction(rl.rollout_correction, rl.rollout_is_cap, rl.rollout_is_floor),
            rl.beta > 0 and not rl.kl_in_reward,
            rl.kl_estimator,
            rl.kl_unbiased_gradient,
            rl.entropy_coeff,
            config.keeps_frozen_policy,
            config.policy_temperature,
            Distillation(rl.distillation.coef, rl.distillation.applied_as),
        )

    @property
    def roles(self) -> tuple[str, ...]:
        """Further frozen roles whose logprobs it takes."""
        return (TEACHER.name,) if self.distillation.coef > 0 else ()


# what the graph takes of a micro-batch, by its fields' names: a dictionary of tensors as a graph's argument was seen to
# reach it with other tensors' memory
_INPUTS = (
    "predictors",
    "labels",
    "mask",
    "weight",
    "sequences",
    "inverse_lengths",
    "advantages",
    "frozen_logprobs",
    "reference_logprobs",
    "sampling_logprobs",
    "kl_coefficient",
    "loss_scale",
)


class PolicyLoss(nn.Cell):
    """Weighted sum of the per-token loss of one micro-batch, and its statistics, from what the last layer returned.

    `statistics`: their names; sums over tokens, and maxima where they end in _max.
    """

    def __init__(self, model: Decoder, objective: Objective):
        super().__init__(auto_prefix=False)
        self.objective, self.loss = objective, LOSSES[objective.loss]
        self.inputs, self.statistics = (*_INPUTS, *objective.roles), _statistics_of(objective)
        self.weight_names = names_of_ends(model)
        self.slot_logprobs = SlotLogprobs(
            model, has_entropy_gradient=objective.entropy_coeff > 0, temperature=objective.temperature
        )

    def inputs_of(self, batch: MicroBatch) -> tuple[Tensor, ...]:
        arrays = [np.asarray(getattr(batch, name)) for name in _INPUTS]
        return tuple(map(Tensor, [*arrays, *(batch.of_roles[role] for role in self.objective.roles)]))

    def construct(self, stream: Tensor, *arrays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Args: stream: the residual stream after the last layer; arrays: of `inputs_of`. Returns (loss times the
        micro-batch's loss_scale, values of `statistics`, logprobs [N]).
        """
        batch = {}
        for name, array in zip(self.inputs, arrays):
            batch[name] = array
        objective, mask, weight = self.objective, batch["mask"], batch["weight"]
        outputs = self.slot_logprobs(stream, batch["predictors"], batch["labels"])
        logprobs, entropy = outputs[0], outputs[1]
        # slots that do not count hold some logprob: their weight is 0, and what is compared with them is kept equal
        current = ops.stop_gradient(logprobs)
        tokens = self._tokens(batch, logprobs, current)
        frozen, statistics = tokens["frozen_logprobs"], {}
        if objective.distillation.coef > 0:
            tokens["teacher"] = batch["teacher"] * mask + current * (1.0 - mask)
            tokens["advantages"], taught, divergence = distil(tokens, objective.distillation)
            statistics["taught"], statistics["policy/teacher_kl"] = (taught * weight).sum(), (divergence * mask).sum()

        policy, flags = self.loss(tokens, objective.options)
        for name, values in flags.items():
            statistics["policy/" + name] = (values * mask).sum()
        ratio = importance_ratio(logprobs, frozen)
        statistics["ratio_max"] = (ratio * mask).max()
        if objective.correction.cap > 0:
            tokens["sampling_logprobs"] = batch["sampling_logprobs"] * mask + frozen * (1.0 - mask)
            weights, outside = correction_weights(frozen, tokens, objective.correction)
            policy = policy * weights
            statistics["rollout/is_weight_mean"] = (weights * mask).sum()
            statistics["rollout/is_capped"] = (outside * mask).sum()
        policy_sum = (policy * weight).sum()
        loss = policy_sum
        if objective.distillation.coef > 0:
            loss = loss + statistics["taught"]
        statistics["kl"] = ops.zeros_like(policy_sum)
        if objective.has_kl:
            reference = batch["reference_logprobs"] * mask + current * (1.0 - mask)
            kl = kl_of_tokens(logprobs, reference, objective.kl_estimator)
            statistics["policy/kl"] = (kl * mask).sum()
            if objective.kl_has_unbiased_gradient:
                kl = kl * ratio
            statistics["kl"] = (kl * weight).sum()
            loss = loss + batch["kl_coefficient"] * statistics["kl"]
        if objective.entropy_coeff > 0:
            loss = loss - objective.entropy_coeff * (entropy * weight).sum()
        statistics["loss"], statistics["policy"], statistics["entropy"] = loss, policy_sum, (entropy * mask).sum()
        counted: tuple = ()
        for name in self.statistics:
            counted += (statistics[name],)
        return loss * batch["loss_scale"], ops.stop_gradient(ops.stack(counted)), current

    def _tokens(self, batch: dict, logprobs: Tensor, current: Tensor) -> dict:
        """The features that a policy loss takes."""
        tokens = {"logprobs": logprobs}
        for name, values in batch.items():
            tokens[name] = values
        tokens["frozen_logprobs"] = current
        if self.objective.policy_is_frozen:
            mask = batch["mask"]
            tokens["frozen_logprobs"] = batch["frozen_logprobs"] * mask + current * (1.0 - mask)
        return tokens


def _statistics_of(objective: Objective) -> tuple[str, ...]:
    """Names of what `PolicyLoss` counts: the loss is asked for its own."""
    one = {
        name: Tensor(np.zeros(1, np.int32 if name == "sequences" else np.float32)) for name in ("logprobs", *_INPUTS)
    }
    own = LOSSES[objective.loss](one, objective.options)[1]
    names = ["loss", "policy", "kl", "entropy", "ratio_max", *(f"policy/{name}" for name in own)]
    if objective.correction.cap > 0:
        names += ["rollout/is_weight_mean", "rollout/is_capped"]
    if objective.distillation.coef > 0:
        names.append("policy/teacher_kl")
    return (*names, "policy/kl") if objective.has_kl else tuple(names)
