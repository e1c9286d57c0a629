"""Verifiable rewards: where a completion answers, whether the answer agrees with the gold one, verifiers, and the
processes that run them. Imports no MindSpore.

A verifier of your own:

    from mindrlhf_lite.rewards import verifier

    @verifier(minimum=0.0, maximum=1.0)
    def is_short(completion, gold):
        return 1.0 if completion.num_tokens < 100 else 0.0
"""

from mindrlhf_lite.rewards.verifiers import verifier as verifier
