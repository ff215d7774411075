"""The photographs people looked at in the scanner, as files in a folder or as one array in an .npz.

Enters: a folder and the names of the pictures, or an .npz. Leaves: uint8 RGB squares of one size: the largest centred
square of each photograph, resized as `preprocessing.resize_images` does (area average downwards, bicubic upwards).
Data sets of natural images come without them: the photographs belong to whoever took them.
"""

from __future__ import annotations

import logging
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from visdec_lite.datasets.pictures import read_picture
from visdec_lite.preprocessing import as_uint8_rgb, resize_images

logger = logging.getLogger(__name__)

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff", ".webp")
BLOCK = 2**24  # bytes of an .npz read at once: 1200 pictures of 500 pixels a side are 7 GB as float64
PICKLED = "pickled objects are refused, as reading them can run any code"


def find_photographs(folder: Path | str, names: Sequence[str]) -> list[Path]:
    """The file of each name, anywhere below a folder; the ending and upper or lower case do not matter.

    Raises:
        FileNotFoundError: no such folder, or pictures missing in it: how many, and the first of them.
        ValueError: two files of one name, of which only one can be what was shown.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; give stimuli=FOLDER with the photographs, or None to go without")
    there: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            there.setdefault(path.stem.lower(), []).append(path)
    wanted = {name: there.get(Path(name).stem.lower(), []) for name in names}
    missing = [name for name, paths in wanted.items() if not paths]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(wanted)} photographs are not in {folder} ({len(there)} pictures there); missing: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; complete the folder, or give stimuli=None "
            "to go without"
        )
    double = [paths for paths in wanted.values() if len(paths) > 1]
    if double:
        raise ValueError(
            f"{len(double)} photographs are more than once below {folder}, expected once each: {double[0][0]} and "
            f"{double[0][1]}; give the folder of those that were shown"
        )
    return [wanted[name][0] for name in names]


def warn_without(recording: str, way_out: str) -> None:
    """Log what a recording is good for without its photographs."""
    logger.warning(
        "%s is without photographs: pre-training, phase 1 and category decoding work; phase 2, fine-tuning and scores "
        "of pictures do not. %s",
        recording,
        way_out,
    )


def read_photographs(paths: Sequence[Path], image_size: int) -> np.ndarray:
    """Centred squares of photographs.

    Args:
        paths: picture files, grey or colour, of any size.
        image_size: side in pixels of what is returned.

    Returns:
        uint8, shape (len(paths), image_size, image_size, 3). The sides cut off are equal to within a pixel.
    """
    logger.info("reading %d photographs at %d pixels", len(paths), image_size)
    squares = np.empty((len(paths), image_size, image_size, 3), dtype=np.uint8)
    for row, path in enumerate(paths):
        pixels = read_picture(path)
        side = min(pixels.shape[:2])
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        squares[row] = resize_images(pixels[None, top : top + side, left : left + side], image_size)[0]
    return squares


def read_picture_array(file: Path, key: str, image_size: int) -> np.ndarray:
    """An array of pictures in an .npz, read a few at a time, so that memory does not grow with their size on disk.

    Args:
        file: the .npz.
        key: name of the array: (n, side, side, 3), uint8 in 0..255 or floats in [0, 1].
        image_size: side in pixels of what is returned.

    Returns:
        uint8, shape (n, image_size, image_size, 3).

    Raises:
        ValueError: no .npz, no such array, pickled objects, another shape, or floats outside [0, 1].
    """
    try:
        with zipfile.ZipFile(file) as archive, archive.open(f"{key}.npy") as member:
            version = np.lib.format.read_magic(member)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, kind = header(member)
            if (
                fortran
                or len(shape) != 4
                or shape[3] != 3
                or shape[1] != shape[2]
                or (kind != np.uint8 and kind.kind != "f")
                or 0 in shape
            ):
                raise ValueError(f"{key} is {kind} {shape}, expected uint8 or floats (n, side, side, 3); {PICKLED}")
            picture_bytes = math.prod(shape[1:]) * kind.itemsize
            there = archive.getinfo(member.name).file_size - member.tell()
            if there != shape[0] * picture_bytes:  # before memory is asked for
                raise ValueError(f"{key} is {kind} {shape} in {there} bytes, expected {shape[0] * picture_bytes}")
            squares = np.empty((shape[0], image_size, image_size, 3), dtype=np.uint8)
            step = max(1, BLOCK // picture_bytes)
            for start in range(0, shape[0], step):
                count = min(step, shape[0] - start)
                block = np.frombuffer(member.read(count * picture_bytes), dtype=kind).reshape(count, *shape[1:])
                pixels = as_uint8_rgb(block, value_range=(0, 1)) if kind.kind == "f" else block
                whole = pixels if shape[1] == image_size else resize_images(pixels, image_size)
                squares[start : start + count] = whole
            return squares
    except KeyError as error:
        raise ValueError(f"{file} has no array {key!r}; expected train_images and test_images") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} cannot be read as pictures ({error}); download it anew") from error
