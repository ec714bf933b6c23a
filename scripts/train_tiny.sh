#!/usr/bin/env bash
# From nothing to a checkpoint by the recipe of `tiny`, and to its measured page: data, training, the graph network
# beside it, evaluation; and the generalisation model (half the steps, a quarter of the clips) with its rows.
#   scripts/train_tiny.sh [data|train|gnn|evaluate|other]...     all of them when none is named
# Every stage goes on where it was stopped. DATA, RUNS: folders. STEPS: of training (OTHER_STEPS: of the other model).
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=${DATA:-datasets/shipped} RUNS=${RUNS:-runs/shipped}
STEPS=${STEPS:-14000}
OTHER_STEPS=${OTHER_STEPS:-$((STEPS / 2))} GNN_STEPS=${GNN_STEPS:-2700}
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1
BIN=.venv/bin
CORES=$(nproc)
# One process for each GPU, without one for each core; a batch of 8 must be shared out evenly.
RANKS=$($BIN/python -c 'import torch; print(torch.cuda.device_count())')
[ "$RANKS" -gt 0 ] || RANKS=$CORES
RANKS=$((RANKS < 8 ? RANKS : 8))
while [ $((8 % RANKS)) != 0 ]; do RANKS=$((RANKS - 1)); done
say() { printf '==> %s\n' "$*"; }

rigid=tabletop
other='articulated=0.45 tool=0.23 clutter=0.17 rope=0.15'
soft='pillow=0.35 rope=0.30 scarf=0.35'
# folder, clips, seed, robot, shapes, families
sets() {
  cat <<END
train_fr3_tabletop 3500 21 fr3 train $rigid
train_fr3_other 1800 23 fr3 train $other
train_fr3_soft 350 25 fr3 train pillow=0.7 rope=0.3
train_fr3_scarf 250 26 fr3 train scarf
train_fr3_tray 300 27 fr3 train tray
train_ur5e_tabletop 800 22 ur5e_robotiq train $rigid
train_ur5e_other 500 24 ur5e_robotiq train $other
train_ur5e_tray 80 28 ur5e_robotiq train tray
train_fr3_tabletop_2 4600 121 fr3 train $rigid
train_fr3_other_2 1500 123 fr3 train $other
train_fr3_tray_2 250 127 fr3 train tray
train_ur5e_tabletop_2 1000 122 ur5e_robotiq train $rigid
train_ur5e_other_2 400 124 ur5e_robotiq train $other
train_ur5e_tray_2 80 128 ur5e_robotiq train tray
train_fr3_rope_2 900 129 fr3 train rope
train_fr3_drawer_2 300 130 fr3 train drawer
tune_ur5e 200 131 ur5e_robotiq train articulated=0.6 tabletop=0.4
val_fr3_tabletop 120 41 fr3 train $rigid
val_fr3_other 80 42 fr3 train $other
val_fr3_soft 40 43 fr3 train $soft
val_fr3_tray 20 45 fr3 train tray
val_ur5e 40 44 ur5e_robotiq train tabletop=0.6 $other
test_fr3_tabletop 400 51 fr3 test $rigid
test_fr3_other 240 52 fr3 test $other
test_fr3_soft 120 53 fr3 test $soft
test_fr3_tray 40 54 fr3 test tray
test_ur5e 200 55 ur5e_robotiq test tabletop=1.0 $other tray=0.05
END
}
of() { sets | awk -v want="^$1" -v root="$DATA/" '$1 ~ want { print root $1 }'; }

data() {
  sets | while read -r name clips seed robot shapes families; do
    say "$clips clips: $name"
    # shellcheck disable=SC2086
    $BIN/pointworld generate --workers "$CORES" --clips "$clips" --seed "$seed" --robot "$robot" \
      --tabletop.shapes "$shapes" --tabletop.families $families --out "$DATA/$name" </dev/null
  done
}

# model NAME STEPS VALIDATION OPTIONS...
model() {
  local name=$1 steps=$2 validation=$3
  shift 3
  say "training $name: $steps steps, $RANKS processes"
  # shellcheck disable=SC2046
  $BIN/torchrun --nproc-per-node "$RANKS" -m pointworld.cli.app train --validation $(of "$validation") --cache "$DATA/cache" \
    --out "$RUNS/$name" --train.minutes 0 --train.steps "$steps" --train.validate-every 1000 --train.save-every 200 "$@"
}

# shellcheck disable=SC2046
train() { model tiny "$STEPS" val --config pointworld/configs/train/tiny.yaml --data $(of train); }

gnn() {
  say "graph network: $GNN_STEPS steps"
  # shellcheck disable=SC2046
  $BIN/pointworld train gnn --data $(of train) --validation $(of val) --cache "$DATA/cache" --out "$RUNS/gnn" \
    --train.minutes 0 --train.steps "$GNN_STEPS"
}

# measure OUT CHECKPOINT FOLDERS...
measure() {
  local out=$RUNS/$1 checkpoint=$2
  shift 2
  [ -f "$out/evaluation.json" ] && return
  # shellcheck disable=SC2046
  $BIN/pointworld evaluate "$@" --checkpoint "$checkpoint" --validation $(of val) --out "$out"
}

evaluate() {
  # shellcheck disable=SC2046
  measure evaluation "$RUNS/tiny" $(of test) --gnn "$RUNS/gnn"
  measure evaluation_arm "$RUNS/tiny" "$DATA/test_ur5e"
}

other() {
  # shellcheck disable=SC2046
  model other "$OTHER_STEPS" 'val_fr3_(tabletop|soft|tray)' --config pointworld/configs/train/tiny.yaml --data $(of 'train_fr3_[a-z]+$') \
    --without articulated --max-clips 3600
  model other_tuned 400 val_ur5e --config pointworld/configs/train/tiny.yaml --data "$DATA/tune_ur5e" \
    --init "$RUNS/other" --train.learning-rate 3e-4
  measure other_families "$RUNS/other" "$DATA/test_fr3_other"
  measure other_arm "$RUNS/other" "$DATA/test_ur5e"
  measure tuned_arm "$RUNS/other_tuned" "$DATA/test_ur5e"
}

[ $# -gt 0 ] || set -- data train gnn evaluate other
for stage in "$@"; do
  case $stage in
    data | train | gnn | evaluate | other) "$stage" ;;
    *)
      printf "error: no stage '%s'; there are data, train, gnn, evaluate and other\n" "$stage" >&2
      exit 2
      ;;
  esac
done
