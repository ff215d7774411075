"""A picture file as uint8 RGB: the values that were shown, or a sentence that names the file.

Enters: a file of one of `FORMATS`, whatever its name ends in. Leaves: uint8 in 0..255, shape (height, width, 3).

    8 bits a channel       as stored, without colour management, as experiment software shows them
    1, 2, 4 bits, palette  the colours they stand for
    16 bits, grey          0..65535 onto 0..255 (12 bits: 0..4095); of 16 bits a colour the upper 8
    32 bits, floats        refused: nothing in the file says what is white
    transparent pixels     refused, or laid over a stated grey: what stood behind them is not in the file, and the
                           colour stored beneath them was never seen
    CMYK                   (1 - C) (1 - K), and so on
    several frames         refused: which one was shown?
    EXIF orientation       turned upright, as every viewer shows it
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # imported when a picture is read, so that a data set without pictures does not need it
    from PIL import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # PIL knows more, among them programs (EPS)
PLAIN = ("1", "L", "P", "RGB", "LA", "PA", "RGBA", "RGBa", "CMYK", "YCbCr")  # PIL's modes of 8 bits and fewer
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF 6.0: bits a sample; 0: white is zero; 1: unsigned numbers


def read_picture(file: str | os.PathLike[str] | bytes, background: int | None = None) -> np.ndarray:
    """The pixels of a picture.

    Args:
        file: path, or the content itself.
        background: grey level behind transparent pixels, 0 to 255; None refuses them.

    Returns:
        uint8, shape (height, width, 3).

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, cut short, too large to be a picture, of another format, or does not say what it
            looks like (see the module text).
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(file, bytes):
        name, content = "a picture", file
    elif not Path(file).is_file():
        raise FileNotFoundError(f"no picture at {file}")
    else:
        name, content = str(file), Path(file).read_bytes()
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        frames = getattr(picture, "n_frames", 1) if picture.format != "MPO" else 1  # a JPEG with previews of itself
        picture.load()
        upright = ImageOps.exif_transpose(picture)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} ({len(content)} bytes) is no picture of a kind known here ({', '.join(FORMATS)} of 8 or 16 bits), "
            "or its head is damaged; put a whole copy in its place"
        ) from error
    except Exception as error:  # on broken files PIL raises nearly anything, on huge ones a class of its own
        raise ValueError(f"{name} cannot be read as a picture ({error}); put a whole copy in its place") from error
    if frames > 1:
        raise ValueError(f"{name} has {frames} frames, expected 1; save the one that was shown")
    return _on_background(_rgba(picture, upright, name), name, background)


def _rgba(picture: Image.Image, upright: Image.Image, name: str) -> np.ndarray:
    """uint8 (height, width, 4), or (height, width, 3) where nothing can be transparent."""
    tags = getattr(picture, "tag_v2", {})  # of a TIFF
    unsigned = set(np.ravel(tags.get(SAMPLE_FORMAT, 1))) == {1}
    if upright.mode in PLAIN and unsigned:
        return np.asarray(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))
    grey16 = upright.mode.startswith("I;16") or (upright.mode == "I" and picture.format == "PPM")
    if not grey16 or not unsigned or tags.get(PHOTOMETRIC) == 0:
        raise ValueError(
            f"{name} holds pixels of mode {upright.mode!r} whose black and white it does not state; save it with 8 "
            "bits a channel, or as 16-bit grey from black 0 to white 65535"
        )
    white = 2 ** int(np.ravel(tags.get(BITS, 16))[0]) - 1
    pixels = np.asarray(upright)
    grey = np.rint(pixels * (255.0 / white)).astype(np.uint8)
    alpha = np.where(pixels == picture.info.get("transparency", -1), 0, 255).astype(np.uint8)
    return np.stack([grey, grey, grey, alpha], axis=-1)


def _on_background(pixels: np.ndarray, name: str, background: int | None) -> np.ndarray:
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    transparent = int((alpha < 255).sum())
    if not transparent:
        return np.ascontiguousarray(colour)
    if background is None:
        raise ValueError(
            f"{transparent} of {alpha.size} pixels of {name} are transparent, expected 0; save it on the background "
            "that was shown, such as with ImageMagick: mogrify -background gray -alpha remove -alpha off FILE"
        )
    share = alpha / 255.0
    return np.rint(colour * share + background * (1.0 - share)).astype(np.uint8)
