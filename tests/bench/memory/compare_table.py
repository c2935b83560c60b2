"""Writes memory_cpu.md and memory_cpu.json from the lines that compare.sh has measured."""
import json
import os
import sys

lines, out = sys.argv[1:]
cases = [json.loads(line) for line in open(lines)]
first = cases[0]
commit = os.environ.get("COMMIT", "unknown")
# By the number of threads. A run that shared the cores for a moment has measured less.
peaks = {}
for case in cases:
    threads, peak = case["mnemo"]["threads"], case["mnemo"]["gemm_peak_flops"]
    peaks[threads] = max(peak, peaks.get(threads, 0))
table = [
    "# The memory scan on the CPU, beside PyTorch",
    "",
    "Forward, and forward and backward, of the memory rule alone: depth 2, expansion 4, heads of "
    f"{first['mnemo']['head_dim']}, layer norm, residual, momentum, f32, one sequence. PyTorch runs "
    "the same chunk form (`tests/bench/memory/memory_torch.py`), eager, on the same cores, right "
    "after; medians of five runs. tokens/s:",
    "",
    "| heads | tokens | chunk | threads | pass | mnemo | PyTorch | ratio | of GEMM peak |",
    "|---|---|---|---|---|---|---|---|---|",
]
for case in cases:
    mnemo, torch = case["mnemo"], case["torch"]
    for name in ("forward", "forward+backward"):
        ours, theirs = (x[name]["tokens_per_second"] for x in (mnemo, torch))
        share = mnemo[name]["flops"] / peaks[mnemo["threads"]]
        table.append(
            f"| {mnemo['heads']} | {mnemo['tokens']:,} | {mnemo['chunk']} | {mnemo['threads']} | {name} "
            f"| {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f} | {share:.0%} |")
table += [
    "",
    f"{first['mnemo']['processor']}, {first['mnemo']['date']}, {first['mnemo']['version']}; PyTorch "
    f"{first['torch']['torch']}. The peak is the most that large products reached in any of the runs: "
    + ", ".join(f"{peaks[n] * 1e-9:.0f} GFLOP/s with {n} thread{'s'[: n > 1]}" for n in sorted(peaks))
    + ".",
    "",
    "Run it: `PYTHON=python-with-torch tests/bench/memory/compare.sh build/mnemo`",
]
with open(os.path.join(out, "memory_cpu.md"), "w") as file:
    file.write("\n".join(table) + "\n")
with open(os.path.join(out, "memory_cpu.json"), "w") as file:
    json.dump({"bench": "memory_cpu", "commit": commit, "cases": cases}, file, indent=2)
    file.write("\n")
print("\n".join(table))
