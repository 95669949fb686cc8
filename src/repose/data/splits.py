"""Splits into train, val and test that keep related crystals together.

The split of a crystal is a function (a hash) of the name of its group alone. Datasets that are made
independently therefore never have the same chemical system in train here and in test there.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from repose.crystal.elements import element_table
from repose.data.dataset import SPLITS, Pair
from repose.data.generate.chemistry import ANIONS, atomic_number
from repose.errors import DatasetError, nearest

BY_SYSTEM = "chemical-system"
BY_ANION = "anion"
BY_SOURCE = "source"
SOURCE_DESCRIPTION = "as the source gives them; a chemical system may be in several splits"
# Largest number of groups that a message lists.
MAX_LISTED = 20


def hash_fraction(text: str) -> float:
    """Return a number in [0, 1) that depends only on a text, from its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def anion(pair: Pair) -> str:
    """Return the most electronegative element of a crystal (Pauling), whatever its charge.

    Ties go to the most common anion (Se for C and Se), then to the heaviest element. Elements without a
    tabulated value come last.
    """
    table = element_table()

    def rank(number: int) -> tuple[float, float, int]:
        frequency = ANIONS.get(str(table["symbol"][number]), (0, 0.0))[1]
        return float(np.nan_to_num(table["electronegativity"][number])), frequency, number

    return str(table["symbol"][max(pair.numbers.tolist(), key=rank)])


@dataclass(frozen=True)
class GroupSplit:
    """Assignment of crystals to train, val and test by group.

    Attributes:
        by: ``"chemical-system"``, ``"anion"``, or the name of a tag (e.g. ``"prototype"``).
        fractions: Fractions of train, val and test; their sum is 1.
        seed: Seed of the hash.
        fold: Number k, from 1, of one of n folds of a cross-validation, as ``(k, n)``: hashes are turned so
            that this fold comes last. With a fraction of test of 1/n each group is in one test split.

    Raises:
        DatasetError: The fractions are negative or do not add up to 1, or a crystal lacks the tag.
    """

    by: str = BY_SYSTEM
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    fold: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        # Written so that NaN fails.
        if not (min(self.fractions) >= 0 and abs(sum(self.fractions) - 1) <= 1e-6):
            raise DatasetError(f"fractions of train, val and test must add up to 1; got {self.fractions}.")

    def group(self, pair: Pair) -> str:
        """Return the name of a crystal's group."""
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
        """Return the split of a crystal."""
        fraction = hash_fraction(f"{self.seed}:{self.by}:{self.group(pair)}")
        if self.fold is not None:
            fraction = (fraction - self.fold[0] / self.fold[1]) % 1
        train, val, _ = self.fractions
        return SPLITS[0] if fraction < train else SPLITS[1] if fraction < train + val else SPLITS[2]

    @property
    def description(self) -> str:
        """Description for ``dataset.json``."""
        percent = "/".join(f"{100 * f:g}" for f in self.fractions)
        fold = "" if self.fold is None else f"; test is fold {self.fold[0]} of {self.fold[1]}"
        return (
            f"by {self.by}, {percent}% train/val/test of the groups, from the SHA-256 of "
            f"'{self.seed}:{self.by}:GROUP'; no {self.by} is in two splits{fold}"
        )


@dataclass(frozen=True)
class LeaveOut:
    """Assignment of all crystals of some groups to test, and of the others to train and val.

    Attributes:
        groups: Kind of the groups that are left out. Without names, it also chooses them.
        rest: Split of the other crystals; its fraction of test is divided between train and val.
        names: Groups that are left out.

    Raises:
        DatasetError: The fractions of train and val are zero.
    """

    groups: GroupSplit
    rest: GroupSplit = GroupSplit()
    names: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if sum(self.rest.fractions[:2]) <= 0:
            raise DatasetError(
                "the fractions of train and val are zero, but the crystals that are not left out go there; "
                f"got {self.rest.fractions}."
            )

    @property
    def by(self) -> str:
        """Kind of the groups of `group`."""
        return f"{self.groups.by} where it is left out, else by {self.rest.by}"

    def is_left_out(self, pair: Pair) -> bool:
        """Return whether a crystal is left out."""
        if self.names is None:
            return self.groups(pair) == SPLITS[2]
        return self.groups.group(pair) in self.names

    def group(self, pair: Pair) -> str:
        """Return the name of a crystal's group."""
        if self.is_left_out(pair):
            return f"{self.groups.by} {self.groups.group(pair)}"
        return self.rest.group(pair)

    def __call__(self, pair: Pair) -> str:
        """Return the split of a crystal."""
        return SPLITS[2] if self.is_left_out(pair) else self._train_val()(pair)

    def _train_val(self) -> GroupSplit:
        train, val, _ = self.rest.fractions
        return GroupSplit(self.rest.by, (train / (train + val), val / (train + val), 0.0), self.rest.seed)

    def check(self, pairs: Iterable[Pair]) -> None:
        """Check that some, but not all, of the crystals of a dataset are left out.

        Raises:
            DatasetError: A name matches no crystal, or none or all crystals are left out.
        """
        counts, kept = Counter[str](), 0
        for pair in pairs:
            counts[self.groups.group(pair)] += 1
            kept += not self.is_left_out(pair)
        listed = [f"{name} ({count})" for name, count in counts.most_common(MAX_LISTED)]
        more = f" and {len(counts) - MAX_LISTED} more" if len(counts) > MAX_LISTED else ""
        contents = f"the dataset has {', '.join(listed)}{more}"
        by = self.groups.by
        for name in sorted(self.names or ()):
            if name not in counts:
                raise DatasetError(f"no crystal has {by} '{name}'; {contents}.{nearest(name, counts)}")
        if kept == counts.total():
            raise DatasetError(
                f"no {by} of {len(counts)} is left out; give a larger fraction, another seed, or names."
            )
        if not kept:
            raise DatasetError(f"every {by} is left out, and no crystal remains for training; {contents}.")

    @property
    def description(self) -> str:
        """Description for ``dataset.json``."""
        by, rest = self.groups.by, self._train_val()
        which = ", ".join(sorted(self.names or ()))
        if self.names is None:
            percent = f"{100 * self.groups.fractions[2]:g}% of the groups"
            which = f"{percent}, from the SHA-256 of '{self.groups.seed}:{by}:GROUP'"
        percent = "/".join(f"{100 * f:.3g}" for f in rest.fractions[:2])
        return (
            f"test is left out by {by}: {which}; the rest by {rest.by}, {percent}% train/val of the groups, "
            f"from the SHA-256 of '{rest.seed}:{rest.by}:GROUP'"
        )


def parse_leave_out(text: str, rest: GroupSplit) -> LeaveOut:
    """Parse the option ``--leave-out``.

    Args:
        text: ``"anion=S,Se"``; or a tag and its values, ``"prototype=BN,GaS"``; or a tag and a fraction of
            its values, chosen by hash, ``"prototype=0.2"``.
        rest: Split of the other crystals; its seed also chooses a fraction.

    Raises:
        DatasetError: The text has another form, or an anion is no element.
    """
    by, _, values = text.partition("=")
    names = [name.strip() for name in values.split(",")]
    if not by or not all(names):
        raise DatasetError(
            "--leave-out takes anion=S,Se, a tag with its values like prototype=BN,GaS, or a fraction of its "
            f"values like prototype=0.2; got '{text}'."
        )
    if by == BY_SYSTEM:
        raise DatasetError("chemical systems are left out by an ordinary split: repose data split DIR.")
    with suppress(ValueError):
        if 0 < (fraction := float(values)) < 1:
            return LeaveOut(GroupSplit(by, (1 - fraction, 0.0, fraction), rest.seed), rest)
    if by == BY_ANION:
        for name in names:
            atomic_number(name)
    return LeaveOut(GroupSplit(by, seed=rest.seed), rest, frozenset(names))


def parse_split(by: str, fractions: str, seed: int) -> GroupSplit:
    """Parse the options of a split; ``fractions`` is a text like ``"0.8,0.1,0.1"``.

    Raises:
        DatasetError: The fractions are not three numbers that add up to 1.
    """
    try:
        train, val, test = map(float, fractions.split(","))
    except ValueError:
        raise DatasetError(
            f"--fractions must be three numbers like 0.8,0.1,0.1; got '{fractions}'."
        ) from None
    return GroupSplit(by, (train, val, test), seed)


def parse_fold(text: str, split: GroupSplit) -> GroupSplit:
    """Parse the option ``--fold``, such as ``"2/5"``: the second of five folds is the test split.

    Args:
        text: Number of the fold, from 1, and number of folds.
        split: Kind of the groups and seed; the other folds are divided in its ratio of train to val.

    Raises:
        DatasetError: The text has another form, or the fractions of train and val are zero.
    """
    number, _, folds = text.partition("/")
    if not (number.isdecimal() and folds.isdecimal() and 1 <= int(number) <= int(folds) and int(folds) > 1):
        raise DatasetError(f"--fold takes the number of a fold and of all folds, like 2/5; got '{text}'.")
    rest = sum(split.fractions[:2])
    if rest <= 0:
        raise DatasetError(f"the fractions of train and val are zero; got {split.fractions}.")
    n = int(folds)
    train, val = (fraction / rest * (1 - 1 / n) for fraction in split.fractions[:2])
    return replace(split, fractions=(train, val, 1 / n), fold=(int(number), n))


def shared_groups(pairs: Iterable[Pair], group: Callable[[Pair], str]) -> tuple[int, list[str]]:
    """Find groups that are in several splits.

    Args:
        pairs: Crystals with their splits.
        group: Returns the name of a crystal's group, e.g. `GroupSplit.group`.

    Returns:
        The number of groups, and the names of those in more than one split.
    """
    splits: dict[str, set[str]] = {}
    for pair in pairs:
        splits.setdefault(group(pair), set()).add(pair.split)
    return len(splits), sorted(name for name, found in splits.items() if len(found) > 1)
