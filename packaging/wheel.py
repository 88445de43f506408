"""What a wheel of kintsugi is put together from, and what must hold of it.

    wheel.py runpath                                    the RUNPATH of kintsugi-libtorch
    wheel.py glibc EXECUTABLE                           the glibc that it needs
    wheel.py assemble WHEEL EXECUTABLE LICENCES FOLDER  add kintsugi-libtorch and the licences to maturin's wheel
    wheel.py check WHEEL                                fail if something is not as it should be
"""

import base64
import csv
import hashlib
import io
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

HERE = pathlib.Path(__file__).parent
OTHER = "kintsugi-libtorch"
LARGEST = 25_000_000


def runpath():
    """Every place of torch's libraries, seen from the folder of scripts. `src/cli/hand_over.rs` looks at the same, in this order."""
    folders = (HERE / "torch-folders.txt").read_text().split()
    return ":".join(f"$ORIGIN/../{folder}" for folder in folders)


def readelf(executable, *options):
    return subprocess.run(["readelf", "--wide", *options, executable], check=True, text=True, stdout=subprocess.PIPE).stdout


def dynamic(executable, tag):
    """The values of a tag of the dynamic section: RUNPATH, NEEDED, …"""
    return re.findall(rf"\({tag}\).*\[(.*)\]", readelf(executable, "--dynamic"))


def glibc(executable):
    """The newest version of glibc whose symbols it needs, as two numbers."""
    versions = re.findall(r"Name: GLIBC_(\d+)\.(\d+)", readelf(executable, "--version-info"))
    return max((int(major), int(minor)) for major, minor in versions)


def platform_tag(executables):
    major, minor = max(glibc(executable) for executable in executables)
    machine = "aarch64" if "AArch64" in readelf(executables[0], "--file-header") else "x86_64"
    return f"manylinux_{major}_{minor}_{machine}"


def record(entries, name):
    """RECORD: every file with its digest and size."""
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    for path, data in entries.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        writer.writerow([path, f"sha256={digest}", len(data)])
    writer.writerow([name, "", ""])
    return rows.getvalue().encode()


def assemble(wheel, other, licences, folder):
    """Writes the wheel with `other` as a second script and the licences of what both are made of, and returns its path."""
    with zipfile.ZipFile(wheel) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist() if not entry.is_dir()}
    info = next(path.split("/")[0] for path in entries if path.endswith(".dist-info/WHEEL"))
    scripts = info.removesuffix(".dist-info") + ".data/scripts"
    with tempfile.TemporaryDirectory() as place:
        own = pathlib.Path(place, "kintsugi")
        own.write_bytes(entries[f"{scripts}/kintsugi"])
        subprocess.run(["strip", own], check=True)
        tag = platform_tag([own, other])
        entries[f"{scripts}/kintsugi"] = own.read_bytes()
    entries[f"{scripts}/{OTHER}"] = pathlib.Path(other).read_bytes()
    entries[f"{info}/licenses/THIRD-PARTY-LICENSES.txt"] = pathlib.Path(licences).read_bytes()
    entries[f"{info}/METADATA"] = entries[f"{info}/METADATA"].replace(
        b"\nLicense-File: LICENSE\n", b"\nLicense-File: LICENSE\nLicense-File: THIRD-PARTY-LICENSES.txt\n"
    )
    entries[f"{info}/WHEEL"] = re.sub(rb"(?m)^Tag: .*$", f"Tag: py3-none-{tag}".encode(), entries[f"{info}/WHEEL"])
    del entries[f"{info}/RECORD"]
    entries[f"{info}/RECORD"] = record(entries, f"{info}/RECORD")
    result = pathlib.Path(folder, f"{info.removesuffix('.dist-info')}-py3-none-{tag}.whl")
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, data in entries.items():
            entry = zipfile.ZipInfo(path)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if path.startswith(scripts) else 0o100644) << 16
            archive.writestr(entry, data)
    return result


def faults(wheel):
    """What is not as it should be, a line each."""
    wheel = pathlib.Path(wheel)
    if wheel.stat().st_size > LARGEST:
        yield f"{wheel.stat().st_size} bytes, more than {LARGEST}"
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as place:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
        name, version = wheel.name.split("-")[:2]
        info, scripts = f"{name}-{version}.dist-info", f"{name}-{version}.data/scripts"
        metadata = entries[f"{info}/METADATA"].decode()
        for line in ("Name: kintsugi-merge", "Requires-Dist: torch==2.11.*", "Requires-Python: >=3.10", "License-Expression: Apache-2.0"):
            if line not in metadata.splitlines():
                yield f"METADATA has no line `{line}`"
        for licence in re.findall(r"(?m)^License-File: (.*)$", metadata):
            if f"{info}/licenses/{licence}" not in entries:
                yield f"no {licence}"
        if f"{info}/licenses/THIRD-PARTY-LICENSES.txt" not in entries:
            yield "no licences of what the executables are made of"
        own_record = entries.pop(f"{info}/RECORD")
        if sorted(own_record.splitlines()) != sorted(record(entries, f"{info}/RECORD").splitlines()):
            yield "RECORD is not of these files"
        executables = []
        for script in ("kintsugi", OTHER):
            if f"{scripts}/{script}" not in entries:
                yield f"no {script}"
                return
            if not modes[f"{scripts}/{script}"] & 0o111:
                yield f"{script} may not be executed"
            executables.append(pathlib.Path(place, script))
            executables[-1].write_bytes(entries[f"{scripts}/{script}"])
            if ".symtab" in readelf(executables[-1], "--section-headers"):
                yield f"{script} is not stripped"
        own, other = executables
        if any("torch" in library or "c10" in library for library in dynamic(own, "NEEDED")):
            yield "kintsugi is linked to libtorch"
        if dynamic(own, "RUNPATH") or dynamic(own, "RPATH"):
            yield "kintsugi looks for libraries"
        if "libtorch_cpu.so" not in dynamic(other, "NEEDED") or "libtorch_cuda.so" in dynamic(other, "NEEDED"):
            yield f"{OTHER} is not linked to the CPU's half of libtorch alone"
        if dynamic(other, "RUNPATH") != [runpath()] or dynamic(other, "RPATH"):
            yield f"{OTHER} looks for libtorch in {dynamic(other, 'RUNPATH')}"
        tag = f"py3-none-{platform_tag(executables)}"
        if f"Tag: {tag}" not in entries[f"{info}/WHEEL"].decode().splitlines() or wheel.name != f"{name}-{version}-{tag}.whl":
            yield f"what the executables need is {tag}"


def check(wheel):
    found = list(faults(wheel))
    if found:
        sys.exit("\n".join(f"error: {wheel}: {fault}" for fault in found))
    print(f"{wheel}: {pathlib.Path(wheel).stat().st_size / 1e6:.1f} MB")


def main():
    match sys.argv[1:]:
        case ["runpath"]:
            print(runpath())
        case ["glibc", executable]:
            print(*glibc(executable), sep=".")
        case ["assemble", wheel, other, licences, folder]:
            print(assemble(wheel, other, licences, folder))
        case ["check", wheel]:
            check(wheel)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
