"""Requests with the proxies and certificates of the environment, and without its passwords.

`requests` sends what `.netrc` holds for a host, or for any host, to every address on the way. A presigned address of
a storage, to which figshare and others send on, refuses a request that is signed twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, select_proxy


class Session(requests.Session):
    """A session that reads no `.netrc`."""

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        return self._without_netrc(super().prepare_request, request)

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        self._without_netrc(super().rebuild_auth, prepared_request, response)

    def _without_netrc(self, call: Callable[..., Any], *words: Any) -> Any:
        self.trust_env = False  # of which these calls read `.netrc` alone
        try:
            return call(*words)
        finally:
            self.trust_env = True


def proxy_in_words(url: str) -> str | None:
    """The proxy by which a URL is asked for, and who says so: "proxy http://host:8080 (http_proxy)"; None without."""
    proxy = select_proxy(url, get_environ_proxies(url))
    if not proxy:
        return None
    parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().removeprefix("//")  # without its password
    scheme = urlsplit(url).scheme
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    return f"proxy {place} ({next((name for name in names if os.environ.get(name)), 'set in the system')})"
