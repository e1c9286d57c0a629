"""What a step does on its busiest rank, by phase, where every prompt and completion has its full length."""

from __future__ import annotations

from functools import cache

from mindrlhf_lite.config.activations import chunk_numbers
from mindrlhf_lite.config.adapters import sharing_roles, with_adapters
from mindrlhf_lite.config.memory_plan import memory_parts
from mindrlhf_lite.config.model_file import shape_of_role
from mindrlhf_lite.config.roles import BASE, CRITIC, ROLLOUT_BASE, phases_of_run, scoring_roles, unused_parts
from mindrlhf_lite.config.sampling_params import sampling_params
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.estimate.kernels import kernels_of
from mindrlhf_lite.estimate.work import Work
from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.layout import Strategy
from mindrlhf_lite.reshard.blocks import blocks_of_receiver
from mindrlhf_lite.reshard.buckets import message_bytes
from mindrlhf_lite.reshard.plan import last_plan
from mindrlhf_lite.shapes.adapters import is_adapter
from mindrlhf_lite.shapes.buckets import prefill_rows
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import FLOAT32_BYTES, count_parameters, parameter_specs
from mindrlhf_lite.swap.phases import optimizer_part

_BUSY_RANKS = 8  # whose messages are counted


class StepWork:
    """Phases of one step, each by itself."""

    def __init__(self, config: Config, shape: ModelConfig, world_size: int):
        self.config, self.shape, self.world_size = config, shape, world_size
        self.kernels = kernels_of(config.context.device_target)
        self.strategies = role_strategies(config, world_size)
        self.head = shape.vocab_size * shape.hidden_size
        embeddings = self.head * (1 if shape.tie_word_embeddings else 2)
        self.layer = (count_parameters(shape) - embeddings) / shape.num_hidden_layers  # numbers of one
        self.moved = with_adapters(config, shape).moved
        self.has_adapters = self.moved.adapters is not None
        numbers_of = [spec.name for spec in parameter_specs(self.moved)] if self.has_adapters else []
        self.adapted = sum(is_adapter(name) for name in numbers_of) / 2 / shape.num_hidden_layers  # linears of a layer
        self.new = config.generate_config.sampling_config.max_tokens
        self.prompt = min(config.generate_config.max_prompt_length, config.rl_config.seq_length - self.new)
        self.item = 4 if config.actor_config.compute_dtype == "float32" else 2

    def phases(self) -> dict[str, Work]:
        found = {"generate": self.generate(), **self.scoring(), **self.training(), "reshard": self.reshard()}
        return found | ({"swap": self.swapping()} if self.config.rl_config.swap else {})

    def scoring(self) -> dict[str, Work]:
        """Of the frozen roles, by their names."""
        config, found = self.config, {}
        for role in scoring_roles(config):
            if role.is_used(config):
                rows = config.ref_config.ref_model_batch_size
                tokens = config.micro_batch_tokens(self.strategies["actor"].dims.shares, rows)
                own = StepWork(config, shape_of_role(config, role, self.shape), self.world_size)
                found[role.name] = own.scored(self.strategies[role.name].dims, tokens)
        return found

    def training(self) -> dict[str, Work]:
        """Of the roles that are trained."""
        config, actor = self.config, self.strategies["actor"].dims
        tokens = config.micro_batch_tokens(actor.shares)
        found = {"policy": self.scored(actor, tokens)} if config.keeps_frozen_policy else {}
        found["update"] = self.update()
        if CRITIC in config.roles:  # values once; the passes of an update take three times as long
            own = StepWork(config, shape_of_role(config, CRITIC, self.shape), self.world_size)
            scored = own.scored(self.strategies[CRITIC.name].dims, tokens)
            found[CRITIC.name] = scored.times(1 + 3 * config.rl_config.num_iterations)
        return found

    def generate(self) -> Work:
        config, shape, dims = self.config, self.shape, self.strategies["rollout"].dims
        rl, layers = config.rl_config, shape.num_hidden_layers
        prompts = -(-rl.chunk_size // dims.copies)
        slots = config.rollout_slots(dims.copies)
        completions = prompts * rl.num_generations
        series = -(-completions // slots) * rl.num_rollouts
        weights = (layers * self.layer + self.head) / dims.tensor
        kv_heads = max(1, shape.num_key_value_heads // dims.tensor)
        kept = slots * (self.prompt + self.new / 2) * layers * 2 * kv_heads * shape.head_dim
        adapted = 0 if config.merges_adapters else self.adapted * self.kernels.adapted_forward
        step = Work(
            flops=2 * weights * slots,
            row_flops=2 * weights,
            memory_bytes=self.item * (weights + kept),
            launches=layers * (self.kernels.decode_layer + adapted) + self.kernels.decode_ends,
            calls=1,
            tokens=1,
        ).plus(self.summed(dims, 2 * layers + 1, slots))
        if dims.tensor > 1:  # for the draw: a few numbers a slot, or, for filters, the logits
            whole = 2 * slots * shape.vocab_size * (dims.tensor - 1) / dims.tensor / min(dims.tensor - 1, 7)
            is_whole = sampling_params(config.generate_config.sampling_config).has_filters
            step = step.plus(Work(collectives=2, sent_bytes=whole if is_whole else 0))
        # as if each that takes a free slot came alone: with its prompt, and on a device padding
        first, later = -(-min(slots, completions) // rl.num_generations), max(0, completions - slots)
        rows = prefill_rows(self.prompt, slots)[config.context.device_target != "CPU"]
        count, tokens = first + later, self.prompt * (first + later * rows)
        prefill = Work(
            flops=2 * weights * tokens,
            row_flops=2 * weights * count,
            launches=count * layers * (self.kernels.prefill_layer + adapted),
            calls=count * layers,
        ).plus(self.summed(dims, 2 * layers, tokens))
        return step.times(series * self.new).plus(prefill.times(rl.num_rollouts))

    def summed(self, dims: ParallelDims, count: float, tokens: float) -> Work:
        """So many sums of the residual stream over the tensor ranks: a share out, the sums in."""
        if dims.tensor == 1:
            return Work()
        share = 2 * (dims.tensor - 1) / dims.tensor / min(dims.tensor - 1, 7)  # a link to each of the others
        return Work(collectives=count, sent_bytes=count * tokens * self.shape.hidden_size * self.item * share)

    def tokens(self, dims: ParallelDims, completions: int) -> float:
        """That one rank computes, its prompts once a group."""
        per_completion = self.new + self.prompt / (self.config.rl_config.num_generations if self._packs else 1)
        return completions / dims.shares / dims.context * per_completion

    @property
    def _packs(self) -> bool:
        return self.config.rl_config.packing

    def forward(self, dims: ParallelDims, tokens: float) -> tuple[float, float, float]:
        """Operations of (a rank's layers, the attention in them, its head), over its tokens."""
        layers = self.shape.num_hidden_layers / dims.pipeline
        keys = (self.prompt + self.new) / 2
        attention = tokens * layers * 4 * self.shape.num_attention_heads * self.shape.head_dim * keys / dims.tensor
        return (
            tokens * layers * 2 * self.layer / dims.tensor + attention,
            attention,
            tokens * 2 * self.head / dims.tensor,
        )

    def one_row(self, dims: ParallelDims) -> tuple[float, float]:
        """Operations of (a rank's layers, its head) on one token, without attention."""
        layers = self.shape.num_hidden_layers / dims.pipeline
        return layers * 2 * self.layer / dims.tensor, 2 * self.head / dims.tensor

    def batches(self, dims: ParallelDims, tokens: float, budget: int) -> int:
        return max(1, -(-int(tokens) * dims.context // budget))

    def scored(self, dims: ParallelDims, budget: int) -> Work:
        tokens = self.tokens(dims, self.config.completions_per_step)
        count, layers = self.batches(dims, tokens, budget), self.shape.num_hidden_layers / dims.pipeline
        chunks = self._chunks(dims, tokens, count)
        of_layers, _, of_head = self.forward(dims, tokens)
        layers_row, head_row = self.one_row(dims)
        work = Work(
            flops=of_layers + of_head,
            row_flops=count * layers_row + chunks * head_row,
            launches=count * layers * self.kernels.layer_forward + chunks * self.kernels.head_chunk,
            calls=count * (layers + 2),
        ).plus(self.summed(dims, 2 * layers * count, tokens / count))
        return self._staged(work, dims, count, tokens, 1)

    def update(self) -> Work:
        config, dims = self.config, self.strategies["actor"].dims
        recompute = config.actor_config.recompute_config
        recomputes, attends = recompute.recompute, recompute.select_recompute and not recompute.recompute
        tokens = self.tokens(dims, config.completions_per_update)
        count = self.batches(dims, tokens, config.micro_batch_tokens(dims.shares))
        chunks, layers = self._chunks(dims, tokens, count), self.shape.num_hidden_layers / dims.pipeline
        of_layers, attention, of_head = self.forward(dims, tokens)
        layers_row, head_row = self.one_row(dims)
        # logits are computed twice; what is frozen takes no gradients
        passes, of_logits = 3 - self.has_adapters + recomputes, 4 - self.has_adapters
        launches = (1 + recomputes) * (self.kernels.layer_forward + self.adapted * self.kernels.adapted_forward)
        launches += self.kernels.layer_backward + self.adapted * self.kernels.adapted_backward
        launches += attends * self.kernels.attention
        work = Work(
            flops=passes * of_layers + attends * attention + of_logits * of_head,
            row_flops=passes * count * layers_row + of_logits * chunks * head_row,
            launches=count * layers * launches + chunks * self.kernels.loss_chunk,
            calls=count * (2 * layers + 3),
        ).plus(self.summed(dims, (4 + 2 * recomputes) * layers * count, tokens / count))
        one = self._staged(work, dims, count, tokens, 2).plus(self._optimized(dims, layers))
        return one.times(config.updates_per_step)

    def _chunks(self, dims: ParallelDims, tokens: float, count: int) -> float:
        of_chunk = max(1.0, chunk_numbers(self.config.context.device_target) * dims.tensor / self.shape.vocab_size)
        return count * -(-tokens / count // of_chunk)

    def _staged(self, work: Work, dims: ParallelDims, count: int, tokens: float, ways: int) -> Work:
        """With the time that stages wait for each other, what passes between them, and between context ranks."""
        if dims.pipeline > 1:
            passed = tokens * self.shape.hidden_size * self.item * ways
            waiting = (count + dims.pipeline - 1) / count
            work = work.times(waiting).plus(Work(messages=2 * count * ways, sent_bytes=passed))
        if dims.context > 1:
            layers = self.shape.num_hidden_layers / dims.pipeline
            heads = max(1, self.shape.num_key_value_heads // dims.tensor)
            passed = 2 * tokens * (dims.context - 1) * heads * self.shape.head_dim * self.item * layers * ways
            work = work.plus(Work(collectives=2 * ways * layers * count, sent_bytes=passed))
        return work

    def _optimized(self, dims: ParallelDims, layers: float) -> Work:
        actor = self.config.actor_config
        numbers = (layers * self.layer + self.head) / dims.tensor
        if self.has_adapters:
            numbers = count_parameters(self.moved) / dims.pipeline  # half of them lie whole on tensor ranks
        is_shared = actor.enable_parallel_optimizer and dims.copies > 1
        own = numbers / (dims.copies if is_shared else 1)
        work = Work(memory_bytes=own * 34, launches=12 * layers * self.kernels.parameter, calls=12 * layers)
        if dims.copies > 1:
            passed = numbers * (dims.copies - 1) / dims.copies / min(dims.copies - 1, 7)
            gathered = self.item * passed if is_shared else FLOAT32_BYTES * passed
            work = work.plus(Work(messages=24 * layers, sent_bytes=FLOAT32_BYTES * passed + gathered))
        return work

    def reshard(self) -> Work:
        messages, pieces, received, copied = _messages(
            self.moved,
            self.strategies["actor"],
            self.strategies["rollout"],
            self.world_size,
            message_bytes(self.config.reshard_bucket_bytes, is_of_host=False),
        )
        share = 1.0 if self.has_adapters else self.item / FLOAT32_BYTES  # adapters are float32
        work = Work(memory_bytes=2 * copied * share, launches=pieces * self.kernels.piece)
        rl, on_cpu = self.config.rl_config, self.config.context.device_target == "CPU"
        if on_cpu and rl.reshard_transport != "collective":  # of one host: written into memory that the others read
            return work.plus(Work(memory_bytes=2 * received * share))
        return work.plus(Work(messages=messages, sent_bytes=received * share))

    def swapping(self) -> Work:
        """Out to the host and in again: what a phase has in memory and the one before had not, and the other way."""
        config = self.config
        groups, unused = memory_parts(config, self.shape, self.world_size)[0], unused_parts(config)
        offloads = config.actor_config.optimizer.opt_offload
        phases = phases_of_run(config, int(offloads), sharing_roles(config, self.strategies))
        sizes = {**groups, optimizer_part(0): groups["optimizer"]}
        frozen = {role.name for role in scoring_roles(config)}
        kept = {"actor", BASE, ROLLOUT_BASE, "optimizer", optimizer_part(0), *frozen}
        used = [
            name
            for name in phases
            if not name.startswith(("save", "restore"))
            and not (name == "policy" and not config.keeps_frozen_policy)
            and name not in unused
        ]
        moved, changed = 0, set[str]()
        previous = phases[used[-1]]
        for _ in range(2):  # the second time around is a step as any other
            moved = 0
            for phase in (phases[name] for name in used):
                moved += sum(sizes[group] for group in kept & (set(phase.resident) - set(previous.resident)))
                moved += sum(sizes[group] for group in changed & (set(previous.resident) - set(phase.resident)))
                moved += sum(sizes[group] for group in phase.reads_stored)
                changed = (changed & set(phase.resident)) | (kept & set(phase.changes))
                previous = phase
        return Work(host_bytes=moved)


@cache
def _messages(
    shape: ModelConfig, source: Strategy, destination: Strategy, world_size: int, message: int
) -> tuple[int, int, int, int]:
    """(messages, pieces, bytes received, bytes written) of the busiest rank, as the planner counts."""
    plan = last_plan(shape, source, destination, world_size)
    found = []
    for rank in range(min(world_size, _BUSY_RANKS)):
        blocks = blocks_of_receiver(plan, rank, message)
        pieces = sum(len(slab.pieces) for block in blocks for slab in block.slabs)
        found.append((sum(len(block.senders) for block in blocks), pieces))
    messages, pieces = (max(each) for each in zip(*found))
    return messages, pieces, int(plan.received_bytes.max()), int(plan.copied_bytes.max())


def work_of_step(config: Config, shape: ModelConfig, world_size: int) -> dict[str, Work]:
    """By phase; what verifiers take is not in it."""
    return StepWork(config, shape, world_size).phases()
