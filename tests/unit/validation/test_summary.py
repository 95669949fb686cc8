"""Arithmetic of a validation on rows whose statistics are known."""

import pytest

from repose.validation.report import markdown, per_crystal, to_dict
from repose.validation.run import Crystal
from repose.validation.samples import CrystalSet, Source
from repose.validation.settings import ValidationSettings
from repose.validation.summary import describe_groups, describe_start, lower_start, with_fallbacks
from repose.validation.task import EMPTY

MAX_STEPS = 500


def row(steps, start, end, seconds=0.0, converged=True, **more):
    """Row of a relaxation; energies in eV per atom."""
    known = {"steps": steps, "energy_start": start, "energy_end": end, "converged": converged}
    known |= {"evaluations": 0 if steps is None else steps + 1, "seconds_relaxing": seconds}
    failure = None if converged else "not converged: it is slow."
    known |= {"energy_target": -1.1, "coordinates": 0.1, "failure": failure, "atoms": 2}
    return EMPTY | known | more


INPUTS = [row(0, -1.0, -1.0, 1.0), *(row(20, -0.5, -1.0, 21.0) for _ in range(3))]
STARTS = [
    row(2, -0.9, -1.0, 3.0, seconds_predicting=0.5),  # 2 more steps, and above the input
    row(5, -0.8, -1.0, 6.0, seconds_predicting=0.5),  # saves 75 %
    row(10, -0.7, -1.1, 11.0, seconds_predicting=0.5),  # saves 50 % and ends 100 meV/atom lower
    row(3, None, None, 4.0, converged=False, seconds_predicting=0.5),
]
REFUSED = row(None, None, None, converged=False, failure="no prediction: the model lacks Fe.")


def test_energies_steps_and_seconds_of_a_start():
    """Inputs without a step have no ratio; a start that does not converge counts with the largest number."""
    found = describe_start([*zip(STARTS, INPUTS, strict=True), (REFUSED, INPUTS[1])], MAX_STEPS)
    assert found is not None
    assert (found["crystals"], found["not_converged"], found["failed"]) == (4, 1, 2)
    assert found["energy_above_relaxed"] == pytest.approx({"median": 200.0, "mean": 200.0})
    assert found["energy_mae"] == pytest.approx((200 + 300 + 400) / 3)
    assert found["steps"] == pytest.approx({"median": 7.5, "mean": (2 + 5 + 10 + MAX_STEPS) / 4})
    assert found["steps_saved_percent"] == pytest.approx(50.0)
    assert found["more_steps_percent"] == 50.0
    # Without an energy a start counts as worse.
    assert found["worse_percent"] == 50.0
    assert found["seconds"] == pytest.approx(
        {"predicting": 2.0, "relaxing": 24.0, "total": 26.0, "saved_percent": 100 * (1 - 26 / 64)}
    )
    assert (found["lower_minimum_percent"], found["higher_minimum_percent"]) == (25.0, 0.0)
    assert describe_start([(REFUSED, INPUTS[1])], MAX_STEPS) is None


def test_starting_from_the_lower_one_of_prediction_and_input():
    """One more evaluation, and its time: of the prediction if it is above the input, else of the input."""
    worse, better, _, unknown = (lower_start(*pair) for pair in zip(STARTS, INPUTS, strict=True))
    assert (worse["steps"], worse["energy_start"], worse["seconds_relaxing"]) == (1, -1.0, 1.0 + 1.0)
    assert (better["steps"], better["energy_start"], better["seconds_relaxing"]) == (6, -0.8, 6.0 + 1.0)
    assert (unknown["steps"], unknown["converged"], unknown["seconds_predicting"]) == (21, True, 0.5)
    assert lower_start(REFUSED, INPUTS[0]) == REFUSED
    rows = with_fallbacks({"input": INPUTS[0], "Rescale": STARTS[1], "mine": STARTS[2]})
    assert list(rows) == ["input", "Rescale", "mine", "mine (or input)"]


def crystals():
    return [
        Crystal("mine", str(k), k, {"input": given | {"atoms": 11 + k}, "m": start | {"bound": 1.0 - k / 10}})
        for k, (given, start) in enumerate(zip(INPUTS, STARTS, strict=True))
    ]


def test_groups_by_error_size_and_bound():
    found = describe_groups(crystals(), MAX_STEPS)
    assert {name: group["crystals"] for name, group in found.items()} == {
        "all": 4, "quarter 1": 1, "quarter 2": 1, "quarter 3": 1, "quarter 4": 1,
        "up to 12 atoms": 2, "13 to 20 atoms": 2, "surer half of m": 2,
    }  # fmt: skip
    assert found["all"]["input_without_steps"] == 1
    # Crystals 2 and 3 have the smallest bounds.
    assert found["surer half of m"]["starts"]["m"]["steps"]["mean"] == (10 + MAX_STEPS) / 2


def test_what_cannot_be_compared_is_counted_and_named():
    stuck = Crystal("mine", "stuck", 0, {"input": row(500, -1.0, -1.2, converged=False), "m": STARTS[1]})
    lacking = EMPTY | {"atoms": 2, "failure": "not relaxed: no parameters.", "lacking": ["Fe", "O"]}
    iron = Crystal("mine", "iron", 0, {"input": lacking, "m": lacking})
    sets = [CrystalSet("mine", (), 9, ()), CrystalSet("empty", (), 0, ())]
    sources = [Source("input", "", None)]
    done = [*crystals(), stuck, iron]
    result = to_dict(done, sets, sources, ValidationSettings(), split="test", fit=[])
    block, _, everything = result["blocks"]
    assert (block["complete"], block["input_not_converged"]) == (6, 1)
    assert block["unknown_elements"] == {"crystals": 1, "elements": {"Fe": 1, "O": 1}}
    assert everything["groups"] == block["groups"]
    assert [(own["id"], own["start"]) for own in result["failures"]] == [("3", "m"), ("stuck", "input")]
    text = markdown(result, groups=True)
    assert "mine, stuck, input: not converged: it is slow." in text
    assert "elements that the calculator lacks: Fe (1), O (1)" in text
    assert "### surer half of m: 2" in text
    assert [own["quarter"] for own in per_crystal(done)[:4]] == [1, 1, 2, 2]
