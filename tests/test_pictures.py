"""Picture files of every kind, written by PIL, tifffile or by hand, against the values they stand for."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.data import astronaut

from visdec_lite.datasets.photographs import read_photographs, read_picture_array
from visdec_lite.datasets.pictures import read_picture
from visdec_lite.datasets.responses import describe_trials

GREY16 = np.array([[0, 128, 129, 32768, 65278, 65535]], np.uint16)
GREY8 = [0, 0, 1, 128, 254, 255]  # GREY16 / 257, rounded


def saved(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def png(width: int, bits: int, colours: int, row: bytes, *chunks: tuple[bytes, bytes], height: int = 1) -> bytes:
    """A PNG of one row, of bit depths that PIL does not write."""
    head = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    made = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def palette(**options: object) -> bytes:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    return saved(image, options.pop("kind", "PNG"), **options)


def tiff12() -> bytes:
    """12 bits a pixel: 0, 2048, 4095 and 4095, two in three bytes."""
    entries = [(256, 4, 4), (257, 4, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, 1)]
    entries.append((279, 4, 6))
    fields = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    pixels = bytes([0x00, 0x08, 0x00, 0xFF, 0xFF, 0xFF])
    return b"II*\0" + struct.pack("<I", 14) + pixels + struct.pack("<H", len(entries)) + fields + bytes(4)


# Grey levels


@pytest.mark.parametrize(
    "content",
    [
        saved(GREY16, "PNG"),
        tiff(GREY16),
        tiff(GREY16, byteorder=">"),
        b"P5 6 1 65535\n" + GREY16.astype(">u2").tobytes(),
        png(6, 16, 0, GREY16.astype(">u2").tobytes()),
    ],
    ids=["png", "tiff", "big-endian tiff", "pgm", "png by hand"],
)
def test_16_bit_grey_is_scaled_and_not_cut(content):
    pixels = read_picture(content)
    assert pixels.dtype == np.uint8 and pixels.shape == (1, 6, 3)
    assert pixels[0].tolist() == [[level] * 3 for level in GREY8]


def test_other_bit_depths_reach_from_black_to_white():
    assert read_picture(tiff12())[0, :, 0].tolist() == [0, 128, 255, 255]
    assert read_picture(png(4, 2, 0, bytes([0b00011011])))[0, :, 0].tolist() == [0, 85, 170, 255]
    assert read_picture(saved(np.eye(3, dtype=bool), "PNG"))[..., 2].tolist() == (255 * np.eye(3, dtype=int)).tolist()
    assert read_picture(b"P5 2 1 100\n" + bytes([50, 100]))[0, :, 0].tolist() == [128, 255]
    white_is_zero = tiff(np.array([[0, 55, 255]], np.uint8), photometric="miniswhite")
    assert read_picture(white_is_zero)[0, :, 0].tolist() == [255, 200, 0]


@pytest.mark.parametrize(
    "content",
    [
        png(2, 16, 2, np.array([0, 257, 65535, 25700, 51400, 65278], ">u2").tobytes()),
        tiff(np.array([[[0, 257, 65535], [25700, 51400, 65278]]], np.uint16), photometric="rgb"),
    ],
)
def test_16_bits_a_colour_keep_their_upper_8(content):
    assert read_picture(content)[0].tolist() == [[0, 1, 255], [100, 200, 254]]


@pytest.mark.parametrize(
    "content",
    [
        tiff(GREY16.astype(np.int32)),
        tiff(GREY16.astype(np.uint32)),
        tiff(GREY16.astype(np.float32)),
        tiff(np.array([[-1, 1]], np.int16)),
        tiff(np.array([[-1, 1]], np.int8)),
        tiff(GREY16, photometric="miniswhite"),
        b"Pf\n2 1\n-1.0\n" + np.array([0, 1], "<f4").tobytes(),
        saved(Image.new("LAB", (4, 4)), "TIFF"),
    ],
    ids=["int32", "uint32", "float32", "int16", "int8", "uint16, white is zero", "pfm", "lab"],
)
def test_what_does_not_say_its_white_is_refused(tmp_path, content):
    (tmp_path / "deep.tif").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"deep\.tif holds pixels of mode '.*' whose black and white it does not state"
    ):
        read_picture(tmp_path / "deep.tif")


# Transparency


HALF_SEEN = np.array([[[255, 0, 0, 255], [0, 200, 0, 0], [0, 0, 100, 51]]], np.uint8)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (saved(HALF_SEEN, "PNG"), [[255, 0, 0], [200, 200, 200], [160, 160, 180]]),  # 0.2 (0, 0, 100) + 0.8 * 200
        (saved(HALF_SEEN, "TIFF"), [[255, 0, 0], [200, 200, 200], [160, 160, 180]]),
        (saved(HALF_SEEN[..., [0, 3]], "PNG"), [[255] * 3, [200] * 3, [160] * 3]),  # grey with alpha
        (palette(transparency=1), [[255, 0, 0], [200, 200, 200], [0, 0, 255]]),
        (palette(transparency=bytes([255, 0, 51])), [[255, 0, 0], [200, 200, 200], [160, 160, 211]]),
        (palette(transparency=1, kind="GIF"), [[255, 0, 0], [200, 200, 200], [0, 0, 255]]),
        (png(2, 8, 0, bytes([7, 9]), (b"tRNS", b"\0\x07")), [[200] * 3, [9] * 3]),
        (png(2, 16, 0, np.array([771, 772], ">u2").tobytes(), (b"tRNS", b"\x03\x03")), [[200] * 3, [3] * 3]),
        (png(1, 8, 2, bytes([1, 2, 3]), (b"tRNS", b"\0\1\0\2\0\3")), [[200] * 3]),
        (png(2, 1, 0, bytes([0b01000000]), (b"tRNS", b"\0\0")), [[200] * 3, [255] * 3]),
    ],
    ids=[
        "rgba",
        "rgba tiff",
        "la",
        "palette",
        "palette alphas",
        "gif",
        "grey key",
        "grey16 key",
        "rgb key",
        "1-bit key",
    ],
)
def test_the_colour_beneath_transparent_pixels_never_shows(tmp_path, content, expected):
    (tmp_path / "cut_out.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"\d of \d pixels of .*cut_out\.png are transparent, expected 0; save it on"):
        read_picture(tmp_path / "cut_out.png")
    assert read_picture(content, background=200)[0].tolist() == expected


def test_an_alpha_channel_without_transparent_pixels_is_no_matter():
    solid = HALF_SEEN.copy()
    solid[..., 3] = 255
    assert np.array_equal(read_picture(saved(solid, "PNG")), solid[..., :3])
    assert read_picture(palette())[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


# Colours, orientation, frames


def test_inks_become_light():
    inks = np.zeros((8, 32, 4), np.uint8)  # 8 pixels of each, so that JPEG has nothing to smear
    inks[:, 8:16, 0], inks[:, 16:24, 3], inks[:, 24:, 1], inks[:, 24:, 3] = 255, 255, 100, 51
    pixels = read_picture(saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=100))
    expected = [[255, 255, 255], [0, 255, 255], [0, 0, 0], [204, 124, 204]]  # (1 - C) (1 - K): 204 * 155 / 255
    assert np.abs(pixels[4, [4, 12, 20, 28]].astype(int) - expected).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_pictures_stand_upright(kind, orientation, turned):
    dark_top = np.zeros((16, 24), np.uint8)
    dark_top[8:] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read_picture(saved(dark_top, kind, exif=exif))
    assert np.abs(pixels[..., 0].astype(int) - np.rot90(dark_top, turned)).max() <= 3


def test_of_several_frames_none_is_chosen(tmp_path):
    frames = [Image.fromarray(np.full((4, 4, 3), level, np.uint8)) for level in (10, 100, 200)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        path = tmp_path / f"moving.{kind.lower()}"
        path.write_bytes(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
        with pytest.raises(ValueError, match=rf"moving\.{kind.lower()} has 3 frames, expected 1; save the one"):
            read_picture(path)
    still = saved(frames[1], "GIF")
    assert (read_picture(still) == 100).all()
    phone = saved(frames[1], "MPO", save_all=True, append_images=frames[2:])  # a JPEG with a preview behind it
    assert (read_picture(phone) == 100).all()


# Damage


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_a_cut_file_is_whole_or_named(tmp_path, kind):
    content = saved(astronaut()[::16, ::16], kind)
    whole, path = read_picture(content), tmp_path / f"cut.{kind.lower()}"
    for length in [0, 1, 10, *np.linspace(11, len(content) - 1, 15).astype(int)]:
        path.write_bytes(content[:length])
        try:
            assert np.array_equal(read_picture(path), whole)  # all pixels were there, only the end mark was not
            assert length > len(content) - 16
        except ValueError as error:
            assert str(path) in str(error) and "put a whole copy in its place" in str(error)


def test_a_flipped_bit_of_a_png_changes_no_pixel_unseen():
    content = bytearray(saved(astronaut()[::32, ::32], "PNG"))
    whole, seen = read_picture(bytes(content)), 0
    for place in np.linspace(0, len(content) - 1, 60).astype(int):
        content[place] ^= 1
        try:
            assert np.array_equal(read_picture(bytes(content)), whole)  # a check sum was hit, or the end mark
        except ValueError:
            seen += 1
        content[place] ^= 1
    assert seen >= 55


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"<!DOCTYPE html><html>Please log in</html>",
            r"odd\.jpg \(41 bytes\) is no picture of a kind known here \(BMP, GIF, .*whole copy",
        ),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n", "is no picture"),  # a program, not run
        (png(30000, 1, 0, b"", height=30000), r"odd\.jpg cannot be read as a picture .*decompression bomb"),
        (tiff(np.zeros((4, 4))), r"odd\.jpg .* of 8 or 16 bits\)"),
        (png(9, 8, 0, b""), r"odd\.jpg cannot be read as a picture"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, content, words):
    (tmp_path / "odd.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_picture(tmp_path / "odd.jpg")
    with pytest.raises(FileNotFoundError, match=r"no picture at .*none\.png"):
        read_picture(tmp_path / "none.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_damage_never_ends_in_another_kind_of_error(kind):
    whole, rng = saved(astronaut()[::32, ::32], kind), np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(whole)
        for place in rng.integers(0, min(len(content), rng.choice([64, 10**6])), rng.integers(1, 9)):
            content[place] = rng.integers(0, 256)
        try:
            pixels = read_picture(bytes(content))
        except ValueError as error:
            assert str(error).startswith(("a picture", *(f"{n} of" for n in range(1, 999))))  # a byte may become alpha
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def npz(head: dict[str, object], content: bytes, path: Path) -> Path:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, head)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", buffer.getvalue() + content)
    return path


def test_a_picture_array_that_lies_about_its_size_is_refused_before_memory_is_asked_for(tmp_path):
    head = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8, 3)}
    with pytest.raises(
        ValueError, match=r"train_images is uint8 \(1000000000000, 8, 8, 3\) in 192 bytes, expected 192000"
    ):
        read_picture_array(npz(head, bytes(192), tmp_path / "lies.npz"), "train_images", 8)
    with pytest.raises(ValueError, match=r"uint8 \(1, 0, 0, 3\), expected uint8 or floats"):
        read_picture_array(npz({**head, "shape": (1, 0, 0, 3)}, b"", tmp_path / "flat.npz"), "train_images", 8)
    whole = npz({**head, "shape": (1, 8, 8, 3)}, bytes(192), tmp_path / "whole.npz")
    assert not read_picture_array(whole, "train_images", 8).any()
    content = bytearray(whole.read_bytes())
    content[content.index(bytes(192)) + 9] = 1
    whole.write_bytes(content)
    with pytest.raises(ValueError, match=r"whole\.npz cannot be read as pictures .*Bad CRC"):
        read_picture_array(whole, "train_images", 8)


# Every door


def test_stimuli_and_photographs_are_read_by_it(tmp_path):
    from pandas import DataFrame

    (tmp_path / "deep.png").write_bytes(saved(np.full((8, 8), 32768, np.uint16), "PNG"))
    assert (read_photographs([tmp_path / "deep.png"], 8) == 128).all()
    events = DataFrame({"onset": [0.0], "duration": [1.0], "trial_type": ["a"], "stim_file": ["deep.png"], "run": [1]})
    columns, _ = describe_trials([events], tmp_path, None, 1)
    assert (columns["images"] == 128).all()


def test_nothing_else_opens_pictures():
    package = Path(read_picture.__code__.co_filename).parents[1]
    opens = {
        os.path.relpath(path, package)
        for path in package.rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in ("Image.open(", "imread("))
    }
    assert opens == {os.path.join("datasets", "pictures.py")}
