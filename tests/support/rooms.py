"""Rooms of the package in the order of their imports."""

# From the ground up; `docs/architecture.md` has the same list. A room is a file or a folder of the package.
ORDER = [
    "errors",
    "config",
    "presets",
    "atomic_write",
    "device",
    "native",
    "threads",
    "crystal",
    "io",
    "nn",
    "models",
    "potentials",
    "relaxer",
    "testing",
    "report",
    "data",
    "evaluation",
    "validation",
    "benchmark",
    "training",
    "workflows",
    "cli",
    "__init__",
    "__main__",
]
