"""Runs all Python of docs/python.md in one session, in a folder with `out`: python3 page.py PAGE OUT

Programs and libraries that are not in the standard library are stand-ins that record what they are asked.
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

page, output = (Path(argument).resolve() for argument in sys.argv[1:])
cells = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
assert len(cells) >= 5, len(cells)
libraries = {name: mock.MagicMock() for name in ["IPython", "IPython.display", "mlflow", "trackio", "wandb"]}
session: dict[str, object] = {}
with tempfile.TemporaryDirectory() as folder, mock.patch.dict(sys.modules, libraries), mock.patch("subprocess.run") as run:
    shutil.copytree(output, Path(folder, "out"))
    run.return_value.returncode = 1
    os.chdir(folder)
    for cell in cells:
        exec(cell, session)
    os.chdir("/")

commands = [call.args[0][:2] for call in run.call_args_list]
assert commands == [["kintsugi", "compare"], ["kintsugi", "gate"]] and session["verdict"] == "beyond", commands
source = libraries["IPython.display"].IFrame.call_args.args[0]
assert source.startswith("data:text/html;base64,") and len(source) > 10_000
metrics = session["metrics"](session["report"])
assert metrics["mean/perplexity"] == session["report"]["variants"][1]["perplexity"], metrics
assert all(isinstance(value, (int, float)) for value in metrics.values()), metrics
libraries["wandb"].init.return_value.__enter__.return_value.log.assert_any_call(metrics)
libraries["mlflow"].log_metrics.assert_called_with(metrics)
libraries["trackio"].log.assert_any_call(metrics)
