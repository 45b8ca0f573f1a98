import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    str(path.relative_to(ROOT / "src"))
    for path in (ROOT / "src/eigenscope").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
pytestmark = [pytest.mark.packaging, pytest.mark.slow]


def run(*command: str | Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        cwd=variables.pop("cwd", ROOT),
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run("-m", "build", "--no-isolation", "--sdist", "--outdir", out)
    [path] = out.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist alone, as an installer would that finds no wheel."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(source, filter="data")
    [unpacked] = source.iterdir()
    run("-m", "build", "--no-isolation", "--wheel", "--outdir", out, unpacked)
    [path] = out.iterdir()
    return path


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_the_wheel_holds_the_package_its_licence_and_nothing_else(wheel):
    names = names_in(wheel)
    package = {name for name in names if name.startswith("eigenscope/")}
    assert package == SOURCES
    assert {"eigenscope/py.typed", "eigenscope/report/page.html"} <= package
    [information] = {name.partition("/")[0] for name in names - package}
    assert f"{information}/licenses/LICENSE" in names


def test_a_wheel_of_the_checkout_is_that_of_the_sdist(wheel, tmp_path):
    run("-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path)
    [direct] = tmp_path.iterdir()
    assert direct.name == wheel.name
    assert names_in(direct) == names_in(wheel)


def test_the_sdist_holds_sources_tests_and_documents(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in SOURCES} <= names
    tests = {f"tests/{path.name}" for path in (ROOT / "tests").glob("*.py")}
    documents = {"README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "Makefile"}
    assert tests | documents | {"pyproject.toml", "PKG-INFO"} <= names
    assert not any(".venv" in name or "__pycache__" in name for name in names)


def test_the_wheel_says_what_it_needs_and_nothing_optional(wheel):
    [metadata] = [name for name in names_in(wheel) if name.endswith("/METADATA")]
    with zipfile.ZipFile(wheel) as archive:
        head = Parser().parsestr(archive.read(metadata).decode())
    needed = {
        line.partition(";")[0].rstrip("0123456789.>=<~ ")
        for line in head.get_all("Requires-Dist", [])
        if "extra ==" not in line
    }
    assert needed >= {"torch", "numpy", "scipy", "matplotlib", "zarr"}
    assert not needed & {"torchvision", "pytorchcv", "scikit-learn", "pytest", "plotly"}
    assert head["License-Expression"] == "MIT"
    extras = ["digits", "lightning", "remote", "report", "transformers", "vision"]
    assert head.get_all("Provides-Extra") == extras


def test_the_installed_wheel_imports_and_runs(wheel, tmp_path):
    target = tmp_path / "site"
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel)
    here = {"PYTHONPATH": str(target), "cwd": str(tmp_path)}
    code = "import eigenscope; print(eigenscope.__file__, eigenscope.gram.__module__)"
    found = run("-c", code, **here)
    assert found.split() == [
        f"{target}/eigenscope/__init__.py",
        "eigenscope.operators.gram",
    ]
    assert "data sets: digits" in run("-m", "eigenscope", "info", **here)
    script = (target / "bin/eigenscope").read_text()
    assert "from eigenscope.cli import main" in script
