"""What a run optimises, as data: advantages, losses, KL, corrections, aggregations and reward shaping, by name.

Pure functions; they import no parallel, IO or configuration code. docs/algorithms.md shows how to add one.
"""
