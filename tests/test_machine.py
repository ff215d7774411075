"""What lies around on a user's machine changes nothing: kernels, start-up files, other copies, odd paths."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_runner import outputs, write_lesson

import visdec_lite
from visdec_lite.own_python import environment, python_module
from visdec_lite.teaching.runner import run_lessons

OURS = Path(visdec_lite.__file__).resolve()
ODD_NAMES = ("runs_{course}", "{0} 100% $HOME #1 ;é☂", "{", "}}{{", "a\nb", "'quoted\" <b>&amp;")
HOSTILE_RC = "image.origin: lower\ntext.usetex: True\naxes.facecolor: black\nsavefig.dpi: 17\n"
TELL = (
    "import matplotlib, sys, visdec_lite\n"
    "print(visdec_lite.__file__)\n"
    "print(sys.executable)\n"
    "print(matplotlib.rcParams['image.origin'], matplotlib.rcParams['text.usetex'])\n"
    "from visdec_lite.progress import IN_NOTEBOOK\n"
    "print('bars are widgets:', IN_NOTEBOOK)"
)


def another_copy(folder: Path, mark: Path) -> None:
    """A package of our name that leaves a mark when it is imported."""
    (folder / "visdec_lite").mkdir(parents=True)
    (folder / "visdec_lite" / "__init__.py").write_text(f"open({str(mark)!r}, 'a').write('other copy\\n')")


@pytest.fixture
def mark(tmp_path, monkeypatch) -> Path:
    """Where anything of the user's leaves a line if it runs; the machine is full of such things."""
    mark, user = tmp_path / "mark", tmp_path / "user"
    spec = {"argv": [sys.executable, "-c", f"open({str(mark)!r}, 'a').write('kernel spec\\n')", "{connection_file}"]}
    kernel = user / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({**spec, "display_name": "Python 3", "language": "python"}))
    startup = user / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    for file, what in ((startup / "00.py", "IPython"), (user / "start.py", "PYTHONSTARTUP")):
        file.write_text(f"open({str(mark)!r}, 'a').write('{what} start-up file\\n')")
    (user / "matplotlibrc").write_text(HOSTILE_RC)
    another_copy(tmp_path / "elsewhere", mark)
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name, value in {
        "JUPYTER_PATH": user / "jupyter",  # comes first, as the user's own folder does outside of environments
        "IPYTHONDIR": user / "ipython",
        "PYTHONSTARTUP": user / "start.py",
        "MATPLOTLIBRC": user / "matplotlibrc",
        "HOME": "/proc/nowhere",  # cannot be made, whoever runs this
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("JUPYTER_RUNTIME_DIR", raising=False)
    return mark


def test_a_lesson_runs_in_this_python_with_this_package_whatever_the_user_has_set_up(mark, tmp_path):
    out = tmp_path / "out"
    another_copy(out, mark)  # where the kernel works
    folder = tmp_path / "notebooks"
    write_lesson(folder, "00_tells", [TELL])
    (run,) = run_lessons(folder=folder, out=out, timeout=60, html=False)
    assert run.error is None
    package, python, parameters, bars = outputs(out / "00_tells.ipynb").splitlines()
    assert Path(package).resolve() == OURS
    assert Path(python).samefile(sys.executable)
    assert parameters == "upper False" and bars == "bars are widgets: True"
    assert not mark.exists(), mark.read_text()


def test_a_lesson_that_names_another_kernel_runs_in_this_python_too(tmp_path):
    path = write_lesson(tmp_path / "notebooks", "00_tells", [TELL])
    content = json.loads(path.read_text())
    content["metadata"]["kernelspec"] = {"name": "conda-env-course-py", "display_name": "c", "language": "python"}
    path.write_text(json.dumps(content))
    (run,) = run_lessons(folder=path.parent, out=tmp_path / "out", timeout=60, html=False)
    assert run.error is None and str(OURS) in outputs(tmp_path / "out" / "00_tells.ipynb")


def test_paths_are_taken_as_they_stand(tmp_path):
    """Where papermill and others would see a parameter, a variable, an escape or a fragment."""
    folder, out = tmp_path.joinpath(*ODD_NAMES, "notebooks"), tmp_path.joinpath(*reversed(ODD_NAMES))
    folder.mkdir(parents=True)
    write_lesson(folder, "00_{SEED} 100% $HOME #é", ["print('here', SEED)"])
    (run,) = run_lessons(folder=folder, out=out, parameters={"SEED": 3}, timeout=60)
    assert run.error is None
    assert {path.name for path in out.iterdir()} == {
        "00_{SEED} 100% $HOME #é.ipynb", "00_{SEED} 100% $HOME #é.html", "timing.json",
    }  # fmt: skip
    assert "here 3" in outputs(out / "00_{SEED} 100% $HOME #é.ipynb")
    assert [path.name for path in tmp_path.iterdir() if path.name not in ODD_NAMES] == []


def test_words_that_no_notebook_can_hold_are_refused_before_anything_runs(tmp_path):
    folder = tmp_path / "notebooks"
    write_lesson(folder, "00_tells", ["1"])
    latin = "caf\udce9"  # as Python names a file whose name is Latin-1
    for change in ({"out": tmp_path / latin}, {"out": tmp_path / "out", "parameters": {"DEVICE": latin}}):
        with pytest.raises(ValueError, match=r"caf.*udce9' is no Unicode text .*; rename it or choose another"):
            run_lessons(folder=folder, **change)
    assert [path.name for path in tmp_path.iterdir()] == ["notebooks"]


def test_a_process_of_ours_imports_this_package(mark):
    code = [*python_module("visdec_lite")[:-2], "-c", "import visdec_lite; print(visdec_lite.__file__)"]
    told = subprocess.run(code, env=environment(), capture_output=True, text=True, check=True).stdout
    assert Path(told.strip()).resolve() == OURS and not mark.exists()
    assert environment(MARK="1")["MARK"] == "1" and "PYTHONSTARTUP" not in environment()
    assert environment()["MATPLOTLIBRC"] == os.devnull


def test_jupyterlab_knows_this_kernel_only(mark):
    pytest.importorskip("jupyter_client", reason="kernels need the extra notebooks")
    from jupyter_client.kernelspec import KernelSpecManager

    from visdec_lite.kernels import ThisKernel, ThisPython

    planted = KernelSpecManager().get_kernel_spec("python3")
    assert "kernel spec" in planted.argv[2], "what Jupyter itself would start"
    assert list(ThisPython().get_all_specs()) == ["python3"]
    for spec in (ThisPython().get_kernel_spec("python3"), ThisKernel().kernel_spec):
        assert Path(spec.argv[0]).samefile(sys.executable) and "ipykernel_launcher" in spec.argv
