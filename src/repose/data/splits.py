"""Splits that keep related crystals together.

The split of a crystal is a function of its group's name alone (a hash), so that datasets imported
apart, today and next year, never put one chemical system into training here and into the test there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from repose.data.store import SPLITS, Pair
from repose.errors import DatasetError

BY_SYSTEM = "chemical-system"
BY_SOURCE = "source"
SOURCE_DESCRIPTION = "as the source gives them; chemical systems may stand in several splits"


@dataclass(frozen=True)
class GroupSplit:
    """Assign crystals to train, val and test by group.

    Attributes:
        by: ``"chemical-system"``, or the name of a tag (e.g. ``"prototype"``).
        fractions: Shares of train, val and test; they add up to one.
        seed: Another seed gives another split.

    Raises:
        DatasetError: The fractions are not three shares of one, or a crystal lacks the tag.
    """

    by: str = BY_SYSTEM
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0

    def __post_init__(self) -> None:
        # Written so that NaN fails.
        if not (min(self.fractions) >= 0 and abs(sum(self.fractions) - 1) <= 1e-6):
            raise DatasetError(f"fractions of train, val and test must add up to 1; got {self.fractions}.")

    def group(self, pair: Pair) -> str:
        """Name of the group that a crystal belongs to."""
        if self.by == BY_SYSTEM:
            return pair.chemical_system
        if self.by not in pair.tags:
            raise DatasetError(
                f"crystal '{pair.id}' has no tag '{self.by}' to split by; "
                f"tags: {', '.join(pair.tags) or 'none'}. Use '{BY_SYSTEM}' or a tag."
            )
        return pair.tags[self.by]

    def __call__(self, pair: Pair) -> str:
        """Split of a crystal."""
        digest = hashlib.sha256(f"{self.seed}:{self.by}:{self.group(pair)}".encode()).digest()
        where = int.from_bytes(digest[:8], "big") / 2**64
        train, val, _ = self.fractions
        return SPLITS[0] if where < train else SPLITS[1] if where < train + val else SPLITS[2]

    @property
    def description(self) -> str:
        """Sentence for ``dataset.json``."""
        shares = "/".join(f"{100 * f:g}" for f in self.fractions)
        return (
            f"by {self.by}, {shares}% train/val/test of the groups, from the SHA-256 of "
            f"'{self.seed}:{self.by}:GROUP'; no {self.by} stands in two splits"
        )


def parse_split(by: str, fractions: str, seed: int) -> GroupSplit:
    """The split that options ask for.

    Args:
        by: ``"chemical-system"`` or the name of a tag.
        fractions: Three shares, ``"0.8,0.1,0.1"``.
        seed: Another seed gives another split.

    Raises:
        DatasetError: The fractions are not three numbers that add up to one.
    """
    try:
        train, val, test = map(float, fractions.split(","))
    except ValueError:
        raise DatasetError(
            f"--fractions must be three numbers like 0.8,0.1,0.1; got '{fractions}'."
        ) from None
    return GroupSplit(by, (train, val, test), seed)


def shared_groups(pairs: Iterable[Pair], group: Callable[[Pair], str]) -> tuple[int, list[str]]:
    """Check that groups do not stand in two splits.

    Args:
        pairs: Crystals with their splits.
        group: Name of a crystal's group, e.g. `GroupSplit.group`.

    Returns:
        How many groups there are, and the names of those that stand in more than one split.
    """
    where: dict[str, set[str]] = {}
    for pair in pairs:
        where.setdefault(group(pair), set()).add(pair.split)
    return len(where), sorted(name for name, splits in where.items() if len(splits) > 1)
