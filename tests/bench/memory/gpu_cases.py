"""What the GPU sides of `mnemo bench memory --device cuda --compare` share.

It starts them with --cases, a JSON list of the shapes, and reads their standard output: lines that
are JSON objects, {"shape": .., "forward": tokens/s, "forward+backward": tokens/s}, and others about
the whole, {"torch": version} or {"skipped": why}.
"""
import argparse
import importlib
import json
import signal
import statistics
import sys
import time

WARMUP, TIMED = 3, 7


def say(**values):
    print(json.dumps(values), flush=True)


def need(name):
    """The module, or the end of the program with a word about it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        say(skipped=f"{sys.executable} has no {name} ({error})")
        sys.exit(0)


def need_torch():
    torch = need("torch")
    if not torch.cuda.is_available():
        say(skipped=f"PyTorch {torch.__version__} of {sys.executable} sees no GPU")
        sys.exit(0)
    say(torch=torch.__version__)
    return torch


def median_seconds(torch, call):
    times = []
    for i in range(WARMUP + TIMED):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        torch.cuda.synchronize()
        if i >= WARMUP:
            times.append(start.elapsed_time(stop) * 1e-3)
    return statistics.median(times)


def run(title, same, measure):
    """Calls measure(case), a dict of tokens/s by pass or None, once for cases with the same
    same(case), and tells what it gives. None begins once the budget of seconds is spent, and the
    process ends a minute later whatever it does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=json.loads, required=True)
    parser.add_argument("--budget", type=int, default=150, help="seconds")
    args = parser.parse_args()
    begin, known, left_out = time.monotonic(), {}, []
    signal.alarm(args.budget + 60)
    for case in args.cases:
        key = same(case)
        if key not in known:
            if time.monotonic() - begin > args.budget:
                left_out.append(case["shape"])
                continue
            print(f"{title}: {case['shape']}", file=sys.stderr, flush=True)
            known[key] = measure(case)
        if known[key]:
            say(shape=case["shape"], **known[key])
    if left_out:
        say(left_out=left_out)
        print(f"{title}: no time for {'; '.join(left_out)}", file=sys.stderr, flush=True)
