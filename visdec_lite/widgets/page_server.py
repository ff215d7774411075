"""One notebook as one web page: Voilà, narrowed to what a visitor needs.

In: a notebook, an address, a token. Out: a page that runs it without showing its code, until Ctrl-C.

What is left reachable, and for whom:

    /                                the page; starts a kernel of its own            with the token
    /api/kernels/ID, .../channels    that kernel, for messages of widgets only       with the token
    /voila/api/shutdown/ID           ends it, when the page is closed                with the token
    /login                           asks for the token                              everybody
    /static, /voila/static, /voila/templates, /voila/labextensions, /voila/api/themes
                                     scripts and styles of the installed packages    everybody

Voilà's other routes, which hand out files, are taken away; a request to run code is dropped by the kernel's channel.
No configuration file is read, so that nothing on the machine can widen this, and the page asks no other machine for
anything: it works without a network.
"""

from __future__ import annotations

import html
import logging
import re
import socket
import webbrowser
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyter_server import DEFAULT_STATIC_FILES_PATH
from tornado.web import HTTPError
from traitlets.config import Config
from voila.app import Voila
from voila.shutdown_kernel_handler import VoilaShutdownKernelHandler
from voila.static_file_handler import AllowListFileHandler, TemplateStaticFileHandler
from voila.tornado.handler import TornadoVoilaHandler

from visdec_lite.files import atomic_path
from visdec_lite.kernels import ThisPython

EVERY_ADDRESS = ("", "0.0.0.0", "::")  # of this machine
FORGOTTEN = 600  # seconds after which a kernel without a page is ended: a browser that crashed says no farewell
# of JupyterLab's extensions, those that show ipywidgets and plotly; no others load
EXTENSIONS = [
    "@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager7", "@voila-dashboards/widgets-manager8",
    "anywidget", "jupyterlab-plotly",
]  # fmt: skip
OTHER_MACHINES = re.compile(r"""<(?:link|script)\b[^>]*(?:href|src)\s*=\s*["'](?:https?:)?//[^>]*>(?:\s*</script>)?""")


class PageHandler(TornadoVoilaHandler):
    """The page, without the style sheets that Voilà's template fetches from elsewhere."""

    async def get_generator(self, path: str | None = None) -> AsyncIterator[str]:
        async for part in super().get_generator(path=path):
            yield OTHER_MACHINES.sub("", part)


class FarewellHandler(VoilaShutdownKernelHandler):
    """Ends the kernel of a page that is being closed."""

    def check_xsrf_cookie(self) -> None:
        """Allow it: what a closing page sends cannot carry the cookie, and no other site knows the kernel's number."""


class TemplateFileHandler(TemplateStaticFileHandler):
    """Scripts and styles of a template, named TEMPLATE/static/FILE and no other way."""

    def parse_url_path(self, path: str) -> str:
        parts = path.split("/")
        if len(parts) < 3 or parts[1] != "static" or ".." in parts:
            raise HTTPError(404)
        return super().parse_url_path(path)


NARROWED = {VoilaShutdownKernelHandler: FarewellHandler, TemplateStaticFileHandler: TemplateFileHandler}


class PageServer(Voila):
    """Voilà with one page.

    Attributes:
        tell: told the address when the page can be opened.
        opens_browser: whether to open it.
    """

    tell: Callable[[str], None]
    opens_browser: bool

    @property
    def url(self) -> str:
        """Address of the page, with the token."""
        host = socket.gethostname() if self.ip in EVERY_ADDRESS else self.ip
        return f"{self._url(f'[{host}]' if ':' in host else host)}?token={quote(self.token)}"

    def init_settings(self) -> dict[str, Any]:
        # A page for this machine answers to its names only, lest another site's name be pointed at it.
        # The second: pages that say what went wrong carry an icon, which Voilà does not tell them where to find.
        return {
            **super().init_settings(),
            "allow_remote_access": not is_local(self.ip),
            "static_path": DEFAULT_STATIC_FILES_PATH,
            "ws_ping_timeout": 30_000,  # ms, as often as Jupyter pings, lest it complain
        }

    def init_handlers(self) -> list[tuple[Any, ...]]:
        kept, pages = [], 0
        for pattern, handler, *rest in super().init_handlers():
            if handler is AllowListFileHandler:
                continue
            if handler is TornadoVoilaHandler:
                pattern, handler, pages = f"{self.server_url}()", PageHandler, pages + 1
            kept.append((pattern, NARROWED.get(handler, handler), *rest))
        if pages != 1:
            raise RuntimeError(f"Voilà serves {pages} pages, expected 1; use voila 0.5")
        return kept

    def launch_browser(self) -> None:
        """Called when the port is open."""
        self.tell(self.url)
        if self.opens_browser:
            # by way of a file that only this user can read, for a command line shows the token to everybody
            way = Path(self.root_dir) / "open.html"
            with atomic_path(way) as temporary:
                to = html.escape(self.url, quote=True)
                temporary.write_text(f'<meta http-equiv="refresh" content="0;url={to}">', encoding="utf-8")
            webbrowser.open(way.as_uri())


def is_local(ip: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ip_address(ip).is_loopback
    except ValueError:
        return ip == "localhost"


def serve(notebook: Path, ip: str, port: int, token: str, *, open_browser: bool, tell: Callable[[str], None]) -> None:
    """Show a notebook as a page until Ctrl-C; then end its kernels.

    Args:
        notebook: lies alone in a folder that nobody else can read.
        ip: to listen on.
        port: the first to try; if it is taken, one of the next.
        token: what a visitor has to bring; not empty.
        tell: told the address when the page can be opened.
    """
    config = Config()
    config.Voila.update(
        notebook_path=str(notebook),
        ip=ip,
        port=port,
        token=token,
        open_browser=True,  # this is where `launch_browser` is called
        config_file_paths=[],
        log_level=logging.ERROR,
    )
    config.VoilaConfiguration.update(
        strip_sources=True,
        show_tracebacks=False,
        allow_template_override="NO",
        allow_theme_override="NO",
        file_allowlist=[],
        kernel_spec_manager_class=ThisPython,
        extension_allowlist=EXTENSIONS,
    )
    config.VoilaExecutor.cell_error_instruction = "More is said in the terminal that this page was started from."
    config.KernelManager.transport_encryption = "auto"  # between server and kernel, where both know how
    config.MappingKernelManager.update(cull_idle_timeout=FORGOTTEN, cull_interval=60)
    logging.getLogger("tornado.access").setLevel(logging.ERROR)  # not a line for each script that the page loads
    server = PageServer.instance(config=config)  # whose log, with its level, is everybody's
    server.tell, server.opens_browser = tell, open_browser
    server.initialize(argv=[])
    server.start()
