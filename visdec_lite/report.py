"""One page that tells what a run found: pictures, scores, losses, settings, limits.

In: the content of metrics.json, the gallery, training histories. Out: one HTML file that opens from disk anywhere:
styles and figures are inside it (RFC 2397 data addresses) and its content policy forbids to fetch anything. Every
figure is there four times, wide and narrow, light and dark; the browser picks. Every word from outside is escaped.
"""

from __future__ import annotations

import base64
import os
import reprlib
import struct
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import groupby
from string import Template
from typing import Any

from matplotlib.figure import Figure

from visdec_lite import __version__, plotting
from visdec_lite.files import atomic_path
from visdec_lite.identity import flat

Drawing = Figure | bytes | Callable[..., Figure]
HEADLINES = ("n_way_top1", "pairwise_pcc", "n_way_top5", "pcc", "ssim", "pairwise_ssim")  # best first
NARROW = 700  # CSS pixels; below, figures are stacked for a phone

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="description" content="$description">
<title>$title</title>
<style>$style</style>
</head>
<body>
$body
</body>
</html>
""")

_STYLE = """
:root { color-scheme: light dark; $light; --card: #F6F7F9; }
@media (prefers-color-scheme: dark) { :root { $dark; --card: #1F2429; } }
* { box-sizing: border-box; }
html { font-size: clamp(1rem, 0.92rem + 0.35vw, 1.3rem); -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 3.5rem 1.5rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif; }
h1, h2 { font-family: Charter, "Bitstream Charter", "Iowan Old Style", "Palatino Linotype", Palatino, Georgia,
  "Liberation Serif", serif; font-weight: 600; line-height: 1.15; letter-spacing: -0.01em; text-wrap: balance; }
h1 { font-size: clamp(2rem, 1.5rem + 2.4vw, 3.1rem); margin: 1rem 0; }
h2 { font-size: 1.5rem; margin: 3.5rem 0 0.75rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 0.5rem; }
p, li { max-width: 42rem; }
a { color: inherit; text-underline-offset: 0.2em; }
small, figcaption, caption, .muted { color: var(--muted); font-size: 0.875rem; line-height: 1.5; }
.badge { display: inline-block; padding: 0.2rem 0.7rem; border: 1.5px solid var(--warning); border-radius: 0.4rem;
  color: var(--warning); font-size: 0.8rem; font-weight: 700; letter-spacing: 0.06em; text-transform: uppercase; }
.lede { font-size: 1.15rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); gap: 1rem;
  margin: 2rem 0 0; padding: 0; list-style: none; }
.tiles li { padding: 1.1rem 1.3rem 1.2rem; background: var(--card); border-radius: 0.6rem; }
.tiles b { display: block; font-size: 2.3rem; font-weight: 600; line-height: 1.25; letter-spacing: -0.02em; }
.tiles small { display: block; margin-top: 0.4rem; }
figure { margin: 1.5rem 0; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: 0.75rem; }
.light img { background: #FFFFFF; border-radius: 0.4rem; }
.scroll { overflow-x: auto; margin: 1.5rem 0; }
.scroll:focus-visible { outline: 2px solid var(--muted); outline-offset: 4px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.scores { width: 100%; }
caption { text-align: left; padding-bottom: 0.75rem; }
caption span { display: block; max-width: calc(100vw - 2.2rem); }
th { text-align: left; font-weight: 600; }
th, td { padding: 0.6rem 1.5rem 0.6rem 0; vertical-align: top; border-top: 1px solid var(--line); }
thead th, thead td { vertical-align: bottom; border-top: 0; }
thead th[scope=colgroup] { color: var(--muted); font-size: 0.8rem; font-weight: 400; padding-bottom: 0; }
td small { display: block; white-space: nowrap; }
th small { display: block; font-weight: 400; }
td b { font-weight: 600; white-space: nowrap; }
td.chance b { font-weight: 400; }
.plain caption { color: var(--ink); font-size: 1rem; font-weight: 600; padding-top: 1.5rem; }
.plain th, .plain td { font-size: 0.875rem; min-width: 6rem; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: 0.35rem 2rem; margin: 1rem 0; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.number { text-align: right; padding-right: 0; white-space: nowrap; }
footer { margin-top: 4rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
@media (max-width: ${narrow}px) {
  body { padding: 2rem 1.1rem 3rem; }
  h2 { margin-top: 2.5rem; }
  .scores tbody th, .scores thead tr:last-child th:first-child { position: sticky; left: 0;
    background: var(--paper); min-width: 8.5rem; max-width: 8.5rem; padding-right: 0.75rem; }
}
@media print { body { max-width: none; padding: 0; } h2, figure, tr { break-inside: avoid; } }
"""


def write_report(
    path: str | os.PathLike[str],
    *,
    metrics: Mapping[str, Any],
    gallery: Drawing | None = None,
    figures: Mapping[str, Drawing] | None = None,
    tables: Mapping[str, tuple[Sequence[Any], Sequence[Sequence[Any]]]] | None = None,
    histories: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    settings: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    title: str = "Pictures read out of brain activity",
    answers: Sequence[str] = (),
) -> None:
    """Write the page to `path`; a half-written file never stands there.

    Args:
        metrics: content of metrics.json. `simulated` must be there; what else is missing is left out or said to be
            not recorded. Any number of methods; a name that ends in `_single_trial` says that its scans were not
            averaged.
        gallery: pictures side by side. Best is a function, `partial(plotting.gallery, truth, columns, ...)`: it is
            called with `dark` and `blocks` for every kind of screen. A figure or PNG bytes show as they are.
        figures: caption -> further figure; a function is called with `dark`.
        tables: caption -> (names of columns, rows of values) of further tables; the first column names the row.
        histories: stage -> rows, see `plotting.loss_curves`.
        settings: what else was run, name -> value; nested mappings get names with a dot. The plain values of
            metrics (preset, seed, fingerprint, ...) are listed in any case.
        notes: limits of this run, a sentence each.
        title: the page's question or subject; `answers`: what was found, a sentence each, right below it.

    Raises:
        ValueError: metrics do not say whether the data are simulated, or hold what is no score or number; a row has
            more or fewer values than columns.
    """
    if not isinstance(metrics.get("simulated"), bool):
        raise ValueError(
            f"metrics say simulated={metrics.get('simulated')!r}, expected true or false; a report never guesses "
            "whether a human lay in the scanner: BrainDataset.simulated"
        )
    _check(metrics)
    sections = [
        _header(metrics, title, answers),
        _gallery(metrics, gallery),
        _scores(metrics),
        *(_figure(drawing, f"{_prefix(metrics)}{words}", words) for words, drawing in (figures or {}).items()),
        *(_table(metrics, words, header, rows) for words, (header, rows) in (tables or {}).items()),
        _losses(metrics, histories or {}),
        _run(metrics, settings or {}),
        _limits(metrics, notes),
        _footer(metrics),
    ]
    colours = {
        name: "; ".join(f"--{key}: {value}" for key, value in vars(theme).items())
        for name, theme in (("light", plotting.LIGHT), ("dark", plotting.DARK))
    }
    description = f"{_prefix(metrics)}{title}, data set {metrics.get('dataset', 'not named')}"
    content = _PAGE.substitute(
        title=escape(f"{title} (simulated data)" if metrics["simulated"] else title),
        description=escape(description),
        style=Template(_STYLE).substitute(colours, narrow=NARROW),
        body="\n".join(section for section in sections if section),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def _check(metrics: Mapping[str, Any]) -> None:
    """Scores are scores, counts and seconds are numbers; what is missing is missing."""
    plotting.check_scores(metrics.get("methods") or {})
    tables = {name: metrics.get(name) or {} for name in ("seconds", "versions")}
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise ValueError(f"metrics say {name}={reprlib.repr(table)}, expected name -> value, or nothing")
    counts = {name: metrics.get(name) for name in ("n_test", "n_way", "repeats_averaged")}
    for name, count in {**counts, **tables["seconds"]}.items():
        yes_or_no = name == "repeats_averaged" and isinstance(count, bool)
        missing = count is None and name in counts
        if not (yes_or_no or missing or (plotting.is_finite(count) and count >= 0)):
            raise ValueError(f"metrics say {name}={reprlib.repr(count)}, expected a number from 0 on")


def _header(metrics: Mapping[str, Any], title: str, answers: Sequence[str]) -> str:
    dataset = escape(str(metrics.get("dataset", "not named")))
    source = (
        "The scans are <b>simulated</b>: a model of visual cortex looked at pictures, no human lay in a scanner."
        if metrics["simulated"]
        else f"The scans come from the data set <b>{dataset}</b>."
    )
    badge = '<span class="badge">simulated data</span>' if metrics["simulated"] else ""
    return f"""<header>
{badge}
<h1>{escape(title)}</h1>
<p class="lede">A decoder saw fMRI voxels only and drew the picture that evoked them. {source}</p>
{"".join(f"<p>{escape(answer)}</p>" for answer in answers)}
{_tiles(metrics)}
</header>
<main>"""


def _tiles(metrics: Mapping[str, Any]) -> str:
    methods = metrics.get("methods") or {}
    if not methods:
        return ""
    method = "visdec" if "visdec" in methods else next(iter(methods))
    tiles = []
    scores = methods[method]
    for name in [name for name in HEADLINES if plotting.score_value(scores.get(name), name) is not None][:3]:
        info = plotting.metric_info(name, plotting.contest_size(metrics))
        score = scores[name]
        over = f" over {escape(score['over'])}" if score.get("over") else ""
        details = f"{_interval(info, score)}{over}<br>{_chance(info, score)}<br>{_sample(metrics, method)}"
        tiles.append(
            f"<li><b>{info.write(score['value'])}</b> {escape(info.label)}, "
            f"{escape(plotting.method_label(method))}<small>{details}</small></li>"
        )
    return f'<ul class="tiles">{"".join(tiles)}</ul>' if tiles else ""


def _gallery(metrics: Mapping[str, Any], gallery: Drawing | None) -> str:
    if gallery is None:
        return ""
    alt = (
        f"{_prefix(metrics)}Grid of pictures. Each row starts with the picture that was seen; "
        "its reconstructions follow, one group of columns a method."
    )
    caption = "Left the picture that was seen, beside it what each method drew from the scan. " + (
        "All scans are simulated." if metrics["simulated"] else ""
    )
    return f"<section>\n<h2>Seen and reconstructed</h2>\n{_figure(gallery, alt, caption, blocks=True)}\n</section>"


def _scores(metrics: Mapping[str, Any]) -> str:
    methods = metrics.get("methods") or {}
    names = plotting.metric_names(methods)
    if not names:
        return "<section>\n<h2>Scores</h2>\n<p>No scores were computed in this run.</p>\n</section>"
    n_test, repeats = metrics.get("n_test"), metrics.get("repeats_averaged")
    groups = [
        (words, list(members))
        for words, members in groupby(
            sorted(methods, key=lambda name: name.endswith(plotting.SINGLE_TRIAL)),
            key=lambda name: plotting.averaging(repeats, name),
        )
    ]
    columns = [method for _, members in groups for method in members]
    group_heads = "".join(
        f'<th scope="colgroup" colspan="{len(members)}">{escape(words)}</th>' for words, members in groups
    )
    heads = "".join(
        f'<th scope="col">{escape(plotting.method_label(method))}'
        f"<small>interval over {escape(plotting.intervals_over({method: methods[method]}))}</small></th>"
        for method in columns
    )
    rows = []
    for name in names:
        info = plotting.metric_info(name, plotting.contest_size(metrics))
        cells = "".join(_cell(info, methods[method].get(name), f"{method}/{name}") for method in columns)
        rows.append(f'<tr><th scope="row">{escape(info.label)}<small>{info.direction}</small></th>{cells}</tr>')
    chart = _figure(
        lambda dark, panel_columns: plotting.score_chart(
            {method: methods[method] for method in columns},
            simulated=metrics["simulated"], n_test=n_test, repeats_averaged=repeats, n_way=metrics.get("n_way"),
            dark=dark, panel_columns=panel_columns,
        ),
        f"{_prefix(metrics)}Dot and interval plot of every score in the table above, chance level dashed.",
        "The same numbers as a picture.",
        panel_columns=(4, 1),
    )  # fmt: skip
    return f"""<section>
<h2>Scores</h2>
<p><b>How to read a score.</b> Chance is what a decoder that learned nothing from the scan would score; for pixel
scores it is measured with the same reconstructions beside the wrong pictures, so it already holds what any blur of
the right kind gets for free. The 95&nbsp;% interval says where the mean would likely lie if what is named above its
column were drawn anew: other categories, of which all pictures stand or fall together, or other pictures of the same
categories. A score whose interval includes chance is no evidence that anything was decoded.</p>
<div class="scroll" role="region" aria-label="Table of scores" tabindex="0">
<table class="scores">
<caption><span>{_prefix(metrics)}Mean over {_stimuli(n_test)}, 95&nbsp;% interval, chance level.</span></caption>
<thead><tr><td></td>{group_heads}</tr><tr><th scope="col">score</th>{heads}</tr></thead>
<tbody>{"".join(rows)}</tbody>
</table>
</div>
{chart}
</section>"""


def _cell(info: plotting.Metric, score: Mapping[str, Any] | None, name: str) -> str:
    if plotting.score_value(score, name) is None:
        return f'<td><span aria-label="not computed">{plotting.MISSING}</span></td>'
    chance, interval = score.get("chance"), score.get("ci95")
    inside = chance is not None and bool(interval) and interval[0] <= chance <= interval[1]
    return (
        f"<td{' class=chance' if inside else ''}><b>{info.write(score['value'])}</b>"
        f"<small>{_interval(info, score, short=True)}</small>"
        f"<small>{'includes ' * inside}{_chance(info, score)}</small></td>"
    )


def _table(metrics: Mapping[str, Any], caption: str, header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A table of plain values, the first of each row its heading."""
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"table {caption!r}: a row has {len(row)} values, expected {len(header)}, one a column")
    heads = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in header)
    lines = "".join(
        f'<tr><th scope="row">{escape(str(row[0]))}</th>'
        + "".join(f"<td>{escape(str(value))}</td>" for value in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"""<section>
<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">
<table class="scores plain">
<caption><span>{_prefix(metrics)}{escape(caption)}.</span></caption>
<thead><tr>{heads}</tr></thead>
<tbody>{lines}</tbody>
</table>
</div>
</section>"""


def _losses(metrics: Mapping[str, Any], histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    histories = {
        stage: history
        for stage, history in histories.items()
        if any(len(plotting.loss_of(history, split)[1]) for split in ("train", "val"))
    }  # a stage taken from a shipped file has none
    if not histories:
        return ""
    courses = []
    for stage, history in histories.items():
        for split, words in (("train", "training"), ("val", "validation")):
            _, losses = plotting.loss_of(history, split)
            if len(losses):
                course = f"{words} loss from {losses[0]:.3g} to {losses[-1]:.3g}"
                courses.append(f"{plotting.stage_label(stage)}, {course}")
    chart = _figure(
        lambda dark, panel_columns: plotting.loss_curves(
            histories, simulated=metrics["simulated"], dark=dark, panel_columns=panel_columns
        ),
        f"{_prefix(metrics)}Loss curves: {'; '.join(courses)}.",
        "Validation rows took no part in training. Losses of different stages are different quantities.",
        panel_columns=(3, 1),
    )
    return f"<section>\n<h2>Training</h2>\n{chart}\n</section>"


def _run(metrics: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    known = {name: value for name, value in metrics.items() if not isinstance(value, Mapping)}
    known["simulated"] = "yes" if metrics["simulated"] else "no"
    facts = {**known, **{name: value for name, value in flat(settings).items() if name not in known}}
    parts = [_facts("Settings", facts), _facts("Versions", metrics.get("versions") or {})]
    if seconds := metrics.get("seconds"):
        rows = "".join(
            f'<tr><th scope="row">{escape(plotting.stage_label(stage))}</th>'
            f'<td class="number">{_duration(value)}</td></tr>'
            for stage, value in seconds.items()
        )
        head = '<thead><tr><th scope="col">stage</th><th scope="col" class="number">time</th></tr></thead>'
        parts.append(f"<h3>Time</h3>\n<table>{head}<tbody>{rows}</tbody></table>")
    return "<section>\n<h2>What was run</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def _limits(metrics: Mapping[str, Any], notes: Sequence[str]) -> str:
    sentences = list(notes)
    if metrics["simulated"]:
        sentences.append(
            "The brain is simulated. Scores show how methods compare in this world, not how well a human brain can "
            "be read."
        )
    if (metrics.get("n_test") or 100) < 100:
        sentences.append(
            f"{metrics['n_test']} test stimuli are few; look at the intervals before you compare two scores."
        )
    if not sentences:
        return ""
    items = "".join(f"<li>{escape(str(sentence))}</li>" for sentence in sentences)
    return f"<section>\n<h2>Limits</h2>\n<ul>{items}</ul>\n</section>"


def _footer(metrics: Mapping[str, Any]) -> str:
    said = "Every figure and number on this page was made from simulated data. " if metrics["simulated"] else ""
    return f"""</main>
<footer><small>{said}visdec_lite {escape(__version__)}. Method:
<a href="https://arxiv.org/abs/2305.17214">Sun et al., NeurIPS 2023, arXiv:2305.17214</a>.</small></footer>"""


def _figure(
    drawing: Drawing, alt: str, caption: str, blocks: bool = False, panel_columns: tuple[int, int] | None = None
) -> str:
    """<figure> with up to four versions of one drawing, the browser picks by width and colour scheme."""
    if isinstance(drawing, Figure | bytes):
        png = drawing if isinstance(drawing, bytes) else plotting.figure_png(drawing)
        return _figure_tag("light", "", png, alt, caption)

    def draw(dark: bool, narrow: bool) -> bytes:
        options: dict[str, Any] = {"dark": dark}
        if blocks:
            options["blocks"] = 1 if narrow else None
        if panel_columns:
            options["panel_columns"] = panel_columns[narrow]
        return plotting.figure_png(drawing(**options), margin=False)

    sources = []
    for dark, narrow in ((True, True), (False, True), (True, False)):
        if narrow and not blocks and panel_columns is None:
            continue
        conditions = [f"(max-width: {NARROW}px)"] * narrow + ["(prefers-color-scheme: dark)"] * dark
        sources.append(f'<source media="{" and ".join(conditions)}" srcset="{_data_address(draw(dark, narrow))}">')
    return _figure_tag("themed", "".join(sources), draw(False, False), alt, caption)


def _figure_tag(kind: str, sources: str, png: bytes, alt: str, caption: str) -> str:
    address = _data_address(png)
    width, height = struct.unpack(">II", png[16:24])  # of the IHDR chunk, which comes first
    return (
        f'<figure class="{kind}"><picture>{sources}<img src="{address}" alt="{escape(alt)}" '
        f'width="{width}" height="{height}"></picture><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _data_address(png: bytes) -> str:
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"a picture starts with {png[:8]!r}, expected a PNG; see plotting.figure_png")
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _facts(heading: str, facts: Mapping[str, Any]) -> str:
    items = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(_plain(value))}</dd>" for name, value in facts.items())
    return f"<h3>{heading}</h3>\n<dl>{items}</dl>" if items else ""


def _plain(value: Any) -> str:
    """A setting as people write it: nothing and empty lists are "none", others lose their brackets."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _interval(info: plotting.Metric, score: Mapping[str, Any], short: bool = False) -> str:
    if not score.get("ci95"):
        return "no interval"
    low, high = (info.write(bound) for bound in score["ci95"])
    return f"{'' if short else '95 % interval '}{low.removesuffix(' %')} to {high}"


def _chance(info: plotting.Metric, score: Mapping[str, Any]) -> str:
    return "chance not known" if score.get("chance") is None else f"chance {info.write(score['chance'])}"


def _stimuli(n_test: int | None) -> str:
    return "an unrecorded number of stimuli" if n_test is None else f"{n_test} test stimuli"


def _sample(metrics: Mapping[str, Any], method: str) -> str:
    return escape(f"{_stimuli(metrics.get('n_test'))}, {plotting.averaging(metrics.get('repeats_averaged'), method)}")


def _prefix(metrics: Mapping[str, Any]) -> str:
    return "Simulated data. " if metrics["simulated"] else ""


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
