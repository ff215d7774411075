"""What came in place of a file: a login page, an error in XML or JSON, a sentence, nothing at all.

Enters: a file that no hash is known of, and its name. Leaves: words for what it is if it cannot be that file. Its first
bytes are looked at, for what a server says of them (Content-Type) is often wrong, and wrong most of all then.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

HEAD = 4096  # bytes that are looked at
WEB_PAGE, XML, JSON, TEXT, GZIP = "a web page", "an XML message", "a JSON message", "plain text", "gzip-compressed"
MAY_BE = {
    ".json": (JSON,), ".xml": (XML,), ".gii": (XML,), ".html": (WEB_PAGE, XML), ".gz": (GZIP,), ".tgz": (GZIP,),
}  # fmt: skip
NEVER_TEXT = (
    ".h5", ".hdf5", ".mat", ".nii", ".npy", ".npz", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".ckpt", ".pt",
    ".pth", ".safetensors", ".bin",
)  # fmt: skip
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")  # in 64 bytes that are no text one is found nearly always
_PAGE = re.compile(r"<(!doctype\s+html|html|head|body|title|meta|script|style)\b", re.IGNORECASE)


def mistaken(path: Path, name: str | None = None) -> str | None:
    """What lies there, if that cannot be the file: "a web page"; None if it may be.

    Args:
        path: where the bytes are.
        name: of the file, whose suffix says what is expected; None: that of `path`.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    suffix = PurePath(name or path.name).suffix.lower()
    found = "empty" if not head else kind_of(head)
    if suffix in MAY_BE:
        return None if found in MAY_BE[suffix] else found or "binary"
    return None if found == TEXT and suffix not in NEVER_TEXT else found


def kind_of(head: bytes) -> str | None:
    """What a file that starts like this is; None for the many kinds that are neither text nor gzip-compressed."""
    if head.startswith(b"\x1f\x8b"):
        return GZIP
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head.decode("utf-16", errors="replace")
    elif _CONTROL.search(head):
        return None
    else:
        text = head.decode("utf-8", errors="replace")
    text = text.lstrip("\ufeff \t\r\n\f\v")
    if text.startswith("<"):
        return WEB_PAGE if _PAGE.search(text) else XML
    return JSON if text.startswith(("{", "[")) else TEXT
