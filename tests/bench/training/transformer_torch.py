#!/usr/bin/env python3
"""Trains the TRANSFORMER baseline in PyTorch, for a comparison with `mnemo bench step` in one run.

The same architecture, shapes and arithmetic: pre-norm blocks of causal attention with rotary
positions and SwiGLU, untied head, bf16 products, fp32 master weights and AdamW state, gradients
clipped by their global norm. torch.compile, cuDNN attention and the fused AdamW; how master weights
are best kept is tried both ways:

  autocast   fp32 parameters, cast where they are used
  copies     bf16 parameters beside fp32 masters that the optimizer updates

    transformer_torch.py --layers 24 --width 1024 --heads 16 --mlp 2816 --batch 8 --length 4096 \\
        [--deterministic] [--check-repeat] --json OUT.json

--deterministic: torch.use_deterministic_algorithms, with which cuDNN attention is refused; flash
attention is deterministic then. --check-repeat trains a second time and compares the losses of
all steps bit by bit: with --deterministic they must be equal (exit code 1 else).
"""
import argparse
import json
import os
import re
import statistics
import sys
import time

if "--deterministic" in sys.argv:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what makes cuBLAS so

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

PEAK_FLOPS = 989e12  # dense bf16 of an H100 or H200, by data sheet


class Block(nn.Module):
    def __init__(self, width, heads, mlp):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.RMSNorm(width, eps=1e-6)
        self.norm2 = nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * mlp, bias=False)
        self.down = nn.Linear(mlp, width, bias=False)

    def forward(self, x, cos, sin):
        b, t, d = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(
            rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class Model(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.embedding = nn.Embedding(args.vocabulary, args.width)
        self.blocks = nn.ModuleList(
            Block(args.width, args.heads, args.mlp) for _ in range(args.layers))
        self.norm = nn.RMSNorm(args.width, eps=1e-6)
        self.head = nn.Linear(args.width, args.vocabulary, bias=False)
        half = args.width // args.heads // 2
        angles = torch.outer(torch.arange(args.length, dtype=torch.float64),
                             10000.0 ** (-torch.arange(half, dtype=torch.float64) / half))
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.float().view(-1, logits.size(-1)), targets.view(-1))


def synchronize(args):
    if args.device == "cuda":
        torch.cuda.synchronize()


def make_step(args, masters):
    """The model, a function that takes a step and returns its loss, one that starts over."""
    torch.manual_seed(1)
    model = Model(args).to(args.device)
    options = dict(lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    if masters == "autocast":
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(parameters, **options)
    else:
        model = model.to(torch.bfloat16)
        model.cos, model.sin = model.cos.float(), model.sin.float()
        parameters = list(model.parameters())
        wide = [p.detach().float().clone() for p in parameters]
        optimizer = torch.optim.AdamW(wide, **options)
    compiled = torch.compile(model)
    tokens = torch.randint(args.vocabulary, (args.batch, args.length), device=args.device)
    targets = torch.randint(args.vocabulary, (args.batch, args.length), device=args.device)

    def step():
        with torch.autocast(args.device, torch.bfloat16, enabled=masters == "autocast"):
            with sdpa_kernel(attention_backend(args)):  # this one or an error
                loss = compiled(tokens, targets)
                loss.backward()
        if masters == "autocast":
            torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            optimizer.step()
        else:
            for w, p in zip(wide, parameters):
                w.grad = p.grad.float()
            torch.nn.utils.clip_grad_norm_(wide, 1.0, foreach=True)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_copy_(parameters, wide)
        for p in parameters:
            p.grad = None
        return loss

    first = [p.detach().to("cpu", copy=True) for p in parameters] if args.check_repeat else []

    def restart():
        with torch.no_grad():
            for p, value in zip(parameters, first):
                p.copy_(value)
            if masters == "copies":
                for w, p in zip(wide, parameters):
                    w.copy_(p)
        optimizer.state.clear()

    return model, step, restart


def attention_backend(args):
    if args.deterministic or args.device != "cuda":
        return SDPBackend.FLASH_ATTENTION
    return SDPBackend.CUDNN_ATTENTION


def attention_kernels(step):
    """Names of the attention kernels that a step launches, as far as the profiler can see them."""
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            step()
            torch.cuda.synchronize()
        names = {event.key for event in profile.key_averages()}
    except RuntimeError as error:
        return [f"not seen: {error}"]
    return sorted(n[:120] for n in names if re.search("flash|fmha|sdpa|attention", n, re.I))


def check_repeat(step, restart, losses):
    """Whether a second training has the same losses, bit by bit."""
    restart()
    again = [step().detach() for _ in losses]
    return [x.item() for x in again] == [x.item() for x in losses]


def measure(args, masters):
    on_gpu = args.device == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    model, step, restart = make_step(args, masters)
    losses = [step().detach()]
    synchronize(args)
    compile_seconds = time.perf_counter() - begin
    losses += [step().detach() for _ in range(args.warmup - 1)]
    synchronize(args)
    seconds = []
    for _ in range(args.timed):
        begin = time.perf_counter()
        losses.append(step().detach())
        synchronize(args)
        seconds.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    reserved = torch.cuda.max_memory_reserved() if on_gpu else 0
    count = sum(p.numel() for p in model.parameters())
    tokens = args.batch * args.length
    median = statistics.median(seconds)
    flops = 6 * (count - args.vocabulary * args.width) + 6 * args.layers * args.width * args.length
    result = {
        "masters": masters,
        "deterministic": args.deterministic,
        "attention": attention_backend(args).name,  # no other is allowed
        "first_step_seconds": compile_seconds,
        "parameters": count,
        "tokens": tokens,
        "seconds": seconds,
        "median_seconds": median,
        "tokens_per_second": tokens / median,
        "mfu": flops * tokens / median / PEAK_FLOPS,
        "peak_bytes": peak,
        "peak_reserved_bytes": reserved,
        "losses": [x.item() for x in losses],
        "loss": losses[-1].item(),
    }
    if args.kernels:
        result["attention_kernels"] = attention_kernels(step)
    if args.check_repeat:
        result["repeats"] = check_repeat(step, restart, losses)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in dict(layers=24, width=1024, heads=16, mlp=2816, vocabulary=32768, batch=8,
                            length=4096, warmup=5, timed=10).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--masters", choices=["autocast", "copies"], action="append")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--check-repeat", action="store_true")
    parser.add_argument("--kernels", action="store_true", help="name those of attention")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.use_deterministic_algorithms(args.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # for debugging, and costs time
    result = {
        "bench": "transformer_torch",
        "arguments": vars(args),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "runs": [],
    }
    for masters in args.masters or ["autocast", "copies"]:
        run = measure(args, masters)
        result["runs"].append(run)
        print(f"PyTorch {masters:<9} {run['median_seconds'] * 1e3:9.2f} ms "
              f"{run['tokens_per_second']:10.0f} tokens/s  MFU {run['mfu']:.3f}  "
              f"{run['peak_bytes'] / 2**30:.1f} GiB  loss {run['loss']:.3f}  {run['attention']}"
              f"  repeats: {run.get('repeats', 'not tried')}", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=2)
    return 1 if args.deterministic and any(r.get("repeats") is False for r in result["runs"]) else 0


if __name__ == "__main__":
    sys.exit(main())
