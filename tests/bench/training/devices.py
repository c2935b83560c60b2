#!/usr/bin/env python3
"""The same small training runs on the CPU and on a GPU, in f32 and bf16.

    devices.py MNEMO CONFIGS SHARDS --json OUT.json [--steps N] [--block NAME]...

MNEMO is the binary, CONFIGS the folder with tiny_*.textproto, SHARDS a prepared data set. For each
block: CUDA f32 follows CPU f32 step by step (how far apart, and when); bf16 ends within 1 % of it,
over the mean of the last tenth of the steps; a second bf16 run has the same losses, bit by bit; a
run that was stopped in the middle and resumed too. Exit code 1 if one of these does not hold.
"""
import argparse
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile

BLOCKS = ("mac", "mag", "lmm", "transformer")


class Runs:
    def __init__(self, args, block, work):
        self.args, self.block, self.work = args, block, work

    def train(self, name, device, precision, steps, extra=()):
        run = os.path.join(self.work, name)
        config = os.path.join(self.args.configs, f"tiny_{self.block}.textproto")
        command = [self.args.mnemo, "train", config, "--run-dir", run,
                   "--shards", self.args.shards, "--steps", str(steps),
                   "--set", f"execution.device={device}",
                   "--set", f"execution.precision={precision}",
                   "--set", f"train.optimizer.decay_steps={self.args.steps}", *extra]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        with open(os.path.join(run, "metrics.jsonl")) as file:
            lines = [json.loads(line) for line in file]
        return {line["step"]: line for line in lines if "loss" in line and "step" in line}


def losses(run):
    return [run[step]["loss"] for step in sorted(run, key=int)]


def tail(values):
    last = values[-max(1, len(values) // 10):]
    return sum(last) / len(last)


def on_gpu(args, runs):
    wide = losses(runs.train("gpu", "CUDA", "F32", args.steps))
    narrow = runs.train("bf16", "CUDA", "BF16", args.steps)
    again = losses(runs.train("again", "CUDA", "BF16", args.steps))
    runs.train("resumed", "CUDA", "BF16", args.steps // 2)
    return wide, narrow, again, losses(runs.train("resumed", "CUDA", "BF16", args.steps))


def check(args, block, work):
    runs = Runs(args, block, work)
    with concurrent.futures.ThreadPoolExecutor() as pool:  # the CPU beside the GPU
        on_cpu = pool.submit(runs.train, "cpu", "CPU", "F32", args.steps)
        gpu, narrow_run, again, resumed = on_gpu(args, runs)
        cpu = losses(on_cpu.result())
    narrow = losses(narrow_run)
    apart = [abs(a - b) / abs(a) for a, b in zip(cpu, gpu)]
    last = narrow_run[max(narrow_run, key=int)]
    result = {
        "first_loss": cpu[0],
        "cpu_f32": tail(cpu),
        "gpu_f32": tail(gpu),
        "gpu_bf16": tail(narrow),
        "f32_apart_first": apart[0],
        "f32_apart_at_10": max(apart[:10]),
        "f32_apart": max(apart),
        "bf16_apart_at_end": abs(tail(narrow) - tail(cpu)) / tail(cpu),
        "twice_the_same": narrow == again,
        "resumed_the_same": narrow == resumed,
        "steps": len(cpu),
        "fused": last.get("fused"),
        "tokens_per_second_bf16": last.get("tokens_per_second"),
    }
    result["ok"] = (result["f32_apart_first"] < 1e-5 and result["bf16_apart_at_end"] < 0.01
                    and result["twice_the_same"] and result["resumed_the_same"]
                    and len(cpu) == len(gpu) == len(narrow) == args.steps)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mnemo")
    parser.add_argument("configs")
    parser.add_argument("shards")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--block", action="append", choices=BLOCKS)
    parser.add_argument("--json", required=True)
    args = parser.parse_args()
    results = {"bench": "training_devices", "steps": args.steps, "blocks": {}}
    print(f"{'block':<12} {'CPU f32':>8} {'GPU f32':>8} {'bf16':>8} {'f32 apart: first':>17} "
          f"{'10 steps':>9} {'all':>9} {'bf16 at end':>12}  twice  resumed")
    for block in args.block or BLOCKS:
        work = tempfile.mkdtemp()
        try:
            r = results["blocks"][block] = check(args, block, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        print(f"{block:<12} {r['cpu_f32']:>8.4f} {r['gpu_f32']:>8.4f} {r['gpu_bf16']:>8.4f} "
              f"{r['f32_apart_first']:>17.1e} {r['f32_apart_at_10']:>9.1e} "
              f"{r['f32_apart']:>9.1e} {r['bf16_apart_at_end']:>12.1e}  "
              f"{'same' if r['twice_the_same'] else 'NO':<5}  "
              f"{'same' if r['resumed_the_same'] else 'NO'}", flush=True)
        with open(args.json, "w") as file:
            json.dump(results, file, indent=2)
    return 0 if all(r["ok"] for r in results["blocks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
