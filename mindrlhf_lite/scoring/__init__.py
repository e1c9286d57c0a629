"""Logprobs of sequences under a model: packing, micro-batches, pipeline stages."""
