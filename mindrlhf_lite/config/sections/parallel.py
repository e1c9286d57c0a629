"""Parallel degrees of a role."""

from __future__ import annotations

from dataclasses import dataclass

from mindrlhf_lite.config.setting import NOT_NEGATIVE, ROUNDING, setting


@dataclass(frozen=True)
class ParallelConfig:
    data_parallel: int = setting(0, "data-parallel ranks; 0: all ranks that the other degrees leave", resume=ROUNDING)
    model_parallel: int = setting(1, "tensor-parallel ranks", resume=ROUNDING)
    pipeline_stage: int = setting(1, "pipeline stages; the rollout model has one", resume=ROUNDING)
    context_parallel: int = setting(
        1,
        "ranks that share the tokens of a sequence, in passes over whole sequences; of the rollout, which computes a "
        "token at a time, they share the completions, as data-parallel ranks do",
        resume=ROUNDING,
    )
    vocab_emb_dp: bool = setting(
        False,
        "true: every tensor-parallel rank holds the whole embedding table; not with tied embeddings",
        resume=ROUNDING,
    )

    def data_degree(self, world_size: int) -> int:
        """Ranks that have sequences of their own, or share them: `data_parallel`, or what the other degrees leave of
        `world_size`.
        """
        others = self.model_parallel * self.pipeline_stage * self.context_parallel
        return self.data_parallel or max(1, world_size // max(1, others))


@dataclass(frozen=True)
class StagedParallelConfig(ParallelConfig):
    stage_layers: list[int] = setting([], "layers of every pipeline stage; empty: even", resume=ROUNDING)
    use_seq_parallel: bool = setting(
        False,
        "split the tokens between the linears over the tensor-parallel ranks (sequence parallelism)",
        resume=ROUNDING,
    )


@dataclass(frozen=True)
class ActorParallelConfig(StagedParallelConfig):
    micro_batch_num: int = setting(
        0,
        "micro-batches that each rank cuts its share of an update into (gradient accumulation, pipelining); 0: as few "
        "as fit into memory, at least one a stage",
        bounds=NOT_NEGATIVE,
        resume=ROUNDING,
    )
