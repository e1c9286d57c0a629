"""A verifier that gives an untrained model rewards that differ within a group."""


def length_modulo(completions, golds):
    return [float(len(text) % 3) for text in completions]
