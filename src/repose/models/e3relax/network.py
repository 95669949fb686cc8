"""E3Relax: atoms and lattice vectors as equivariant nodes.

Yang, Zhao, Wang, Zhuo, Liu, Shen, "Equivariant Atomic and Lattice Modeling Using Geometric Deep
Learning for Crystal Structure Optimization", arXiv 2511.12243. Equation numbers are the paper's.

Where this differs from the paper or its released code, and why:

* Lattice vectors are rows and the three predicted changes are stacked as rows; the released code
  stacks columns, which is not equivariant.
* Positions enter the lattice-atom interaction relative to the crystal's mean, so that a translated
  crystal gives the same answer (equations 15-16 use absolute positions).
* The lattice-atom interaction is first in a layer, as in the released code, so that the last one has an
  effect.
* γ of equations 1, 2, 15 and 16 is one linear layer over the radial basis, as in PaiNN: over 128 Gaussians it
  can represent any function of distance. Factors 1/sqrt 3, 1/sqrt F and 1/sqrt 2, which weights can absorb,
  keep features of order one.
* Printed equations are options: ``atom_update="gated"`` for 3 and 4 (the released code has residuals there),
  ``lattice_update="gated"`` for 11, ``keep_vectors=False`` for 16, ``lattice_features="embedding"`` with
  ``shared_axes=False`` for the initial lattice nodes.
* ``shared_axes`` gives a, b and c the same weights; the released code has separate ones, which makes the
  prediction depend on the order of the axes.
* The limit on neighbours never cuts a shell of equal distances (``graph.ties``).
* ``edge_channels``, ``lattice_offset="axis"``, ``frame="affine"`` and ``start="rescaled"`` are ours: see
  `E3RelaxLayer`, `RefinementLayer` and `LatticeNetwork`.

Example configuration::

    {"model": {"features": 128, "frame": "affine", "lattice_offset": "axis", "edge_channels": 16}}
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repose.crystal.graph import PeriodicGraph
from repose.models.e3relax.settings import E3RelaxSettings
from repose.models.lattice_network import LatticeNetwork, LayerState, RefinementLayer, lattice_view
from repose.models.registry import register
from repose.nn.equivariant import SelfUpdate, mlp
from repose.nn.lattice_nodes import LatticeToAtoms
from repose.nn.messages import EdgeGeometry, Message
from repose.nn.radial import GaussianBasis


class E3RelaxLayer(RefinementLayer):
    """One layer: lattice to atoms, messages, self-update, positions, atoms to lattice.

    With ``lattice_offset="axis"`` the inputs of atoms are the lattice vectors instead of the vectors to their
    tips; together with the affine frame the prediction does not depend on periodic images.

    Arguments as for `RefinementLayer`.
    """

    def __init__(self, settings: E3RelaxSettings, basis: GaussianBasis, moves: bool) -> None:
        super().__init__(settings, basis, moves)
        f = settings.features
        self.to_tips = settings.lattice_offset == "tip"
        self.message = Message(f, settings.n_basis, settings.half_width)
        self.residual = settings.atom_update == "residual"
        self.update = SelfUpdate(f, self.residual, self.residual)
        self.lattice_to_atoms: LatticeToAtoms | None = None
        if settings.lattice_nodes:
            self.lattice_to_atoms = LatticeToAtoms(
                f, settings.n_basis, settings.shared_axes, settings.keep_vectors
            )
        if moves:
            self.weights = mlp(f, f, f)  # g of equation 5
            self.displacement = nn.Linear(f, 1, bias=False)  # W of equation 7

    def forward(self, state: LayerState, system_index: Tensor, graph: PeriodicGraph) -> LayerState:
        """See `RefinementLayer.forward`."""
        x, v = state.x, state.v
        if self.lattice_to_atoms is not None:
            view = lattice_view(state.positions, state.cells, system_index, self.basis, self.to_tips)
            x, v = self.lattice_to_atoms(x, v, state.y, state.w, view, system_index)

        edges = EdgeGeometry.at(graph, state.positions, state.cells, self.basis)
        m, mv = self.message(x, v, edges)
        if self.residual:
            m, mv = (x + m) / 2**0.5, v + mv
        x, v = self.update(m, mv)  # eq. 3-4

        y, w, change = self.update_lattice(x, v, state, edges, system_index)  # eq. 9-13
        positions, cells = state.positions, state.cells
        if self.moves:
            alpha = torch.softmax(self.weights(x), dim=-1).unsqueeze(1)  # eq. 5-6
            step = self.displacement(v).squeeze(-1) + (alpha * v).sum(dim=-1)  # eq. 7, (N, 3)
            positions, cells = self.move(state, step, change, system_index)  # eq. 8, 14
        return LayerState(x, v, y, w, positions, cells)


@register("e3relax")
class E3Relax(LatticeNetwork[E3RelaxSettings]):
    """The network of E3Relax."""

    settings_type = E3RelaxSettings
    layer_type = E3RelaxLayer
