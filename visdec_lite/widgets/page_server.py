"""One notebook as one web page: Voilà, narrowed to what a visitor needs.

In: a notebook, an address, a token. Out: a page that runs it without showing its code, until Ctrl-C. Visitors come in
by `page_door`, and each who finds a place gets a kernel from `page_places`.

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

Behind a proxy (nginx, JupyterHub, Binder) the page has another address than the one it listens on. It answers with and
without its base address, for some proxies hand it on and some take it away, and to the names it is told:

    location /brain/ {                              # visdec-lite app --base-url /brain/ --allow-host lab.example.org
        proxy_pass http://127.0.0.1:8866;
        proxy_http_version 1.1;                     # the next two let the sliders speak to their kernel
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection "upgrade";
        proxy_set_header Host $host;
    }

JupyterHub and Binder, with jupyter-server-proxy: --base-url "${JUPYTERHUB_SERVICE_PREFIX}proxy/8866/" --port 8866
--allow-host hub.example.org --no-browser.
"""

from __future__ import annotations

import errno
import html
import logging
import re
import socket
import webbrowser
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyter_server import DEFAULT_STATIC_FILES_PATH
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from tornado.web import HTTPError
from traitlets.config import Config
from voila.app import Voila
from voila.shutdown_kernel_handler import VoilaShutdownKernelHandler
from voila.static_file_handler import AllowListFileHandler, TemplateStaticFileHandler
from voila.tornado.handler import TornadoVoilaHandler

from visdec_lite.files import atomic_path
from visdec_lite.kernels import ThisPython
from visdec_lite.widgets.page_door import BODY, MESSAGE, Channel, Door
from visdec_lite.widgets.page_places import AGAIN, GONE, NoPlace, Places, full_page

PORT = 8866  # and the ones after it
EVERY_ADDRESS = ("", "0.0.0.0", "::")  # of this machine
FORGOTTEN = 600  # seconds after which a kernel without a page is ended: a browser that crashed says no farewell
# of JupyterLab's extensions, those that show ipywidgets and plotly; no others load
EXTENSIONS = [
    "@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager7", "@voila-dashboards/widgets-manager8",
    "anywidget", "jupyterlab-plotly",
]  # fmt: skip
OTHER_MACHINES = re.compile(r"""<(?:link|script)\b[^>]*(?:href|src)\s*=\s*["'](?:https?:)?//[^>]*>(?:\s*</script>)?""")


class PageHandler(TornadoVoilaHandler):
    """The page, without the style sheets that Voilà's template fetches from elsewhere; another if all places are taken.

    It notices when its kernel has ended.
    """

    async def get(self, path: str | None = None) -> None:
        try:
            await super().get(path)
        except NoPlace as error:  # before anything was written
            self.set_status(error.status_code)
            self.set_header("Retry-After", str(AGAIN))
            self.finish(full_page(error.most))

    async def get_generator(self, path: str | None = None) -> AsyncIterator[str]:
        async for part in super().get_generator(path=path):
            yield OTHER_MACHINES.sub("", part).replace("</body>", f"{GONE}</body>")


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
        sockets: to listen on.
        names: what it may be called beside this machine's own names.
    """

    tell: Callable[[str], None]
    opens_browser: bool
    sockets: Sequence[socket.socket]
    names: Sequence[str]

    @property
    def url(self) -> str:
        """Address of the page, with the token."""
        host = socket.gethostname() if self.ip in EVERY_ADDRESS else self.ip
        return f"{self._url(f'[{host}]' if ':' in host else host)}?token={quote(self.token)}"

    def init_settings(self) -> dict[str, Any]:
        # The second: pages that say what went wrong carry an icon, which Voilà does not tell them where to find.
        return {
            **super().init_settings(),
            "allow_origin_pat": "|".join(rf"https?://{re.escape(name)}(?::\d+)?" for name in self.names) or None,
            "static_path": DEFAULT_STATIC_FILES_PATH,
            "static_url_prefix": f"{self.base_url}static/",
            "websocket_max_message_size": MESSAGE,
            "ws_ping_timeout": 30_000,  # ms, as often as Jupyter pings, lest it complain
        }

    def init_handlers(self) -> list[tuple[Any, ...]]:
        kept, pages = [], 0
        for pattern, handler, *rest in super().init_handlers():
            if handler is AllowListFileHandler:
                continue
            if handler is TornadoVoilaHandler:
                pattern, handler, pages = f"{self.base_url}()", PageHandler, pages + 1
            if not pattern.startswith(self.base_url):  # Voilà forgets it for the login
                pattern = self.base_url[:-1] + pattern
            kept.append((pattern, NARROWED.get(handler, handler), *rest))
        if pages != 1:
            raise RuntimeError(f"Voilà serves {pages} pages, expected 1; use voila 0.5")
        return kept

    def listen(self) -> None:
        """Answer until Ctrl-C."""
        # A page for this machine answers to its names only, lest another site's name be pointed at it.
        any_name = not is_local(self.ip) and not self.names
        door = Door(self.app, self.base_url, None if any_name else (self.ip, *self.names))
        limits = {"max_header_size": BODY, "max_body_size": BODY, "max_buffer_size": 2 * MESSAGE}
        server = HTTPServer(door, idle_connection_timeout=120, body_timeout=30, **limits)
        server.add_sockets(self.sockets)
        self.launch_browser()
        self.ioloop = IOLoop.current()
        try:
            self.ioloop.start()
        except KeyboardInterrupt:
            pass
        finally:
            server.stop()
            self.stop()

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


def listening(ip: str, port: int | None = None) -> list[socket.socket]:
    """Sockets that listen, so that what is wrong with an address is known before the work.

    Args:
        port: None: 8866, or if that is taken, one of the fifty that follow.

    Raises:
        ValueError: the address is none of this machine's, or the port is taken or not ours to take.
    """
    for candidate in [port] if port else range(PORT, PORT + 50):
        try:
            return bind_sockets(candidate, ip)
        except (OSError, UnicodeError) as error:
            number = getattr(error, "errno", None)
            if number == errno.EADDRINUSE and port is None:
                continue
            if number == errno.EADDRINUSE:
                raise ValueError(f"port {port} is taken; choose another, or leave --port out for a free one") from error
            if number in (errno.EACCES, errno.EPERM):
                raise ValueError(f"port {candidate} is not ours to take; choose one from 1024 on") from error
            raise ValueError(
                f"--ip {ip} is no address of this machine ({getattr(error, 'strerror', None) or error}); leave it out "
                "for this machine only, or say 0.0.0.0 for everybody around"
            ) from error
    raise ValueError(f"the ports {PORT} to {PORT + 49} are all taken; choose one with --port")


def base_address(words: str) -> str:
    """`/brain/` from `brain`, `/brain` or `/brain/`.

    Raises:
        ValueError: it is no path.
    """
    path = f"/{words.strip('/')}/" if words.strip("/") else "/"
    if not re.fullmatch(r"/(?:[A-Za-z0-9_.~@%+-]+/)*", path) or {".", ".."} & set(path.split("/")):
        raise ValueError(f"--base-url is {words!r}, expected a path such as /brain/, without machine and port")
    return path


def host_name(words: str) -> str:
    """A name as browsers send it.

    Raises:
        ValueError: it is no name.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:]+", words):
        raise ValueError(f"--allow-host is {words!r}, expected a name: lab.example.org, without http:// and port")
    return words.lower()


def serve(
    notebook: Path,
    sockets: Sequence[socket.socket],
    token: str,
    *,
    ip: str = "127.0.0.1",
    base_url: str = "/",
    names: Sequence[str] = (),
    places: int = 1,
    open_browser: bool,
    tell: Callable[[str], None],
) -> None:
    """Show a notebook as a page until Ctrl-C; then end its kernels.

    Args:
        notebook: lies alone in a folder that nobody else can read.
        sockets: of `listening`.
        token: what a visitor has to bring; not empty.
        ip: that the sockets listen on.
        base_url: of `base_address`: what the page's address begins with.
        names: of `host_name`: what the page may be called beside the names of this machine.
        places: kernels at a time.
        tell: told the address when the page can be opened.
    """
    config = Config()
    config.Voila.update(
        notebook_path=str(notebook),
        ip=ip,
        port=sockets[0].getsockname()[1],
        base_url=base_url,
        token=token,
        config_file_paths=[],
        kernel_websocket_connection_class=Channel,
        log_level=logging.ERROR,
    )
    config.VoilaConfiguration.update(
        strip_sources=True,
        show_tracebacks=False,
        allow_template_override="NO",
        allow_theme_override="NO",
        file_allowlist=[],
        kernel_spec_manager_class=ThisPython,
        multi_kernel_manager_class=Places,
        extension_allowlist=EXTENSIONS,
    )
    config.VoilaExecutor.cell_error_instruction = "More is said in the terminal that this page was started from."
    config.KernelManager.transport_encryption = "auto"  # between server and kernel, where both know how
    config.MappingKernelManager.update(cull_idle_timeout=FORGOTTEN, cull_interval=60)
    config.KernelRestarter.restart_limit = 0  # one that died would come again without its demo, and hold its place
    config.Places.most = places
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)  # not a line for each script, nor for a full house
    logging.getLogger("tornado.general").setLevel(logging.ERROR)  # nor for each visitor who sends nonsense
    server = PageServer.instance(config=config)  # whose log, with its level, is everybody's
    server.tell, server.opens_browser = tell, open_browser
    server.sockets, server.names = sockets, names
    server.initialize(argv=[])
    server.start()
