"""Errors to expect of predicted positions and cells: a head for families that predict these (ours)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repose.crystal.lattice import deformation, to_cartesian
from repose.models.prediction import ErrorScales, Geometry
from repose.nn.equivariant import mlp
from repose.nn.ops import safe_norm, segment_mean

# Logarithms of scales stay between these: 1 mA to 7 A, and 5e-5 to 1 for strains.
ATOMS, STRAINS = (-7.0, 2.0), (-10.0, 0.0)


class UncertaintyHead(nn.Module):
    """Laplace scales from the last features of a network and from how far it moved things.

    Features and geometry come without gradients, so that learning how large errors are leaves the
    predictions as they would be without this head.

    Args:
        features: Width F of the scalars.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.atoms = mlp(2 * features + 3, features, 1)
        self.strains = mlp(features + 3, features, 1)
        with torch.no_grad():  # errors of some tenths of an A, and of some percent, are a good first guess
            for head, guess in ((self.atoms, -1.5), (self.strains, -3.0)):
                head[-1].weight.mul_(0.1)  # type: ignore[operator, union-attr]
                head[-1].bias.fill_(guess)  # type: ignore[operator, union-attr]

    def forward(self, x: Tensor, before: Geometry, after: Geometry, system_index: Tensor) -> ErrorScales:
        """Errors to expect of ``after``.

        Args:
            x: Scalars of atoms, ``(N, F)``.
            before: Where the network started.
            after: Where it ended.
            system_index: Crystal of every atom, ``(N,)``.
        """
        after = Geometry(*(tensor.detach() for tensor in after))
        x = nn.functional.layer_norm(x.detach(), x.shape[-1:])
        mean = segment_mean(x, system_index, len(after.cells))
        gradient = deformation(before.cells, after.cells)
        strain = gradient - torch.eye(3).to(gradient)
        moved = safe_norm(after.positions - to_cartesian(before.positions, gradient, system_index))
        moved = torch.log(moved + 1e-2).to(x)
        size = torch.log(safe_norm(strain.flatten(1)) + 1e-2)
        dilation = torch.diagonal(strain, dim1=1, dim2=2).sum(-1)
        whole = torch.stack([size, 10 * dilation], dim=-1).to(x)  # (S, 2)
        of_atoms = torch.cat([x, mean[system_index], moved.unsqueeze(-1), whole[system_index]], dim=-1)
        farthest = segment_mean(moved.unsqueeze(-1), system_index, len(mean))
        of_crystals = torch.cat([mean, farthest, whole], dim=-1)
        return ErrorScales(
            self.atoms(of_atoms).squeeze(-1).clamp(*ATOMS).exp(),
            self.strains(of_crystals).squeeze(-1).clamp(*STRAINS).exp(),
        )
