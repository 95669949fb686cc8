"""Crystal structure relaxation in one forward pass.

``repose.relax(structure)`` relaxes an `ase.Atoms`, a pymatgen Structure or a file; ``repose.load(name)``
returns a `repose.Relaxer` for more than one call. Importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repose.errors import ReposeError
    from repose.relaxer.ase_optimizer import DirectOptimizer
    from repose.relaxer.base import Relaxer
    from repose.relaxer.loading import load, relax
    from repose.relaxer.relaxation import Relaxation, to_dataframe
    from repose.relaxer.two_stage_optimizer import TwoStageOptimizer
    from repose.report.figure import plot

    __version__: str

__all__ = [
    "DirectOptimizer",
    "Relaxation",
    "Relaxer",
    "ReposeError",
    "TwoStageOptimizer",
    "__version__",
    "load",
    "plot",
    "relax",
    "to_dataframe",
]

_MODULES = {
    "DirectOptimizer": "repose.relaxer.ase_optimizer",
    "Relaxation": "repose.relaxer.relaxation",
    "Relaxer": "repose.relaxer.base",
    "ReposeError": "repose.errors",
    "TwoStageOptimizer": "repose.relaxer.two_stage_optimizer",
    "load": "repose.relaxer.loading",
    "plot": "repose.report.figure",
    "relax": "repose.relaxer.loading",
    "to_dataframe": "repose.relaxer.relaxation",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("repose-crystal")
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'repose' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
