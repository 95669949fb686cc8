"""Write the table of errors into README.md, between its markers, from what `repose evaluate` measured.

Run it as `python tools/make_numbers.py models/evaluation/table.json`.
"""

import json
import sys
from pathlib import Path

DEFAULT = "repose"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- numbers:begin -->", "<!-- numbers:end -->"
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
are without bias, which leaves Rescale less to gain. Four models were trained on the same crystals for as
many edges; `repose` has more of them in a crystal, and saw fewer crystals. `relaxnet`, which is for the way
and not for its end, was trained on the 10,084 of these crystals whose paths are known, for a quarter of the
edges. The whole table, with errors by severity of the input, is in
[models/evaluation](models/evaluation/table.md); how each was made and what was tried is in
[models/repose](models/repose/README.md), [models/e3relax](models/e3relax/README.md),
[models/e3relax-h2](models/e3relax-h2/README.md), [models/deeprelax](models/deeprelax/README.md) and
[models/relaxnet](models/relaxnet/README.md).
"""


def main(path: Path) -> None:
    """Put the table in its place."""
    blocks = json.loads(path.read_text())["blocks"]
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
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{TEXT}\n" + "\n".join(lines) + f"\n{LEGEND}{END}{after}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
