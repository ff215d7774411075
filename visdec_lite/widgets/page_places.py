"""Places at the page: so many kernels as memory holds, and a polite word for who finds none free.

In: the number of places. Out: a kernel for each visitor, until all are taken. Then a page that rested for long gives
its place to the next visitor, and if none did, `NoPlace` is raised, which the page puts into words.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from jupyter_server._tz import utcnow
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError
from traitlets import Integer

PLACE = 5 * 2**28  # bytes of a kernel with the shipped demo: 0.75 GB, and 1.1 while ridge regression is fitted
RESTED = timedelta(minutes=10)  # a page nobody touched for so long gives its place to the next visitor
LEFT = timedelta(minutes=1)  # the same for one that lost its browser
AGAIN = 20  # seconds after which a page that found no place tries again
FULL = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>One moment, please</title>
<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="{again}">
<style>body {{ font: 18px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 34em; margin: 15vh auto;
padding: 0 1em }} h1 {{ font-size: 1.5em }}</style></head>
<body><h1>One moment, please</h1>
<p role="status">{places}. At each a decoder is at work, for one visitor alone.</p>
<p>As soon as a place is free it is yours: this page asks again every {again} seconds, there is nothing to do.</p>
</body></html>
"""
# What a page says whose kernel has ended: it would stand there as before and answer to nothing.
GONE = """<p role="alert" id="visdec-gone" hidden style="position:fixed;inset:0 0 auto 0;margin:0;padding:.8em 1em;
z-index:99;background:#fff3cd;color:#222;font:16px/1.4 system-ui,sans-serif;border-bottom:2px solid #b36b00">The decoder
of this page has ended: it rested for long and somebody waited for its place, or it failed. The pictures stay, the knobs
are dead. <a href="" style="text-decoration:underline">Ask for a place again</a></p>
<script>
setInterval(async () => {
  const page = JSON.parse(document.getElementById("jupyter-config-data").textContent);
  const answer = await fetch(`${page.baseUrl}api/kernels/${page.kernelId}`).catch(() => null);
  if (answer !== null && answer.status === 404) document.getElementById("visdec-gone").hidden = false;
}, 15000);
</script>
"""


class NoPlace(HTTPError):
    """All places are taken."""

    def __init__(self, most: int) -> None:
        super().__init__(503, f"all {most} places are taken")
        self.most = most


class Places(AsyncMappingKernelManager):
    """Kernels, not more than `most` at a time, those that start and without those that are on their way out."""

    most = Integer(1, config=True, help="kernels at a time")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._coming: set[str] = set()
        self._going: set[str] = set()

    async def start_kernel(self, **options: Any) -> str:
        """Start a kernel.

        Raises:
            NoPlace: `most` are there, and none rests.
        """
        taken = self._coming | set(self.list_kernel_ids()) - self._going
        resting = None if len(taken) < self.most else self._longest_at_rest(taken)
        kernel = str(uuid.uuid4())
        self._coming.add(kernel)  # before anybody else is heard
        try:
            if resting:
                self._going.add(resting)
                await self.shutdown_kernel(resting)
            return await super().start_kernel(kernel_id=kernel, **options)
        finally:
            self._coming.discard(kernel)
            self._going.discard(resting)

    def _longest_at_rest(self, taken: set[str]) -> str:
        now = utcnow()
        rests = {}
        for name in taken - self._coming:
            kernel = self.get_kernel(name)
            if getattr(kernel, "execution_state", "starting") == "idle":
                rest = now - kernel.last_activity
                if rest > (RESTED if self._kernel_connections.get(name) else LEFT):
                    rests[name] = rest
        if not rests:
            raise NoPlace(self.most)
        return max(rests, key=rests.get)


def full_page(most: int) -> str:
    """What a visitor reads who finds no place."""
    places = "The only place is taken" if most == 1 else f"All {most} places are taken"
    return FULL.format(places=places, again=AGAIN)


def place_here() -> int:
    """Bytes of a kernel with the demo that this process holds: the first answer nearly doubles what it takes."""
    return max(PLACE, 2 * psutil.Process().memory_info().rss)


def free_memory() -> int:
    """Bytes that this machine, or the container we are in, has left."""
    free = psutil.virtual_memory().available
    for group, limit, used, cached in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
    ):
        try:
            numbers = [int((Path(group) / name).read_text()) for name in (limit, used)]
            lines = (Path(group) / "memory.stat").read_text().splitlines()
            given_back = next((int(line[len(cached) :]) for line in lines if line.startswith(cached)), 0)
        except (OSError, ValueError):
            continue  # no such group, or no limit
        free = min(free, numbers[0] - numbers[1] + given_back)
    return max(0, free)
