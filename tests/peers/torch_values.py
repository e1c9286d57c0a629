"""The value loss of PPO by torch, for tests/algorithms/test_gae.py: TRL 1.16 has no PPO any more, so this is the
formula of its former PPOTrainer (`vf_losses1`, `vf_losses2`, `masked_whiten`), and of OpenAI's baselines.

Run by hand, in an environment with torch:
    python tests/peers/torch_values.py tests/peers/torch_values.json
"""

import json
import sys

import torch

LENGTHS, CLIPS = (5, 2, 7), (0.2, 1.0)


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (values * mask).sum() / mask.sum()


def masked_whiten(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """TRL's, with the variance over n - 1."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask) * mask.sum() / (mask.sum() - 1)
    return (values - mean) * torch.rsqrt(variance + 1e-8)


def main() -> None:
    torch.manual_seed(0)
    shape = (len(LENGTHS), max(LENGTHS))
    before = torch.randn(*shape, dtype=torch.float64)
    returns = before + torch.randn(*shape, dtype=torch.float64)
    values = (before + 0.5 * torch.randn(*shape, dtype=torch.float64)).requires_grad_(True)
    mask = torch.tensor([[float(place < length) for place in range(shape[1])] for length in LENGTHS])
    found = {}
    for clip in CLIPS:
        values.grad = None
        clipped = torch.clamp(values, before - clip, before + clip)
        first, second = torch.square(values - returns), torch.square(clipped - returns)
        loss = 0.5 * masked_mean(torch.max(first, second), mask)
        loss.backward()
        share = masked_mean((second > first).double(), mask)
        found[str(clip)] = {"loss": loss.item(), "gradient": values.grad.tolist(), "clipped": share.item()}
    numbers = {"before": before, "returns": returns, "values": values.detach(), "mask": mask}
    fixture = {
        "versions": {"torch": torch.__version__},
        "numbers": {name: each.tolist() for name, each in numbers.items()},
        "results": found,
        "whitened": (masked_whiten(returns, mask) * mask).tolist(),
    }
    with open(sys.argv[1], "w") as file:
        file.write(json.dumps(fixture) + "\n")


if __name__ == "__main__":
    main()
