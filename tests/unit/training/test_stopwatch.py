"""Seconds of the parts of a run, by a clock that is set by hand."""

import pytest

from repose.training import stopwatch
from repose.training.stopwatch import Stopwatch, measured, part, running, table


@pytest.fixture
def wait(monkeypatch):
    """Return a function that moves the clock on by some seconds."""
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])

    def step(seconds):
        now[0] += seconds

    return step


def test_parts_do_not_include_parts_within(wait):
    with measured() as watch:
        assert running() is watch
        with part("reading"):
            wait(3)
        wait(1)
        with part("optimizer"):
            wait(2)
            with part("forward"):
                wait(5)
            wait(4)
        with part("validation"):
            wait(1)
            with part("graphs"):
                wait(6)
        report = watch.report()
    assert running() is None
    assert report["seconds"] == {"reading": 3, "forward": 5, "optimizer": 6, "validation": 7, "rest": 1}
    assert report["total"] == 22
    with part("reading"):  # measures nothing
        wait(1)
    assert watch.seconds["reading"] == 3


def test_steps_as_lightning_names_their_parts(wait):
    watch = Stopwatch()

    def run(actions, seconds):
        for action in actions:
            watch.start(action)
        wait(seconds)
        for action in reversed(actions):
            watch.stop(action)

    for compiling in (30, 0):
        run(["run_training_epoch", "[_TrainingEpochLoop].train_dataloader_next"], 0.5)
        watch.start("run_training_batch")
        step = "[LightningModule]RelaxationTask.optimizer_step"
        run([step, "[Strategy]SingleDeviceStrategy.training_step"], compiling + 1)
        run([step, "[Strategy]SingleDeviceStrategy.backward"], 2)
        run([step], 0.5)
        watch.count(1000)
        watch.stop("run_training_batch")
    report = watch.report()
    assert report["seconds"] == {
        "first step": 33.5,
        "waiting for batches": 1.0,
        "forward": 1,
        "backward": 2,
        "optimizer": 0.5,
        "rest": 0,
    }
    assert (report["steps"], report["edges_per_step"], report["edges_per_second"]) == (2, 1000, 222)
    lines = table(report).splitlines()
    assert lines[0].split() == ["part", "seconds", "share"]
    assert lines[1].split() == ["first", "step", "33.50", "88.2%"]
    assert lines[-2].split() == ["total", "38.00", "100.0%"]
    assert lines[-1] == "2 steps of 1,000 edges; without the first step 222 edges/s"
