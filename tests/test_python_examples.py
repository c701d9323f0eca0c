"""The page on Python and the notebook run as they are."""

import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "python.md"
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


@pytest.mark.slow
def test_the_snippets_of_the_page_run_one_after_another(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for snippet in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(snippet, str(PAGE), "exec"), names)
    assert "2 mistakes in the configuration" in capsys.readouterr().out


@pytest.mark.slow
def test_the_notebook_runs_and_ends_with_a_generation(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(in_tmp / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(in_tmp)}}).execute()
    cells = {cell.id: cell for cell in notebook.cells}
    assert "<table>" in cells["board"].outputs[0].data["text/html"]
    assert cells["load"].outputs[-1].text.startswith("Text: refund for order 99\nLabel: ")


def test_the_notebook_is_stored_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
