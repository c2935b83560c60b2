#!/usr/bin/env python3
"""Finds matrix operands that a compiled kernel loses: registers that a matrix instruction in a loop
reads before the loop has written them, and that the loop writes later, so that from the second
round on they hold something else. ptxas 13.0 makes such code where registers are short.

    lost_operands.py [--nvdisasm PROGRAM] CUBIN...

CUBIN: nvcc -cubin -gencode=arch=compute_90a,code=sm_90a -O3 -std=c++17 -I. FILE.cu -o CUBIN.
nvdisasm comes with the CUDA toolkit, or alone as the package nvidia-cuda-nvdisasm of PyPI. Prints a
line for each kernel with matrix instructions; exit code 1 if one has lost an operand.
"""
import argparse
import re
import subprocess
import sys

LABEL = re.compile(r"^(\.L_x_\d+):")
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;")
PREDICATE = re.compile(r"^@!?U?P\w+\s+")
BRANCH = re.compile(r"\bBRA\S* .*?`\((\.L_x_\d+)\)")
# Instructions whose first operand is read, or is no register.
NO_RESULT = ("ST", "RED", "BAR", "BRA", "WARP", "SYNCS", "UBL", "BSSY", "BSYNC", "EXIT", "R2UR",
             "LDGSTS", "CCTL", "MEMBAR", "FENCE", "DEPBAR", "NOP")
# Sums of a 64 x 64 and the registers of a 64 x 16 operand, a thread.
SUMS, OPERAND = 32, 4


def kernels(text):
    """Name, instructions and where labels point, for each kernel."""
    for part in re.split(r"\n\.text\.", text)[1:]:
        name, labels, code = part.split(":")[0], {}, []
        for line in part.splitlines():
            if label := LABEL.match(line):
                labels[label.group(1)] = len(code)
            elif instruction := INSTRUCTION.search(line):
                code.append(PREDICATE.sub("", instruction.group(1)))
        yield name, code, labels


def registers(operand, count):
    match = re.match(r"-?\|?R(\d+)", operand.strip())
    return range(int(match.group(1)), int(match.group(1)) + count) if match else range(0)


def written(instruction):
    name, _, operands = instruction.partition(" ")
    if name.startswith(NO_RESULT) or "SETP" in name:
        return range(0)
    count = 1
    if name.startswith("HGMMA"):
        count = SUMS
    elif ".128" in name or name.startswith("LDSM"):
        count = 4
    elif ".64" in name or "WIDE" in name:
        count = 2
    return registers(operands.split(",")[0], count)


def operand(instruction):
    """The registers of a matrix instruction's first factor, if it lies in registers."""
    parts = instruction.split(",")
    if not instruction.startswith("HGMMA") or len(parts) < 2 or "desc" in parts[1]:
        return range(0)
    return registers(parts[1], OPERAND)


def lost_in(body):
    """First reads of operands that a loop's body writes after it has read them."""
    seen, needed = set(), {}
    for instruction in body:
        for register in operand(instruction):
            if register not in seen:
                needed.setdefault(register, instruction)
        seen.update(written(instruction))
    return sorted({needed[r] for r in needed if r in seen})


def lost(code, labels):
    # Behind the last exit lie loops' waits, out of the way: no loops themselves.
    end = max((i for i, x in enumerate(code) if x.startswith("EXIT")), default=len(code))
    found = set()
    for i, instruction in enumerate(code[:end]):
        branch = BRANCH.search(instruction)
        if branch and labels.get(branch.group(1), i) < i:
            found.update(lost_in(code[labels[branch.group(1)]:i]))
    return sorted(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--nvdisasm", default="nvdisasm")
    parser.add_argument("cubins", nargs="+", metavar="CUBIN")
    args = parser.parse_args()
    bad = 0
    for cubin in args.cubins:
        text = subprocess.run([args.nvdisasm, "-c", cubin], check=True, capture_output=True,
                              text=True).stdout
        for name, code, labels in kernels(text):
            if not any(x.startswith("HGMMA") for x in code):
                continue
            found = lost(code, labels)
            bad += bool(found)
            print(f"{cubin}: {name}: {'lost' if found else 'ok'}")
            for instruction in found:
                print(f"    {instruction}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
