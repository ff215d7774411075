"""A figure with the words for who cannot see it.

Enters: a matplotlib or plotly figure and its alt text. Leaves: an output that a screen reader can read, that stays
visible without a kernel, and that is written in full into the HTML of a lesson.
"""

from __future__ import annotations

import base64
import html
import io
from typing import Any


def show(figure: Any, alt: str, *, dpi: int = 110) -> None:
    """Display a figure.

    Args:
        figure: matplotlib's, shown as PNG and closed; or plotly's, shown live with the text beneath it.
        alt: what is to be seen, in a sentence or two: the axes, and what the reader should notice.
        dpi: of the PNG.

    Raises:
        ValueError: no alt text, or a file name instead of one.
    """
    from IPython.display import HTML, display

    if len(alt.split()) < 4:
        raise ValueError(f"alt text is {alt!r}; say in a sentence what the figure shows, axes and finding")
    words = html.escape(alt, quote=True)
    if hasattr(figure, "to_plotly_json"):
        display(figure)
        display(HTML(f'<p style="color:#666;font-size:90%"><i>{words}</i></p>'))
        return
    import matplotlib.pyplot as plt

    from visdec_lite.plotting import own_parameters

    buffer = io.BytesIO()
    with own_parameters():
        figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    display(HTML(f'<img alt="{words}" style="max-width:100%" src="data:image/png;base64,{data}">'))
