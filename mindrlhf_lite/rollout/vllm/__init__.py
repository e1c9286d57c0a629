"""vLLM as the rollout engine: the unmodified V1 engine schedules, a worker of ours runs this project's model over its
paged KV cache.

Only `engine` is imported by the program, and only when `generate_config.use_vllm` is 1; vLLM finds `plugin` through the
package's entry points.
"""
