#!/usr/bin/env python3
"""Peak memory of training steps beside the plan's estimate and PyTorch's peak.

    memory.py MNEMO CONFIGS SPEED.json --json OUT.json

SPEED.json is what compare.py wrote on this GPU; MNEMO and CONFIGS as there. Prints a table in
GiB. Exit code 1 if a plan is off by more than 5 %, or a shape is missing.
"""
import argparse
import json
import os
import re
import subprocess
import sys

from compare import SHAPES, settings_of

GIB = 2**30
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
ALLOWED = 0.05


def plan_of(args, shape):
    """The lines of `mnemo plan` about memory, in bytes."""
    command = [args.mnemo, "plan", os.path.join(args.configs, "340m_transformer.textproto")]
    for name, value in settings_of(shape).items():
        command += ["--set", f"{name}={value}"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = {}
    memory = text[text.index("memory of the fullest rank"):].splitlines()[1:]
    for line in memory:
        found = re.match(r"  (\S.*?)  +([0-9.]+) ([KMGT]?i?B)", line)
        if not found:
            break
        lines[found[1]] = float(found[2]) * UNITS[found[3]]
    return lines


def compared(args, name, entries):
    plan = plan_of(args, SHAPES[name])
    result = {"plan_bytes": plan, "plan_total": plan["total"]}
    for who, entry in entries.items():
        peak = entry.get("peak_tensor_bytes", entry.get("peak_bytes"))
        if peak is not None:
            result[who] = peak
    for who in ("mnemo", "mnemo_free"):
        if who in result:
            result[f"{who}_over_plan"] = result[who] / plan["total"]
    result["ok"] = "mnemo" in result and abs(result["mnemo_over_plan"] - 1) <= ALLOWED
    return result


def row(name, r):
    def cell(value, form="{:.1f}"):
        return "" if value is None else form.format(value)
    gib = [r["plan_total"], r.get("mnemo"), r.get("mnemo_free"), r.get("torch_copies"),
           r.get("torch_autocast"), r.get("torch_deterministic")]
    return (f"| {name} | " + " | ".join(cell(None if b is None else b / GIB) for b in gib)
            + f" | {cell(r.get('mnemo_over_plan'), '{:.3f}')} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mnemo")
    parser.add_argument("configs")
    parser.add_argument("speed")
    parser.add_argument("--json", required=True)
    args = parser.parse_args()
    with open(args.speed) as file:
        shapes = json.load(file)["shapes"]
    result = {"bench": "training_memory", "shapes": {}}
    print("| shape | plan | mnemo | free order | PyTorch, copies | PyTorch, autocast | "
          "PyTorch, deterministic | over plan |\n|---|---|---|---|---|---|---|---|")
    for name, entries in shapes.items():
        result["shapes"][name] = compared(args, name, entries)
        print(row(name, result["shapes"][name]), flush=True)
    with open(args.json, "w") as file:
        json.dump(result, file, indent=2)
    ok = all(r["ok"] for r in result["shapes"].values()) and set(shapes) == set(SHAPES)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
