#!/usr/bin/env python3
"""The model of docs/model.md, written from that page alone: numpy, float64, token by token.

    reimplement.py --model DIR --shards FILE.. --losses F.h5

computes the losses of the tokens that `mnemo eval --model DIR --shards FILE.. --per-token-loss F.h5`
has written and prints the largest difference. Needs numpy and h5py.
"""

import argparse
import json
import os
import struct
import sys

import h5py
import numpy as np


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        dtype = {"F32": "<f4", "F64": "<f8"}[entry["dtype"]]
        values = np.frombuffer(data[8 + length + begin : 8 + length + end], dtype)
        tensors[name] = values.reshape(entry["shape"]).astype(np.float64)
    return tensors


def read_weights(directory):
    index = directory + "/model.safetensors.index.json"
    if not os.path.exists(index):
        return read_safetensors(directory + "/model.safetensors")
    with open(index, encoding="utf-8") as file:
        files = json.load(file)["weight_map"]
    parts = {name: read_safetensors(f"{directory}/{name}") for name in set(files.values())}
    return {tensor: parts[name][tensor] for tensor, name in files.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def silu_slope(x):
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


GELU = np.sqrt(2 / np.pi)


def gelu(x):
    return x / 2 * (1 + np.tanh(GELU * (x + 0.044715 * x**3)))


def gelu_slope(x):
    t = np.tanh(GELU * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x / 2 * (1 - t * t) * GELU * (1 + 3 * 0.044715 * x * x)


ACTIVATIONS = {"SILU": (silu, silu_slope), "GELU": (gelu, gelu_slope)}


class Layer:
    """One layer's weights, by their names without the prefix."""

    def __init__(self, model, tensors, index):
        self.c = model
        self.eps = model["norm_epsilon"]
        self.heads = model["heads"]
        prefix = f"layers.{index}."
        self.w = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}

    def linear(self, x, name):
        return x @ self.w[name + ".weight"].T

    def split(self, x):  # [T, d] -> [T, H, f]
        return x.reshape(x.shape[0], self.heads, -1)

    def rms_norm(self, x, name, per_head=False):
        rows = self.split(x) if per_head else x
        rows = rows / np.sqrt(np.mean(rows**2, -1, keepdims=True) + self.eps)
        return rows.reshape(x.shape) * self.w[name + ".weight"]

    def l2_norm(self, x):  # per head, [T, H, f]
        return x / np.sqrt(np.sum(x**2, -1, keepdims=True) + self.eps)

    def output_gate(self, x):
        return ACTIVATIONS[self.c["memory"]["output_gate"]][0](self.linear(x, "output_gate"))


class Memory:
    """Section 4: the state of all heads of a layer, from the start of a sequence on."""

    def __init__(self, layer):
        self.layer = layer
        self.o = o = layer.c["memory"]
        w = layer.w
        self.n = o["depth"]
        self.act, self.slope = ACTIVATIONS[o["activation"]]
        # Matrices [H, out, in] and biases [H, out], one list: everything that is state.
        self.first = [w[f"memory.initial.w{i}"] for i in range(self.n)]
        if o["biases"]:
            self.first += [w[f"memory.initial.c{i}"][:, 0] for i in range(self.n)]
        self.W = [x.copy() for x in self.first]
        self.S = [np.zeros_like(x) for x in self.first]
        self.rows = np.zeros((0, layer.c["width"]))  # z so far: the convolutions look back
        self.begin_chunk()

    def begin_chunk(self):
        self.count = 0
        self.chunk_W = [x.copy() for x in self.W]
        self.unwritten_W = [x.copy() for x in self.W]  # as if the chunk's u were 0
        self.unwritten_S = [x.copy() for x in self.S]
        self.plain_W = [x.copy() for x in self.W]  # the rule's, before the row scale

    def network(self, W, x):
        """F_W(x) for x [H, f] and what its gradient needs: inputs h, pre-activations."""
        h, inputs, before = x, [], []
        for i in range(self.n):
            inputs.append(h)
            r = np.einsum("hoi,hi->ho", W[i], h)
            if self.o["biases"]:
                r = r + W[self.n + i]
            before.append(r)
            h = self.act(r) if i + 1 < self.n else r
        self.deviation = None
        if self.o["layer_norm"]:
            centred = h - h.mean(-1, keepdims=True)
            deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + self.layer.eps)
            normalised = centred / deviation
            g, c = (self.layer.w["memory.norm." + n][:, 0] for n in ("weight", "bias"))
            h = normalised * g + c
            self.deviation, self.normalised, self.gain = deviation, normalised, g
        return (x + h if self.o["residual"] else h), inputs, before

    def gradient(self, k, v):
        out, inputs, before = self.network(self.chunk_W, k)
        delta = out - v
        if self.o["layer_norm"]:
            scaled = delta * self.gain
            along = (scaled * self.normalised).mean(-1, keepdims=True)
            centred = scaled - scaled.mean(-1, keepdims=True) - self.normalised * along
            delta = centred / self.deviation
        deltas = [None] * self.n
        for i in reversed(range(self.n)):
            deltas[i] = delta
            if i > 0:
                delta = np.einsum("ho,hoi->hi", delta, self.chunk_W[i]) * self.slope(before[i - 1])
        u = [np.einsum("ho,hi->hoi", d, h) for d, h in zip(deltas, inputs)]
        if self.o["biases"]:
            u += deltas
        clamp = self.o.get("clamp", 0)
        if clamp > 0:
            squares = sum((x**2).reshape(x.shape[0], -1).sum(-1) for x in u)
            factor = 1 / np.sqrt(1 + squares / clamp**2)
            u = [x * factor.reshape((-1,) + (1,) * (x.ndim - 1)) for x in u]
        return u

    def step(self, W, S, u, theta, eta, alpha):
        """One token of the rule; all gates [H]."""
        for i, first in enumerate(self.first):
            spread = (-1,) + (1,) * (first.ndim - 1)
            t, e, a = theta.reshape(spread), eta.reshape(spread), alpha.reshape(spread)
            S[i] = e * S[i] - (t * u[i] if u is not None else 0)
            W[i] = (1 - a) * W[i] + S[i]
            if self.o["forget_towards"] == "INITIAL":
                W[i] = W[i] + a * first

    def token(self, q, k, v, theta, eta, alpha):
        u = self.gradient(k, v)
        self.step(self.plain_W, self.S, u, theta, eta, alpha)
        self.W = [x.copy() for x in self.plain_W]
        self.count += 1
        if self.o["row_scale"]:
            self.step(self.unwritten_W, self.unwritten_S, None, theta, eta, alpha)
            learned = self.layer.w["memory.row_scale"][self.count - 1, 0]
            r = max(0.0, 1 / self.count + learned)
            self.W = [x + r * (y - x) for x, y in zip(self.unwritten_W, self.W)]
        y, _, _ = self.network(self.W, q)
        if self.count == self.o["chunk"]:
            self.begin_chunk()
        return y

    def gate(self, z, name, largest):
        if f"memory.{name}.weight" not in self.layer.w:
            return np.zeros((z.shape[0], self.layer.heads))
        x = self.layer.linear(z, f"memory.{name}") + self.layer.w[f"memory.{name}.bias"]
        return largest * sigmoid(x)

    def run(self, z):
        """Rows z [T, d] that follow those run before: y [T, d]."""
        layer, gates = self.layer, self.o["gates"]
        all_rows = np.concatenate([self.rows, z])
        fresh = slice(self.rows.shape[0], None)
        self.rows = all_rows

        def project(name, source):
            u = layer.linear(all_rows, f"memory.{source}")
            padded = np.concatenate([np.zeros((3, u.shape[1])), u])
            taps = layer.w[f"memory.{name}_conv.weight"]
            conv = sum(taps[:, j] * padded[j : j + u.shape[0]] for j in range(4))
            return layer.split(silu(conv[fresh]))

        q = project("q", "q")
        k = project("k", "q" if self.o["shared_qk_projection"] else "k")
        v = project("v", "v")
        if self.o["normalize_qk"]:
            q, k = layer.l2_norm(q), layer.l2_norm(k)
        eta = self.gate(z, "eta", gates["eta_max"])
        alpha = self.gate(z, "alpha", gates["alpha_max"])
        theta = self.gate(z, "theta", gates["theta_max"])
        if self.o["momentum"] and gates["average_surprise"]:
            theta = theta * (1 - eta)
        y = [self.token(q[t], k[t], v[t], theta[t], eta[t], alpha[t]) for t in range(z.shape[0])]
        return np.stack(y).reshape(z.shape)


def rotate(x, positions, base):  # x [T, H, f]
    half = x.shape[-1] // 2
    angle = positions[:, None] * base ** (-2.0 * np.arange(half) / x.shape[-1])
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(layer, x, sources, first, window):
    """Queries from x [T, d], the first at position `first`; sources: rows aligned with x."""
    o = layer.c["attention"]
    positions = first + np.arange(x.shape[0])
    q = rotate(layer.split(layer.linear(x, "attention.q")), positions, o["rope_base"])
    keys, values, seen = [], [], []
    if o["persistent_tokens"] > 0:
        rows = layer.w["attention.persistent"]
        keys.append(layer.split(layer.linear(rows, "attention.k")))
        values.append(layer.split(layer.linear(rows, "attention.v")))
        seen.append(np.ones((x.shape[0], rows.shape[0]), bool))
    back = positions[:, None] - positions[None, :]
    for rows in sources:
        k = layer.split(layer.linear(rows, "attention.k"))
        keys.append(rotate(k, positions, o["rope_base"]))
        values.append(layer.split(layer.linear(rows, "attention.v")))
        seen.append((back >= 0) & ((back < window) | (window == 0)))
    keys, values, seen = np.concatenate(keys), np.concatenate(values), np.concatenate(seen, 1)
    scores = np.einsum("thf,shf->hts", q, keys) / np.sqrt(q.shape[-1])
    scores = np.where(seen[None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hts,shf->thf", weights, values).reshape(x.shape)


def lmm(layer, x):
    y = layer.rms_norm(Memory(layer).run(x), "memory.read_norm", per_head=True)
    return layer.linear(y * layer.output_gate(x), "output")


def mag(layer, x):
    a = attention(layer, x, [x], 0, layer.c["attention"]["window"])
    gate = sigmoid(layer.rms_norm(Memory(layer).run(x), "memory.read_norm", per_head=True))
    return layer.linear(layer.rms_norm(a, "attention.norm", per_head=True) * gate, "output")


def mal(layer, x):
    read = layer.rms_norm(Memory(layer).run(x), "memory.read_norm", per_head=True)
    y = layer.linear(read * layer.output_gate(x), "memory.output")
    return layer.linear(attention(layer, y, [y], 0, layer.c["attention"]["window"]), "output")


def mac(layer, x):
    memory, outputs = Memory(layer), []
    segment = layer.c["attention"]["segment"]
    for begin in range(0, x.shape[0], segment):
        rows = x[begin : begin + segment]
        query = layer.l2_norm(layer.split(silu(layer.linear(rows, "memory.recall"))))
        h = np.stack([memory.network(memory.W, row)[0] for row in query]).reshape(rows.shape)
        a = attention(layer, rows, [h, rows], begin, 0)
        y = layer.rms_norm(memory.run(a), "memory.read_norm", per_head=True)
        outputs.append(layer.linear(a * sigmoid(y), "output"))
    return np.concatenate(outputs)


def transformer(layer, x):
    return layer.linear(attention(layer, x, [x], 0, layer.c["attention"]["window"]), "output")


MIXERS = {"LMM": lmm, "MAC": mac, "MAG": mag, "MAL": mal, "TRANSFORMER": transformer}


def token_losses(model, tensors, tokens, targets):
    """One sequence with fresh state; NaN where the target is negative."""
    x = tensors["embedding.weight"][tokens]
    for index in range(model["layers"]):
        layer = Layer(model, tensors, index)
        x = x + MIXERS[model["block"]](layer, layer.rms_norm(x, "mixer_norm"))
        rows = layer.rms_norm(x, "mlp_norm")
        hidden = silu(layer.linear(rows, "mlp.gate")) * layer.linear(rows, "mlp.up")
        x = x + layer.linear(hidden, "mlp.down")
    x = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + model["norm_epsilon"])
    head = tensors["embedding.weight" if model["tied_embeddings"] else "head.weight"]
    logits = (x * tensors["final_norm.weight"]) @ head.T
    logits -= logits.max(-1, keepdims=True)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(tokens)), np.maximum(targets, 0)]
    return np.where(targets >= 0, losses, np.nan)


def read_stream(paths, config):
    """Tokens, targets and starts of documents with fresh state of the whole stream."""
    model, separator = config["model"], config["tokenizer"]["separator"]
    documents = []
    for path in paths:
        with h5py.File(path, "r") as file:
            tokens = file["tokens"][:].astype(np.int64)
            ends = file["document_offsets"][:].astype(np.int64)
        documents += [tokens[a:b] for a, b in zip(ends[:-1], ends[1:])]
    if config["data"]["document_reset"] == "NONE":
        tokens = np.concatenate(documents)
        return tokens[:-1], tokens[1:], []
    step = {"MAC": lambda: model["attention"]["segment"], "TRANSFORMER": lambda: 1}.get(
        model["block"], lambda: model["memory"]["chunk"]
    )()
    tokens, targets, starts = [], [], []
    for document in documents:
        starts.append(len(tokens))
        padding = -len(document) % step
        tokens += [*document, *[separator] * padding]
        targets += [*document[1:], *[-1] * (padding + 1)]
    return np.array(tokens), np.array(targets), starts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--shards", required=True, nargs="+")
    parser.add_argument("--losses", required=True)
    parser.add_argument("--tolerance", type=float, default=2e-5)
    options = parser.parse_args()
    with open(options.model + "/config.json", encoding="utf-8") as file:
        config = json.load(file)
    tensors = read_weights(options.model)
    with h5py.File(options.losses, "r") as file:
        theirs = file["loss"][:].astype(np.float64)
        offsets = file["sequence_offsets"][:].astype(np.int64)
    tokens, targets, starts = read_stream(options.shards, config)
    ours = []
    for begin, end in zip(offsets[:-1], offsets[1:]):
        edges = [begin, *[s for s in starts if begin < s < end], end]
        for a, b in zip(edges[:-1], edges[1:]):
            ours.append(token_losses(config["model"], tensors, tokens[a:b], targets[a:b]))
    ours = np.concatenate(ours)
    same_gaps = np.array_equal(np.isnan(ours), np.isnan(theirs))
    worst = np.nanmax(np.abs(ours - theirs))
    print(
        f"{config['model']['block']}: {len(ours)} tokens, mean loss {np.nanmean(ours):.6f} here, "
        f"{np.nanmean(theirs):.6f} there, largest difference {worst:.2e}"
    )
    sys.exit(0 if same_gaps and worst <= options.tolerance else 1)


if __name__ == "__main__":
    main()
