#!/usr/bin/env python3
"""Turns CUDA's launches into C++: kernel<<<grid, block, bytes, stream>>>(arguments) becomes a call of
simt::Launch(grid, block, bytes, stream, [&] { kernel(arguments); }).

    launches.py IN OUT
"""
import sys


def matching(text, at, opening, closing, step):
    """Where the bracket at `at` ends, looking forwards or backwards."""
    depth = 0
    while True:
        if text[at] == opening:
            depth += step
        elif text[at] == closing:
            depth -= step
        if depth == 0:
            return at
        at += step


def kernel_start(text, end):
    """Where the name of the kernel before `end` begins."""
    at = end
    while text[at - 1].isspace():
        at -= 1
    if text[at - 1] == ">":
        at = matching(text, at - 1, "<", ">", -1)
    while text[at - 1].isalnum() or text[at - 1] in "_:":
        at -= 1
    return at


def translate(text):
    parts = []
    done = 0
    while (at := text.find("<<<", done)) >= 0:
        start = kernel_start(text, at)
        close = text.index(">>>", at)
        opening = text.index("(", close)
        end = matching(text, opening, "(", ")", 1) + 1
        kernel, grid = text[start:at].strip(), text[at + 3:close]
        parts += [text[done:start], f"::mnemo::simt::Launch({grid}, [&] {{ {kernel}{text[opening:end]}; }})"]
        done = end
    return "".join(parts) + text[done:]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = sys.argv[1:]
    with open(source) as file:
        text = file.read()
    with open(target, "w") as file:
        file.write(f'#line 1 "{source}"\n{translate(text)}')


main()
