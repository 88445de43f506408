"""Reads an output folder's report with examples/read_report.py (on PYTHONPATH): python3 reading.py OUT"""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import read_report
from read_report import Layer, VariantRow


def present(value):
    """Without what is absent, as in the file: None and empty lists."""
    if isinstance(value, dict):
        return {name: present(item) for name, item in value.items() if item is not None and item != []}
    return [present(item) for item in value] if isinstance(value, (list, tuple)) else value


def untyped(value, name=""):
    """Names of fields that were left as JSON objects."""
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return {found for field in fields for found in untyped(getattr(value, field), field)}
    if isinstance(value, (list, tuple)):
        return {found for item in value for found in untyped(item, name)}
    return {name} if isinstance(value, dict) else set()


def refusal(text):
    """What is said of a file with this text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.json")
        path.write_text(text, encoding="utf-8")
        try:
            read_report.read_report(path)
        except ValueError as error:
            assert str(error).startswith(f"{path} is no report"), error
            return str(error)
    raise AssertionError(f"read: {text[:200]}")


output = Path(sys.argv[1])
data = json.loads((output / "report.json").read_text(encoding="utf-8"))
report = read_report.read_report(output)
assert report == read_report.read_report(output / "report.json")
assert present(dataclasses.asdict(report)) == present(data), "a value is missing or another one"
assert untyped(report) == {"architecture"}, untyped(report)
assert all(isinstance(row, VariantRow) and row.loss.acc_interval.lower <= row.loss.acc for row in report.variants)
assert report.drift[0].stage == Layer(layer=data["drift"][0]["stage"]["layer"])
assert any(isinstance(drift.most_different_ranks, tuple) for drift in report.drift)
assert report.run.limit is None and report.baseline.also == []

# What a later version adds is passed over, at the top and below.
later = json.loads(json.dumps(data))
later["later"] = later["variants"][0]["loss"]["later"] = {"value": 1}
later["drift"][0]["stage"] = "embedding"
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "report.json").write_text(json.dumps(later), encoding="utf-8")
    drift = [dataclasses.replace(report.drift[0], stage="embedding"), *report.drift[1:]]
    assert read_report.read_report(folder) == dataclasses.replace(report, drift=drift)

assert "'3', this reader is for '2'" in refusal(json.dumps(data | {"schema_version": "3"}))
assert "'baseline'" in refusal(json.dumps({name: value for name, value in data.items() if name != "baseline"}))
for text in ["", "[]", "{}", "null", json.dumps(data | {"run": []}), json.dumps(data | {"variants": 1})]:
    refusal(text)

shown = subprocess.run([sys.executable, read_report.__file__, output], capture_output=True, text=True, check=True)
lines = shown.stdout.splitlines()
assert len(lines) == 2 + len(report.variants) and lines[1].startswith("baseline: perplexity "), shown.stdout
