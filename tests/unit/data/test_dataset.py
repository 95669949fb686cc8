"""Datasets on disk: round trips, and atomic writes."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from repose.crystal.frame import Frame
from repose.data import columns, rows
from repose.data.dataset import FLOATS, Dataset, DatasetInfo, check_target, resplit, write_dataset
from repose.data.importers.formats import import_extxyz
from repose.data.rows import Pair, from_row, schema, to_row
from repose.data.splits import GroupSplit
from repose.errors import ConfigError, DatasetError
from support.paths import DATASETS as REPOSITORY
from support.paths import PATHS


def read_pairs():
    pairs = [dataclasses.replace(pair, split="train") for pair in import_extxyz(PATHS)]
    return [dataclasses.replace(pairs[0], charges=np.arange(len(pairs[0].numbers)) / 7), *pairs[1:]]


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "set", DatasetInfo(name="set", licence="MIT"), read_pairs())


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_datasets_round_trip(dataset):
    for before, after in zip(read_pairs(), dataset, strict=True):
        assert (after.id, after.split, after.tags) == (before.id, before.split, before.tags)
        for name in ("numbers", "pbc", "positions", "cell", "relaxed_positions", "relaxed_cell", "charges"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert len(after.path) == len(before.path) > 1
        for old, new in zip(before.path, after.path, strict=True):
            assert new.energy == old.energy
            for name in ("positions", "cell", "forces", "stress"):
                np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
    assert dataset.info.counts == {"train": 6, "val": 0, "test": 0}
    assert len(dataset) == 6


def test_older_datasets_have_no_charges(dataset):
    table = pq.read_table(dataset.parts[0]).drop_columns("charges")
    pq.write_table(table, dataset.parts[0])
    assert all(pair.charges is None and len(pair.path) > 1 for pair in dataset)


def test_frames_without_results_round_trip(tmp_path):
    pair = read_pairs()[0]
    bare = [dataclasses.replace(frame, energy=None, forces=None, stress=None) for frame in pair.path]
    pair = dataclasses.replace(pair, path=tuple(bare))
    (back,) = write_dataset(tmp_path / "bare", DatasetInfo(name="bare"), [pair])
    assert all(frame.energy is frame.forces is frame.stress is None for frame in back.path)
    np.testing.assert_array_equal(back.path[-1].positions, pair.path[-1].positions)


def test_floats_have_byte_stream_split(dataset):
    """Every column of floats, and none of the others."""
    row = pq.ParquetFile(dataset.parts[0]).metadata.row_group(0)
    columns = [row.column(k) for k in range(row.num_columns)]
    split = {c.path_in_schema for c in columns if "BYTE_STREAM_SPLIT" in c.encodings}
    assert (
        split == {c.path_in_schema for c in columns if c.physical_type in ("FLOAT", "DOUBLE")} == set(FLOATS)
    )


def test_splits_are_read_separately(tmp_path):
    pairs = [
        dataclasses.replace(p, split=s)
        for p, s in zip(read_pairs(), ("train", "val", "test") * 2, strict=True)
    ]
    dataset = write_dataset(tmp_path / "set", DatasetInfo(name="set"), pairs)
    assert [p.id for p in dataset.read("val")] == [pairs[1].id, pairs[4].id]
    with pytest.raises(DatasetError, match="valid"):
        list(dataset.read("valid"))


def split_in_turn(tmp_path):
    """Six crystals with paths, two in each split, and the dataset of them."""
    pairs = [
        dataclasses.replace(p, split=s)
        for p, s in zip(read_pairs(), ("train", "val", "test") * 2, strict=True)
    ]
    return pairs, write_dataset(tmp_path / "set", DatasetInfo(name="set"), pairs)


def assert_same(found, expected, paths=True):
    """Equal to the last bit, with the same types, shapes and order."""

    def same(one, other):
        if not isinstance(one, np.ndarray):
            return type(one) is type(other) and one == other
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())

    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("id", "split", "numbers", "pbc", *rows.GEOMETRY):
            assert same(getattr(one, name), getattr(other, name)), (other.id, name)
        assert list(one.tags.items()) == list(other.tags.items())
        assert len(one.path) == (len(other.path) if paths else 0)
        for frame, known in zip(one.path, other.path, strict=True) if paths else ():
            for name in ("positions", "cell", "energy", "forces", "stress"):
                assert same(getattr(frame, name), getattr(known, name)), (other.id, name)


def to_pair(row):
    """Pair from a row of Python objects."""

    def array(values):
        return None if values is None else np.array(values, dtype=float)

    return Pair(
        id=row["id"],
        split=row["split"],
        numbers=np.array(row["numbers"], dtype=np.int64),
        pbc=np.array(row["pbc"], dtype=bool),
        **{name: array(row[name]) for name in rows.GEOMETRY},
        path=tuple(
            Frame(**{name: value if name == "energy" else array(value) for name, value in frame.items()})
            for frame in row["path"] or ()
        ),
        tags=dict(row["tags"] or ()),
    )


def decoded(dataset, split=None):
    """The same pairs, read independently through Python objects."""
    every = [to_pair(row) for part in dataset.parts for row in pq.read_table(part).to_pylist()]
    return [pair for pair in every if split in (None, pair.split)]


@pytest.mark.parametrize("name", ["pbe", "chgnet/sheets"])
def test_columns_agree_with_python_objects(name):
    dataset = Dataset(REPOSITORY / name)
    for split in (None, "train", "val", "test"):
        assert_same(dataset.read(split), decoded(dataset, split))
        assert_same(dataset.read(split, paths=False), decoded(dataset, split), paths=False)
        assert dataset.ids(split) == [pair.id for pair in decoded(dataset, split)]
    assert dataset.frame_counts() == [len(pair.path) for pair in decoded(dataset)]


def test_rows_round_trip_through_json():
    pairs = read_pairs()
    bare = [dataclasses.replace(frame, energy=None, forces=None, stress=None) for frame in pairs[0].path]
    pairs += [
        dataclasses.replace(pairs[0], path=path, tags={"a": "b", "c": ""}) for path in ((), tuple(bare))
    ]
    assert_same([from_row(json.loads(json.dumps(to_row(pair)))) for pair in pairs], pairs)


def variable(kind: pa.DataType, of=pa.list_) -> pa.DataType:
    """A type in which lists of fixed length have any length, as other programs write it."""
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, variable(field.type, of)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return of(variable(kind.value_type, of))
    return kind


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("of", [None, pa.list_, pa.large_list])
@pytest.mark.parametrize("groups", [1, 2, 5, 100])
def test_columns_of_other_types_and_row_groups(tmp_path, single, of, groups):
    """Nulls, empty lists, slices and row groups, in all list types."""
    pairs, dataset = split_in_turn(tmp_path)
    bare = [dataclasses.replace(f, energy=None, forces=None, stress=None) for f in pairs[0].path]
    mixed = [bare[0], *pairs[1].path[1:2], dataclasses.replace(pairs[1].path[2], stress=None)]
    given = [to_row(pair) for pair in pairs]
    given[0] |= {"path": to_row(dataclasses.replace(pairs[0], path=tuple(bare)))["path"], "tags": None}
    given[1] |= {"path": to_row(dataclasses.replace(pairs[1], path=tuple(mixed)))["path"], "tags": []}
    given[2] |= {"path": None}
    given[3] |= {"path": []}
    kinds = schema(single)
    if of is not None:
        kinds = pa.schema([(field.name, variable(field.type, of)) for field in kinds])
    table = pa.Table.from_pylist(given, schema=kinds)
    pq.write_table(table, dataset.parts[0], row_group_size=groups)
    for split in (None, "train", "val", "test"):
        assert_same(dataset.read(split), decoded(dataset, split))
        assert_same(dataset.read(split, paths=False), decoded(dataset, split), paths=False)
    assert dataset.frame_counts() == [len(bare), 3, 0, 0, len(pairs[4].path), len(pairs[5].path)]
    for first in range(6):  # Arrow hands out slices of larger arrays
        for batch in table.slice(first, 3).to_batches():
            assert_same(rows.to_pairs(batch), decoded(dataset)[first : first + 3])


@pytest.mark.parametrize("vector", [[0.0, 1.0], [0.0, 1.0, 2.0, 3.0], [], None])
@pytest.mark.parametrize("name", ["positions", "relaxed_cell"])
def test_vectors_of_other_lengths_are_refused(tmp_path, vector, name):
    pairs, dataset = split_in_turn(tmp_path)
    given = [to_row(pair) for pair in pairs]
    given[1][name][0] = vector
    kinds = pa.schema([(field.name, variable(field.type)) for field in schema(False)])
    pq.write_table(pa.Table.from_pylist(given, schema=kinds), dataset.parts[0])
    with pytest.raises(DatasetError, match=r"three components; 1 of \d+ have another"):
        list(dataset.read())


def test_arrays_keep_no_part_of_a_dataset_in_memory(tmp_path):
    _, dataset = split_in_turn(tmp_path)
    for pair in dataset:
        held = [pair.numbers, *(getattr(pair, name) for name in rows.GEOMETRY), pair.path[0].forces]
        assert all(array.base is None or array.base.nbytes == array.nbytes for array in held)
        assert all(array.flags.writeable for array in held)


@pytest.fixture
def read_columns(monkeypatch):
    """Columns of every row group that is read, in order."""
    asked, read = [], pq.ParquetFile.read_row_group

    def spy(file, group, names=None, **options):
        asked.append(set(names or rows.COLUMNS))
        return read(file, group, names, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    return asked


def test_paths_are_decoded_on_request_only(tmp_path, read_columns, monkeypatch):
    pairs, dataset = split_in_turn(tmp_path)
    calls, frames = [], columns.frames
    monkeypatch.setattr(columns, "frames", lambda column: calls.append(len(column)) or frames(column))
    assert_same(dataset.read("val", paths=False), [pairs[1], pairs[4]], paths=False)
    assert dataset.ids("val") == [pairs[1].id, pairs[4].id]
    assert calls == []
    assert not any("path" in names for names in read_columns)
    assert_same(dataset.read("val"), [pairs[1], pairs[4]])
    assert calls == [2]  # rows of the other splits are left out before


def test_row_groups_without_the_split_are_not_read(tmp_path, read_columns):
    _, dataset = split_in_turn(tmp_path)
    pq.write_table(pq.read_table(dataset.parts[0]), dataset.parts[0], row_group_size=1)
    assert len(list(dataset.read("test"))) == 2
    assert [len(names) > 1 for names in read_columns].count(True) == 2


def test_crystals_are_decoded_one_by_one(dataset, monkeypatch):
    made = []
    monkeypatch.setattr(rows, "Pair", lambda *fields: made.append(fields[0]) or Pair(*fields))
    assert next(dataset.read()).id == made[0]
    assert len(made) == 1


@pytest.mark.parametrize("split", [None, "train", "val"])
def test_crystals_are_read_by_id(tmp_path, split):
    pairs, dataset = split_in_turn(tmp_path)
    ids = {pairs[k].id for k in (5, 3, 1)} | {"of another dataset"}
    expected = [pair for pair in pairs if pair.id in ids and split in (None, pair.split)]
    assert_same(dataset.read(split, ids=ids), expected)
    assert list(dataset.read(split, ids=[])) == []


def test_an_unknown_split_is_refused(dataset):
    with pytest.raises(DatasetError, match=r"train, val, test; got 'valid'"):
        dataset.ids("valid")


def test_an_interrupted_write_keeps_the_old_dataset(dataset):
    before = files(dataset.directory)

    def interrupted():
        yield read_pairs()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(dataset.directory, DatasetInfo(name="new"), interrupted())
    assert files(dataset.directory) == before
    assert [path.name for path in dataset.directory.parent.iterdir()] == ["set"]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failing_rename_keeps_the_old_dataset(dataset, monkeypatch, failing):
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


def test_after_a_kill_between_renames_the_error_names_the_old_dataset(dataset):
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
    check_target(tmp_path / "thesis")  # empty
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


def test_a_directory_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="repose data import"):
        Dataset(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format_version": 9}, DatasetError, "format version 9"),
        ({"licens": "MIT"}, ConfigError, "did you mean 'licence'"),
    ],
)
def test_an_unknown_description_is_refused(dataset, change, error, message):
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


def test_resplitting_rewrites_one_column(tmp_path, monkeypatch):
    """Numbers stay as they are stored, in single precision, too; paths are not decoded."""
    pairs = read_pairs()
    dataset = write_dataset(tmp_path / "set", DatasetInfo(name="set"), pairs, single=True)
    before = pq.read_table(dataset.parts[0])
    monkeypatch.setattr(columns, "frames", None)
    new = resplit(dataset, lambda pair: ("val", "train")[len(pair.numbers) > 5], "by size")
    after = pq.read_table(new.parts[0])
    assert after.schema == before.schema
    assert after.drop_columns("split") == before.drop_columns("split")
    assert after["split"].to_pylist() == [("val", "train")[len(pair.numbers) > 5] for pair in pairs]
    split = after["split"].to_pylist()
    assert new.info.counts == {"train": split.count("train"), "val": split.count("val"), "test": 0}


def test_resplitting_to_a_wrong_split_changes_nothing(dataset):
    before = files(dataset.directory)
    with pytest.raises(DatasetError, match="has split 'valid'; expected one of train, val, test"):
        resplit(dataset, lambda pair: "valid", "wrong")
    assert files(dataset.directory) == before
