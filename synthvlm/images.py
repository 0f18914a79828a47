"""Images in and out: bytes to RGB and back, and one way to name an image wherever it lies.

An image URI is one of

- a local path: ``photos/cat.jpg``;
- a URL that fsspec reads: ``s3://bucket/cat.jpg``; ``http`` and ``https`` only where the caller allows them;
- a file in a tar archive by its name: ``photos/part-0.tar#0001.jpg`` (the archive's headers are read once and kept);
- a file in a tar archive by its place, which costs one read: ``tar:photos/part-0.tar?offset=1536&size=80211&name=0001.jpg``.
  ``offset`` and ``size`` are those of the file's bytes; ``name`` is for people. The path is percent-encoded; ``tar_uri`` writes it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import tarfile
import threading
import urllib.parse
import warnings
from collections.abc import Iterator
from typing import Any, Literal

from PIL import Image

from synthvlm.errors import InputError, OptionError

MAX_PIXELS = 178_956_970
"""The most pixels an image may have by default: where Pillow, too, calls it a decompression bomb."""
MAX_BYTES = 1 << 28
"""The most bytes an image file may have by default."""

# What photographs and pictures come in. Pillow knows more, and some of those run other programs (EPS) or guess (TGA).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "JPEG2000", "AVIF", "PPM", "QOI")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_TAR_MEMBER = re.compile(r"(.+\.tar)#(.+)", re.DOTALL)
_TAR_PLACE = re.compile(r"tar:(?!//)(?P<path>[^?]+)\?(?P<query>.+)", re.DOTALL)


class ImageError(InputError):
    """An image cannot be found, read or decoded; the message is the reason."""


def encode(image: Image.Image, format: Literal["jpeg", "png", "webp"] = "jpeg", quality: int = 95) -> bytes:
    """Return ``image`` as the bytes of a file: the same pixels give the same bytes, and nothing but pixels is written.

    JPEG keeps full colour resolution (4:4:4); PNG and WebP are lossless, and ``quality`` means nothing to them.
    Raises OptionError for another format or quality, and ImageError for an image that the format cannot hold.
    """
    settings: dict[str, dict[str, Any]] = {
        "jpeg": {"quality": quality, "subsampling": "4:4:4"},
        "png": {"compress_level": 6},
        "webp": {"lossless": True, "quality": 75, "method": 4},
    }
    if format not in settings:
        raise OptionError(f"images cannot be stored as {format!r}", f"there are: {', '.join(settings)}")
    if not 1 <= quality <= 100:
        raise OptionError(f"image quality {quality} is not between 1 and 100")
    out = io.BytesIO()
    try:
        _rgb(image).save(out, format, **settings[format])
    except (OSError, ValueError) as error:
        raise ImageError(f"{image.width} × {image.height} pixels cannot be stored as {format}: {error}") from error
    return out.getvalue()


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the image in ``data``, upright, as RGB; transparency comes on white, an animation as its first frame.

    Raises ImageError, with the reason, for what is no whole image in a known format or has more than ``max_pixels``.
    """
    if not data:
        raise ImageError("is empty")
    # The decoders meet whatever the internet holds, and damaged data makes them raise nearly anything.
    try:
        with _quiet():
            image = Image.open(io.BytesIO(data), formats=_known_formats())
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"is not an image in a known format (it starts with {data[:12]!r})") from error
    except Exception as error:
        raise ImageError(f"cannot be opened as an image: {_reason(error)}") from error
    with image:
        if image.width * image.height > max_pixels:
            raise ImageError(f"has {image.width:,} × {image.height:,} pixels, more than the limit of {max_pixels:,}")
        try:
            # TIFF reads its metadata again while it loads, with the same warnings.
            with _quiet() if image.format == "TIFF" else contextlib.nullcontext():
                image.load()
            with _quiet():
                turn = _TURNS.get(_orientation(image))
            rgb = _rgb(image)
            return rgb if turn is None else rgb.transpose(turn)
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(f"cannot be decoded, it is damaged or cut off: {_reason(error)}") from error


def measure(file: Any) -> tuple[str, int, int]:
    """Return (Pillow's name of the format, width, height) of the image in an open file, from its header alone. Raises ImageError."""
    try:
        with _quiet(), Image.open(file, formats=_known_formats()) as image:
            return str(image.format), image.width, image.height
    except Exception as error:
        raise ImageError(f"cannot be opened as an image: {_reason(error)}") from error


def open_image(uri: str, *, allow_urls: bool = False, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the image at ``uri`` as ``decode`` does.

    Raises ImageError, which names ``uri``, if it cannot be found, read or decoded.
    """
    data = read_image_bytes(uri, allow_urls=allow_urls)
    try:
        return decode(data, max_pixels)
    except ImageError as error:
        raise ImageError(f"{uri}: {error.message}", error.hint) from error


def read_image_bytes(uri: str, *, allow_urls: bool = False, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of the image file at ``uri``; the forms of a URI are listed in this module's docstring.

    Raises ImageError if there is no such file, it cannot be read, has more than ``max_bytes``, or is an http(s) URL and
    ``allow_urls`` is not set.
    """
    if not uri or "\0" in uri:
        raise ImageError(f"{uri!r} is no path or URL")
    try:
        if place := _TAR_PLACE.fullmatch(uri):
            return _read_place(uri, place["path"], place["query"], allow_urls, max_bytes)
        # A file may have such a name itself; then it is meant.
        if (member := _TAR_MEMBER.fullmatch(uri)) and not os.path.exists(uri):
            return _read_member(uri, member[1], member[2], allow_urls, max_bytes)
        with _open(uri, allow_urls) as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise ImageError(f"{uri}: there is no such file") from error
    except IsADirectoryError as error:
        raise ImageError(f"{uri} is a folder, not an image") from error
    except ImportError as error:
        raise ImageError(
            f"{uri} needs a package that is not installed: {error}", "install it beside synthvlm, or copy the file here"
        ) from error
    except (OSError, ValueError, tarfile.TarError) as error:
        raise ImageError(f"{uri} cannot be read: {_reason(error)}") from error
    return _bounded(uri, data, len(data), max_bytes)


def tar_uri(path: str, offset: int, size: int, name: str) -> str:
    """Return the URI of the ``size`` bytes at ``offset`` of the tar archive ``path``, which hold the file ``name``."""
    query = urllib.parse.urlencode({"offset": offset, "size": size, "name": name}, quote_via=urllib.parse.quote)
    return f"tar:{urllib.parse.quote(path, safe='/:')}?{query}"


def archive_of(uri: str) -> str | None:
    """Return the path of the tar that ``uri`` names a file in, or None if it names no file in a tar."""
    if place := _TAR_PLACE.fullmatch(uri):
        return urllib.parse.unquote(place["path"])
    member = _TAR_MEMBER.fullmatch(uri)
    return member[1] if member and not os.path.exists(uri) else None


def _open(path: str, allow_urls: bool) -> Any:
    import fsspec

    # Every link of a chained URL (``zip://a.jpg::https://…``) counts. Captions files come from strangers: an image address in
    # one must not make a request by itself.
    if not allow_urls and any(re.match(r"https?:", link.strip(), re.IGNORECASE) for link in path.split("::")):
        raise ImageError(f"{path} is a web address, which is not followed", "download the images first, or allow URLs")
    return fsspec.open(path, "rb")


def _read_place(uri: str, path: str, query: str, allow_urls: bool, max_bytes: int) -> bytes:
    values = dict(urllib.parse.parse_qsl(query))
    try:
        offset, size = int(values["offset"]), int(values["size"])
    except (KeyError, ValueError):
        offset = size = -1
    if offset < 0 or size < 0:
        raise ImageError(f"{uri}: offset and size are not both whole numbers")
    with _open(urllib.parse.unquote(path), allow_urls) as file:
        return _read_range(uri, file, offset, size, max_bytes)


def _read_member(uri: str, path: str, name: str, allow_urls: bool, max_bytes: int) -> bytes:
    opener = _open(path, allow_urls)
    places = _tar_index(path, opener.fs.ukey(opener.path))
    if name not in places:
        raise ImageError(f"{uri}: there is no file {name!r} in that archive")
    with opener as file:
        return _read_range(uri, file, *places[name], max_bytes)


def _read_range(uri: str, file: Any, offset: int, size: int, max_bytes: int) -> bytes:
    _bounded(uri, b"", size, max_bytes)
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise ImageError(f"{uri}: the archive ends after {len(data):,} of its {size:,} bytes")
    return data


def _bounded(uri: str, data: bytes, size: int, max_bytes: int) -> bytes:
    if size > max_bytes:
        raise ImageError(f"{uri} has more than {max_bytes:,} bytes, the limit for an image file")
    return data


@functools.lru_cache(maxsize=4)
def _tar_index(path: str, version: str) -> dict[str, tuple[int, int]]:
    """Return where each file of the archive lies. ``version`` changes when the archive does, so that a kept index never misleads."""
    import fsspec

    with fsspec.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:  # type: ignore[arg-type]
        return {member.name: (member.offset_data, member.size) for member in archive if member.isreg()}


@functools.cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


_quiet_lock = threading.Lock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Pillow's own limit warns before it refuses and knows no limit per call; broken metadata warns too. Both settings are the
    # process's, so one thread at a time: only headers are read in here (and TIFF), decoding is not held up.
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken metadata does not make the picture bad
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    """Return a new 8-bit RGB image with the pixels of ``image`` and nothing else of it."""
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode == "F":
        raise ImageError("has floating-point pixels, whose range nobody knows")
    if image.has_transparency_data:
        # La, RGBa: colours multiplied by their opacity.
        image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    rgb = image.convert("RGB")
    rgb.info = {}
    return rgb


def _eight_bits(image: Image.Image) -> Image.Image:
    import numpy as np

    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise ImageError("has 32-bit pixels beyond the range of 16 bits, which nobody knows how to show")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _reason(error: Exception) -> str:
    return f"{error or type(error).__name__}"
