"""Relaxation of one crystal for the jobs that follow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from repose.errors import InvalidCrystalError
from repose.relaxer.loading import load_once
from repose.relaxer.relaxation import Relaxation


def relax_one(structure: Any, *, model: str, device: str, then: Any, **options: Any) -> Relaxation:
    """Relax one crystal.

    Args:
        structure: `ase.Atoms` or a pymatgen Structure; not changed.
        model: See `repose.load`.
        device: The same.
        then: See `repose.Relaxer.relax`.
        **options: The same.

    Returns:
        The result. If the prediction is suspect and no potential follows, the structure is the given one, so
        that the next job does not start from an invalid crystal.

    Raises:
        InvalidCrystalError: The crystal was refused, or the potential failed. The message gives the reason.
    """
    (result,) = load_once(model, device).relax([structure], then=then, **options)
    failed = result.calculator is not None and result.energy is None
    if failed or result.status == "refused":
        raise InvalidCrystalError(f"{result.formula or 'the input'} cannot be relaxed: {result.reason}")
    if result.status == "suspect" and result.calculator is None:
        return replace(result, structure=structure, reason=f"{result.reason} The input is returned.")
    return result
