"""The memory scan's chunk form in PyTorch, timed on the CPU: what `mnemo bench memory` is compared with.

The rule: depth 2, layer norm, residual, momentum, forgetting towards zero (equations in
docs/model.md). Prints one JSON object. Eager mode, all heads and sequences in batched products; the
products of the gates are made for all chunks at once, outside the loop over the chunks.
"""
import argparse
import json
import statistics
import time

import torch

EPSILON = 1e-6


def layer_norm(z, g, e):
    mean = z.mean(-1, keepdim=True)
    deviation = z - mean
    inverse = torch.rsqrt(deviation.square().mean(-1, keepdim=True) + EPSILON)
    normalized = deviation * inverse
    return normalized * g + e, normalized, inverse


def layer_norm_gradient(normalized, inverse, g, dy):
    d = dy * g
    projected = normalized * (d * normalized).mean(-1, keepdim=True)
    return (d - d.mean(-1, keepdim=True) - projected) * inverse


def silu_gradient(z):
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def coefficients(theta, eta, alpha):
    """Gates [B, H, C, b] to A, B, E [B, H, C, b, 1] and G, P [B, H, C, b, b]."""
    log_eta = eta.log().cumsum(-1)
    log_keep = (1 - alpha).log().cumsum(-1)

    def ratios(logs):
        return (logs.unsqueeze(-1) - logs.unsqueeze(-2)).exp().tril()

    keep, momentum = ratios(log_keep), ratios(log_eta)
    p = momentum * theta.unsqueeze(-2)
    e = log_eta.exp().unsqueeze(-1)
    return log_keep.exp().unsqueeze(-1), keep @ e, e, keep @ p, p


def scan(q, k, v, theta, eta, alpha, w1, w2, g, e, chunk):
    batch, heads, tokens, dim = q.shape
    chunks = tokens // chunk
    gates = [x.reshape(batch, heads, chunks, chunk) for x in (theta, eta, alpha)]
    a_all, b_all, e_all, g_all, p_all = coefficients(*gates)
    w = [x.expand(batch, *x.shape) for x in (w1, w2)]
    s = [torch.zeros_like(x) for x in w]
    reads = []
    for c in range(chunks):
        rows = slice(c * chunk, (c + 1) * chunk)
        kc, vc, qc = k[:, :, rows], v[:, :, rows], q[:, :, rows]
        z1 = kc @ w[0].mT
        h1 = torch.nn.functional.silu(z1)
        y, normalized, inverse = layer_norm(h1 @ w[1].mT, g, e)
        delta2 = layer_norm_gradient(normalized, inverse, g, y + kc - vc)
        delta1 = (delta2 @ w[1]) * silu_gradient(z1)
        at, bt, gt = a_all[:, :, c], b_all[:, :, c], g_all[:, :, c]
        x = qc
        for i, (inputs, delta) in enumerate(((kc, delta1), (h1, delta2))):
            z = (at * x) @ w[i].mT + (bt * x) @ s[i].mT - (gt * (x @ inputs.mT)) @ delta
            x = torch.nn.functional.silu(z) if i == 0 else z
        reads.append(layer_norm(x, g, e)[0] + qc)
        al, bl, el = (m[:, :, c, -1:] for m in (a_all, b_all, e_all))
        gl, pl = (m[:, :, c, -1:].mT for m in (g_all, p_all))
        for i, (inputs, delta) in enumerate(((kc, delta1), (h1, delta2))):
            w_next = al * w[i] + bl * s[i] - (delta * gl).mT @ inputs
            s[i] = el * s[i] - (delta * pl).mT @ inputs
            w[i] = w_next
    return torch.cat(reads, 2)


def median_seconds(call, iterations):
    call()
    times = []
    for _ in range(iterations):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser()
    for name, value in (("batch", 1), ("heads", 16), ("head-dim", 64), ("chunk", 64), ("tokens", 4096),
                        ("expansion", 4), ("iterations", 5), ("threads", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    if options.threads > 0:
        torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    dim, hidden, heads = options.head_dim, options.expansion * options.head_dim, options.heads
    rows = (options.batch, heads, options.tokens)
    q, k, v = (torch.nn.functional.normalize(torch.randn(*rows, dim), dim=-1) for _ in range(3))
    gates = [torch.full(rows, x) for x in (0.5 * (1 - 0.49) / dim, 0.49, 1e-3)]
    weights = [torch.randn(heads, hidden, dim), torch.randn(heads, dim, hidden) / hidden**0.5,
               torch.ones(heads, 1, dim), torch.zeros(heads, 1, dim)]
    leaves = [q, k, v, *gates, *weights]
    dy = torch.randn(*rows, dim)

    def forward():
        with torch.no_grad():
            scan(*leaves, options.chunk)

    def training():
        tracked = [x.detach().requires_grad_() for x in leaves]
        torch.autograd.grad(scan(*tracked, options.chunk), tracked, dy)

    result = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    for name, call in (("forward", forward), ("forward+backward", training)):
        seconds = median_seconds(call, options.iterations)
        result[name] = {"seconds": seconds,
                        "tokens_per_second": options.batch * options.tokens / seconds}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
