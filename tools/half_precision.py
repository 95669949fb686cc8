"""Round weights of a network to half precision, as far as predictions stay within 1e-4 A."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from repose.crystal.batch import CrystalBatch
from repose.data.dataset import Dataset
from repose.models.checkpoint import ModelConfig
from repose.models.network import Network
from repose.relaxer.direct import DirectRelaxer

LIMIT = 1e-4  # A
DAMPING = 1e-3  # of the mean second moment
SENSITIVE = 12  # crystals on which single matrices are tried
BATCH = 12  # crystals
Predictions = list[Tensor]  # positions and cell of a crystal, one below the other, A, (n + 3, 3)


def crystals(datasets: Sequence[Path], split: str, n: int) -> list[CrystalBatch]:
    """Return about n crystals of a split of several datasets, chosen by the hash of their ids."""
    chosen = []
    for path in datasets:
        pairs = sorted(
            Dataset(path).read(split, paths=False), key=lambda p: hashlib.sha256(p.id.encode()).digest()
        )
        chosen += pairs[: n // len(datasets)]
    return [CrystalBatch.single(p.numbers, p.positions, p.cell, p.pbc) for p in chosen]


def predict(network: Network, config: ModelConfig, inputs: Sequence[CrystalBatch]) -> Predictions:
    """Return predictions in double precision, so that only the rounding of weights changes them."""
    relaxer = DirectRelaxer(copy.deepcopy(network).double(), config, path="plain")
    found = []
    for first in range(0, len(inputs), BATCH):
        batch = CrystalBatch.collate(inputs[first : first + BATCH])
        positions, cells = relaxer.predict(batch)
        parts = positions.split(batch.counts.tolist())
        found += [torch.cat([part, cell]) for part, cell in zip(parts, cells, strict=True)]
    return found


def changes(first: Predictions, second: Predictions) -> Tensor:
    """Return the largest change of a coordinate or an entry of the cell in A, for every crystal."""
    return torch.stack([(a - b).abs().max() for a, b in zip(first, second, strict=True)])


def second_moments(
    network: Network, config: ModelConfig, inputs: Sequence[CrystalBatch]
) -> dict[str, Tensor]:
    """Return ``X.T @ X`` of the inputs of every linear layer by the name of its weight, ``(F, F)``."""
    watched = copy.deepcopy(network)
    moments: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).double()
            moments[name] = moments.get(name, torch.zeros(())) + x.T @ x

        return add

    for name, module in watched.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(watch(f"{name}.weight"))
    relaxer = DirectRelaxer(watched, config, path="plain")
    for first in range(0, len(inputs), BATCH):
        relaxer.predict(CrystalBatch.collate(inputs[first : first + BATCH]))
    return moments


def rounded(weight: Tensor, moments: Tensor) -> Tensor:
    """Return a matrix of numbers of half precision that changes the output of its layer little.

    Columns are rounded one after another, and the later ones compensate for the error so far.

    Args:
        weight: ``(G, F)``.
        moments: Second moments of the inputs, ``(F, F)``.

    Source: Frantar et al., GPTQ, arXiv:2210.17323, equation 3.
    """
    left, result = weight.double().clone(), torch.zeros_like(weight)
    damped = moments + DAMPING * moments.diagonal().mean().clamp(min=1e-12) * torch.eye(len(moments))
    factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    for k in range(weight.shape[1]):
        result[:, k] = left[:, k].half().to(weight.dtype)
        error = (left[:, k] - result[:, k]) / factor[k, k]
        left[:, k + 1 :] -= error[:, None] * factor[k, k + 1 :]
    return result


def replaced(network: Network, weights: dict[str, Tensor]) -> Network:
    """Return a copy of a network with other weights."""
    other = copy.deepcopy(network)
    other.load_state_dict(weights, strict=False)
    return other


def to_half(network: Network, config: ModelConfig, datasets: Sequence[Path], n: int = 100) -> Network:
    """Return the network with matrices rounded to half precision where predictions hardly change.

    If all matrices of linear layers together change a prediction by more than `LIMIT`, those are rounded that
    change it least for their size, until the changes add up to it in quadrature.

    Args:
        network: The network.
        config: Its configuration.
        datasets: Rounding is fitted to crystals of the train splits and measured on those of the test splits.
        n: Crystals of the test splits.
    """
    moments = second_moments(network, config, crystals(datasets, "train", 2 * n))
    state = network.state_dict()
    half = {name: rounded(state[name], moment) for name, moment in moments.items()}
    inputs = crystals(datasets, "test", n)
    exact = predict(network, config, inputs)

    def change(weights: dict[str, Tensor], chosen: Sequence[int]) -> Tensor:
        now = predict(replaced(network, weights), config, [inputs[k] for k in chosen])
        return changes([exact[k] for k in chosen], now)

    everyone = range(len(inputs))
    everything = change(half, everyone)
    print(f"all {len(half)} matrices: largest change {everything.max():.1e} A")
    if everything.max() <= LIMIT:
        return replaced(network, half)
    sensitive = everything.argsort(descending=True)[:SENSITIVE].tolist()
    single = {name: change({name: weight}, sensitive).square() for name, weight in half.items()}
    order = sorted(half, key=lambda name: float(single[name].max()) / half[name].numel())
    for limit in (0.8 * LIMIT, 0.55 * LIMIT, 0.35 * LIMIT, 0.0):
        chosen: dict[str, Tensor] = {}
        total = torch.zeros(len(sensitive), dtype=torch.float64)
        for name in order:
            if (total + single[name]).max() <= limit**2:
                total, chosen[name] = total + single[name], half[name]
        largest = float(change(chosen, everyone).max())
        size = sum(weight.numel() for weight in chosen.values())
        print(f"{len(chosen)} matrices with {size:,} numbers: largest change {largest:.1e} A")
        if largest <= LIMIT:
            return replaced(network, chosen)
    return network
