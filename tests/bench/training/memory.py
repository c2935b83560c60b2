#!/usr/bin/env python3
"""Peak memory of training steps beside the plan's estimate and PyTorch's peak.

    memory.py SPEED.json --json OUT.json

SPEED.json is what compare.py wrote. Prints a table in GiB. Exit code 1 if a plan is off by more
than 5 %, or a shape is missing.
"""
import argparse
import json
import sys

from compare import SHAPES

GIB = 2**30
ALLOWED = 0.05


def compared(entries):
    """Bytes at most by who ran, and what mnemo planned for tensors of the same run."""
    result = {}
    for who, entry in entries.items():
        peak = entry.get("peak_tensor_bytes", entry.get("peak_bytes"))
        if peak is not None:
            result[who] = peak
    for who in ("mnemo", "mnemo_free"):
        if who in result:
            result[f"{who}_plan"] = entries[who]["planned_tensor_bytes"]
            result[f"{who}_over_plan"] = result[who] / result[f"{who}_plan"]
    result["ok"] = "mnemo" in result and all(
        abs(result[f"{who}_over_plan"] - 1) <= ALLOWED
        for who in ("mnemo", "mnemo_free") if who in result)
    return result


def row(name, r):
    def cell(value, form="{:.1f}"):
        return "" if value is None else form.format(value)
    gib = [r.get(who) for who in ("mnemo", "mnemo_free", "torch_copies", "torch_autocast",
                                  "torch_deterministic")]
    over = [r.get(f"{who}_over_plan") for who in ("mnemo", "mnemo_free")]
    return (f"| {name} | " + " | ".join(cell(None if b is None else b / GIB) for b in gib)
            + " | " + " | ".join(cell(x, "{:.3f}") for x in over) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("speed")
    parser.add_argument("--json", required=True)
    args = parser.parse_args()
    try:
        with open(args.speed) as file:
            shapes = json.load(file)["shapes"]
    except OSError as error:
        sys.exit(f"memory.py: {error}; run compare.py (gpu_check.sh's stage speed) before")
    result = {"bench": "training_memory", "shapes": {}}
    print("| shape | mnemo | free order | PyTorch, copies | PyTorch, autocast | "
          "PyTorch, deterministic | over plan | free, over plan |\n|---|---|---|---|---|---|---|---|")
    for name, entries in shapes.items():
        result["shapes"][name] = compared(entries)
        print(row(name, result["shapes"][name]), flush=True)
    with open(args.json, "w") as file:
        json.dump(result, file, indent=2)
    ok = all(r["ok"] for r in result["shapes"].values()) and set(shapes) == set(SHAPES)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
