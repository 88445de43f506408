"""Installs a wheel in environments of every kind and runs it: test_installed.py WHEEL LIBTORCH UV PYTHON…

pip installs a stub in torch's place, which has its name and version and gets the libraries of LIBTORCH (a torch 2.11 as pip
installs it): torch itself would be downloaded with 2 GB of CUDA's libraries for every environment.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

REPOSITORY = pathlib.Path(__file__).parent.parent
DEMO = REPOSITORY / "evals/demo/checkpoint"
# Newer than any there is, so that pip takes it.
STUB = "2.11.99"
INSTALL = "hint: pip install 'torch==2.11.*' in the environment of "


def stub(folder, version):
    """A wheel with torch's name, no code and no dependencies."""
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr("torch/version.py", f"__version__ = '{version}'\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"torch/version.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def call(*command, **variables):
    environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore", **{name: str(value) for name, value in variables.items()}}
    subprocess.run([str(word) for word in command], env=environment, check=True, stdout=subprocess.DEVNULL)


class Test:
    def __init__(self, wheel, libtorch, place):
        self.wheel, self.libtorch, self.place = pathlib.Path(wheel).resolve(), pathlib.Path(libtorch).resolve(), place
        self.stubs = place / "stubs"
        self.stubs.mkdir()
        for version in ("2.10.0", STUB):
            stub(self.stubs, version)
        self.offline = ["--no-index", "--find-links", self.stubs]

    def run(self, kintsugi, *arguments):
        """In an empty folder, with nothing but a home."""
        with tempfile.TemporaryDirectory(dir=self.place) as folder:
            environment = {"HOME": folder, "PATH": "/usr/bin:/bin"}
            return subprocess.run([kintsugi, *arguments], cwd=folder, env=environment, text=True, capture_output=True)

    def give_libraries(self, packages):
        (packages / "torch/lib").symlink_to(self.libtorch / "lib")
        if (self.libtorch.parent / "nvidia").exists() and not (packages / "nvidia").exists():
            (packages / "nvidia").symlink_to(self.libtorch.parent / "nvidia")

    def works_without_torch(self, kintsugi):
        version = self.run(kintsugi, "--version").stdout
        assert "\nfeatures: hub\n" in version, version
        inspected = self.run(kintsugi, "inspect", str(DEMO))
        assert inspected.returncode == 0 and "fold" in inspected.stdout, inspected.stderr
        merged = self.run(kintsugi, "merge", str(DEMO), "-o", "merged")
        assert merged.returncode == 0 and merged.stdout.endswith("/merged\n"), merged.stderr

    def works(self, name, kintsugi, packages):
        """With torch 2.11."""
        self.give_libraries(packages)
        self.works_without_torch(kintsugi)
        demo = self.run(kintsugi, "demo")
        assert demo.returncode == 0, demo.stderr
        rows = [line.split()[0] for line in demo.stdout.splitlines() if line.strip()]
        assert {"baseline", "zeroth", "fold"} <= set(rows), demo.stdout
        doctor = self.run(kintsugi, "doctor").stdout
        assert f"from {self.libtorch}/lib" in doctor and "kintsugi-libtorch" in doctor, doctor
        print(f"{name}: the demo's table, with torch of {packages}")

    def refuses(self, kintsugi, found):
        """With another torch, or none."""
        self.works_without_torch(kintsugi)
        demo = self.run(kintsugi, "demo")
        lines = demo.stderr.splitlines()
        assert demo.returncode == 2 and demo.stdout == "" and len(lines) == 2, demo.stderr
        assert lines[0] == f"error: this command needs torch 2.11, and {found}" and lines[1].startswith(INSTALL), demo.stderr

    def venv(self, python):
        folder = self.place / python.replace("/", "_")
        call(python, "-m", "venv", folder)
        pip = [folder / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        call(*pip, "install", *self.offline, self.wheel)
        (packages,) = folder.glob("lib/python3.*/site-packages")
        kintsugi = folder / "bin/kintsugi"
        self.works(f"venv of {python}", kintsugi, packages)
        (packages / "torch/lib").unlink()
        call(*pip, "install", *self.offline, "--no-deps", "torch==2.10.0")
        self.give_libraries(packages)
        self.refuses(kintsugi, f"{packages}/torch/lib is of 2.10.0")
        (packages / "torch/lib").unlink()
        call(*pip, "uninstall", "--yes", "torch")
        self.refuses(kintsugi, "none is installed")
        print(f"venv of {python}: with torch 2.10 and with none a line says what to do")

    def uv_tool(self, uv, python):
        tools, scripts = self.place / "uv-tools", self.place / "uv-bin"
        call(uv, "tool", "install", "--quiet", "--python", python, *self.offline, self.wheel, UV_TOOL_DIR=tools, UV_TOOL_BIN_DIR=scripts)
        (packages,) = tools.glob("kintsugi-merge/lib/python3.*/site-packages")
        assert (scripts / "kintsugi").is_symlink()
        self.works("uv tool", scripts / "kintsugi", packages)

    def pipx(self, python):
        folder = self.place / "pipx"
        call(python, "-m", "venv", folder)
        call(folder / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "pipx")
        homes = {"PIPX_HOME": folder / "home", "PIPX_BIN_DIR": folder / "links", "PIPX_MAN_DIR": folder / "man"}
        # pipx gets a pip of its own from the index.
        options = f"--find-links {self.stubs}"
        call(folder / "bin/pipx", "install", "--quiet", "--backend", "pip", "--python", python, f"--pip-args={options}", self.wheel, **homes)
        (packages,) = folder.glob("home/venvs/kintsugi-merge/lib/python3.*/site-packages")
        assert (folder / "links/kintsugi").is_symlink()
        self.works("pipx", folder / "links/kintsugi", packages)

    def of_user(self, python):
        base = self.place / "user"
        call(python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--user", "--ignore-installed", *self.offline, self.wheel, PYTHONUSERBASE=base)
        (packages,) = base.glob("lib/python3.*/site-packages")
        self.works("pip install --user", base / "bin/kintsugi", packages)

    def prefix(self, python, name, move=None):
        """As conda and Debian lay out an environment; Debian has its packages in another folder."""
        prefix = self.place / name
        call(python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--prefix", prefix, "--ignore-installed", *self.offline, self.wheel)
        (packages,) = prefix.glob("lib/python3.*/site-packages")
        if move:
            moved = prefix / move.format(python=packages.parent.name)
            moved.parent.mkdir(parents=True, exist_ok=True)
            packages = packages.rename(moved)
        self.works(name, prefix / "bin/kintsugi", packages)


def main():
    wheel, libtorch, uv, *pythons = sys.argv[1:]
    place = pathlib.Path(tempfile.mkdtemp(prefix="kintsugi-wheel-"))
    try:
        test = Test(wheel, libtorch, place)
        for python in pythons:
            test.venv(python)
        test.uv_tool(uv, pythons[0])
        test.pipx(pythons[-1])
        test.of_user(pythons[-1])
        test.prefix(pythons[0], "conda")
        test.prefix(pythons[0], "debian", move="lib/{python}/dist-packages")
        test.prefix(pythons[-1], "debian-system", move="lib/python3/dist-packages")
    finally:
        shutil.rmtree(place)


main()
