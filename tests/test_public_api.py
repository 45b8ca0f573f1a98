import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import eigenscope as es

ROOT = Path(__file__).parents[1]
CHECKED_TYPES = ast.parse(Path(es.__file__).read_text())


def names_for_type_checkers() -> dict[str, str]:
    """Name and home of everything that is imported under `if TYPE_CHECKING`."""
    return {
        alias.name: str(statement.module).removeprefix("eigenscope.")
        for block in CHECKED_TYPES.body
        if isinstance(block, ast.If)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_list_of_public_names_is_the_same():
    assert names_for_type_checkers() == es._HOMES
    assert sorted(es._HOMES) == sorted(es.__all__)  # ruff keeps their order
    assert set(es.__all__) <= set(dir(es))


@pytest.mark.parametrize("name", es.__all__)
def test_a_public_name_has_one_home_and_is_documented(name):
    value = getattr(es, name)
    assert value.__name__ == name
    assert value.__module__.startswith(f"eigenscope.{es._HOMES[name]}")
    text = inspect.getdoc(value) or ""
    assert len(text.splitlines()[0]) > 20
    if not (inspect.isclass(value) and issubclass(value, Exception)):
        assert re.search(r"^Example:\n(.*\n)*? +>>> ", text, re.MULTILINE)


@pytest.mark.parametrize("name", es.__all__)
def test_a_public_name_stands_in_the_changelog(name):
    assert re.search(rf"`es\.{name}\b", (ROOT / "CHANGELOG.md").read_text())


@pytest.mark.message
def test_an_unknown_name_is_refused_as_python_does():
    with pytest.raises(AttributeError, match="module 'eigenscope' has no attribute"):
        _ = es.Hesian  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_the_package_imports_nothing_else():
    found = in_a_fresh_process(
        "import sys; before = set(sys.modules); import eigenscope; "
        "others = {n.partition('.')[0] for n in set(sys.modules) - before}; "
        "print(sorted(others - set(sys.stdlib_module_names)))"
    )
    assert found == "['eigenscope']"


def test_using_every_public_name_changes_nothing_for_others():
    state = (
        "(torch.get_rng_state().tolist(), torch.get_num_threads(), "
        "torch.get_default_dtype(), torch.is_grad_enabled(), warnings.filters[:], "
        "numpy.random.get_state()[1].tolist(), random.getstate(), "
        "numpy.geterr(), matplotlib.rcParams.copy(), sorted(os.environ.items()), "
        "signal.getsignal(signal.SIGINT), logging.getLogger().handlers[:])"
    )
    found = in_a_fresh_process(
        "import logging, matplotlib, numpy, os, random, signal, torch, warnings\n"
        "import zarr, scipy.stats, jaxtyping, tqdm\n"
        f"before = {state}\n"
        "import eigenscope as es\n"
        "import eigenscope.cli.jacobian, eigenscope.report, eigenscope.plots\n"
        "[getattr(es, name) for name in es.__all__]\n"
        f"print([i for i, (a, b) in enumerate(zip(before, {state})) if a != b])"
    )
    assert found == "[]"
