"""Weights and inputs that follow from names alone.

Promises: the same bits whatever the versions of torch and numpy, the machine, and the order
in which a network is built: a counter-based generator (Philox), keyed by the SHA-256 of the
name, and single IEEE operations. Variances of batch norms are positive, activations neither
vanish nor explode, so that every tensor of every network here is felt in its logits.
Leaves out: which network has which names.
"""

import hashlib
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

PERIOD = 65_521  # values repeat; a prime, so that no two rows of a tensor are equal


def seeded(name: str, *shape: int, mean: float = 0.0, deviation: float = 1.0) -> torch.Tensor:
    """Uniform values for the tensor called `name`."""
    num_values = math.prod(shape)
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(min(num_values, PERIOD))
    unit = (raw >> 40).astype(np.float32) / np.float32(1 << 24)  # 24 bits: exact in float32
    values = (unit - np.float32(0.5)) * np.float32(12**0.5 * deviation) + np.float32(mean)
    return torch.from_numpy(np.resize(values, num_values)).reshape(shape)


def seeded_weights(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A tensor for each of a state dict's, of which only names and shapes are read; but the
    graph `A` of a skeleton, which is no weight, stays.
    """
    return {
        name: tensor.clone() if name == "A" else _weight(name, tensor.shape)
        for name, tensor in state.items()
    }


def seeded_model(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes, in eval mode with seeded weights; no memory for initial ones."""
    with torch.device("meta"):
        model = build()
    model.load_state_dict(seeded_weights(model.state_dict()), strict=True, assign=True)
    return model.eval()


def _weight(name: str, shape: torch.Size) -> torch.Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if name.endswith("running_var"):
        return seeded(name, *shape, mean=1.1, deviation=0.3)  # 0.58 to 1.62
    if name.startswith("edge_importance."):
        return seeded(name, *shape, mean=1.0, deviation=0.2)
    if len(shape) > 1:  # He: by what comes in
        return seeded(name, *shape, deviation=(2 / math.prod(shape[1:])) ** 0.5)
    if name.endswith("weight"):  # of batch norms
        return seeded(name, *shape, mean=0.75, deviation=0.15)
    return seeded(name, *shape, deviation=0.1)
