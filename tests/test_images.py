"""Images: every odd mode decodes to upright RGB, what cannot be decoded says why, and each form of URI finds its bytes."""

from __future__ import annotations

import io
import os
import random
import struct
import tarfile
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, features

from synthvlm import images
from synthvlm.errors import InputError, OptionError
from synthvlm.images import ImageError, decode, encode, open_image, read_image_bytes, tar_uri

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def noise(width: int = 32, height: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def stored(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def pixels(image: Image.Image) -> list[Any]:
    assert image.mode == "RGB"
    return [image.getpixel((x, 0)) for x in range(image.width)]


# --- decode -----------------------------------------------------------------------------------------------------------


def row(mode: str, *values: Any) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    return image


def palette(*colours: int, **options: Any) -> bytes:
    image = row("P", 0, 1)
    image.putpalette(colours)
    return stored(image, "PNG", **options)


def sixteen(*values: int) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=np.uint16))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (stored(row("1", 0, 1), "PNG"), [BLACK, WHITE]),
        (stored(row("L", 0, 128), "PNG"), [BLACK, (128, 128, 128)]),
        (stored(row("L", 0, 128), "PNG", transparency=128), [BLACK, WHITE]),
        (stored(row("LA", (0, 255), (0, 0)), "PNG"), [BLACK, WHITE]),
        (stored(row("RGB", RED, BLACK), "PNG", transparency=RED), [WHITE, BLACK]),
        (stored(row("RGBA", (255, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 51)), "PNG"), [RED, WHITE, (204, 204, 204)]),
        (palette(255, 0, 0, 0, 0, 0), [RED, BLACK]),
        (palette(255, 0, 0, 0, 0, 0, transparency=1), [RED, WHITE]),
        (palette(255, 0, 0, 0, 0, 0, transparency=b"\xff\x00"), [RED, WHITE]),
        (stored(sixteen(0, 257, 65535, 32767), "PNG"), [BLACK, (1, 1, 1), WHITE, (127, 127, 127)]),
        (stored(sixteen(0, 65535), "TIFF"), [BLACK, WHITE]),
        (b"P5 2 1 65535\n\x00\x00\xff\xff", [BLACK, WHITE]),
        (stored(row("CMYK", (0, 255, 255, 0), (0, 0, 0, 255)), "TIFF"), [RED, BLACK]),
        (stored(Image.new("CMYK", (2, 1), (0, 0, 0, 255)), "JPEG"), [BLACK, BLACK]),
        (stored(row("RGB", RED, BLACK), "BMP"), [RED, BLACK]),
        (stored(row("RGBA", (255, 0, 0, 255), (0, 0, 0, 0)), "WEBP", lossless=True), [RED, WHITE]),
        (stored(row("RGB", RED, BLACK), "GIF", save_all=True, append_images=[Image.new("RGB", (2, 1))]), [RED, BLACK]),
        (stored(row("RGB", RED, BLACK), "PNG", save_all=True, append_images=[Image.new("RGB", (2, 1))]), [RED, BLACK]),
        (stored(row("RGB", RED, BLACK), "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (2, 1))]), [RED, BLACK]),
    ],
)
def test_every_mode_becomes_rgb(data: bytes, expected: list[Any]) -> None:
    assert pixels(decode(data)) == expected


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_come_upright(format: str, orientation: int) -> None:
    upright = Image.new("RGB", (64, 32), "white")
    upright.paste("black", (0, 0, 32, 16))
    # How the camera stores it: the inverse of the turn that viewers make.
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    turned = upright.transpose(Image.Transpose[back[orientation]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(stored(turned, format, exif=exif))
    assert image.size == (64, 32)
    assert np.abs(np.asarray(image, int) - np.asarray(upright, int)).max() < 40
    assert not image.info and not image.getexif()


def test_broken_metadata_does_not_matter() -> None:
    data = stored(noise(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    assert decode(data).size == (32, 24)


def png_of(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + stored(noise(), "PNG")[33:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "is not an image in a known format (it starts with b'<!DOCTYPE ht')"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image in a known format"),
        (b"\0" * 100, "is not an image in a known format"),
        (stored(noise(), "JPEG")[:-200], "cannot be decoded, it is damaged or cut off: image file is truncated"),
        (stored(noise(), "PNG")[:-200], "cannot be decoded, it is damaged or cut off"),
        (stored(noise(), "WEBP")[:-200], "cannot be "),
        (stored(noise(), "GIF")[:-200], "cannot be decoded, it is damaged or cut off"),
        (stored(noise(), "JPEG")[:12], "cannot be opened as an image: Truncated File Read"),
        (png_of(20_000, 20_000), "has 20,000 × 20,000 pixels, more than the limit of 178,956,970"),
        (png_of(2**31 - 1, 2**31 - 1), "has 2,147,483,647 × 2,147,483,647 pixels, more than the limit of"),
        (stored(Image.new("F", (2, 1)), "TIFF"), "has floating-point pixels, whose range nobody knows"),
        (stored(row("I", 0, 70_000), "TIFF"), "has 32-bit pixels beyond the range of 16 bits"),
    ],
)
def test_what_cannot_be_decoded_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as raised:
        decode(data)
    assert raised.value.message.startswith(reason)
    assert isinstance(raised.value, InputError)


def test_the_limit_of_pixels_is_the_callers() -> None:
    data = stored(Image.new("1", (12_000, 10_000)), "PNG")  # above where Pillow begins to warn
    with pytest.raises(ImageError, match="12,000 × 10,000 pixels, more than the limit of 100"):
        decode(data, max_pixels=100)
    before = Image.MAX_IMAGE_PIXELS
    assert decode(data).size == (12_000, 10_000)
    with pytest.raises(ImageError, match="cannot be decoded"):  # let through, and found to lack most of its rows
        decode(png_of(20_000, 20_000), max_pixels=10**9)
    assert before == Image.MAX_IMAGE_PIXELS


def test_threads_leave_pillow_and_warnings_as_they_were() -> None:
    before, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    data = [stored(noise(), format) for format in ("JPEG", "PNG", "TIFF", "GIF")] * 50
    with ThreadPoolExecutor(8) as pool:
        assert all(image.size == (32, 24) for image in pool.map(decode, data))
    assert (before, filters) == (Image.MAX_IMAGE_PIXELS, list(warnings.filters))


FORMATS = [name for name in images._FORMATS if name != "MPO" and (name != "AVIF" or features.check("avif"))]
WHOLE = {name: stored(noise(), name) for name in FORMATS}


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(FORMATS), st.randoms(use_true_random=False))
def test_damaged_files_are_read_or_refused(name: str, rnd: random.Random) -> None:
    data = bytearray(WHOLE[name])
    for _ in range(rnd.choice((1, 2, 5))):
        data[rnd.randrange(min(len(data), rnd.choice((60, 5000))))] = rnd.randrange(256)
    try:
        image = decode(bytes(data[: rnd.choice((len(data), rnd.randrange(len(data))))]), max_pixels=10**7)
    except ImageError:
        return
    assert image.mode == "RGB" and not image.info


# --- encode -----------------------------------------------------------------------------------------------------------


def test_only_pixels_are_stored() -> None:
    plain, dressed = noise(), noise()
    text = PngImagePlugin.PngInfo()
    text.add_text("secret", "tag")
    dressed = Image.open(io.BytesIO(stored(dressed, "PNG", pnginfo=text, dpi=(300, 300), icc_profile=b"secret", exif=b"Exif\0\0secret")))
    dressed.info["comment"] = b"secret"
    for format in ("jpeg", "png", "webp"):
        data = encode(dressed, format)  # type: ignore[arg-type]
        assert data == encode(plain, format)  # type: ignore[arg-type]
        assert b"secret" not in data
    assert dressed.info


def test_what_the_formats_keep() -> None:
    image = noise()
    assert decode(encode(image, "png")).tobytes() == decode(encode(image, "webp")).tobytes() == image.tobytes()
    jpeg: Any = Image.open(io.BytesIO(encode(image)))
    assert jpeg.format == "JPEG" and [layer[1:3] for layer in jpeg.layer] == [(1, 1)] * 3  # no colour is thinned out
    assert len(encode(image, quality=50)) < len(encode(image)) == len(encode(image, "jpeg", 95))
    assert pixels(decode(encode(row("RGBA", (0, 0, 0, 0)), "png"))) == [WHITE]


def test_what_cannot_be_encoded() -> None:
    with pytest.raises(OptionError, match="cannot be stored as 'bmp'"):
        encode(noise(), "bmp")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="quality 0 is not between"):
        encode(noise(), quality=0)
    with pytest.raises(ImageError, match="20000 × 1 pixels cannot be stored as webp"):
        encode(Image.new("RGB", (20_000, 1)), "webp")


# --- URIs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "part 0?#%.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("0/a.png", "0/ü#&.png"):
            data = stored(Image.new("RGB", (len(name), 1)), "PNG")
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        tar.addfile(tarfile.TarInfo("empty"))
    return path


def test_each_form_finds_its_image(tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = stored(noise(), "PNG")
    (tmp_path / "a b.png").write_bytes(data)
    (tmp_path / "odd.tar#a.png").write_bytes(data)
    with fsspec.open("memory://images/a.png", "wb") as file:
        file.write(data)  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path)
    for uri in ("a b.png", f"{tmp_path}/a b.png", f"file://{tmp_path}/a b.png", "memory://images/a.png", "odd.tar#a.png"):
        assert read_image_bytes(uri) == data
        assert open_image(uri).tobytes() == noise().tobytes()
    for name in ("0/a.png", "0/ü#&.png"):
        assert open_image(f"{archive}#{name}").size == (len(name), 1)
    with tarfile.open(archive) as tar:
        for member in tar.getmembers()[:2]:
            for path in (str(archive), archive.name):
                uri = tar_uri(path, member.offset_data, member.size, member.name)
                assert uri.startswith("tar:") and uri.isascii()
                assert open_image(uri).size == (len(member.name), 1)


def test_an_archive_that_changed_is_read_anew(archive: Path) -> None:
    assert open_image(f"{archive}#0/a.png").size == (7, 1)
    with tarfile.open(archive, "w") as tar:
        data = stored(Image.new("RGB", (3, 3)), "PNG")
        tar.addfile(tarfile.TarInfo("first"))
        member = tarfile.TarInfo("0/a.png")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    os.utime(archive, (1, 1))
    assert open_image(f"{archive}#0/a.png").size == (3, 3)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        (lambda at: "", "'' is no path or URL"),
        (lambda at: "a\0b", "is no path or URL"),
        (lambda at: "none.png", "none.png: there is no such file"),
        (lambda at: str(at.parent), "is a folder, not an image"),
        (lambda at: "nowhere://a.png", "nowhere://a.png cannot be read"),
        (lambda at: "http://localhost:9/a.png", "is a web address, which is not followed"),
        (lambda at: "HTTPS://localhost:9/a.png", "is a web address, which is not followed"),
        (lambda at: "zip://a.png::https://localhost:9/a.zip", "is a web address, which is not followed"),
        (lambda at: "https://localhost:9/a.tar#a.png", "is a web address, which is not followed"),
        (lambda at: "tar:https://localhost:9/a.tar?offset=0&size=1", "is a web address, which is not followed"),
        (lambda at: f"{at}#none.png", "there is no file 'none.png' in that archive"),
        (lambda at: "none.tar#a.png", "there is no such file"),
        (lambda at: tar_uri(str(at), 10**6, 100, "x"), "the archive ends after 0 of its 100 bytes"),
        (lambda at: tar_uri(str(at), 0, 2**40, "x"), "has more than 268,435,456 bytes"),
        (lambda at: "tar:none.tar?offset=0&size=1", "there is no such file"),
        (lambda at: "tar:none.tar?offset=0", "offset and size are not both whole numbers"),
        (lambda at: "tar:none.tar?offset=-1&size=1", "offset and size are not both whole numbers"),
        (lambda at: f"{at}#empty", "empty: is empty"),
        (lambda at: str(at), "is not an image in a known format"),
    ],
)
def test_what_cannot_be_found_says_why(archive: Path, uri: Callable[[Path], str], reason: str) -> None:
    with pytest.raises(ImageError) as raised:
        open_image(uri(archive))
    assert reason in raised.value.message


def test_a_broken_archive_and_a_huge_file(tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"no archive")
    with pytest.raises(ImageError, match=r"bad\.tar#a cannot be read"):
        read_image_bytes(f"{tmp_path}/bad.tar#a")
    with pytest.raises(ImageError, match="has more than 5 bytes"):
        read_image_bytes(f"{tmp_path}/bad.tar", max_bytes=5)
