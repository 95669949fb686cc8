"""E3Relax-H2: high-degree, high-order messages, lattice nodes in both directions.

Yang, Zhuo, Xie, Liu, Shen, "An Efficient High-Degree, High-Order Equivariant Graph Neural Network for Direct
Crystal Structure Optimization", arXiv 2603.23941 (2026).

Where this differs from the paper or its released code, and why:

* Lattice vectors are rows, and so are the three predicted changes. The released code adds columns to rows,
  which is not equivariant.
* An atom whose neighbours are balanced has no reference direction. The angular input of the gate goes
  smoothly to zero there; a fixed direction would break the symmetry of rock salt or fcc
  (`repose.nn.messages.AngularGate`).
* The harmonics are summed by the addition theorem (the same class).
* The limit on neighbours never cuts a shell of equal distances (``graph.ties``).
* Factors of sqrt 2 are those of E3Relax, with which the blocks are shared. The released code has
  ``lattice_features="embedding"`` and ``lattice_update="gated"``.
* ``edge_channels``, ``lattice_offset="axis"``, ``frame="affine"``, ``start="rescaled"``, ``keep_vectors`` and
  ``shared_axes`` are ours.

The network is equivariant under rotation, reflection, translation and the order of atoms. The published form
depends on the order of a, b and c, through separate weights and the matrix that mixes the three nodes; with
``shared_axes`` it does not. It depends on periodic images through the mean of the positions; with
``lattice_offset="axis"`` and ``frame="affine"`` it does not. A supercell gives another prediction in any
form.

Example configuration::

    {"model": {"features": 128, "layers": 4, "lmax": 3, "shared_axes": true, "frame": "affine"}}
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repose.crystal.graph import PeriodicGraph
from repose.models.e3relax_h2.settings import E3RelaxH2Settings
from repose.models.lattice_network import (
    LatticeNetwork,
    LayerState,
    RefinementLayer,
    along_and_across,
    lattice_view,
    to_tips,
)
from repose.models.registry import register
from repose.nn.equivariant import SelfUpdate, mlp
from repose.nn.lattice_nodes import AxisMixing, LatticeToAtoms, LatticeView
from repose.nn.messages import AngularGate, EdgeGeometry, Message
from repose.nn.ops import unit
from repose.nn.radial import GaussianBasis


class E3RelaxH2Layer(RefinementLayer):
    """One layer: lattice to atoms, gated messages, self-interaction, positions, atoms to lattice."""

    def __init__(self, settings: E3RelaxH2Settings, basis: GaussianBasis, moves: bool) -> None:
        super().__init__(settings, basis, moves, residual=True, mixing=settings.axis_mixing)
        f = settings.features
        self.lattice_offset = settings.lattice_offset
        self.message = Message(f, settings.n_basis, settings.half_width)
        self.gate = AngularGate(f, settings.lmax, settings.fade) if settings.angular else None
        self.update = SelfUpdate(f)
        self.lattice_to_atoms: LatticeToAtoms | None = None
        self.mixing: AxisMixing | None = None
        self.parts: nn.Sequential | None = None
        if settings.lattice_nodes and settings.lattice_to_atoms:
            r = settings.n_basis
            self.lattice_to_atoms = LatticeToAtoms(f, r, settings.shared_axes, settings.keep_vectors)
            if self.lattice_offset == "parts":
                self.parts = mlp(2 * r, r, r)
            if settings.axis_mixing:
                self.mixing = AxisMixing(settings.shared_axes)
        if moves:
            self.displacement = nn.Linear(f, 1, bias=False)
            self.scale = nn.Parameter(torch.ones(()))

    def forward(self, state: LayerState, system_index: Tensor, graph: PeriodicGraph) -> LayerState:
        """See `RefinementLayer.forward`."""
        x, v, y, w, positions, cells = state
        if self.lattice_to_atoms is not None:
            view = self._view(positions, cells, system_index)
            x, v = self.lattice_to_atoms(x, v, y, w, view, system_index)
            if self.mixing is not None:
                y, w = self.mixing(y, w)

        edges = EdgeGeometry.at(graph, positions, cells, self.basis, self.message.compiled)
        m, mv = self.message(x, v, edges, self.gate)
        x, v = self.update((x + m) / 2**0.5, v + mv)

        y, w, change = self.update_lattice(x, v, state._replace(y=y, w=w), edges, system_index)
        if self.moves:
            step = self.scale * self.displacement(v).squeeze(-1)
            positions, cells = self.move(state, step, change, system_index)
        return LayerState(x, v, y, w, positions, cells)

    def _view(self, positions: Tensor, cells: Tensor, system_index: Tensor) -> LatticeView:
        """Lattice vectors relative to every atom."""
        if self.parts is None:
            return lattice_view(positions, cells, system_index, self.basis, self.lattice_offset == "tip")
        along, across = along_and_across(positions, cells, system_index)
        seen = self.parts(torch.cat([self.basis(along), self.basis(across)], dim=-1))  # (N, 3, R)
        return LatticeView(seen, unit(to_tips(positions, cells, system_index)), None)


@register("e3relax-h2")
class E3RelaxH2(LatticeNetwork[E3RelaxH2Settings]):
    """The network of E3Relax-H2."""

    settings_type = E3RelaxH2Settings
    layer_type = E3RelaxH2Layer

    @property
    def gate_inputs(self) -> int:
        """See `LatticeNetwork.gate_inputs`."""
        return self.settings.lmax + 2 if self.settings.angular else 0
