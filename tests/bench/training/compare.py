#!/usr/bin/env python3
"""Training steps of `mnemo bench step` and of PyTorch (transformer_torch.py), side by side in one
run on one GPU, with sums in one fixed order (deterministic) and in any (free).

    compare.py MNEMO CONFIGS --json OUT.json [--shape NAME]... [--who WHO]... [--budget SECONDS]

MNEMO is the binary, CONFIGS the folder with 340m_transformer.textproto. A shape is tried by
  mnemo                our default, deterministic
  torch_copies         free order with cuDNN attention; fp32 masters beside bf16 parameters
  mnemo_free           execution.deterministic: false
  torch_deterministic  flash attention; masters as for torch_copies; trained twice and compared
  mnemo_phases         mnemo again, with the time of each phase; its loss has to be the same
  torch_autocast       free order; fp32 parameters cast where they are used
the last two when all shapes have had the others. Each is a process with a time limit of its own.
What OUT.json holds already is not run again, so that a comparison can go on where it stopped: with
--budget none starts that might end later. Prints a table of tokens/s, model FLOP over 989 TFLOP/s
(dense bf16 by data sheet), the same over what mnemo's large products reach in the same process, and
memory. Exit code 1 if anything failed or is missing.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

# Layers, width, heads, MLP; sequences and tokens of a step; what mnemo keeps for the backward pass.
SHAPES = {
    "374m_8x4096": (24, 1024, 16, 2816, 8, 4096, "KEEP_ALL"),
    "374m_1x32768": (24, 1024, 16, 2816, 1, 32768, "KEEP_ALL"),
    "1.36b_4x4096": (24, 2048, 16, 5632, 4, 4096, "KEEP_ALL"),
}
VOCABULARY = 32768
PEAK_TFLOPS = 989
# Who, with the seconds that each is given: PyTorch compiles its model.
FIRST = {"mnemo": 90, "torch_copies": 240, "mnemo_free": 90, "torch_deterministic": 240}
LATER = {"mnemo_phases": 90, "torch_autocast": 240}
USUAL = {"mnemo": 30, "torch": 110}  # seconds, to see whether another fits into the budget


def settings_of(shape, keep=None):
    """What --set tells mnemo of a shape."""
    layers, width, heads, mlp, batch, length, kept = shape
    return {
        "model.layers": layers, "model.width": width, "model.heads": heads,
        "model.mlp_hidden": mlp, "model.vocabulary": VOCABULARY, "model.attention.window": 0,
        "train.sequences": batch, "train.sequence_length": length, "train.slice": length,
        "train.accumulation": 1, "train.rematerialize": keep or kept, "execution.device": "CUDA",
    }


def mnemo_command(args, shape, who, path):
    config = os.path.join(args.configs, "340m_transformer.textproto")
    command = [args.mnemo, "bench", "step", config,
               "--peak-tflops", str(PEAK_TFLOPS), "--warmup", str(args.warmup), "--timed",
               str(args.timed), "--json", path]
    settings = {**settings_of(shape), **dict(x.split("=", 1) for x in args.set)}
    if who == "mnemo_free":
        settings["execution.deterministic"] = "false"
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    return command + (["--phases"] if who == "mnemo_phases" else [])


def torch_command(args, shape, who, path):
    layers, width, heads, mlp, batch, length, _ = shape
    here = os.path.dirname(os.path.abspath(__file__))
    values = dict(layers=layers, width=width, heads=heads, mlp=mlp, batch=batch, length=length,
                  vocabulary=VOCABULARY, warmup=args.warmup + 2, timed=args.timed)
    command = [args.python, os.path.join(here, "transformer_torch.py"), "--json", path]
    for name, value in values.items():
        command += [f"--{name}", str(value)]
    if who == "torch_deterministic":
        command += ["--deterministic", "--check-repeat"]
    return command + ["--masters", "autocast" if who == "torch_autocast" else "copies"]


def torch_environment():
    """Without the libraries that a bundle's run.sh puts before PyTorch's own."""
    environment = dict(os.environ)
    if "MNEMO_BUNDLE" in environment:
        environment["LD_LIBRARY_PATH"] = environment.get("MNEMO_OUTER_LIBRARY_PATH", "")
    return environment


def run(command, seconds, environment):
    """None, or what went wrong. A process that is late is ended with all that it started."""
    process = subprocess.Popen(command, start_new_session=True, env=environment)

    def end(*_):
        os.killpg(process.pid, signal.SIGKILL)

    def give_up(*_):
        end()
        sys.exit(1)

    before = signal.signal(signal.SIGTERM, give_up)
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        end()
        process.wait()
        return f"stopped after {seconds} s"
    except KeyboardInterrupt:
        end()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    return None if code == 0 else f"exit code {code}"


def try_one(args, shape, who, seconds, work):
    path = os.path.join(work, "part.json")
    begin = time.monotonic()
    if who.startswith("mnemo"):
        problem = run(mnemo_command(args, shape, who, path), seconds, None)
    else:
        problem = run(torch_command(args, shape, who, path), seconds, torch_environment())
    entry = {"error": problem} if problem else {}
    if os.path.exists(path):
        with open(path) as file:
            entry.update(json.load(file))
        os.remove(path)
    if not problem and "runs" in entry:  # PyTorch's, of which there is one
        entry.update(entry.pop("runs")[0])
    entry["process_seconds"] = round(time.monotonic() - begin, 1)
    return entry


def parts(args):
    for group in (FIRST, LATER):
        for name in args.shape or SHAPES:
            for who, seconds in group.items():
                if not args.who or who in args.who:
                    yield name, who, seconds


def missing(result, name, who):
    entry = result["shapes"].get(name, {}).get(who)
    return entry is None or "error" in entry


def fits(args, who, seconds, begin):
    if not args.budget:
        return seconds
    left = args.budget - (time.monotonic() - begin)
    usual = USUAL["mnemo" if who.startswith("mnemo") else "torch"]
    return min(seconds, int(left)) if left >= usual else 0


def row(name, who, entry):
    if "tokens_per_second" not in entry:
        return f"| {name} | {who} | {entry['error']} | | | | |"
    share = entry.get("share_of_peak", entry.get("mfu"))
    memory = entry.get("peak_tensor_bytes", entry.get("peak_bytes"))
    same = entry.get("error") or {True: "same", False: "NO", None: ""}[entry.get("repeats")]
    products = entry.get("share_of_gemm_peak")
    return (f"| {name} | {who} | {entry['tokens_per_second'] / 1e3:.1f} | {share:.3f} | "
            f"{f'{products:.3f}' if products else ''} | {memory / 2**30:.1f} | {same} |")


def print_table(result):
    print("\n| shape | | thousand tokens/s | MFU | of products | GiB | twice |\n"
          "|---|---|---|---|---|---|---|")
    for name, entries in result["shapes"].items():
        for who in [*FIRST, *LATER]:
            if who in entries and who != "mnemo_phases":
                print(row(name, who, entries[who]))
    for name, entries in result["shapes"].items():
        def speed(who):
            return entries.get(who, {}).get("tokens_per_second")
        free = max(filter(None, (speed("torch_copies"), speed("torch_autocast"))), default=None)
        for words, ours, theirs in (
                ("deterministic", speed("mnemo"), speed("torch_deterministic")),
                ("free", speed("mnemo_free"), free),
                ("our default over their free order", speed("mnemo"), free)):
            if ours and theirs:
                print(f"{name}: mnemo over PyTorch, {words}: {ours / theirs:.3f}")


def note_repeat(entries):
    """A second run of the same steps has the same loss, to the last digit."""
    if not any(missing({"shapes": {"": entries}}, "", who) for who in ("mnemo", "mnemo_phases")):
        entries["mnemo"]["repeats"] = entries["mnemo"]["loss"] == entries["mnemo_phases"]["loss"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mnemo")
    parser.add_argument("configs")
    parser.add_argument("--shape", action="append", choices=SHAPES)
    parser.add_argument("--who", action="append", choices=[*FIRST, *LATER])
    parser.add_argument("--budget", type=float, default=0, help="seconds; 0: no limit")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--timed", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="of mnemo")
    parser.add_argument("--python", default=sys.executable, help="the one with PyTorch")
    parser.add_argument("--json", required=True)
    args = parser.parse_args()
    begin = time.monotonic()
    result = {"bench": "training", "shapes": {}}
    if os.path.exists(args.json):
        with open(args.json) as file:
            result = json.load(file)
    with tempfile.TemporaryDirectory() as work:
        for name, who, seconds in parts(args):
            if not missing(result, name, who):
                continue
            seconds = fits(args, who, seconds, begin)
            if seconds == 0:
                continue
            print(f"== {name}, {who}", flush=True)
            entries = result["shapes"].setdefault(name, {})
            entries[who] = try_one(args, SHAPES[name], who, seconds, work)
            note_repeat(entries)
            with open(args.json + ".tmp", "w") as file:  # what is there survives a later failure
                json.dump(result, file, indent=2)
            os.replace(args.json + ".tmp", args.json)
    print_table(result)
    absent = [f"{name} {who}" for name, who, _ in parts(args) if missing(result, name, who)]
    if absent:
        print("failed or not tried:", ", ".join(absent))
    return 1 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
