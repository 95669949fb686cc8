"""Published errors beside measured ones, for the test sets of the papers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from repose.data.dataset import DatasetInfo
from repose.data.splits import SOURCE_DESCRIPTION
from repose.presets.preset import Preset, load_preset, preset_names
from repose.relaxer.baselines import Dummy

# Errors of the input that identify a test set, and their largest relative difference from those of a paper.
IDENTIFYING = ("coordinates", "lattice", "shape", "volume")
TOLERANCE = 0.05


class PublishedRows(NamedTuple):
    """Published errors by model and metric, and notes on their source or on why there are none."""

    rows: dict[str, dict[str, float]]
    notes: list[str]


def presets_of(info: DatasetInfo, split: str) -> list[Preset]:
    """Presets with published errors on the split of a dataset, which has the name and split of an archive."""
    if split != "test" or info.splits != SOURCE_DESCRIPTION:
        return []
    presets = map(load_preset, preset_names())
    return [preset for preset in presets if preset.published and info.name in preset.archives]


def published_rows(presets: Sequence[Preset], dummy: Mapping[str, float]) -> PublishedRows:
    """Published errors of all presets whose input has the errors ``dummy``, which are measured."""
    rows: dict[str, dict[str, float]] = {}
    notes = []
    for preset in presets:
        source = f"{preset.paper}, {preset.place}"
        known = preset.published.get(Dummy.name, {})
        differing = [
            f"{dummy[key]:g} instead of {known[key]:g} for {key}"
            for key in IDENTIFYING
            if key in known and not abs(dummy[key] - known[key]) <= TOLERANCE * known[key]
        ]
        if differing or not known:
            notes.append(
                f"published rows of {source} are left out, as this is not its test set: the errors of Dummy "
                f"are {', '.join(differing) or 'not published'}. Was it fetched with --no-align?"
            )
            continue
        notes.append(f"published rows are those of {source}.")
        for model, errors in preset.published.items():
            rows.setdefault(model, {}).update(errors)
    return PublishedRows(rows, notes)
