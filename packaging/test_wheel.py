"""Wheels of small executables: what `wheel.py` assembles, and what it finds wrong. No release build, no network."""

import pathlib
import subprocess
import sys
import tempfile
import unittest
import zipfile

import wheel

METADATA = """Metadata-Version: 2.4
Name: kintsugi-merge
Version: 0.1.0
Requires-Dist: torch==2.11.*
License-File: LICENSE
License-Expression: Apache-2.0
Requires-Python: >=3.10
"""


def compile_c(folder, name, text, *options):
    path = pathlib.Path(folder, name)
    subprocess.run(["cc", "-x", "c", "-", "-o", path, *options], input=text, text=True, check=True)
    return path


class Wheels(unittest.TestCase):
    def setUp(self):
        self.place = tempfile.TemporaryDirectory()
        self.addCleanup(self.place.cleanup)
        self.folder = pathlib.Path(self.place.name)
        compile_c(self.folder, "libtorch_cpu.so", "int torch(void) { return 7; }", "-shared", "-fPIC")
        self.own = compile_c(self.folder, "kintsugi", "int main(void) { return 0; }")

    def other(self, runpath, *options):
        text = "int torch(void); int main(void) { return torch(); }"
        path = "-Wl,--enable-new-dtags,-rpath," + runpath
        return compile_c(self.folder, "other", text, "-L", self.folder, "-l:libtorch_cpu.so", path, *options)

    def maturin(self):
        """A wheel as maturin makes it."""
        path = self.folder / "kintsugi_merge-0.1.0-py3-none-manylinux_2_28_x86_64.whl"
        with zipfile.ZipFile(path, "w") as archive:
            info = "kintsugi_merge-0.1.0.dist-info"
            archive.writestr("kintsugi_merge-0.1.0.data/scripts/kintsugi", self.own.read_bytes())
            archive.writestr(f"{info}/METADATA", METADATA)
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-manylinux_2_28_x86_64\n")
            archive.writestr(f"{info}/licenses/LICENSE", "ours")
            archive.writestr(f"{info}/RECORD", "")
        return path

    def assembled(self, other):
        licences = self.folder / "licences"
        licences.write_text("theirs")
        folder = self.folder / "dist"
        folder.mkdir(exist_ok=True)
        return wheel.assemble(self.maturin(), other, licences, folder)

    def faults(self, *options, runpath=None, change=None):
        result = self.assembled(self.other(runpath or wheel.runpath(), *options))
        if change:
            with zipfile.ZipFile(result) as archive:
                entries = {entry: archive.read(entry) for entry in archive.infolist()}
            with zipfile.ZipFile(result, "w") as archive:
                for entry, data in entries.items():
                    archive.writestr(entry, change(entry, data))
        return list(wheel.faults(result))

    def test_what_is_assembled_is_as_it_should_be(self):
        self.assertEqual(self.faults("-s"), [])

    def test_faults_are_found(self):
        self.assertEqual(self.faults(), ["kintsugi-libtorch is not stripped"])
        self.assertIn("looks for libtorch in ['/opt/torch/lib']", self.faults("-s", runpath="/opt/torch/lib")[0])

        def other_torch(entry, data):
            return data.replace(b"torch==2.11.*", b"torch>=2.11")

        found = self.faults("-s", change=other_torch)
        self.assertEqual(found, ["METADATA has no line `Requires-Dist: torch==2.11.*`", "RECORD is not of these files"])

        def not_executable(entry, data):
            if entry.filename.endswith("/kintsugi"):
                entry.external_attr = 0o100644 << 16
            return data

        self.assertEqual(self.faults("-s", change=not_executable), ["kintsugi may not be executed"])
        self.own = self.other(wheel.runpath())
        self.assertEqual(self.faults("-s"), ["kintsugi is linked to libtorch", "kintsugi looks for libraries"])

    def test_the_loader_finds_torch_in_every_layout(self):
        other = self.other(wheel.runpath())
        (self.folder / "libtorch_cpu.so").rename(self.folder / "libtorch")
        pythons = [f"python3.{minor}" for minor in range(10, 15)]
        layouts = [f"lib/{python}/{packages}" for python in pythons for packages in ("site-packages", "dist-packages")]
        for layout in [*layouts, "lib/python3/dist-packages"]:
            with self.subTest(layout), tempfile.TemporaryDirectory() as prefix:
                libraries = pathlib.Path(prefix, layout, "torch/lib")
                libraries.mkdir(parents=True)
                (libraries / "libtorch_cpu.so").symlink_to(self.folder / "libtorch")
                scripts = pathlib.Path(prefix, "bin")
                scripts.mkdir()
                installed = scripts / "kintsugi-libtorch"
                installed.write_bytes(other.read_bytes())
                installed.chmod(0o755)
                # As `uv tool` and pipx link to it.
                linked = pathlib.Path(prefix, "linked")
                linked.symlink_to(installed)
                for executable in (installed, linked):
                    self.assertEqual(subprocess.run([executable], env={}).returncode, 7)

    def test_the_wheels_that_are_there_are_as_they_should_be(self):
        for found in (wheel.HERE.parent / "dist").glob("*.whl"):
            self.assertEqual(list(wheel.faults(found)), [], found)


if __name__ == "__main__":
    sys.exit(unittest.main())
