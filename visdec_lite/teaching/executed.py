"""What came of an executed lesson: errors that nobody saw, seconds, memory, and the page to hand out.

In: a notebook that papermill saved. Out: a `LessonRun`, a table, an HTML file; and, in the source,
measured minutes and the outputs that are committed.

papermill ends well when an exception was raised inside a widget's callback: the error then stands only in the saved
widget state, so that is searched as well as the cells.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visdec_lite.files import atomic_path
from visdec_lite.teaching.notebooks import COMPARED, CORES, RUNS_IN, LessonFile

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
# what nbconvert puts into every page to fetch programs (for formulas, diagrams): pages have no need of them
_FETCHING = re.compile(
    r'<script src=""> ?</script>|<script type="module">(?:(?!</script>).)*?mermaid.*?</script>', flags=re.DOTALL
)


@dataclass(frozen=True)
class LessonRun:
    """What came of one lesson.

    Attributes:
        name: "03_dual_contrastive_losses".
        error: what went wrong, a line an error; None if nothing did.
        seconds: of all its cells.
        sections: `##` heading -> seconds of its cells.
        memory_mb: peak resident memory of the kernel in MiB; None where the system does not tell (Windows).
        parameters: as passed.
        key: hash of all that went in: cells, parameters, artefacts of other lessons.
        kept: finished by an earlier run, and not run again.
    """

    name: str
    error: str | None
    seconds: float
    sections: dict[str, float]
    memory_mb: float | None
    parameters: dict[str, Any]
    key: str
    kept: bool = False

    @property
    def passed(self) -> bool:
        return self.error is None


def errors_in(notebook: LessonFile) -> list[str]:
    """Every error in an executed notebook, a line each: raised in a cell, printed by a thread, caught by a widget."""
    found = []
    for number, cell in enumerate((cell for cell in notebook.cells if cell.kind == "code"), start=1):
        found += [f"In [{number}]: {error}" for error in _errors(cell.outputs)]
    for content in notebook.metadata.get("widgets", {}).values():
        for model in content.get("state", {}).values():
            found += [f"inside a widget: {error}" for error in _errors(model.get("state", {}).get("outputs", ()))]
    return found


def section_seconds(notebook: LessonFile) -> dict[str, float]:
    """`##` heading -> seconds that its cells took."""
    seconds = dict.fromkeys(notebook.sections, 0.0)
    for cell in notebook.cells:
        if cell.kind == "code":
            seconds[cell.section] += cell.metadata.get("papermill", {}).get("duration") or 0.0
    return seconds


def table(runs: Sequence[LessonRun]) -> str:
    """Seconds and memory of every lesson, as text."""
    width = max(len(run.name) for run in runs)
    lines = [f"{'lesson':{width}s}  seconds  memory MiB"]
    for run in runs:
        memory = "" if run.memory_mb is None else f"{run.memory_mb:.0f}"
        words = ("kept" if run.kept else "") if run.passed else "FAILED"
        lines.append(f"{run.name:{width}s}  {run.seconds:7.1f}  {memory:>10s}  {words}".rstrip())
    failed = sum(not run.passed for run in runs)
    lines.append(f"{'in all':{width}s}  {sum(run.seconds for run in runs):7.1f}")
    return "\n".join([*lines, f"{failed} of {len(runs)} failed"] if failed else lines)


def write_page(executed: Path, source_folder: Path) -> None:
    """An executed notebook as one HTML file beside it, links to lessons turned to their pages.

    Args:
        executed: the notebook; nothing is done if it is not there, or has its page already.
        source_folder: what pictures in its text are relative to.
    """
    page = executed.with_suffix(".html")
    if not executed.exists() or page.exists():
        return
    from nbconvert import HTMLExporter

    content, equations = json.loads(executed.read_text(encoding="utf-8")), []
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = for_web("".join(cell["source"]), equations)
    _draw_plotly(content)
    _keep_static_copies(content)
    resources = {"metadata": {"name": executed.stem, "path": str(source_folder)}}
    exporter = HTMLExporter(template_name="lab", embed_images=True, mathjax_url="", require_js_url="")
    body, _ = exporter.from_file(io.StringIO(json.dumps(content)), resources=resources)
    body = _FETCHING.sub("", body)
    with atomic_path(page) as temporary:
        temporary.write_text(put_back(body, equations), encoding="utf-8")


def html_of(markdown: str) -> str:
    """Markdown as HTML, as on the pages of the lessons."""
    from nbconvert.filters import markdown2html

    equations: list[str] = []
    return put_back(markdown2html(for_web(markdown, equations)), equations).strip()


def for_web(markdown: str, equations: list[str]) -> str:
    """Links to lessons turned to their pages, and a mark in the place of each formula, which joins `equations`.

    nbconvert closes every tag of MathML where it opens; so it gets marks, and its page the formulas (`put_back`).
    """

    def set_aside(equation: re.Match[str]) -> str:
        equations.append(equation[0])
        return f"EQUATION{len(equations) - 1}END"

    text = re.sub(r"\]\((?:[\w./]*/)?(\d\d_\w+)\.ipynb(#[^)]*)?\)", r"](\1.html\2)", markdown)
    return re.sub(r"<math\b.*?</math>", set_aside, with_mathml(text), flags=re.DOTALL)


def put_back(html: str, equations: Sequence[str]) -> str:
    """Formulas in the place of their marks."""
    return re.sub(r"EQUATION(\d+)END", lambda mark: equations[int(mark[1])], html)


def _keep_static_copies(content: dict[str, Any]) -> None:
    """Take out live widgets, which a page would have to fetch programs for; ours leave a static copy beside them."""
    content["metadata"].pop("widgets", None)
    for cell in content["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if WIDGET not in output.get("data", {})]


def _draw_plotly(content: dict[str, Any]) -> None:
    """Give plotly's figures an HTML form, which nbconvert lacks; plotly.js itself comes with the first of them."""
    outputs = [output for cell in content["cells"] for output in cell.get("outputs", ())]
    figures = [output["data"] for output in outputs if PLOTLY in output.get("data", {})]
    for number, data in enumerate(figures):
        from plotly.io import to_html

        figure = {part: data[PLOTLY][part] for part in ("data", "layout", "frames") if part in data[PLOTLY]}
        height = figure["layout"].get("height", 450)
        data["text/html"] = to_html(
            figure,
            include_plotlyjs=number == 0,
            full_html=False,
            auto_play=False,
            default_height=height,
            validate=False,
        )


# code first, so that a dollar in it stays one; then $$...$$ and $...$
_MATHS = re.compile(r"(?P<code>```.*?```|`[^`\n]*`)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$", re.DOTALL)


def with_mathml(text: str) -> str:
    """Markdown with its LaTeX as MathML, which browsers draw without a network and screen readers read aloud."""
    from latex2mathml.converter import convert

    def drawn(match: re.Match[str]) -> str:
        if match["code"]:
            return match["code"]
        latex, display = match["block"] or match["inline"], "block" if match["block"] else "inline"
        return convert(latex.strip(), display=display)

    return _MATHS.sub(drawn, text)


def write_times(path: Path | str, seconds: Mapping[str, float]) -> float:
    """Put measured times into a notebook: the row "Runs in" of its card, and its metadata.

    Args:
        path: the notebook.
        seconds: section -> seconds at preset class on two cores.

    Returns:
        Minutes, two significant digits.

    Raises:
        ValueError: the card has no such row.
    """
    path = Path(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    minutes = two_digits(sum(seconds.values()) / 60)
    source, count = RUNS_IN.subn(minutes, "".join(content["cells"][0]["source"]))
    if count != 1:
        row = "| **Runs in** | 0.0 minutes on two CPU cores, preset class (measured) |"
        raise ValueError(f"{path.name} has {count} rows for the time in its first cell, expected one: {row}")
    content["cells"][0]["source"] = source.splitlines(keepends=True)
    content["metadata"]["visdec_lite"] = {
        "minutes": float(minutes),
        "cores": CORES,
        "preset": "class",
        "seconds": {section: round(value, 1) for section, value in seconds.items()},
    }
    _write(path, content)
    return float(minutes)


def write_outputs(path: Path | str, notebook: LessonFile) -> None:
    """Renew the committed outputs of a notebook: text alone, of the cells tagged `nbval-check-output`.

    Args:
        path: the notebook.
        notebook: it, executed.
    """
    path = Path(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    fresh = {cell.id: cell.outputs for cell in notebook.tagged(COMPARED)}
    for number, cell in enumerate((cell for cell in content["cells"] if cell["cell_type"] == "code"), start=1):
        if cell.get("id") in fresh:
            cell["outputs"] = [_text_of(output, number) for output in fresh[cell["id"]] if _is_text(output)]
            cell["execution_count"] = number  # nbval takes a cell without one for never run
    _write(path, content)


def two_digits(number: float) -> str:
    """A positive number with two significant digits: 0.052, 1.0, 12."""
    if number <= 0:
        return "0.0"
    rounded = float(f"{number:.1e}")
    return f"{rounded:.{max(0, 1 - math.floor(math.log10(rounded)))}f}"


def _is_text(output: Mapping[str, Any]) -> bool:
    return output.get("name") == "stdout" or "text/plain" in output.get("data", {})


def _text_of(output: Mapping[str, Any], number: int) -> dict[str, Any]:
    if output["output_type"] == "stream":
        return dict(output)
    text = {"text/plain": output["data"]["text/plain"]}
    return {"output_type": "execute_result", "execution_count": number, "data": text, "metadata": {}}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _errors(outputs: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for output in outputs:
        if output["output_type"] == "error":
            found.append(f"{output['ename']}: {output['evalue']}")
        elif output["output_type"] == "stream" and output["name"] == "stderr":
            text = "".join(output["text"])
            if "Traceback (most recent call last)" in text:
                found.append(f"a traceback on stderr, ending with {text.strip().splitlines()[-1]!r}")
    return found
