"""The chunk form in PyTorch (torch.compile) beside the CUDA kernels, on the same GPU in one run.

  python3 compare.py path/to/memory_scan_check out.json

The chunk loop's rate does not depend on the length, so PyTorch runs `TOKENS` tokens only.
"""
import json
import statistics
import subprocess
import sys

import torch

HEADS, F, HIDDEN, TOKENS = 16, 64, 256, 1024
# Depth, chunk, batch.
CASES = [(2, 64, 4), (2, 64, 1), (2, 16, 4), (1, 64, 4)]


def coefficients(theta, eta, alpha):  # [n, b] each, by differences of logs and one matrix product
    n, b = theta.shape
    log_eta, log_keep = eta.log().cumsum(1), torch.log1p(-alpha).cumsum(1)
    tril = torch.ones(b, b, device=theta.device).tril().bool()
    momentum = torch.where(tril, (log_eta[:, :, None] - log_eta[:, None, :]).exp(), 0.0)
    keep = torch.where(tril, (log_keep[:, :, None] - log_keep[:, None, :]).exp(), 0.0)
    p = momentum * theta[:, None, :]
    g = keep @ p
    e = log_eta.exp()
    return log_keep.exp(), (keep @ e[:, :, None])[..., 0], e, g, p


def norm(x, gain, bias):
    mean = x.mean(-1, keepdim=True)
    r = torch.rsqrt(((x - mean) ** 2).mean(-1, keepdim=True) + 1e-6)
    return (x - mean) * r * gain + bias, (x - mean) * r, r


def mm(a, b):  # bf16 operands, fp32 result
    return (a.bfloat16() @ b.bfloat16()).float()


def chunk_step(w1, w2, s1, s2, q, k, v, theta, eta, alpha, gain, bias):
    """One chunk of n heads: w1 [n, m, f], w2 [n, f, m], q [n, b, f]. Returns y and the new state."""
    a, b, e, g, p = coefficients(theta, eta, alpha)
    z = mm(k, w1.mT)
    sig = torch.sigmoid(z)
    h, slope = z * sig, sig * (1 + z * (1 - sig))
    out, xhat, r = norm(mm(h, w2.mT), gain, bias)
    gg = (out + k - v) * gain
    d2 = r * (gg - gg.mean(-1, keepdim=True) - xhat * (gg * xhat).mean(-1, keepdim=True))
    d1 = mm(d2, w2) * slope

    def read(x, w, s, keys, delta):
        return (a[..., None] * mm(x, w.mT) + b[..., None] * mm(x, s.mT)
                - mm(g * mm(x, keys.mT), delta))

    z1 = read(q, w1, s1, k, d1)
    y = norm(read(z1 * torch.sigmoid(z1), w2, s2, h, d2), gain, bias)[0] + q
    gl, pl = g[:, -1, :, None], p[:, -1, :, None]
    al, bl, el = (x[:, -1, None, None] for x in (a, b, e))
    return (y, al * w1 + bl * s1 - mm(d1.mT, gl * k), al * w2 + bl * s2 - mm(d2.mT, gl * h),
            el * s1 - mm(d1.mT, pl * k), el * s2 - mm(d2.mT, pl * h))


def flat_chunk_step(w, s, q, k, v, theta, eta, alpha, gain, bias):
    """The same for depth 1 without norm and residual: w [n, f, f]."""
    a, b, e, g, p = coefficients(theta, eta, alpha)
    d = mm(k, w.mT) - v
    y = (a[..., None] * mm(q, w.mT) + b[..., None] * mm(q, s.mT)
         - mm(g * mm(q, k.mT), d))
    gl, pl = g[:, -1, :, None], p[:, -1, :, None]
    al, bl, el = (x[:, -1, None, None] for x in (a, b, e))
    return y, al * w + bl * s - mm(d.mT, gl * k), el * s - mm(d.mT, pl * k)


def run(step, chunk, state, inputs, gain, bias):
    ys = []
    for t in range(0, inputs[0].shape[1], chunk):
        y, *state = step(*state, *(x[:, t:t + chunk] for x in inputs), gain, bias)
        ys.append(y.bfloat16())
    return torch.cat(ys, 1), state


def rate(depth, chunk, batch, backward, step):
    n, dev = batch * HEADS, "cuda"
    rows = [torch.nn.functional.normalize(torch.randn(n, TOKENS, F, device=dev), dim=-1)
            for _ in range(2)] + [torch.randn(n, TOKENS, F, device=dev)]
    eta = torch.rand(n, TOKENS, device=dev) * 0.8 + 0.1
    gates = [(1 - eta) / 64, eta, torch.rand(n, TOKENS, device=dev) * 1e-3 + 1e-5]
    if depth == 1:
        state = [torch.randn(n, F, F, device=dev) / 8, torch.zeros(n, F, F, device=dev)]
    else:
        state = [torch.randn(n, HIDDEN, F, device=dev), torch.randn(n, F, HIDDEN, device=dev) / 16,
                 torch.zeros(n, HIDDEN, F, device=dev), torch.zeros(n, F, HIDDEN, device=dev)]
    inputs = rows + gates
    gain, bias = torch.ones(F, device=dev), torch.zeros(F, device=dev)
    if backward:
        for x in inputs + state + [gain, bias]:
            x.requires_grad_()
    times = []
    for i in range(8):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        with torch.set_grad_enabled(backward):
            y, _ = run(step, chunk, state, inputs, gain, bias)
            if backward:
                y.float().square().sum().backward()
        stop.record()
        torch.cuda.synchronize()
        if i >= 3:
            times.append(start.elapsed_time(stop))
    return batch * TOKENS / statistics.median(times) * 1e-3


def main():
    check, out = sys.argv[1:3]
    rows = []
    for depth, chunk, batch in CASES:
        torch._dynamo.reset()
        step = torch.compile(flat_chunk_step if depth == 1 else chunk_step)
        row = {"depth": depth, "chunk": chunk, "batch": batch,
               "pytorch_forward": rate(depth, chunk, batch, False, step),
               "pytorch_both": rate(depth, chunk, batch, True, step)}
        print(row, flush=True)
        rows.append(row)
    subprocess.run([check, "bench", out], check=True)
    with open(out) as f:
        result = json.load(f)
    result["pytorch_mtokens_s"] = rows
    result["torch"] = torch.__version__
    with open(out, "w") as f:
        json.dump(result, f, indent=1)


if __name__ == "__main__":
    main()
