"""Splits that keep related crystals together.

The split of a crystal is a function of its group's name alone (a hash), so that datasets imported
apart, today and next year, never put one chemical system into training here and into the test there.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from repose.crystal.elements import element_table
from repose.data.dataset import SPLITS, Pair
from repose.data.generate.chemistry import ANIONS, atomic_number
from repose.errors import DatasetError, nearest

BY_SYSTEM = "chemical-system"
BY_ANION = "anion"
BY_SOURCE = "source"
SOURCE_DESCRIPTION = "as the source gives them; chemical systems may stand in several splits"
# Names that messages list at most.
LISTED = 20


def hash_fraction(text: str) -> float:
    """Return a number in [0, 1) that depends only on a text, from its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def anion(pair: Pair) -> str:
    """The most electronegative element of a crystal (Pauling), whatever its charge.

    Of several as electronegative as each other it is the commonest anion (Se of C and Se), then the heaviest;
    elements without a value come last.
    """
    table = element_table()

    def rank(number: int) -> tuple[float, float, int]:
        common = ANIONS.get(str(table["symbol"][number]), (0, 0.0))[1]
        return float(np.nan_to_num(table["electronegativity"][number])), common, number

    return str(table["symbol"][max(pair.numbers.tolist(), key=rank)])


@dataclass(frozen=True)
class GroupSplit:
    """Assign crystals to train, val and test by group.

    Attributes:
        by: ``"chemical-system"``, ``"anion"``, or the name of a tag (e.g. ``"prototype"``).
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
        if self.by == BY_ANION:
            return anion(pair)
        if self.by not in pair.tags:
            raise DatasetError(
                f"crystal '{pair.id}' has no tag '{self.by}' to split by; "
                f"tags: {', '.join(pair.tags) or 'none'}. Use '{BY_SYSTEM}', '{BY_ANION}' or a tag."
            )
        return pair.tags[self.by]

    def __call__(self, pair: Pair) -> str:
        """Split of a crystal."""
        fraction = hash_fraction(f"{self.seed}:{self.by}:{self.group(pair)}")
        train, val, _ = self.fractions
        return SPLITS[0] if fraction < train else SPLITS[1] if fraction < train + val else SPLITS[2]

    @property
    def description(self) -> str:
        """Sentence for ``dataset.json``."""
        shares = "/".join(f"{100 * f:g}" for f in self.fractions)
        return (
            f"by {self.by}, {shares}% train/val/test of the groups, from the SHA-256 of "
            f"'{self.seed}:{self.by}:GROUP'; no {self.by} stands in two splits"
        )


@dataclass(frozen=True)
class LeaveOut:
    """Put all crystals of some groups into test, and divide the rest into train and val.

    Attributes:
        groups: What is left out by; where names are not given, the groups that it puts into test are.
        rest: Its shares of train and val divide the others, in proportion.
        names: Groups that are left out.

    Raises:
        DatasetError: Nothing can be trained on, since the shares of train and val are zero.
    """

    groups: GroupSplit
    rest: GroupSplit = GroupSplit()
    names: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if sum(self.rest.fractions[:2]) <= 0:
            raise DatasetError(
                "shares of train and val are zero, and crystals that are not left out go there; "
                f"got {self.rest.fractions}."
            )

    @property
    def by(self) -> str:
        """What `group` names."""
        return f"{self.groups.by} where it is left out, else by {self.rest.by}"

    def left_out(self, pair: Pair) -> bool:
        """Whether a crystal is."""
        if self.names is None:
            return self.groups(pair) == SPLITS[2]
        return self.groups.group(pair) in self.names

    def group(self, pair: Pair) -> str:
        """Name of the group that a crystal belongs to."""
        if self.left_out(pair):
            return f"{self.groups.by} {self.groups.group(pair)}"
        return self.rest.group(pair)

    def __call__(self, pair: Pair) -> str:
        """Split of a crystal."""
        return SPLITS[2] if self.left_out(pair) else self._divided()(pair)

    def _divided(self) -> GroupSplit:
        train, val, _ = self.rest.fractions
        return GroupSplit(self.rest.by, (train / (train + val), val / (train + val), 0.0), self.rest.seed)

    def check(self, pairs: Iterable[Pair]) -> None:
        """Make sure that something is left out, and something left.

        Args:
            pairs: All crystals of a dataset.

        Raises:
            DatasetError: No crystal belongs to one of the names, none is left out, or none is left; says
                what there is.
        """
        there, left = Counter[str](), 0
        for pair in pairs:
            there[self.groups.group(pair)] += 1
            left += not self.left_out(pair)
        listed = [f"{name} ({count})" for name, count in there.most_common(LISTED)]
        more = f" and {len(there) - LISTED} more" if len(there) > LISTED else ""
        has = f"the dataset holds {', '.join(listed)}{more}"
        for name in sorted(self.names or ()):
            if name not in there:
                raise DatasetError(f"no crystal has {self.groups.by} '{name}'; {has}.{nearest(name, there)}")
        if left == sum(there.values()):
            raise DatasetError(
                f"nothing is left out: the hash chooses no {self.groups.by} of {len(there)}; "
                "give a larger share, another seed, or names."
            )
        if not left:
            raise DatasetError(f"every {self.groups.by} is left out, and nothing left to train on; {has}.")

    @property
    def description(self) -> str:
        """Sentence for ``dataset.json``."""
        by, rest = self.groups.by, self._divided()
        which = ", ".join(sorted(self.names or ()))
        if self.names is None:
            share = f"{100 * self.groups.fractions[2]:g}% of the groups"
            which = f"{share}, from the SHA-256 of '{self.groups.seed}:{by}:GROUP'"
        shares = "/".join(f"{100 * f:.3g}" for f in rest.fractions[:2])
        return (
            f"test is what was left out, by {by}: {which}; the rest by {rest.by}, {shares}% train/val of the "
            f"groups, from the SHA-256 of '{rest.seed}:{rest.by}:GROUP'"
        )


def parse_leave_out(text: str, rest: GroupSplit) -> LeaveOut:
    """What is left out, as an option says it.

    Args:
        text: ``"anion=S,Se"``, or a tag and its values, ``"prototype=BN,GaS"``, or a share of the groups that
            is chosen by the hash of their names, ``"prototype=0.2"``.
        rest: How the rest is divided; its seed also chooses a share.

    Raises:
        DatasetError: It cannot be read so, or an anion is no element.
    """
    by, _, values = text.partition("=")
    names = [name.strip() for name in values.split(",")]
    if not by or not all(names):
        raise DatasetError(
            "--leave-out takes anion=S,Se, a tag with its values like prototype=BN,GaS, or a share of its "
            f"values like prototype=0.2; got '{text}'."
        )
    if by == BY_SYSTEM:
        raise DatasetError("chemical systems are left out by an ordinary split: repose data split DIR.")
    share = _number(names[0]) if len(names) == 1 else None
    if share is not None and 0 < share < 1:
        return LeaveOut(GroupSplit(by, (1 - share, 0.0, share), rest.seed), rest)
    if by == BY_ANION:
        for name in names:
            atomic_number(name)
    return LeaveOut(GroupSplit(by, seed=rest.seed), rest, frozenset(names))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


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
