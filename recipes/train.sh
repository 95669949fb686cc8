#!/usr/bin/env bash
# Train a shipped model again: datasets, training, evaluation, and the model directory in the package.
#
#   recipes/train.sh RECIPE DATA OUT
#
# RECIPE: a folder beside this script, with settings and limits. DATA: folder of the prototype paths (bulk_*, subst_*,
# xmno_*.extxyz.gz), which are joined with the datasets in datasets/chgnet; for the recipe `repose` also of the real
# crystals (relaxed.extxyz.gz, frame_pairs.extxyz.gz). OUT: folder of the run. A command that was stopped continues.
# PROCESSES=2 by default.
set -euo pipefail
recipe=$1 data=$(realpath "$2") out=$3
family=$recipe
[ "$recipe" != repose ] || family=reposenet
here=$(realpath "$(dirname "$0")")
ours=$here/../datasets/chgnet
calculator="CHGNet 0.3.0, relaxed to 0.05 eV/A"
mkdir -p "$out/data"

# Exit status 1: some crystals were refused (relaxed atoms of five of them coincide).
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
# Each stage starts from the model of the one before: forces along paths, relaxed crystals, own predictions as inputs,
# more crystals. Not every recipe has all. xmno is small and is used twice in training.
from=() real=() tests=()
for stage in forces train recycle more near real kinds; do
  [ -f "$here/$recipe/$stage.json" ] || continue
  last=$out/$recipe-$stage
  if [ "$stage" = near ]; then # from here on real crystals and all kinds; small sets three times
    python "$here/real_data.py" "$data/relaxed.extxyz.gz" "$data/frame_pairs.extxyz.gz" "$out/real"
    real=(--held-out "$out/real/frames")
    for set in "$ours"/{real,real-more} "$out"/real/{relaxed,substituted,near-*}; do real+=(--data "$set"); done
    for _ in 1 2 3; do for set in sheets layered defects; do real+=(--data "$ours/$set"); done; done
    for set in "$out"/real/{frames,one-element,near-*} "$ours"/../pbe "$ours"/{real,sheets,layered,defects}; do
      tests+=(--data "$set")
    done
  fi
  [ "$stage" != real ] || real+=(--data "$ours/bulk" --data "$ours/subst")
  if [ "$stage" = kinds ]; then # the smallest sets five times, defects eight times
    for set in sheets layered defects sheets layered defects defects defects defects; do real+=(--data "$ours/$set"); done
  fi
  repose train --model "$family" "${theirs[@]}" --data "$out/data/xmno" "${new[@]}" --data "$ours/xmno" "${real[@]}" \
    --config "$here/$recipe/$stage.json" --out "$last" --device cpu --processes "${PROCESSES:-2}" --compile "${from[@]}"
  from=(--init-from "$last")
done
tables=("$out/evaluation/table.json")
repose evaluate --model "$last" "${theirs[@]}" "${new[@]}" --out "$out/evaluation" --device cpu
if [ "${#tests[@]}" -gt 0 ]; then # with bulk and subst for the fit of Rescale
  repose evaluate --model "$last" --data "$ours/bulk" --data "$ours/subst" "${tests[@]}" --out "$out/evaluation/kinds" --device cpu
  tables+=("$out/evaluation/kinds/table.json")
fi
python "$here/../tools/ship_model.py" "$last/model" "${tables[@]}" \
  --name "$recipe" --limits "$here/$recipe/limits.md" \
  --round "$ours/bulk" "$ours/subst" "$ours/xmno" "$ours/real"
