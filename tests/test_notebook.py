"""The notebook of the documentation runs, and shows what it shows there."""

import json
import subprocess
import sys
from pathlib import Path

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
# In a process of its own: the kernel's client starts threads and event loops.
PROGRAM = """
import json, sys, nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
print(json.dumps(notebook))
"""


def outputs(notebook):
    """Returns of each cell of code the kinds of what it shows."""
    return [
        [(each["output_type"], sorted(each.get("data", {}))) for each in cell["outputs"]]
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


def test_the_notebook_runs_and_shows_what_it_shows_in_the_documentation(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(NOTEBOOK)], capture_output=True, text=True, timeout=400, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    kinds = outputs(json.loads(done.stdout))
    assert kinds == outputs(json.loads(NOTEBOOK.read_text(encoding="utf-8")))
    assert ("execute_result", ["text/html", "text/plain"]) in kinds[1]  # a table
    assert ("execute_result", ["image/svg+xml", "text/plain"]) in kinds[3]  # a picture
