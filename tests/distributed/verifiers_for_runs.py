"""A verifier that gives an untrained model rewards that differ within a group."""

from mindrlhf_lite.rewards import verifier


@verifier(minimum=0.0, maximum=2.0)
def length_modulo(completion, gold):
    return len(completion.text) % 3
