"""Reinforcement learning from verifiable rewards for language models on MindSpore.

Importing the package imports neither MindSpore nor transformers: configuration errors and `--help` stay instant.
"""

__version__ = "0.1.0"
