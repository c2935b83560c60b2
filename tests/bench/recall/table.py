#!/usr/bin/env python3
"""Collects the cells of launch/recall_study.sh in one JSON, and prints them as a Markdown table.

    table.py DIR [--json FILE] [--expect N]
    table.py DIR --restore FILE

DIR is the study's --out. FILE (docs/benchmarks/recall.json) is updated: cells of other names that
it holds stay. With --expect, fewer cells than N are an error, after everything was written.
--restore writes the cells of FILE that DIR lacks into it, where the study then goes on.

A row is a model, chunk, momentum and length; an entry is a seed's accuracy, and the steps that it
took to 0.99. Where an accuracy of 0.99 was not reached, the steps until the end stand in brackets.
"""
import argparse
import glob
import json
import os
import re
import sys

NAME = re.compile(r"(lmm|mag)_chunk(\d+)_momentum-(true|false)_t(\d+)_seed(\d+)$")
REACHED = 0.99


def read_cells(folder):
    cells = {}
    for path in sorted(glob.glob(os.path.join(folder, "*_seed?.json"))):
        name = os.path.basename(path)[:-len(".json")]
        if not NAME.match(name):
            continue
        with open(path) as file:
            cells[name] = {"name": name, **json.load(file)}
    return cells


def write(path, cells):
    old = {}
    if os.path.exists(path):
        with open(path) as file:
            old = {cell["name"]: cell for cell in json.load(file)["cells"]}
    merged = {**{name: cell for name, cell in old.items() if name not in cells}, **cells}
    lines = ",\n".join("  " + json.dumps(cell, sort_keys=True) for cell in merged.values())
    with open(path + ".tmp", "w") as file:
        file.write(f'{{\n "bench": "recall",\n "cells": [\n{lines}\n ]\n}}\n')
    os.replace(path + ".tmp", path)


def restore(path, folder):
    os.makedirs(folder, exist_ok=True)
    with open(path) as file:
        cells = json.load(file)["cells"]
    for cell in cells:
        target = os.path.join(folder, f"{cell['name']}.json")
        if NAME.match(cell["name"]) and not os.path.exists(target):
            with open(target, "w") as file:
                json.dump(cell, file, indent=1)


def entry(cell):
    last = cell["reports"][-1]
    steps = f"{last['step']:,}"
    return f"{last['accuracy']:.3f} {steps if last['accuracy'] >= REACHED else f'({steps})'}"


def table(cells):
    rows, seeds = {}, set()
    for name, cell in cells.items():
        block, chunk, momentum, length, seed = NAME.match(name).groups()
        seeds.add(int(seed))
        key = (int(length), block, int(chunk), momentum == "false")
        rows.setdefault(key, {})[int(seed)] = cell
    seeds = sorted(seeds)
    yield "| tokens | model | chunk | momentum | " + " | ".join(f"seed {s}" for s in seeds) + " |"
    yield "|" + "---|" * (4 + len(seeds))
    for (length, block, chunk, without), by_seed in sorted(rows.items()):
        entries = [entry(by_seed[s]) if s in by_seed else "" for s in seeds]
        yield (f"| {length:,} | {block.upper()} | {chunk} | {'no' if without else 'yes'} | "
               + " | ".join(entries) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--json")
    parser.add_argument("--expect", type=int, default=0)
    parser.add_argument("--restore")
    args = parser.parse_args()
    if args.restore:
        restore(args.restore, args.folder)
    cells = read_cells(args.folder)
    if not cells:
        sys.exit(f"table.py: there are no cells in {args.folder}")
    if args.json:
        write(args.json, cells)
    print("\n".join(table(cells)))
    seconds = sum(cell["reports"][-1]["seconds"] for cell in cells.values())
    print(f"\n{len(cells)} cells, {seconds:.0f} s of training in all")
    if len(cells) < args.expect:
        sys.exit(f"table.py: {len(cells)} of {args.expect} cells")


if __name__ == "__main__":
    main()
