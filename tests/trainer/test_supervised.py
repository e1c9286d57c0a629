"""Supervised training: loss and updates are PyTorch's, and a model learns what it is shown."""

import numpy as np
import pytest
from helpers import TINY, random_weights

from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.supervised_loss import SupervisedLoss
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import save_hf_model
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.trainer.learning_rate import LearningRate
from mindrlhf_lite.trainer.supervised import SupervisedTrainer
from mindrlhf_lite.types import TrainSequence


def sequences():
    rng = np.random.default_rng(0)
    return [TrainSequence.of(rng.integers(0, 97, length).astype(np.int32), 4) for length in (20, 9, 30)]


def trainer_of(schedule):
    model = Decoder(TINY, random_weights(TINY), True, 64)
    trained = TrainedModel(model, SupervisedLoss(model), AdamW(model, AdamWOptions(max_grad_norm=0.0)))
    return trained, SupervisedTrainer(trained, StreamShapes(64, 64), schedule)  # more than one micro-batch


def test_loss_and_updated_weights_equal_pytorchs(tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import Qwen2ForCausalLM

    save_hf_model(tmp_path, TINY, random_weights(TINY), None, None)
    peer = Qwen2ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    losses = []
    for sequence in sequences():
        ids = torch.tensor(sequence.token_ids[None].astype(np.int64))
        logits = peer(ids).logits[0, sequence.prompt_length - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, sequence.prompt_length :], reduction="sum"))
    loss = sum(losses) / sum(each.completion_length for each in sequences())
    optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    loss.backward()
    optimizer.step()

    trained, trainer = trainer_of(LearningRate.constant(1e-2))
    assert trainer.step(sequences()).statistics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    theirs, ours = dict(peer.named_parameters()), trained.model.weights_as_numpy()
    for name, values in ours.items():
        # Adam's first step is the gradient's sign: where that is near 0, rounding decides
        near = np.isclose(values, theirs[name].detach().numpy(), atol=1e-4)
        assert near.mean() > 0.995, name


def test_a_model_learns_what_it_is_shown():
    _, trainer = trainer_of(LearningRate.constant(1e-2))
    seen = []
    trainer.train([sequences()] * 30, lambda step, loss: seen.append((step, loss)))
    assert [step for step, _ in seen] == list(range(1, 31)) and seen[-1][1] < 0.2 < seen[0][1]
