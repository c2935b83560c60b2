"""A linear memory in FLA (github.com/fla-org/flash-linear-attention) beside `mnemo bench memory
--device cuda --compare`: the gated delta rule's chunk kernels, as many heads of as many features,
bf16, forward alone and forward with the gradients of q, k, v and both gates.

Needs torch with Triton, and of FLA `fla-core` (with einops and packaging) alone: installed, or
unpacked into one folder that PYTHONPATH names.
"""
from gpu_cases import median_seconds, need, need_torch, run, say

torch = need_torch()
say(fla=need("fla").__version__)
rule = need("fla.ops.gated_delta_rule").chunk_gated_delta_rule


def inputs(case):
    rows = [case[name] for name in ("batch", "tokens", "heads")]

    def normal(*shape):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    q, k = (torch.nn.functional.normalize(normal(*rows, case["head_dim"]), dim=-1)
            for _ in range(2))
    keep = torch.full(rows, -1e-3, device="cuda")  # logs
    return [q, k, normal(*rows, case["head_dim"]), keep, normal(*rows).sigmoid()]


def measure(case):
    values = inputs(case)
    tracked = [x.detach().requires_grad_() for x in values]
    dy = torch.randn_like(values[2])

    def forward():
        with torch.no_grad():
            rule(*values)

    def both():
        torch.autograd.grad(rule(*tracked)[0], tracked, dy)

    tokens = case["batch"] * case["tokens"]
    return {"forward": tokens / median_seconds(torch, forward),
            "forward+backward": tokens / median_seconds(torch, both)}


if __name__ == "__main__":
    run("FLA", lambda case: tuple(case[x] for x in ("batch", "tokens", "heads", "head_dim")),
        measure)
