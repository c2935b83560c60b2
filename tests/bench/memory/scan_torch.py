"""The memory scan's chunk form in PyTorch (torch.compile) on a GPU, bf16 products, beside `mnemo bench
memory --device cuda --compare`: forward alone, and forward with the gradients of everything.

The loop over chunks takes as long for each, so TOKENS of a sequence stand for all.
"""
from gpu_cases import median_seconds, need_torch, run

torch = need_torch()
TOKENS = 1024


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


def silu(z):
    """The activation and its slope."""
    sigmoid = torch.sigmoid(z)
    return z * sigmoid, sigmoid * (1 + z * (1 - sigmoid))


def gelu(z):
    c, cubic = (2 / torch.pi) ** 0.5, 0.044715
    t = torch.tanh(c * (z + cubic * z ** 3))
    return 0.5 * z * (1 + t), 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * c * (1 + 3 * cubic * z * z)


def chunk_step(act, w1, w2, s1, s2, q, k, v, theta, eta, alpha, gain, bias):
    """One chunk of n heads: w1 [n, m, f], w2 [n, f, m], q [n, b, f]. Returns y and the new state."""
    a, b, e, g, p = coefficients(theta, eta, alpha)
    z = mm(k, w1.mT)
    h, slope = act(z)
    out, xhat, r = norm(mm(h, w2.mT), gain, bias)
    gg = (out + k - v) * gain
    d2 = r * (gg - gg.mean(-1, keepdim=True) - xhat * (gg * xhat).mean(-1, keepdim=True))
    d1 = mm(d2, w2) * slope

    def read(x, w, s, keys, delta):
        return (a[..., None] * mm(x, w.mT) + b[..., None] * mm(x, s.mT)
                - mm(g * mm(x, keys.mT), delta))

    z1 = read(q, w1, s1, k, d1)
    y = norm(read(act(z1)[0], w2, s2, h, d2), gain, bias)[0] + q
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


def scan(step, chunk, state, inputs, gain, bias):
    ys = []
    for t in range(0, TOKENS, chunk):
        y, *state = step(*state, *(x[:, t:t + chunk] for x in inputs), gain, bias)
        ys.append(y.bfloat16())
    return torch.cat(ys, 1)


def values_of(case):
    """The state, [B H, ..]; q, k, v and the gates; the norm's gain and bias."""
    n, f, m = case["batch"] * case["heads"], case["head_dim"], case["hidden"]

    def normal(*shape):
        return torch.randn(*shape, device="cuda")

    q, k = (torch.nn.functional.normalize(normal(n, TOKENS, f), dim=-1) for _ in range(2))
    eta = torch.rand(n, TOKENS, device="cuda") * 0.8 + 0.1
    gates = [(1 - eta) / f, eta, torch.rand(n, TOKENS, device="cuda") * 1e-3 + 1e-5]
    weights = [normal(n, f, f) / f ** 0.5]
    if case["depth"] == 2:
        weights = [normal(n, m, f), normal(n, f, m) / m ** 0.5]
    state = weights + [torch.zeros_like(w) for w in weights]
    ones = torch.ones(f, device="cuda")
    return state, [q, k, normal(n, TOKENS, f), *gates], [ones, torch.zeros_like(ones)]


def measure(case):
    depth, usual = case["depth"], case["momentum"] and case["layer_norm"] == (case["depth"] == 2)
    if depth > 2 or not usual:
        return None  # not written here
    torch._dynamo.reset()
    act = gelu if case["activation"] == "gelu" else silu

    def deep_chunk_step(*args):
        return chunk_step(act, *args)

    step = torch.compile(flat_chunk_step if depth == 1 else deep_chunk_step)
    state, inputs, norms = values_of(case)
    leaves = state + inputs + (norms if depth == 2 else [])

    def forward():
        with torch.no_grad():
            scan(step, case["chunk"], state, inputs, *norms)

    def both():
        y = scan(step, case["chunk"], state, inputs, *norms)
        torch.autograd.grad(y, leaves, dy)

    tokens = case["batch"] * TOKENS
    rates = {"forward": tokens / median_seconds(torch, forward)}
    dy = torch.randn_like(inputs[2]).bfloat16()
    for x in leaves:
        x.requires_grad_()
    rates["forward+backward"] = tokens / median_seconds(torch, both)
    return rates


if __name__ == "__main__":
    run("PyTorch", lambda case: (case["depth"], case["chunk"], case["batch"], case["activation"]),
        measure)
