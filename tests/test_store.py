"""Datasets on disk: what is written comes back, and nothing is ever half written."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from repose.data.importers import import_extxyz
from repose.data.splits import GroupSplit
from repose.data.store import FLOATS, Dataset, DatasetInfo, check_target, resplit, write_dataset
from repose.errors import ConfigError, DatasetError

PATHS = Path(__file__).parent / "data" / "paths.extxyz"


def read_pairs():
    return [dataclasses.replace(pair, split="train") for pair in import_extxyz(PATHS)]


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "set", DatasetInfo(name="set", licence="MIT"), read_pairs())


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_everything_comes_back(dataset):
    for before, after in zip(read_pairs(), dataset, strict=True):
        assert (after.id, after.split, after.tags) == (before.id, before.split, before.tags)
        for name in ("numbers", "pbc", "positions", "cell", "relaxed_positions", "relaxed_cell"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert len(after.path) == len(before.path) > 1
        for old, new in zip(before.path, after.path, strict=True):
            assert new.energy == old.energy
            for name in ("positions", "cell", "forces", "stress"):
                np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
    assert dataset.info.counts == {"train": 6, "val": 0, "test": 0}
    assert len(dataset) == 6


def test_a_frame_without_results_comes_back_without(tmp_path):
    pair = read_pairs()[0]
    bare = [dataclasses.replace(frame, energy=None, forces=None, stress=None) for frame in pair.path]
    pair = dataclasses.replace(pair, path=tuple(bare))
    (back,) = write_dataset(tmp_path / "bare", DatasetInfo(name="bare"), [pair])
    assert all(frame.energy is frame.forces is frame.stress is None for frame in back.path)
    np.testing.assert_array_equal(back.path[-1].positions, pair.path[-1].positions)


def test_numbers_are_packed_by_the_weight_of_their_bytes(dataset):
    """Every column of floats, and none of the others."""
    row = pq.ParquetFile(dataset.parts[0]).metadata.row_group(0)
    columns = [row.column(k) for k in range(row.num_columns)]
    split = {c.path_in_schema for c in columns if "BYTE_STREAM_SPLIT" in c.encodings}
    assert (
        split == {c.path_in_schema for c in columns if c.physical_type in ("FLOAT", "DOUBLE")} == set(FLOATS)
    )


def test_splits_are_read_apart(tmp_path):
    pairs = [
        dataclasses.replace(p, split=s)
        for p, s in zip(read_pairs(), ("train", "val", "test") * 2, strict=True)
    ]
    dataset = write_dataset(tmp_path / "set", DatasetInfo(name="set"), pairs)
    assert [p.id for p in dataset.read("val")] == [pairs[1].id, pairs[4].id]
    with pytest.raises(DatasetError, match="valid"):
        list(dataset.read("valid"))


def test_an_interrupted_write_leaves_the_old_dataset_whole(dataset):
    before = files(dataset.directory)

    def interrupted():
        yield read_pairs()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(dataset.directory, DatasetInfo(name="new"), interrupted())
    assert files(dataset.directory) == before
    assert [path.name for path in dataset.directory.parent.iterdir()] == ["set"]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failing_rename_leaves_the_old_dataset_whole(dataset, monkeypatch, failing):
    """The directory is replaced by two renames; either may fail."""
    before, rename, calls = files(dataset.directory), os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == failing + 1:
            raise OSError("no space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="no space"):
        write_dataset(dataset.directory, DatasetInfo(name="new"), read_pairs()[:1])
    assert files(dataset.directory) == before


def test_a_write_killed_between_its_renames_says_where_the_old_one_is(dataset):
    aside = dataset.directory.parent / ".set-old-abc"
    aside.mkdir()
    shutil.move(dataset.directory, aside / "set")
    with pytest.raises(DatasetError, match=r"\.set-old-abc"):
        Dataset(dataset.directory)


def test_a_new_dataset_replaces_the_old_one_completely(dataset):
    (dataset.directory / "part-00007.parquet").write_bytes(b"left over")
    new = write_dataset(dataset.directory, DatasetInfo(name="new"), read_pairs()[:2])
    assert len(list(new)) == 2
    assert sorted(files(new.directory)) == ["dataset.json", "part-00000.parquet"]


def test_other_directories_are_not_overwritten(tmp_path):
    (tmp_path / "thesis").mkdir()
    check_target(tmp_path / "thesis")  # empty: nothing to lose
    (tmp_path / "thesis" / "thesis.tex").write_text("years")
    with pytest.raises(DatasetError, match="not a dataset"):
        write_dataset(tmp_path / "thesis", DatasetInfo(name="x"), read_pairs())
    assert (tmp_path / "thesis" / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (lambda: [], "no crystal"),
        (lambda: read_pairs()[:1] * 2, "xmno-531-00125.*unique"),
        (lambda: [dataclasses.replace(read_pairs()[0], split="")], "split ''"),
    ],
)
def test_wrong_pairs_are_refused_and_leave_nothing(tmp_path, pairs, message):
    with pytest.raises(DatasetError, match=message):
        write_dataset(tmp_path / "set", DatasetInfo(name="set"), pairs())
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_no_dataset_is_named(tmp_path):
    with pytest.raises(DatasetError, match="repose data import"):
        Dataset(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format_version": 9}, DatasetError, "format version 9"),
        ({"licens": "MIT"}, ConfigError, "did you mean 'licence'"),
    ],
)
def test_a_foreign_description_is_refused(dataset, change, error, message):
    path = dataset.directory / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error, match=message):
        Dataset(dataset.directory)


def test_a_damaged_part_is_named(dataset):
    part = dataset.parts[0]
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(DatasetError, match=part.name):
        list(dataset)


def test_resplitting_keeps_crystals_and_other_files(dataset):
    (dataset.directory / "refused.csv").write_text("id,reason\nx,y\n")
    new = resplit(dataset, lambda pair: "test", "all of it")
    assert [pair.id for pair in new.read("test")] == [pair.id for pair in read_pairs()]
    assert new.info.splits == "all of it"
    assert new.info.licence == "MIT"
    assert (new.directory / "refused.csv").read_text() == "id,reason\nx,y\n"


def test_resplitting_by_a_missing_tag_changes_nothing(dataset):
    before = files(dataset.directory)
    with pytest.raises(DatasetError, match=r"no tag 'spacegroup'.*prototype"):
        resplit(dataset, GroupSplit("spacegroup"), "by space group")
    assert files(dataset.directory) == before
