"""What training reads: splits of several datasets, and edges that are counted once."""

from dataclasses import replace

import numpy as np
import pytest

from repose.data.dataset import Dataset, DatasetInfo, resplit, write_dataset
from repose.errors import DatasetError
from repose.training import reading
from repose.training.reading import EdgeCounts, read_split
from repose.training.samples import TrainingBatches, ValidationBatches, crystal, edge_counts
from support.training import path_pairs, tiny_network, train_settings


@pytest.fixture(scope="module")
def pairs():
    return path_pairs()


@pytest.fixture
def dataset(pairs, tmp_path):
    """Six crystals, the last of them for validation."""
    return write_dataset(tmp_path / "set", DatasetInfo(name="set"), pairs)


def network(volume=15.0, **changes):
    net = tiny_network(**changes)
    net.atomic_volumes.fill_(volume)
    return net


@pytest.fixture
def counted(monkeypatch):
    """Ids of the crystals whose graphs are built, a list a call."""
    calls = []

    def spy(net, pairs):
        calls.append([pair.id for pair in pairs])
        return edge_counts(net, pairs)

    monkeypatch.setattr(reading, "edge_counts", spy)
    return calls


def names(calls):
    return [name for call in calls for name in call]


def stored(dataset):
    return sorted(dataset.directory.glob(".edges-*"))


@pytest.mark.parametrize("start", ["input", "rescaled"])
@pytest.mark.parametrize("together", [1, 4, 64])
def test_edges_are_those_of_every_crystal_alone(pairs, start, together, monkeypatch):
    monkeypatch.setattr("repose.training.samples.COUNT_BATCH", together)
    net = network(start=start)
    alone = [net.prepare(crystal(p.numbers, p.positions, p.cell, p.pbc))[1].n_edges for p in pairs]
    assert edge_counts(net, pairs) == alone
    assert EdgeCounts(net)(pairs) == alone
    assert len(set(alone)) > 1
    assert edge_counts(net, []) == []


def test_edges_are_counted_once(dataset, counted):
    pairs = list(dataset)
    first = EdgeCounts(network(), [(dataset.directory, pairs)])
    expected = edge_counts(network(), pairs)
    assert first(pairs) == expected
    assert names(counted) == [pair.id for pair in pairs]
    again = EdgeCounts(network(), [(dataset.directory, pairs[:2])])
    assert again(pairs[::-1]) == expected[::-1]
    assert len(names(counted)) == len(pairs)
    assert len(stored(dataset)) == 1


def test_only_new_crystals_are_counted(dataset, counted):
    pairs = list(dataset)
    EdgeCounts(network(), [(dataset.directory, pairs[:4])])([])
    positions = pairs[0].positions.copy()
    positions[0, 0] += 0.3
    moved = replace(pairs[0], positions=positions)
    counts = EdgeCounts(network(), [(dataset.directory, pairs)])([moved, *pairs])
    assert counts == edge_counts(network(), [moved, *pairs])
    assert counted[0] == [pair.id for pair in pairs[:4]]
    assert names(counted[1:]) == [pairs[4].id, pairs[5].id, pairs[0].id]
    assert names(counted).count(pairs[4].id) == 1
    EdgeCounts(network(), [(dataset.directory, pairs)])(pairs)
    assert len(names(counted)) == 7


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({}, 0),
        ({"features": 16}, 0),  # not of the graph
        ({"graph": {"cutoff": 4.0}}, 6),
        ({"graph": {"max_neighbours": 8}}, 6),
        ({"graph": {"ties": "order"}}, 6),
        ({"graph": {"self_images": False}}, 6),
        ({"start": "input"}, 6),
        ({"volume": 12.0}, 6),
        ({"volume": 12.0, "start": "input"}, 6),
    ],
)
def test_counts_belong_to_the_settings_of_the_graph(dataset, counted, changes, again):
    pairs = list(dataset)
    EdgeCounts(network(), [(dataset.directory, pairs)])([])
    before = len(names(counted))
    other = network(**changes)
    assert EdgeCounts(other, [(dataset.directory, pairs)])(pairs) == edge_counts(other, pairs)
    assert len(names(counted)) - before == again


def test_volumes_do_not_matter_where_the_start_is_the_input(dataset, counted):
    pairs = list(dataset)
    for volume in (12.0, 15.0):
        EdgeCounts(network(volume, start="input"), [(dataset.directory, pairs)])(pairs)
    assert len(names(counted)) == 6


def test_counts_stay_with_crystals_that_are_split_anew(dataset, counted):
    EdgeCounts(network(), [(dataset.directory, list(dataset))])([])
    new = resplit(dataset, lambda pair: "test", "all of it")
    EdgeCounts(network(), [(new.directory, list(new))])(list(new))
    assert len(names(counted)) == 6


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "zip", "pickle", "shape", "type", "folder"])
def test_damaged_counts_are_counted_anew(dataset, counted, damage):
    pairs = list(dataset)
    EdgeCounts(network(), [(dataset.directory, pairs)])([])
    (path,) = stored(dataset)
    whole = path.read_bytes()
    other = {
        "pickle": np.array([{"a": 1}], dtype=object),
        "shape": np.zeros((4, 3), np.uint64),
        "type": np.zeros((4, 2)),
    }
    texts = {"empty": b"", "cut": whole[:-7], "text": b"counts\n", "zip": b"PK\x03\x04 not one"}
    if damage in other:
        np.save(path, other[damage], allow_pickle=True)
    elif damage in texts:
        path.write_bytes(texts[damage])
    else:
        path.unlink()
        path.mkdir()
    assert EdgeCounts(network(), [(dataset.directory, pairs)])(pairs) == edge_counts(network(), pairs)
    assert len(names(counted)) == 12
    if damage != "folder":
        assert sorted(path.read_bytes()) == sorted(whole)


def test_a_dataset_that_cannot_be_written_is_counted_every_time(dataset, counted, monkeypatch, caplog):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    pairs = list(dataset)
    with caplog.at_level("INFO"):
        for _ in range(2):
            counts = EdgeCounts(network(), [(dataset.directory, pairs)])
            assert counts(pairs) == edge_counts(network(), pairs)
            assert counts(pairs) == edge_counts(network(), pairs)
    assert len(names(counted)) == 12
    assert not stored(dataset)
    assert "Read-only file system" in caplog.text


def test_crystals_of_two_datasets_with_the_same_ids(dataset, tmp_path):
    pairs = list(dataset)
    others = [replace(pair, positions=1.1 * pair.positions, cell=1.1 * pair.cell) for pair in pairs]
    second = write_dataset(tmp_path / "second", DatasetInfo(name="second"), others)
    net = network(start="input")
    counts = EdgeCounts(net, [(dataset.directory, pairs), (second.directory, others)])
    expected = [edge_counts(net, pairs), edge_counts(net, others)]
    assert [counts(pairs), counts(others)] == expected
    assert expected[0] != expected[1]
    sizes = [len(np.load(stored(each)[0])) for each in (dataset, second)]
    assert sizes == [6, 6]


def test_batches_are_the_same_however_edges_are_known(dataset):
    pairs, sampling, net = list(dataset), train_settings().sampling, network()
    counts = EdgeCounts(net, [(dataset.directory, pairs)])
    counts([])
    fresh = EdgeCounts(net, [(dataset.directory, pairs)])
    plans = [TrainingBatches(pairs, net, sampling, 0, known).plan() for known in (None, counts, fresh)]
    assert plans[0] == plans[1] == plans[2]
    packed = [ValidationBatches(pairs, net, 900, known).batches for known in (None, counts, fresh)]
    assert packed[0] == packed[1] == packed[2]
    assert len(packed[0]) > 1


def test_crystals_are_chosen_by_their_ids_before_they_are_read(dataset, monkeypatch):
    both = [Dataset(dataset.directory), Dataset(dataset.directory)]
    every = read_split(both, "train")
    assert [len(own) for own in every] == [5, 5]
    made = []
    monkeypatch.setattr("repose.data.rows.Pair", lambda *fields: made.append(fields[0]) or fields)
    one, two = read_split(both, "train", crystals=3)
    assert len(one) == len(two) == 3
    assert len(made) == 6
    assert made[:3] == made[3:]
    order = [pair.id for pair in every[0]]
    assert made[:3] == sorted(made[:3], key=order.index)
    monkeypatch.undo()
    larger = {pair.id for pair in read_split(both, "train", crystals=4)[0]}
    assert set(made) < larger < set(order)
    assert len(read_split(both, "train", crystals=99)[0]) == 5


def test_crystals_are_chosen_among_those_with_enough_frames(pairs, tmp_path):
    """Whatever their hashes: paths of some crystals are too short, or lack a force."""
    train = [replace(pair, split="train", path=pair.path[:2]) for pair in pairs]
    longer = {pairs[2].id: (train[2].path[0], *train[2].path)}
    lacking = {pairs[4].id: (replace(train[4].path[0], forces=None), *train[4].path)}
    changed = longer | lacking
    mixed = [replace(pair, path=changed.get(pair.id, pair.path)) for pair in train]
    dataset = write_dataset(tmp_path / "mixed", DatasetInfo(name="mixed"), mixed)

    def chosen(n, frames):
        return {pair.id for pair in read_split([dataset], "train", crystals=n, frames=frames)[0]}

    assert chosen(3, 3) == set(longer)
    assert chosen(1, 2) < chosen(3, 2) < {pair.id for pair in pairs} - set(lacking)
    assert len(chosen(3, 9)) == 3  # none has so long a path: it is for the task to refuse them


def test_an_empty_split_is_named(dataset):
    with pytest.raises(DatasetError, match=r"no crystal is in the test split of .*set; see"):
        read_split([dataset], "test")


def test_chemical_systems_of_other_datasets_are_left_out(pairs, dataset, tmp_path):
    """With them all crystals of the same elements, in any split."""
    held = [replace(pair, id="held", split="test") for pair in pairs[:1]]
    other = write_dataset(tmp_path / "other", DatasetInfo(name="other"), held)
    systems = reading.chemical_systems([other.directory])
    assert systems == {pairs[0].chemical_system}
    (found,) = read_split([dataset], "train", without=systems)
    expected = [p.id for p in pairs if p.split == "train" and p.chemical_system not in systems]
    assert [pair.id for pair in found] == expected
    assert 0 < len(found) < dataset.info.counts["train"]
