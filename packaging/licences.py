"""Prints the licences of every crate that an executable is linked from, in full: licences.py [OPTION OF CARGO TREE…].

Crates that carry no text of their own are under the Apache License, among others, whose text is ours.
"""

import html.parser
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
TEXTS = re.compile(r"(un)?licen[cs]e|copying|notice|copyright", re.IGNORECASE)


def output(*command):
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def linked(options):
    """Name, version and licence of the crates, without those that only build others."""
    host = re.search(r"^host: (.*)$", output("rustc", "-vV"), re.MULTILINE)[1]
    tree = ["cargo", "tree", "--locked", "--edges", "normal,no-proc-macro", "--target", host, "--prefix", "none"]
    lines = output(*tree, "--format", "{p}|{l}", *options).splitlines()
    rows = {tuple(line.removesuffix(" (*)").split("|")) for line in lines}
    return sorted((*package.split()[:2], licence) for package, licence in rows if not package.startswith("kintsugi "))


def folders():
    packages = json.loads(output("cargo", "metadata", "--locked", "--format-version", "1"))["packages"]
    return {(package["name"], "v" + package["version"]): pathlib.Path(package["manifest_path"]).parent for package in packages}


class Words(html.parser.HTMLParser):
    """The words of a page, a line each."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def handle_data(self, data):
        self.lines += [line.strip() for line in data.splitlines() if line.strip()]


def of_the_standard_library():
    page = pathlib.Path(output("rustc", "--print", "sysroot").strip()) / "share/doc/rust/COPYRIGHT-library.html"
    words = Words()
    words.feed(page.read_text())
    return "\n".join(words.lines)


def main():
    apache = (ROOT / "LICENSE").read_text()
    crates, places = linked(sys.argv[1:]), folders()
    users = {}
    for name, version, licence in crates:
        folder = places[name, version]
        files = sorted(path for path in folder.rglob("*") if TEXTS.match(path.name) and path.is_file())
        texts = [path.read_text(errors="replace") for path in files if path.suffix not in (".rs", ".py", ".html")]
        if not texts and "Apache-2.0" not in licence:
            sys.exit(f"error: {name} {version} has no text of its licence, {licence}")
        for text in texts or [apache]:
            users.setdefault(text.strip(), []).append(f"{name} {version[1:]}")
    print("kintsugi is made of these crates, whose sources are on crates.io, and of Rust's standard library. Their licences follow.\n")
    for name, version, licence in crates:
        print(f"{name} {version[1:]}: {licence}")
    users[of_the_standard_library()] = ["Rust's standard library"]
    for text, names in users.items():
        print(f"\n{'=' * 80}\n{', '.join(sorted(set(names)))}\n{'=' * 80}\n\n{text}")


main()
