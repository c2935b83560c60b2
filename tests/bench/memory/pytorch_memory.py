"""The memory's chunk form in eager PyTorch, timed like memory_bench: one JSON object.

Depth 2, SiLU, residual, layer norm, momentum, forgetting towards zero. The gates' products of all
chunks are made at once from differences of logs; chunks follow one another.
"""
import argparse
import json
import statistics
import time

import torch

EPSILON = 1e-6


def norm_parts(x):
    centered = x - x.mean(-1, keepdim=True)
    inverse = torch.rsqrt(centered.square().mean(-1, keepdim=True) + EPSILON)
    return centered * inverse, inverse


def silu_gradient(x):
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def coefficients(theta, eta, alpha):
    """Gates [.., b] -> A, B, E [.., b, 1] and G, P [.., b, b]."""
    b = theta.shape[-1]
    lower = torch.ones(b, b, dtype=torch.bool).tril()
    log_e, log_a = eta.log().cumsum(-1), torch.log1p(-alpha).cumsum(-1)

    def ratios(log):
        difference = log[..., :, None] - log[..., None, :]
        return difference.masked_fill(~lower, float("-inf")).exp()

    p = ratios(log_e) * theta[..., None, :]
    decay = ratios(log_a)
    e = log_e.exp()[..., None]
    return log_a.exp()[..., None], decay @ e, e, decay @ p, p


def scan(q, k, v, theta, eta, alpha, w1, w2, g, e0, chunk):
    """q, k, v [B, H, T, f], gates [B, H, T] -> y [B, H, T, f]."""
    split = lambda x: x.unflatten(2, (-1, chunk))
    a_all, b_all, e_all, g_all, p_all = coefficients(split(theta), split(eta), split(alpha))
    w = [w.expand(q.shape[0], *w.shape) for w in (w1, w2)]
    s = [torch.zeros_like(x) for x in w]
    reads = []
    for c in range(q.shape[2] // chunk):
        rows = slice(c * chunk, (c + 1) * chunk)
        x, key, value = q[:, :, rows], k[:, :, rows], v[:, :, rows]
        a, b, e, gates, p = (t[:, :, c] for t in (a_all, b_all, e_all, g_all, p_all))
        z = key @ w[0].mT
        h = torch.nn.functional.silu(z)
        normal, inverse = norm_parts(h @ w[1].mT)
        dy = (normal * g + e0 + key - value) * g
        along = normal * (dy * normal).mean(-1, keepdim=True)
        d2 = (dy - dy.mean(-1, keepdim=True) - along) * inverse
        d1 = (d2 @ w[1]) * silu_gradient(z)
        z = (a * x) @ w[0].mT + (b * x) @ s[0].mT - (gates * (x @ key.mT)) @ d1
        r = torch.nn.functional.silu(z)
        o = a * (r @ w[1].mT) + b * (r @ s[1].mT) - (gates * (r @ h.mT)) @ d2
        reads.append(x + norm_parts(o)[0] * g + e0)
        last_g, last_p = gates[..., -1:, :].mT, p[..., -1:, :].mT
        last_a, last_b, last_e = a[..., -1:, :], b[..., -1:, :], e[..., -1:, :]
        w_next = [
            last_a * w[0] + last_b * s[0] - d1.mT @ (last_g * key),
            last_a * w[1] + last_b * s[1] - (last_g * d2).mT @ h,
        ]
        s = [last_e * s[0] - d1.mT @ (last_p * key), last_e * s[1] - (last_p * d2).mT @ h]
        w = w_next
    return torch.cat(reads, 2)


def median_seconds(repeats, run):
    times = []
    for i in range(repeats + 2):
        start = time.perf_counter()
        run()
        if i >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in dict(head_dim=64, hidden=256, chunk=64, heads=16, batch=1, tokens=1024,
                            threads=2, repeats=15).items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(1)
    rows, gates = (o.batch, o.heads, o.tokens, o.head_dim), (o.batch, o.heads, o.tokens)
    inputs = [0.1 * torch.randn(rows), 0.1 * torch.randn(rows), 0.5 * torch.randn(rows),
              torch.full(gates, 0.005), torch.full(gates, 0.49), torch.full(gates, 1e-3),
              0.1 * torch.randn(o.heads, o.hidden, o.head_dim),
              0.1 * torch.randn(o.heads, o.head_dim, o.hidden),
              torch.ones(o.heads, 1, o.head_dim), torch.zeros(o.heads, 1, o.head_dim)]
    seed = torch.randn(rows)

    def forward():
        with torch.no_grad():
            scan(*inputs, o.chunk)

    def both():
        leaves = [x.clone().requires_grad_() for x in inputs]
        torch.autograd.grad(scan(*leaves, o.chunk), leaves, seed)

    report = dict(vars(o), torch=torch.__version__)
    for name, run in dict(forward=forward, forward_backward=both).items():
        seconds = median_seconds(o.repeats, run)
        report[name] = dict(ms=seconds * 1e3, tokens_per_s=o.batch * o.tokens / seconds)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
