"""The names that a configuration may give; each registry has exactly these (tests/algorithms/test_names.py).

They stand apart because reading a configuration must not load MindSpore.
"""

ADVANTAGE_NAMES = ("grpo", "dr_grpo", "rloo", "grpo_batch_std", "passk", "reinforce_pp", "reinforce_pp_baseline")
GAE = "gae"  # from a critic's values; the others compare rewards
WITHOUT_GROUP = ("reinforce_pp", GAE)  # compares with the whole step, so that one completion a prompt is enough
SCALED_BY_DEVIATION = ("grpo", "grpo_batch_std", "passk")  # or ranked: where rewards are equal, a KL would be blown up
LOSS_NAMES = ("ppo", "gspo", "gspo_token", "cispo", "sapo", "gpg", "dppo")
AGGREGATION_NAMES = ("token_mean", "sequence_mean", "sequence_sum", "constant")
KL_ESTIMATORS = ("k3", "k1", "abs", "k2", "low_var_kl")  # the last is verl's name of k3
DISTILLATION_FORMS = ("advantage", "loss")
CORRECTIONS = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
