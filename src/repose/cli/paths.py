"""`repose evaluate --paths`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repose.cli.common import Progress

if TYPE_CHECKING:
    from repose.data.dataset import Dataset
    from repose.evaluation.path_results import PathEvaluation
    from repose.relaxer.base import Relaxer


def evaluate_paths(
    relaxers: Sequence[Relaxer],
    datasets: Mapping[str, Dataset],
    *,
    split: str,
    perturb: Sequence[float],
    out: Path | None,
    plots: bool,
    quiet: bool,
) -> PathEvaluation:
    """Score paths, showing how far it is, and write the report where it is wanted.

    Args:
        relaxers: The models.
        datasets: By name.
        split: Which crystals.
        perturb: Scales in A of the noise on the input.
        out: Directory, or None.
        plots: Draw the plots.
        quiet: Show nothing.
    """
    from itertools import chain

    from repose.evaluation.path_report import write_paths
    from repose.evaluation.paths import evaluate_paths as run

    total = sum(dataset.info.counts.get(split, 0) for dataset in datasets.values())
    train = chain.from_iterable(dataset.read("train") for dataset in datasets.values())
    with Progress(total, "crystals", quiet, unit="crystal") as progress:
        result = run(
            relaxers,
            {name: dataset.read(split) for name, dataset in datasets.items()},
            train=train,
            split=split,
            perturb=perturb,
            progress=progress.advance,
        )
    if out is not None:
        write_paths(result, out, plots=plots)
    return result


def parse_scales(text: str) -> list[float]:
    """Scales of noise, joined by commas.

    Args:
        text: E.g. ``"0.0001,0.01"``; empty for none.

    Raises:
        ConfigError: One is not a positive number.
    """
    from math import isfinite

    from repose.errors import ConfigError

    scales = []
    for word in filter(None, text.replace(" ", "").split(",")):
        try:
            scale = float(word)
        except ValueError:
            scale = 0.0
        if not (scale > 0 and isfinite(scale)):
            raise ConfigError(
                f"--perturb takes positive numbers in A joined by commas, e.g. 0.001,0.01; got '{word}'."
            )
        scales.append(scale)
    return scales
