#!/usr/bin/env bash
# Everything that a machine with a GPU should answer, within 25 minutes and without a network.
#
#   tools/on_gpu.sh pack FOLDER          builds here, and gathers in FOLDER what the other machine needs
#   FOLDER/on_gpu.sh run [OPTIONS]       runs there, and writes OUT/results.jsonl and OUT/results.md
#
# Options of run: --device N (an adapter's number; default gpu), --minutes M (no new work after that; default 25), --out OUT
# (default on_gpu-results), --cifar PATH (a folder, or a .tar.xz with one, of CIFAR-10 in class folders), --only a,b (of
# devices, tests, bench, train, pytorch).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

pack() {
  local to root target
  mkdir -p "$1"
  to=$(cd "$1" && pwd)
  root=$(cd "$here/.." && pwd)
  cd "$root"
  target=${CARGO_TARGET_DIR:-$root/target}
  cargo build --release
  cp "$target/release/barlow" "$to/"
  # The tests' programs, by the names that cargo prints.
  cargo test --release --lib --test conformance --no-run 2>&1 | tee "$to/tests.txt" >&2
  for name in barlow_core conformance; do
    cp "$(sed -n "s/.*Executable.*(\(.*\/$name-[0-9a-f]*\))/\1/p" "$to/tests.txt" | tail -n 1)" "$to/test-$name"
  done
  rm "$to/tests.txt"
  # Without symbols for a debugger, a third less to carry.
  ! command -v strip > /dev/null || strip "$to/barlow" "$to/test-barlow_core" "$to/test-conformance"
  cp -r tests/reference "$to/"
  cp "$here/on_gpu.sh" "$here/pytorch_steps.py" "$to/"
  echo "packed into $to: $(du -sh "$to" | cut -f 1)"
}

device=gpu minutes=25 out=on_gpu-results cifar= only=devices,tests,bench,train,pytorch

run() {
  while [ $# -gt 0 ]; do
    case $1 in
      --device) device=$2 ;;
      --minutes) minutes=$2 ;;
      --out) out=$2 ;;
      --cifar) cifar=$2 ;;
      --only) only=$2 ;;
      *) echo "$1: not an option of run" >&2; exit 2 ;;
    esac
    shift 2
  done
  mkdir -p "$out"
  out=$(cd "$out" && pwd)
  rm -rf "$out/run" "$out/evaluation.json" "$out/devices.txt"
  : > "$out/results.jsonl"
  : > "$out/log.txt"
  export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp} BARLOW_WITHOUT_TINT=1
  local stage
  # The longest stage last: what it has no time for is the least.
  for stage in devices tests train pytorch bench; do
    case ",$only," in *",$stage,"*) "stage_$stage" ;; esac
  done
  report > "$out/results.md"
  cat "$out/results.md"
}

# Seconds left.
left() { echo $((minutes * 60 - SECONDS)); }

# limited SECONDS COMMAND...: runs it for at most so long, and not past the end; says so if it did not end well.
limited() {
  local seconds=$1 status=0
  shift
  [ "$seconds" -le "$(left)" ] || seconds=$(left)
  if [ "$seconds" -le 5 ]; then
    echo "no time left for: $*" >> "$out/log.txt"
    return 1
  fi
  echo "+ $*" >> "$out/log.txt"
  timeout "$seconds" "$@" 2>> "$out/log.txt" || status=$?
  [ "$status" -eq 0 ] || echo "status $status: $*" >> "$out/log.txt"
  return "$status"
}

stage_devices() { limited 60 "$here/barlow" devices > "$out/devices.txt" || true; }

# The tests of the operations, networks and training on the adapter, and PyTorch's reference cases.
stage_tests() {
  local name outcome
  export BARLOW_TEST_DEVICE=$device BARLOW_REFERENCE="$here/reference"
  for name in ops:: model:: train::; do
    outcome=passed
    # Without the tests that read the source of the kernels.
    limited 240 "$here/test-barlow_core" "$name" --skip every_shader --skip tint_accepts > "$out/test-${name%::}.txt" || outcome=failed
    printf '{"test":"%s","outcome":"%s"}\n' "$name" "$outcome" >> "$out/results.jsonl"
  done
  outcome=passed
  limited 180 "$here/test-conformance" > "$out/test-conformance.txt" || outcome=failed
  printf '{"test":"conformance","outcome":"%s"}\n' "$outcome" >> "$out/results.jsonl"
}

# bench PRESET BATCH PRECISION UNITS [--tune]: one line of JSON for the step; all operations are in a file of their own. With
# --tune, the tiles that were timed are kept beside it.
bench() {
  local tiles=expected
  [ -z "${5:-}" ] || tiles=timed
  local file="$out/bench-$1-$2-$3-units$4-$tiles.jsonl"
  BARLOW_UNITS=$4 XDG_CACHE_HOME="$out/cache" limited 90 "$here/barlow" bench --device "$device" --preset "$1" --batch "$2" \
    --precision "$3" --no-burn --seconds 0.02 --json ${5:-} > "$file" || return 0
  sed -n "s/^{\"name\":\"step\",/{\"bench\":\"$1\",\"batch\":$2,\"precision\":\"$3\",\"units\":$4,\"tiles\":\"$tiles\",/p" "$file" >> "$out/results.jsonl"
}

stage_bench() {
  local preset batch
  for batch in 256 64 1024 16; do
    for preset in solo-cifar10 cifar10; do
      bench "$preset" "$batch" f32 1
      bench "$preset" "$batch" f16 1
      bench "$preset" "$batch" f16 0
    done
    if [ "$batch" = 256 ]; then
      bench paper 64 f16 1
      bench paper 64 f16 1 --tune
      bench solo-cifar10 256 f16 1 --tune
      bench solo-cifar10 256 f32 1 --tune
      bench paper 64 f16 0
      bench paper 64 f32 1
    fi
  done
}

# Five minutes of CIFAR-10, and kNN on its test part.
stage_train() {
  [ -n "$cifar" ] || { echo "no --cifar: nothing to train on" >> "$out/log.txt"; return 0; }
  local pictures=$cifar run="$out/run"
  if [ -f "$cifar" ]; then
    pictures="$out/cifar"
    mkdir -p "$pictures"
    tar -xf "$cifar" -C "$pictures"
  fi
  local start=$SECONDS
  # Interrupted, a run saves; it is then evaluated as it is.
  limited 300 "$here/barlow" train "$pictures" --preset solo-cifar10 --device "$device" --out "$run" --set precision=f16 \
    --set schedule.epochs=200 > "$out/train.txt" || true
  local trained=$((SECONDS - start))
  limited 120 "$here/barlow" evaluate "$run" --device "$device" --json > "$out/evaluation.json" || return 0
  printf '{"train":"solo-cifar10","seconds":%d,"evaluation":%s}\n' "$trained" "$(tr -d '\n' < "$out/evaluation.json")" >> "$out/results.jsonl"
}

stage_pytorch() {
  python3 -c 'import torch; assert torch.cuda.is_available()' 2>> "$out/log.txt" || { echo "no PyTorch with CUDA" >> "$out/log.txt"; return 0; }
  local line
  for line in solo-cifar10:256:f32 solo-cifar10:256:f16 paper:64:f32 paper:64:f16; do
    limited 120 python3 "$here/pytorch_steps.py" "$line" | sed 's/^{"model"/{"pytorch"/' >> "$out/results.jsonl" || true
  done
}

# The value of a field of a line of JSON.
field() { sed -n "s/.*\"$2\": *\"\{0,1\}\([^,\"}]*\).*/\1/p" <<< "$1"; }

report() {
  local line
  echo "# Barlow on a GPU"
  echo
  [ ! -s "$out/devices.txt" ] || sed 's/^/    /' "$out/devices.txt"
  echo
  echo "| tests | outcome |"
  echo "| --- | --- |"
  { grep '^{"test"' "$out/results.jsonl" || true; } | while read -r line; do echo "| $(field "$line" test) | $(field "$line" outcome) |"; done
  echo
  echo "| step | batch | precision | matrix units | tiles | ms | images/s | ladder | of limit |"
  echo "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
  { grep '^{"bench"' "$out/results.jsonl" || true; } | while read -r line; do
    awk -v preset="$(field "$line" bench)" -v batch="$(field "$line" batch)" -v precision="$(field "$line" precision)" \
      -v units="$(field "$line" units)" -v tiles="$(field "$line" tiles)" -v ms="$(field "$line" ms)" -v ladder="$(field "$line" ladder)" \
      -v share="$(field "$line" limit_share)" 'BEGIN {
        printf "| %s | %d | %s | %s | %s | %.2f | %.0f | %.2f | %.0f%% |\n",
          preset, batch, precision, precision == "f16" ? (units ? "on" : "off") : "-", tiles, ms, 1000 * batch / ms, ladder, 100 * share }'
  done
  { grep '^{"pytorch"' "$out/results.jsonl" || true; } | while read -r line; do
    awk -v preset="$(field "$line" pytorch)" -v batch="$(field "$line" batch)" -v precision="$(field "$line" precision)" \
      -v ms="$(field "$line" ms)" 'BEGIN {
        printf "| %s, PyTorch, without augmentation | %d | %s | - | - | %.2f | %.0f | - | - |\n", preset, batch, precision, ms, 1000 * batch / ms }'
  done
  echo
  [ ! -s "$out/evaluation.json" ] || { echo "After at most five minutes of solo-cifar10:"; echo; sed 's/^/    /' "$out/evaluation.json"; }
  ! grep '^status\|^no ' "$out/log.txt" || true
}

case ${1:-} in
  pack) shift; [ $# = 1 ] || { echo "usage: on_gpu.sh pack FOLDER" >&2; exit 2; }; pack "$1" ;;
  run) shift; run "$@" ;;
  *) sed -n '2,10p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
