"""Write errors into README.md and bounds into docs/uncertainty.md, as `repose evaluate` measured them.

Run it as `python tools/make_numbers.py models/evaluation/table.json`.
"""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

DEFAULT = "repose"
ROOT = Path(__file__).parents[1]
COLUMNS = {
    "coordinates": ("coordinates, Å", 3),
    "lattice": ("lattice, Å", 3),
    "shape": ("cell shape, Å²", 1),
    "volume": ("volume, Å³", 1),
    "match": ("match, %", 1),
}
TEXT = """Errors of `default`, which is `repose`, on test splits: crystals of chemical systems never seen in
training (`xmno`: of structure types never seen with these elements). In brackets the gain over the better of
Dummy and Rescale. Labels are CHGNet's, so these are errors against CHGNet, not DFT. No symmetry projection.
"""
LEGEND = """
`bulk`: substituted prototypes, far from equilibrium; `subst`: similar elements in a relaxed parent; `xmno`:
Mg/Ca/Ba/Sr-Mn-O. The three whose names begin with `chgnet-` are in `datasets/`; the volumes of their inputs
are without bias, which leaves Rescale less to gain. `e3relax`, `e3relax-h2` and `deeprelax` were trained on
the same 12,341 crystals for as many edges; `repose` learned forces first, and then these and 7,533 more
crystals, for one and a half times as many edges. How the families compare when trained alike is in
[models/repose](models/repose/README.md). `relaxnet`, which is for the way and not for its end, was trained on
10,084 crystals whose paths are known, for a quarter of the edges. The whole table, with errors by severity
of the input, is in [models/evaluation](models/evaluation/table.md); how each was made and what was tried is
in [models/repose](models/repose/README.md), [models/e3relax](models/e3relax/README.md),
[models/e3relax-h2](models/e3relax-h2/README.md), [models/deeprelax](models/deeprelax/README.md) and
[models/relaxnet](models/relaxnet/README.md).
"""


BOUNDS = """On the test split, {crystals:,} crystals of chemical systems that were in neither training nor
calibration (structure types for `xmno`), labels CHGNet's:
"""
BELOW = """
In brackets the 95 % interval of the share. By dataset the share at 90 % goes from {low:.0f} % to {high:.0f} %
for `default`; the whole table is in `models/evaluation/table.md`. Crystals marked as outside were {outside}
of the {crystals:,}, and of these {shares} % lay below.

![Bound and error of {crystals:,} test crystals](../models/evaluation/uncertainty.png)
"""


def put(path: Path, marker: str, text: str) -> None:
    """Replace what stands between two markers of a file."""
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    before, _, rest = path.read_text().partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n{text}{end}{after}")


def errors(blocks: list[dict[str, Any]]) -> str:
    """Errors of `default` on every dataset, and of all relaxers on all of them."""
    lines = ["| | | " + " | ".join(title for title, _ in COLUMNS.values()) + " |"]
    lines += ["| --- | --- |" + " ---: |" * len(COLUMNS)]
    for block in blocks:
        rows = {row["relaxer"]: row for row in block["rows"]}
        name = f"{block['dataset']} ({block['crystals']:,})"
        for relaxer in rows if block is blocks[-1] else (DEFAULT,):
            cells = [f"{rows[relaxer][c]:.{digits}f}" for c, (_, digits) in COLUMNS.items()]
            if gains := block["gains"].get(relaxer):
                cells = [f"{cell} ({gains[c]:+.0f} %)" for cell, c in zip(cells, COLUMNS, strict=True)]
            shown = "**default**" if relaxer == DEFAULT else relaxer
            lines.append(f"| {name} | {shown} | " + " | ".join(cells) + " |")
            name = ""
    return f"{TEXT}\n" + "\n".join(lines) + f"\n{LEGEND}"


def bounds(blocks: list[dict[str, Any]]) -> str:
    """How often bounds held, and how well they sort crystals."""
    said = blocks[-1]["uncertainty"]
    crystals = blocks[-1]["crystals"]

    def share(level: str) -> Callable[[dict[str, Any]], str]:
        return lambda own: f"{own['coverage'][level]['share']:.1f} %"

    def interval(own: dict[str, Any]) -> str:
        low, high = own["coverage"]["90"]["interval"]
        return f"**{own['coverage']['90']['share']:.1f} %** ({low:.1f} to {high:.1f})"

    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        "error below the bound at 50 %": share("50"),
        "at 80 %": share("80"),
        "at 90 %": interval,
        "at 95 %": share("95"),
        "Spearman's rho of bound and coordinate error": lambda own: f"{own['rho']['coordinates']:.2f}",
        "Spearman's rho of bound and mean error of bonds": lambda own: f"{own['rho']['bonds']:.2f}",
        "median bound at 90 %, Å": lambda own: f"{own['median_bound']:.2f}",
        "mean error of all, Å": lambda own: f"{own['surest']['100']:.3f}",
        "of the surest half, Å": lambda own: f"{own['surest']['50']:.3f}",
        "of the surest quarter, Å": lambda own: f"{own['surest']['25']:.3f}",
    }
    names = [f"`default` (`{name}`)" if name == DEFAULT else f"`{name}`" for name in said]
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    lines += [f"| {title} | " + " | ".join(map(cell, said.values())) + " |" for title, cell in rows.items()]
    apart = [block["uncertainty"][DEFAULT]["coverage"]["90"]["share"] for block in blocks[:-1]]
    below = BELOW.format(
        low=min(apart),
        high=max(apart),
        crystals=crystals,
        outside=listed(str(own["outside"]["crystals"]) for own in said.values()),
        shares=listed(f"{own['outside']['share']:.1f}" for own in said.values()),
    )
    return BOUNDS.format(crystals=crystals) + "\n" + "\n".join(lines) + "\n" + below


def listed(words: Iterable[str]) -> str:
    """``"a, b and c"``."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def main(path: Path) -> None:
    """Put both tables in their places."""
    blocks = json.loads(path.read_text())["blocks"]
    put(ROOT / "README.md", "numbers", errors(blocks))
    put(ROOT / "docs" / "uncertainty.md", "measured", bounds(blocks))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
