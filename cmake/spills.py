#!/usr/bin/env python3
"""Runs a CUDA compiler and fails where a kernel keeps more than a few bytes of its registers in memory.

    spills.py [--most BYTES] COMPILER ARGUMENT...

A launcher for CMake (CMAKE_CUDA_COMPILER_LAUNCHER). The compiler is asked for the resources of every
kernel (-Xptxas -v); what it says of them is kept back, all else passed on. A kernel that stores more
than BYTES a thread (default 40: a few addresses, outside its inner loops) is named, with exit code 1.
"""
import re
import subprocess
import sys

MOST = 40
KERNEL = re.compile(r"ptxas info\s*: (?:Function properties for|Compiling entry function) '?([^'\s]+)")
SPILLS = re.compile(r"^\s+\d+ bytes stack frame, (\d+) bytes spill stores, \d+ bytes spill loads")
RESOURCES = re.compile(r"^ptxas info\s*:")


def examine(text, most):
    """What of the compiler's messages is not about resources; (kernel, bytes) of those that spill."""
    rest, spilling, kernel = [], [], None
    for line in text.splitlines(keepends=True):
        spills = SPILLS.match(line)
        if spills:
            if int(spills[1]) > most:
                spilling.append((kernel, int(spills[1])))
            continue
        found = KERNEL.match(line)
        kernel = found[1] if found else kernel
        if not RESOURCES.match(line):
            rest.append(line)
    return "".join(rest), spilling


def main():
    most, command = MOST, sys.argv[1:]
    if command[:1] == ["--most"]:
        most, command = int(command[1]), command[2:]
    if not command:
        sys.exit("spills.py: a compiler is missing; see its first lines")
    if "-c" not in command:  # it links or is asked for its version
        return subprocess.run(command, check=False).returncode
    done = subprocess.run(command + ["-Xptxas", "-v"], stderr=subprocess.PIPE, text=True, check=False)
    rest, spilling = examine(done.stderr, most)
    sys.stderr.write(rest)
    for kernel, size in spilling:
        sys.stderr.write(f"spills.py: error: {kernel} stores {size} bytes of registers to memory, more "
                         f"than {most}; see docs/contributing.md\n")
    return done.returncode or (1 if spilling else 0)


if __name__ == "__main__":
    sys.exit(main())
