#!/usr/bin/env python3
"""launches.py: every form of a launch that the kernels' sources have."""
import os
import subprocess
import tempfile
import unittest

TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "launches.py")


def translate(text):
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "a.cu"), os.path.join(folder, "a.cc")
        with open(source, "w") as file:
            file.write(text)
        subprocess.run(["python3", TOOL, source, target], check=True)
        with open(target) as file:
            first, rest = file.read().split("\n", 1)
    assert first == f'#line 1 "{source}"', first
    return rest


def launch(grid, call):
    return f"::mnemo::simt::Launch({grid}, [&] {{ {call}; }})"


class Launches(unittest.TestCase):
    def test_a_plain_kernel(self):
        self.assertEqual(translate("  kernel<<<1, 2, 0, s>>>(a, b);\n"),
                         f"  {launch('1, 2, 0, s', 'kernel(a, b)')};\n")

    def test_template_arguments_and_namespaces(self):
        self.assertEqual(translate("conv::Forward<T, lanes.value>\n    <<<f(1, 2), n, 0, s>>>(x);"),
                         launch("f(1, 2), n, 0, s", "conv::Forward<T, lanes.value>(x)") + ";")
        self.assertEqual(translate("k<A<B<1>>><<<g, b, 0, s>>>();"),
                         launch("g, b, 0, s", "k<A<B<1>>>()") + ";")

    def test_brackets_in_arguments_and_several_launches(self):
        self.assertEqual(translate("a<<<1, 1, 0, s>>>(f(x), (y)); b<<<2, 2, 0, s>>>(z);"),
                         launch("1, 1, 0, s", "a(f(x), (y))") + "; " +
                         launch("2, 2, 0, s", "b(z)") + ";")

    def test_shifts_are_none(self):
        text = "int x = 1 << 3; stream << x >> y;\n"
        self.assertEqual(translate(text), text)


unittest.main()
