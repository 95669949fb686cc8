"""Splits: each group is in one split, the same in all datasets."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from repose.cli.data import app
from repose.data.dataset import Dataset, DatasetInfo, Pair, write_dataset
from repose.data.splits import GroupSplit, LeaveOut, anion, parse_fold, parse_leave_out, shared_groups
from repose.errors import DatasetError

ELEMENTS = [1, 6, 8, 11, 12, 20, 22, 25, 26, 38, 56]


def make_pair(name, numbers, tags=None) -> Pair:
    numbers = np.array(numbers)
    positions = np.zeros((len(numbers), 3))
    return Pair(name, numbers, np.ones(3, bool), positions, np.eye(3), positions, np.eye(3), tags=tags or {})


systems = st.lists(st.lists(st.sampled_from(ELEMENTS), min_size=1, max_size=4), min_size=1, max_size=40)
seeds = st.integers(0, 2**31)


@given(systems, seeds)
def test_a_group_has_one_split_in_all_datasets(compositions, seed):
    split = GroupSplit(seed=seed, fractions=(0.5, 0.25, 0.25))
    first = [make_pair(f"a{k}", numbers) for k, numbers in enumerate(compositions)]
    # Another dataset: other names, order, stoichiometry.
    second = [make_pair(f"b{k}", numbers * 3) for k, numbers in enumerate(reversed(compositions))]
    given_splits = [dataclasses.replace(pair, split=split(pair)) for pair in first + second]
    count, shared = shared_groups(given_splits, split.group)
    assert count == len({tuple(sorted(set(numbers))) for numbers in compositions})
    assert shared == []


def test_a_shared_group_is_found():
    pairs = [make_pair("a", [12, 8]), dataclasses.replace(make_pair("b", [8, 12, 12]), split="test")]
    assert shared_groups([*pairs, make_pair("c", [12])], lambda pair: pair.chemical_system) == (2, ["Mg-O"])


@given(seeds)
def test_fractions_of_the_groups(seed):
    split = GroupSplit("tag", fractions=(0.7, 0.1, 0.2), seed=seed)
    given_splits = [split(make_pair("x", [1], {"tag": str(k)})) for k in range(2000)]
    for name, share in zip(("train", "val", "test"), split.fractions, strict=True):
        # Five standard deviations of a binomial.
        allowed = 5 * (share * (1 - share) / 2000) ** 0.5
        assert abs(given_splits.count(name) / 2000 - share) < allowed


def test_splits_depend_on_seed_and_kind_of_group():
    pairs = [make_pair(str(k), [k % 90 + 1], {"tag": str(k)}) for k in range(90)]
    base = [GroupSplit()(pair) for pair in pairs]
    assert base != [GroupSplit(seed=1)(pair) for pair in pairs]
    assert base != [GroupSplit("tag")(pair) for pair in pairs]


@given(seeds, st.integers(2, 10))
def test_every_group_is_in_the_test_split_of_one_fold(seed, folds):
    base = GroupSplit("tag", fractions=(0.6, 0.2, 0.2), seed=seed)
    pairs = [make_pair("x", [1], {"tag": str(k)}) for k in range(1000)]
    assigned = [[parse_fold(f"{k}/{folds}", base)(pair) for pair in pairs] for k in range(1, folds + 1)]
    assert all(splits.count("test") == 1 for splits in zip(*assigned, strict=True))
    for splits in assigned:
        for name, share in (("test", 1 / folds), ("val", 0.25 * (1 - 1 / folds))):
            allowed = 5 * (share * (1 - share) / 1000) ** 0.5  # five standard deviations of a binomial
            assert abs(splits.count(name) / 1000 - share) < allowed


@pytest.mark.parametrize("text", ["", "2", "0/5", "6/5", "1/1", "-1/5", "a/b", "1/5/2", "1.0/5"])
def test_invalid_folds(text):
    with pytest.raises(DatasetError, match="like 2/5; got"):
        parse_fold(text, GroupSplit())


def test_splits_do_not_change():
    """Old and new datasets must have the same splits."""
    split = GroupSplit(fractions=(0.2, 0.2, 0.6))
    systems = ([3, 8], [11, 17], [12, 8], [20, 8], [22, 8, 38], [26, 16], [30, 8])
    assert [split(make_pair("x", numbers)) for numbers in systems] == [
        "val",
        "train",
        "test",
        "test",
        "val",
        "train",
        "test",
    ]


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)])
def test_fractions_that_do_not_add_up_are_refused(fractions):
    with pytest.raises(DatasetError, match="add up to 1"):
        GroupSplit(fractions=fractions)


def test_a_missing_tag_is_named():
    with pytest.raises(DatasetError, match=r"'x' has no tag 'prototype'.*family"):
        GroupSplit("prototype")(make_pair("x", [1], {"family": "spinel"}))


@pytest.mark.parametrize(
    ("numbers", "symbol"),
    [
        ([30, 16, 16], "S"),
        ([30, 16, 8, 8], "O"),  # a sulfate is an oxide here
        ([8, 8, 9], "F"),
        ([6, 34, 34], "Se"),  # as electronegative as carbon, 2.55
        ([1, 46], "H"),  # as palladium, 2.2
        ([26, 13], "Fe"),
        ([14], "Si"),
        ([18, 55], "Cs"),  # argon has no value
    ],
)
def test_the_anion_is_the_most_electronegative_element(numbers, symbol):
    assert anion(make_pair("x", numbers)) == symbol
    assert anion(make_pair("x", numbers[::-1])) == symbol


def test_left_out_anions_are_the_test_split_and_the_rest_keeps_systems_together():
    rest = GroupSplit(fractions=(0.5, 0.25, 0.25), seed=3)
    split = parse_leave_out("anion=S, Se", rest)
    cations = [3, 11, 12, 19, 20, 22, 25, 26, 29, 30, 38, 39, 40, 47, 48, 56]
    pairs = [
        make_pair(f"{cation}-{other}-{n}", [cation, other] * n)
        for cation in cations
        for other in (8, 16, 17, 34)
        for n in (1, 2)
    ]
    split.check(pairs)
    assigned = [dataclasses.replace(pair, split=split(pair)) for pair in pairs]
    for pair in assigned:
        assert (pair.split == "test") == bool({16, 34} & set(pair.numbers.tolist()))
    assert {pair.split for pair in assigned} == {"train", "val", "test"}
    assert shared_groups(assigned, lambda pair: pair.chemical_system)[1] == []
    assert shared_groups(assigned, split.group) == (2 + 2 * len(cations), [])
    # Those in train of the ordinary split stay there: 0.5 of all are fewer than 0.5 of 0.75.
    assert all(split(pair) == "train" for pair in pairs if rest(pair) == "train" and split(pair) != "test")


def test_left_out_values_of_a_tag():
    split = parse_leave_out("prototype=spinel,a=b", GroupSplit())
    assert split.names == {"spinel", "a=b"}
    for prototype, expected in (("spinel", True), ("a=b", True), ("halite", False)):
        pair = make_pair("x", [12, 8], {"prototype": prototype})
        assert (split(pair) == "test") is expected


@given(seeds)
def test_a_left_out_share_is_the_test_split_of_the_ordinary_hash(seed):
    split = parse_leave_out("tag=0.3", GroupSplit(fractions=(0.5, 0.5, 0.0), seed=seed))
    pairs = [make_pair(str(k), [k % 90 + 1], {"tag": str(k)}) for k in range(1000)]
    chosen = {pair.id for pair in pairs if split(pair) == "test"}
    assert abs(len(chosen) / 1000 - 0.3) < 5 * (0.3 * 0.7 / 1000) ** 0.5
    ordinary = GroupSplit("tag", (0.7, 0.0, 0.3), seed)
    assert chosen == {pair.id for pair in pairs if ordinary(pair) == "test"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("anion=S", r"no crystal has anion 'S'; the dataset has O \(2\), Cl \(1\)"),
        ("anion=Xx", "'Xx' is no element"),
        ("anion=O,Cl", "every anion is left out"),
        ("kind=sal", r"no crystal has kind 'sal'.*Did you mean 'salt'"),
        ("kind=1.5", "no crystal has kind '1.5'"),
        ("kind=0.000001", "no kind of 2 is left out"),
        ("kind=0.999999", "every kind is left out"),
        ("colour=red", "'a' has no tag 'colour'"),
        ("anion", "got 'anion'"),
        ("anion=S,,Se", "got 'anion=S,,Se'"),
        ("=S", "got '=S'"),
        ("chemical-system=0.2", "by an ordinary split"),
    ],
)
def test_invalid_leave_out(text, words):
    pairs = [
        make_pair("a", [12, 8], {"kind": "oxide"}),
        make_pair("b", [20, 8], {"kind": "oxide"}),
        make_pair("c", [11, 17], {"kind": "salt"}),
    ]
    with pytest.raises(DatasetError, match=words):
        parse_leave_out(text, GroupSplit()).check(pairs)


@pytest.mark.parametrize("test", [1.0, 1 - 1e-7])
def test_train_and_val_need_a_fraction(test):
    with pytest.raises(DatasetError, match="train and val are zero"):
        LeaveOut(GroupSplit("anion"), GroupSplit(fractions=(0.0, 0.0, test)), frozenset(["S"]))


def test_left_out_splits_do_not_change():
    """Old and new datasets must have the same splits."""
    split = parse_leave_out("prototype=0.4", GroupSplit(fractions=(0.4, 0.4, 0.2)))
    names = ["AB_cF8_225_a_b", "AB_cP2_221_b_a", "AB3C_cP5_221_a_c_b", "AB2_cF12_225_a_c", "AB_hP4_186_b_b"]
    systems = [3, 8], [11, 17], [12, 8], [20, 8], [22, 8, 38]
    pairs = [make_pair("x", z, {"prototype": n}) for z, n in zip(systems, names, strict=True)]
    assert [split(pair) for pair in pairs] == ["train", "test", "val", "val", "train"]


def test_the_command_rewrites_the_dataset_or_keeps_it(tmp_path):
    numbers = [[12, 8], [12, 16], [20, 8], [20, 17], [11, 9], [3, 16]]
    pairs = [make_pair(str(k), z) for k, z in enumerate(numbers)]
    write_dataset(tmp_path / "set", DatasetInfo(name="set", splits="none"), pairs)
    (tmp_path / "set" / "refused.csv").write_text("id,reason\n")

    def run(*options):
        return CliRunner().invoke(app, ["split", str(tmp_path / "set"), *options])

    before = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    refused = run("--leave-out", "anion=S,Te")
    assert refused.exit_code == 2
    assert "no crystal has anion 'Te'; the dataset has O (2), S (2), Cl (1), F (1)." in refused.output
    assert {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()} == before

    both = run("--leave-out", "anion=S", "--fold", "1/3")
    assert both.exit_code == 2
    assert "give one of them" in both.output
    tested = []
    for fold in ("1/3", "2/3", "3/3"):
        assert run("--fold", fold, "--quiet").exit_code == 0
        tested += [pair.id for pair in Dataset(tmp_path / "set").read("test")]
        assert Dataset(tmp_path / "set").info.splits.endswith(f"test is fold {fold[0]} of 3")
    assert sorted(tested) == sorted(pair.id for pair in pairs)

    done = run("--leave-out", "anion=S", "--json")
    assert done.exit_code == 0, done.output
    report, dataset = json.loads(done.stdout), Dataset(tmp_path / "set")
    assert {pair.id for pair in dataset.read("test")} == {"1", "5"}
    assert dataset.info.splits == report["splits"]
    assert dataset.info.splits.startswith("test is left out by anion: S; the rest by chemical-sys")
    assert "88.9/11.1% train/val" in dataset.info.splits
    assert report["counts"] == dataset.info.counts
    assert report["groups"]["in_several_splits"] == []
    assert (tmp_path / "set" / "refused.csv").is_file()


def test_empty_splits_are_noticed(tmp_path):
    systems = [[12, 8], [12, 16], [20, 8], [20, 17]]
    pairs = [make_pair(str(k), numbers) for k, numbers in enumerate(systems)]
    write_dataset(tmp_path / "set", DatasetInfo(name="set", splits="none"), pairs)

    def run(*options):
        assert CliRunner().invoke(app, ["split", str(tmp_path / "set"), "--quiet", *options]).exit_code == 0

    with pytest.warns(UserWarning, match=r"no crystal is in .*test: .* fewer folds"):
        run("--fold", "1/100")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("--fractions", "1,0,0")  # as asked for
        assert Dataset(tmp_path / "set").info.counts == {"train": 4, "val": 0, "test": 0}
