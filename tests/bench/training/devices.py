#!/usr/bin/env python3
"""The same small training runs on the CPU and on a GPU, in f32 and bf16.

    devices.py MNEMO CONFIGS SHARDS --json OUT.json [--steps N] [--block NAME]... [--jobs N]

MNEMO is the binary, CONFIGS the folder with tiny_*.textproto, SHARDS a prepared data set. For each
block: CUDA f32 follows CPU f32 step by step (how far apart, and when); bf16 ends within 1 % of it,
over the mean of the last tenth of the steps; a second bf16 run has the same losses, bit by bit; a
run that was stopped in the middle and resumed too. An f32 run that goes from the CPU to the GPU after
a twentieth of the steps follows the CPU as closely, and one that goes from the GPU to the CPU.

And for one grid of slices, whatever is kept for the backward pass (train.rematerialize KEEP_ALL,
UNITS, SLICES), in f32 and bf16 over a tenth of the steps: the losses of all steps, the weights after
them, and the losses that these give every single token of the held-out text are equal bit by bit.

Exit code 1 if one of these does not hold. --jobs blocks are tried at once.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

BLOCKS = ("mac", "mag", "lmm", "transformer")
POLICIES = ("KEEP_ALL", "UNITS", "SLICES")
SLICE = 128  # of the tiny configurations' 512 tokens
EVALUATED = 8192
F32_APART = 1e-4  # of a loss, over all steps: sums in another order, amplified by training


class Failed(Exception):
    pass


def call(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


class Runs:
    def __init__(self, args, block, work):
        self.args, self.block, self.work = args, block, work

    def train(self, name, device, precision, steps, settings=None):
        run = os.path.join(self.work, name)
        config = os.path.join(self.args.configs, f"tiny_{self.block}.textproto")
        settings = {"execution.device": device, "execution.precision": precision,
                    "execution.threads": self.args.threads,
                    "train.optimizer.decay_steps": self.args.steps, **(settings or {})}
        command = [self.args.mnemo, "train", config, "--run-dir", run,
                   "--shards", self.args.shards, "--steps", str(steps)]
        for path, value in settings.items():
            command += ["--set", f"{path}={value}"]
        call(command)
        with open(os.path.join(run, "metrics.jsonl")) as file:
            lines = [json.loads(line) for line in file]
        return {line["step"]: line for line in lines if "loss" in line and "step" in line}

    def weights(self, name):
        """The trained weights' digest."""
        return digest(os.path.join(self.work, name, "model", "model.safetensors"))

    def token_losses(self, name):
        """The digest of the file with each held-out token's loss."""
        path = os.path.join(self.work, f"{name}.h5")
        call([self.args.mnemo, "eval", "--model", os.path.join(self.work, name, "model"),
              "--shards", self.args.shards, "--max-tokens", str(EVALUATED),
              "--per-token-loss", path, "--set", f"execution.threads={self.args.threads}"])
        return digest(path)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


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


def moved(args, runs):
    """How far runs that change the device half way through a tenth of the steps are from the CPU."""
    steps = max(4, args.steps // 10)
    short = {"train.optimizer.warmup_steps": 2}
    reference = losses(runs.train("short", "CPU", "F32", steps, short))
    seen = {}
    for first, then in (("CPU", "CUDA"), ("CUDA", "CPU")):
        name = f"from_{first}"
        runs.train(name, first, "F32", steps // 2, short)
        seen[f"{first}_to_{then}"] = max(
            apart(reference, losses(runs.train(name, then, "F32", steps, short))))
    return seen


def apart(reference, seen):
    """By step, relative."""
    if len(reference) != len(seen):
        raise Failed(f"{len(seen)} steps where {len(reference)} were expected")
    return [abs(a - b) / abs(a) for a, b in zip(reference, seen)]


def policies(args, runs, precision):
    """By policy: losses of the steps, weights, losses of tokens."""
    seen = {}
    for policy in POLICIES:
        name = f"{precision}_{policy}"
        run = runs.train(name, "CUDA", precision, max(2, args.steps // 10),
                         {"train.rematerialize": policy, "train.slice": SLICE,
                              "train.optimizer.warmup_steps": 2})
        seen[policy] = {"losses": losses(run), "weights": runs.weights(name),
                        "token_losses": runs.token_losses(name)}
    return seen


def same_for_all(seen):
    return {what: all(entry[what] == seen["KEEP_ALL"][what] for entry in seen.values())
            for what in ("losses", "weights", "token_losses")}


def check(args, block, work):
    runs = Runs(args, block, work)
    with concurrent.futures.ThreadPoolExecutor() as pool:  # the CPU beside the GPU
        on_cpu = pool.submit(runs.train, "cpu", "CPU", "F32", args.steps)
        gpu, narrow_run, again, resumed = on_gpu(args, runs)
        kept = {p: same_for_all(policies(args, runs, p)) for p in ("F32", "BF16")}
        changed = moved(args, runs)
        cpu = losses(on_cpu.result())
    narrow = losses(narrow_run)
    wide_apart = apart(cpu, gpu)
    last = narrow_run[max(narrow_run, key=int)]
    result = {
        "first_loss": cpu[0],
        "cpu_f32": tail(cpu),
        "gpu_f32": tail(gpu),
        "gpu_bf16": tail(narrow),
        "f32_apart_first": wide_apart[0],
        "f32_apart_at_10": max(wide_apart[:10]),
        "f32_apart": max(wide_apart),
        "f32_apart_moved": changed,
        "bf16_apart_at_end": abs(tail(narrow) - tail(cpu)) / tail(cpu),
        "twice_the_same": narrow == again,
        "resumed_the_same": narrow == resumed,
        "same_whatever_is_kept": kept,
        "steps": len(cpu),
        "fused": last.get("fused"),
        "tokens_per_second_bf16": last.get("tokens_per_second"),
    }
    result["ok"] = (result["f32_apart_first"] < 1e-5 and result["f32_apart"] < F32_APART
                    and max(result["f32_apart_moved"].values()) < F32_APART
                    and result["bf16_apart_at_end"] < 0.01
                    and result["twice_the_same"] and result["resumed_the_same"]
                    and all(all(same.values()) for same in kept.values())
                    and len(cpu) == len(gpu) == len(narrow) == args.steps)
    return result


def check_alone(args, block):
    work = tempfile.mkdtemp()
    try:
        return check(args, block, work)
    except (Failed, OSError, KeyError) as problem:
        return {"ok": False, "error": str(problem)}
    finally:
        shutil.rmtree(work, ignore_errors=True)


def row(block, r):
    if "error" in r:
        return f"{block:<12} {r['error']}"
    kept = all(all(same.values()) for same in r["same_whatever_is_kept"].values())
    return (f"{block:<12} {r['cpu_f32']:>8.4f} {r['gpu_f32']:>8.4f} {r['gpu_bf16']:>8.4f} "
            f"{r['f32_apart_first']:>17.1e} {r['f32_apart_at_10']:>9.1e} "
            f"{r['f32_apart']:>9.1e} {max(r['f32_apart_moved'].values()):>9.1e} "
            f"{r['bf16_apart_at_end']:>12.1e}  "
            f"{'same' if r['twice_the_same'] else 'NO':<5}  "
            f"{'same' if r['resumed_the_same'] else 'NO':<7}  {'same' if kept else 'NO'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mnemo")
    parser.add_argument("configs")
    parser.add_argument("shards")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--block", action="append", choices=BLOCKS)
    parser.add_argument("--jobs", type=int, default=len(BLOCKS))
    parser.add_argument("--json", required=True)
    args = parser.parse_args()
    args.threads = max(1, os.cpu_count() // args.jobs)
    results = {"bench": "training_devices", "steps": args.steps, "blocks": {}}
    print(f"{'block':<12} {'CPU f32':>8} {'GPU f32':>8} {'bf16':>8} {'f32 apart: first':>17} "
          f"{'10 steps':>9} {'all':>9} {'moved':>9} {'bf16 at end':>12}  twice  resumed  kept")
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        tried = {pool.submit(check_alone, args, block): block for block in args.block or BLOCKS}
        for done in concurrent.futures.as_completed(tried):
            block = tried[done]
            results["blocks"][block] = done.result()
            print(row(block, results["blocks"][block]), flush=True)
            with open(args.json, "w") as file:
                json.dump(results, file, indent=2)
    return 0 if all(r["ok"] for r in results["blocks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
