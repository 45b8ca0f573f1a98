"""The README's lines run and print what it says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.vision
@pytest.mark.slow
def test_the_lines_of_the_readme_print_what_it_says(tmp_path, monkeypatch):
    text = README.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    expected = re.search(r"prints\n\n```\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(README), "exec"), {})
    assert expected is not None
    assert printed.getvalue() == expected.group(1)
    assert (tmp_path / "spectrum.png").read_bytes().startswith(b"\x89PNG")
    assert len([line for line in code.splitlines() if line]) <= 15
