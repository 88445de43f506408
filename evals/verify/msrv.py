#!/usr/bin/env python3
"""Says whether any dependency asks for a newer Rust than the crate promises: msrv.py VERSION."""

import json
import subprocess
import sys


def number(version):
    return tuple(int(part) for part in (version.split(".") + ["0", "0"])[:3])


def main():
    promised = number(sys.argv[1])
    target = next(line for line in subprocess.check_output(["rustc", "-vV"], text=True).splitlines() if line.startswith("host"))
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target.split()[1]]
    packages = json.loads(subprocess.check_output(command))["packages"]
    asked = sorted(((number(p["rust_version"]), p["name"]) for p in packages if p["rust_version"]), reverse=True)
    newer = [f"{name} asks for {'.'.join(map(str, version))}" for version, name in asked if version > promised]
    print("\n".join(newer) or f"{len(packages)} packages, none asks for more than {'.'.join(map(str, promised))}")
    return 1 if newer else 0


if __name__ == "__main__":
    sys.exit(main())
