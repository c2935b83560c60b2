#!/usr/bin/env python3
"""Training steps of `mnemo bench step` and of PyTorch (transformer_torch.py), side by side in one
run on one GPU.

    compare.py MNEMO CONFIGS --json OUT.json [--shape NAME]... [--skip-torch]

MNEMO is the binary, CONFIGS the folder with 340m_transformer.textproto. Prints a table of tokens/s,
share of 989 TFLOP/s (dense bf16 by data sheet) and memory.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

# Layers, width, heads, MLP; sequences and tokens of a step; what mnemo keeps for the backward pass.
SHAPES = {
    "374m_8x4096": (24, 1024, 16, 2816, 8, 4096, "KEEP_ALL"),
    "374m_1x32768": (24, 1024, 16, 2816, 1, 32768, "KEEP_ALL"),
    "1.36b_4x4096": (24, 2048, 16, 5632, 4, 4096, "KEEP_ALL"),
}
VOCABULARY = 32768
PEAK_TFLOPS = 989


def run_mnemo(args, shape, path, phases):
    layers, width, heads, mlp, batch, length, keep = shape
    settings = {
        "model.layers": layers, "model.width": width, "model.heads": heads,
        "model.mlp_hidden": mlp, "model.vocabulary": VOCABULARY, "model.attention.window": 0,
        "train.sequences": batch, "train.sequence_length": length, "train.slice": length,
        "train.accumulation": 1, "train.rematerialize": keep, "execution.device": "CUDA",
    }
    command = [args.mnemo, "bench", "step", os.path.join(args.configs, "340m_transformer.textproto"),
               "--peak-tflops", str(PEAK_TFLOPS), "--warmup", "3", "--timed", "10", "--json", path]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    subprocess.run(command + (["--phases"] if phases else []), check=True)
    with open(path) as file:
        return json.load(file)


def run_torch(shape, path, masters):
    layers, width, heads, mlp, batch, length, _ = shape
    here = os.path.dirname(os.path.abspath(__file__))
    values = dict(layers=layers, width=width, heads=heads, mlp=mlp, batch=batch, length=length,
                  vocabulary=VOCABULARY)
    command = [sys.executable, os.path.join(here, "transformer_torch.py"), "--json", path]
    for name, value in values.items():
        command += [f"--{name}", str(value)]
    for way in masters or []:
        command += ["--masters", way]
    subprocess.run(command, check=True)
    with open(path) as file:
        return json.load(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mnemo")
    parser.add_argument("configs")
    parser.add_argument("--shape", action="append", choices=SHAPES)
    parser.add_argument("--skip-torch", action="store_true")
    parser.add_argument("--masters", action="append", help="of PyTorch; default: both ways")
    parser.add_argument("--json", required=True)
    args = parser.parse_args()
    result = {"bench": "training", "shapes": {}}
    rows = []
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "part.json")
        for name in args.shape or SHAPES:
            print(f"== {name}", flush=True)
            entry = {"mnemo": run_mnemo(args, SHAPES[name], path, False),
                     "mnemo_phases": run_mnemo(args, SHAPES[name], path, True)["phases"]}
            mine = entry["mnemo"]
            rows.append((name, "mnemo", mine["tokens_per_second"], mine["share_of_peak"],
                         mine["peak_tensor_bytes"]))
            if not args.skip_torch:
                entry["torch"] = run_torch(SHAPES[name], path, args.masters)
                for run in entry["torch"]["runs"]:
                    rows.append((name, f"PyTorch, {run['masters']}", run["tokens_per_second"],
                                 run["mfu"], run["peak_bytes"]))
            result["shapes"][name] = entry
            with open(args.json, "w") as file:  # what is there survives a later failure
                json.dump(result, file, indent=2)
    print(f"\n{'shape':<14} {'':<18} {'tokens/s':>10} {'of peak':>8} {'GiB':>7}")
    for name, who, speed, share, memory in rows:
        print(f"{name:<14} {who:<18} {speed:>10.0f} {share:>8.3f} {memory / 2**30:>7.1f}")


if __name__ == "__main__":
    main()
