#!/usr/bin/env python3
"""spills.py, with a compiler that is a shell script in the place of nvcc."""
import os
import subprocess
import sys
import unittest

TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../cmake/spills.py")


def resources(kernel, spilled):
    return (f"ptxas info    : Compiling entry function '{kernel}' for 'sm_90a'\n"
            f"ptxas info    : Function properties for {kernel}\n"
            f"    8 bytes stack frame, {spilled} bytes spill stores, {spilled} bytes spill loads\n"
            "ptxas info    : Used 255 registers, 480 bytes cmem[0]\n")


def compiled(says, code=0, options=(), arguments=("-c",)):
    """What the tool ends with and prints where the compiler prints `says` and ends with `code`."""
    script = 'printf "%s" "$0" >&2; shift; echo "$@"; exit ' + str(code)
    done = subprocess.run([sys.executable, TOOL, *options, "sh", "-c", script, says, *arguments],
                          capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, done.stdout


class Spills(unittest.TestCase):
    def test_a_few_bytes_pass_in_silence(self):
        self.assertEqual(compiled(resources("a", 0) + resources("b", 40))[:2], (0, ""))

    def test_more_fail_with_the_kernel_s_name(self):
        code, said, _ = compiled(resources("small", 8) + resources("large", 41))
        self.assertEqual(code, 1)
        self.assertIn("large stores 41 bytes", said)
        self.assertNotIn("small", said)

    def test_the_bound_is_an_option(self):
        self.assertEqual(compiled(resources("a", 41), options=["--most", "41"])[0], 0)
        self.assertEqual(compiled(resources("a", 41), options=["--most", "0"])[0], 1)

    def test_warnings_and_the_compiler_s_own_failure_are_passed_on(self):
        warning = "a.cu(3): warning: unused\n"
        self.assertEqual(compiled(warning + resources("a", 0))[:2], (0, warning))
        self.assertEqual(compiled("a.cu(3): error: what\n", code=2)[:2], (2, "a.cu(3): error: what\n"))

    def test_it_asks_for_resources(self):
        self.assertEqual(compiled("", arguments=["x", "-o", "y"])[2], "-o y -Xptxas -v\n")


if __name__ == "__main__":
    unittest.main()
