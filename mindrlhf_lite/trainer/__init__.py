"""The GRPO loop and its roles (actor, reference, rollout)."""
