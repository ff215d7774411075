"""The course as web pages, and the picture that stands for each lesson.

In: notebooks, executed ones if there are any, glossary, plan. Out: a folder of HTML files that open from disk and from
any web server, and fetch nothing; pictures to put into a table of contents. Nothing is executed here.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from string import Template

from visdec_lite.datasets.pictures import read_picture
from visdec_lite.files import atomic_path
from visdec_lite.teaching.executed import html_of, write_page
from visdec_lite.teaching.glossary import GLOSSARY
from visdec_lite.teaching.notebooks import LessonFile, find_lessons, read_lesson
from visdec_lite.teaching.plan import teaching_plan

COVER = "cover"  # tag of the cell whose first picture stands for its lesson
NONE_EXECUTED = "0 executed lessons in {0}; make them: visdec-lite run --out {0}"
COVER_SIZE = (640, 360)  # pixels at most
COVERS = Path("docs") / "pictures"  # below the folder that holds notebooks/
_IMAGE = re.compile(r'<img\s+alt="(?P<alt>[^"]*)"[^>]*src="data:image/png;base64,(?P<data>[^"]+)"')

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
body { max-width: 62rem; margin: 0 auto; padding: 2rem 1.2rem 4rem; font: 1rem/1.6 system-ui, sans-serif; }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.4rem; padding-bottom: 1rem; border-bottom: 1px solid #8886; }
h1 { line-height: 1.2; margin: 2rem 0 1rem; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; } th, td { text-align: left; vertical-align: top; padding: 0.4rem 1.2rem 0.4rem 0;
  border-top: 1px solid #8886; }
blockquote { margin: 0.5rem 0; padding-left: 1rem; border-left: 3px solid #8886; }
code, pre { font-size: 0.9em; } pre { overflow-x: auto; padding: 0.8rem 1rem; background: #8882; }
dt { font-weight: 600; margin-top: 0.9rem; } dd { margin: 0; }
.lessons { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.6rem; padding: 0; }
.lessons li { list-style: none; } .lessons img { width: 100%; height: 10.5rem; object-fit: contain;
  object-position: left; background: #fff; border-radius: 0.4rem; }
.lessons a { font-weight: 600; } .lessons p { margin: 0.2rem 0 0; } .anchor-link { display: none; }
</style>
</head>
<body>
<nav><a href="index.html">Lessons</a> <a href="glossary.html">Glossary</a> <a href="plan.html">For teachers</a>
$further</nav>
$body
</body>
</html>
""")


@dataclass(frozen=True)
class Cover:
    """The picture that stands for a lesson, PNG, and what it shows."""

    png: bytes
    alt: str


def write_site(out: Path, *, folder: Path | str | None = None, executed: Path | None = None) -> list[Path]:
    """Lessons, glossary, plan and data sets as pages that link to each other.

    Args:
        out: folder of the pages; those of an earlier call are replaced.
        folder: of the notebooks, see `find_lessons`.
        executed: folder that `visdec-lite run` wrote: lessons with their figures. A lesson that is not there is shown
            without outputs.

    Returns:
        The pages, index.html first.

    Raises:
        FileNotFoundError: none of the lessons is in `executed`.
    """
    lessons = find_lessons((), folder)
    if executed and not any((executed / lesson.path.name).exists() for lesson in lessons):
        raise FileNotFoundError(NONE_EXECUTED.format(executed))
    home = lessons[0].path.resolve().parent.parent
    out.mkdir(parents=True, exist_ok=True)
    documents = sorted((home / "docs").glob("*.md"))
    further = " ".join(f'<a href="{path.stem}.html">{escape(_heading(path))}</a>' for path in documents)

    def page(name: str, title: str, body: str) -> Path:
        path = out / f"{name}.html"
        with atomic_path(path) as temporary:
            text = _PAGE.substitute(title=escape(title), body=body, further=further)
            temporary.write_text(text, encoding="utf-8")
        return path

    pages = [
        page("index", "visdec_lite: from brain to image", _index(lessons, home, out)),
        page("glossary", "Glossary", _glossary()),
        page("plan", "Teaching plan", html_of(teaching_plan((), folder))),
        *(page(path.stem, _heading(path), html_of(path.read_text(encoding="utf-8"))) for path in documents),
    ]
    for lesson in lessons:
        source = executed / lesson.path.name if executed and (executed / lesson.path.name).exists() else lesson.path
        copy = out / lesson.path.name
        shutil.copyfile(source, copy)
        copy.with_suffix(".html").unlink(missing_ok=True)
        write_page(copy, lesson.path.parent)
        copy.unlink()
        pages.append(copy.with_suffix(".html"))
    return pages


def write_covers(executed: Path, folder: Path | str | None = None) -> list[Path]:
    """The cover of every lesson that was executed, from the outputs of the cell tagged "cover".

    Args:
        executed: folder that `visdec-lite run` wrote.
        folder: of the notebooks; pictures go to docs/pictures beside it.

    Returns:
        docs/pictures/lesson_NN.png, no larger than `COVER_SIZE`.

    Raises:
        FileNotFoundError: no executed lesson there.
        ValueError: a lesson has no such cell, or it shows no picture.
    """
    written = []
    for lesson in find_lessons((), folder):
        path = executed / lesson.path.name
        if not path.exists():
            continue
        target = cover_path(lesson)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            temporary.write_bytes(_small(cover_of(read_lesson(path)).png))
        written.append(target)
    if not written:
        raise FileNotFoundError(NONE_EXECUTED.format(executed))
    return written


def cover_path(lesson: LessonFile) -> Path:
    """Where the cover of a lesson is kept."""
    return lesson.path.resolve().parent.parent / COVERS / f"lesson_{lesson.number}.png"


def cover_of(executed: LessonFile) -> Cover:
    """The first picture that the cell tagged "cover" shows.

    Raises:
        ValueError: not one such cell, or no picture with alt text in its outputs.
    """
    cells = executed.tagged(COVER)
    if len(cells) != 1:
        raise ValueError(f"{executed.name} has {len(cells)} cells tagged {COVER!r}, expected 1")
    for output in cells[0].outputs:
        found = _IMAGE.search("".join(output.get("data", {}).get("text/html", "")))
        if found:
            return Cover(base64.b64decode(found["data"]), unescape(found["alt"]))
    raise ValueError(f"{executed.name}: cell {cells[0].id} shows no picture; run it, and show a still figure with alt")


def _small(png: bytes) -> bytes:
    """A PNG of at most `COVER_SIZE`, 256 colours."""
    from PIL import Image

    image = Image.fromarray(read_picture(png, background=255))
    image.thumbnail(COVER_SIZE, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


def _index(lessons: Sequence[LessonFile], home: Path, out: Path) -> str:
    cards = []
    for lesson in lessons:
        picture = cover_path(lesson)
        image = ""
        if picture.exists():
            shutil.copyfile(picture, out / picture.name)
            image = f'<img src="{picture.name}" alt="A figure of lesson {lesson.number}" loading="lazy">'
        minutes = lesson.measured.get("minutes")
        runs = f" Runs in {minutes:g} minutes on two CPU cores." if minutes else ""
        words = html_of(lesson.card.get("You end with", "")).removeprefix("<p>").removesuffix("</p>")
        cards.append(
            f'<li>{image}<a href="{lesson.name}.html">{escape(lesson.title)}</a><p>You end with {words}.{runs}</p></li>'
        )
    return (
        "<h1>From brain to image</h1>\n"
        "<p>Ten lessons on how pictures are read out of brain activity, after Sun et al., <i>Contrast, Attend and "
        "Diffuse to Decode High-Resolution Images from Brain Activities</i>, NeurIPS 2023 "
        '(<a href="https://arxiv.org/abs/2305.17214">arXiv 2305.17214</a>). All brains are simulated, except in lesson '
        "08. To run them yourself: <code>visdec-lite lab</code>.</p>\n"
        f'<ul class="lessons">{"".join(cards)}</ul>'
    )


def _glossary() -> str:
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(words)}</dd>" for term, words in GLOSSARY.items())
    return f"<h1>Glossary</h1><dl>{terms}</dl>"


def _heading(path: Path) -> str:
    found = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return found[1].strip() if found else path.stem
