#!/usr/bin/env bash
# Install GPAW without MPI into a Python environment, for `--calculator repose.potentials.gpaw:pbe`.
#
#   tools/dft/install_gpaw.sh [ENVIRONMENT]     # .venv if not said
#
# For Debian and Ubuntu. Takes about a minute and 480 MB. GPAW is under the GPL (version 3 or later): it is never a
# dependency of the package and never distributed with it.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
environment=${1:-$root/.venv}
libraries=(g++ libxc-dev libopenblas-dev libfftw3-dev)

if ! dpkg --status "${libraries[@]}" >/dev/null 2>&1; then
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    $as_root apt-get update
    $as_root apt-get install --yes --no-install-recommends "${libraries[@]}"
fi

settings=$(mktemp --suffix=.py)
trap 'rm -f "$settings"' EXIT
# g++ rather than gcc, which fails to build it. MPI off: a wrapper without headers would otherwise be picked up.
cat >"$settings" <<'SETTINGS'
mpi = False
compiler = 'g++'
fftw = True
libraries = ['xc', 'openblas', 'fftw3']
SETTINGS

# The constraints keep what is there, torch above all, at the versions the project is tested with.
GPAW_CONFIG=$settings "$environment/bin/python" -m pip install --constraint "$root/constraints.txt" 'gpaw>=25'
"$environment/bin/python" -c 'import gpaw; print("gpaw", gpaw.__version__)'
