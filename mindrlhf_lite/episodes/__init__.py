"""Completions of several turns: environments and tools, what the policy asks of them, and how their answers become
tokens.

    from mindrlhf_lite.episodes import Action, Environment, Step, Task
"""

from mindrlhf_lite.episodes.environment import Action, Environment, EnvironmentFailure, Step, Task, ToolCall

__all__ = ["Action", "Environment", "EnvironmentFailure", "Step", "Task", "ToolCall"]
