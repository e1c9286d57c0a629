"""Pure GRPO functions: advantage, policy loss, KL, aggregation. They import no parallel, IO or configuration code."""
