#!/bin/sh
# The memory scan here and its chunk form in PyTorch, side by side on this machine's CPU in one go.
# Usage: tests/bench/memory/compare.sh MNEMO [OUT]
#   MNEMO  the mnemo binary;  OUT  where to write memory_cpu.md and .json (docs/benchmarks)
# PYTHON names a python with torch. Other programs running at the same time make it worthless.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mnemo=${1:?usage: compare.sh MNEMO [OUT]}
out=${2:-$here/../../../docs/benchmarks}
python=${PYTHON:-python3}
"$python" -c 'import torch' || { echo "compare.sh: $python has no torch; set PYTHON" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

# One line each: heads, tokens, chunk, threads (0: all cores).
cases='16 2048 64 0
16 2048 16 0
16 2048 64 1
4 4096 128 0'
echo "$cases" | while read -r heads tokens chunk threads; do
  set -- --heads "$heads" --tokens "$tokens" --chunk "$chunk" --threads "$threads" --iterations 5
  echo "heads $heads, tokens $tokens, chunk $chunk, threads $threads (0: all)" >&2
  "$mnemo" bench memory "$@" --json "$work/mnemo.json" >&2
  "$python" "$here/memory_torch.py" "$@" | tee "$work/torch.json" >&2
  "$python" - "$work" >>"$work/lines" <<'EOF'
import json, sys
work = sys.argv[1]
mnemo, torch = (json.load(open(f"{work}/{name}.json")) for name in ("mnemo", "torch"))
print(json.dumps({"mnemo": mnemo, "torch": torch}))
EOF
done
COMMIT=$(git -C "$here" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
export COMMIT
"$python" "$here/compare_table.py" "$work/lines" "$out"
