"""Compares two reports of the same run; times and the division into run shards and slices may differ."""

import json
import sys
from pathlib import Path

ASIDE = ("argv", "started", "seconds", "stages", "peak_rss_bytes", "tokens_per_second", "slices", "run_shards")


def report(folder: Path) -> dict:
    found = json.loads((folder / "report.json").read_text())
    found["run"] = {name: value for name, value in found["run"].items() if name not in ASIDE}
    return found


def main() -> None:
    one, other = (Path(argument) for argument in sys.argv[1:3])
    if report(one) != report(other):
        sys.exit(f"{other}/report.json differs from {one}/report.json")
    files = sorted(path.relative_to(one) for path in (one / "samples").iterdir())
    for file in [*files, Path("passages.jsonl")]:
        if (one / file).read_bytes() != (other / file).read_bytes():
            sys.exit(f"{other / file} differs from {one / file}")
    print(f"{other.name}: report.json, passages.jsonl and {len(files)} sample files equal those of the single process", file=sys.stderr)


if __name__ == "__main__":
    main()
