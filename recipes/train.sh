#!/usr/bin/env bash
# Make a shipped model again: datasets, training, evaluation, and the model directory in the package.
#
#   models/train.sh FAMILY DATA OUT
#
# FAMILY: a folder beside this script, with settings and limits. DATA: folder of the prototype paths (bulk_*, subst_*,
# xmno_*.extxyz.gz); the datasets in datasets/chgnet join them. OUT: where the run goes. May be stopped at any
# moment; the same command goes on. PROCESSES=2 by default.
set -euo pipefail
family=$1 data=$(realpath "$2") out=$3
here=$(realpath "$(dirname "$0")")
ours=$here/../datasets/chgnet
calculator="CHGNet 0.3.0, relaxed to 0.05 eV/A"
mkdir -p "$out/data"

# Exit status 1 says that some crystals were refused (five have relaxed atoms on top of each other).
import() { # NAME OPTIONS...
  local name=$1; shift
  [ -d "$out/data/$name" ] && return
  repose data import "$data/$name"_*.extxyz.gz --out "$out/data/$name" --calculator "$calculator" "$@" || [ $? -eq 1 ]
}
import bulk
import subst
import xmno --split-by prototype --fractions 0.6,0.15,0.25

theirs=(--data "$out/data/bulk" --data "$out/data/subst" --data "$out/data/xmno")
new=(--data "$ours/bulk" --data "$ours/subst" --data "$ours/xmno")
# Stages follow each other, each from the model of the one before: forces where there are paths, relaxed crystals, and
# relaxed crystals again from what the network makes of its inputs, in one pass and in two. Not every family has all.
# xmno is small and counts twice in training.
from=()
for stage in forces train recycle more; do
  [ -f "$here/$family/$stage.json" ] || continue
  last=$out/$family-$stage
  repose train --model "$family" "${theirs[@]}" --data "$out/data/xmno" "${new[@]}" --data "$ours/xmno" \
    --config "$here/$family/$stage.json" --out "$last" --device cpu --processes "${PROCESSES:-2}" --compile "${from[@]}"
  from=(--init-from "$last")
done
# Trained for three passes, it ships with two; bounds depend on it.
[ ! -f "$here/$family/more.json" ] || repose calibrate "$last" "${theirs[@]}" "${new[@]}" --passes 2
repose evaluate --model "$last" "${theirs[@]}" "${new[@]}" --out "$out/evaluation" --device cpu
python "$here/../tools/ship_model.py" "$last/model" "$out/evaluation/table.json" \
  --name "$family" --limits "$here/$family/limits.md"
