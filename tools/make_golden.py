"""Write tests/data/golden_NAME.json: predictions of a shipped model for the crystals in examples/.

Run it when a model is replaced; `tests/integration/test_shipped.py` compares with it.
"""

import argparse
import json
from pathlib import Path

import repose
from repose.io.files import find, read

ROOT = Path(__file__).parents[1]


def main(name: str) -> None:
    """Relax every example without symmetry projection, and write cells and positions."""
    relaxer = repose.load(name, device="cpu")
    golden = {}
    for source, label in sorted(find(str(ROOT / "examples"), skip=ROOT / "examples/relaxed")):
        crystals = [entry.crystal for entry in read(source) if entry.crystal is not None]
        for index, result in enumerate(relaxer.relax(crystals, symmetry="free")):
            golden[f"{label}:{index}"] = {
                "cell": result.after.cells[0].tolist(),
                "positions": result.after.positions.tolist(),
            }
    target = ROOT / f"tests/data/golden_{name}.json"
    target.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", help="a shipped model")
    main(parser.parse_args().name)
