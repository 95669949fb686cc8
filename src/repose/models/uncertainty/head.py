"""Uncertainty head for families that predict positions and cells."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repose.crystal.lattice import deformation, to_cartesian
from repose.models.prediction import ErrorScales, Geometry
from repose.nn.equivariant import mlp
from repose.nn.ops import safe_norm, segment_mean

# Range of the logarithms of error scales: 1 mA to 7 A for atoms, 5e-5 to 1 for strains.
LOG_ATOM_SCALES, LOG_STRAIN_SCALES = (-7.0, 2.0), (-10.0, 0.0)


class UncertaintyHead(nn.Module):
    """Laplace scales of the errors, from a network's last features and its predicted displacements.

    Features and geometry are detached, so that training this head leaves the predictions unchanged.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.atoms = mlp(2 * features + 3, features, 1)
        self.strains = mlp(features + 3, features, 1)
        with torch.no_grad():  # initial scales: some tenths of an A, and some percent
            for head, log_scale in ((self.atoms, -1.5), (self.strains, -3.0)):
                head[-1].weight.mul_(0.1)  # type: ignore[operator, union-attr]
                head[-1].bias.fill_(log_scale)  # type: ignore[operator, union-attr]

    def forward(self, x: Tensor, before: Geometry, after: Geometry, system_index: Tensor) -> ErrorScales:
        """Expected errors of ``after``.

        Args:
            x: Scalars of atoms, ``(N, F)``.
            before: Input geometry of the network.
            after: Predicted geometry.
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
        mean_moved = segment_mean(moved.unsqueeze(-1), system_index, len(mean))
        of_crystals = torch.cat([mean, mean_moved, whole], dim=-1)
        return ErrorScales(
            self.atoms(of_atoms).squeeze(-1).clamp(*LOG_ATOM_SCALES).exp(),
            self.strains(of_crystals).squeeze(-1).clamp(*LOG_STRAIN_SCALES).exp(),
        )
