"""Program that decodes one upload under time and memory limits; started by `fagan_space.decoding`.

It reads the file from stdin and writes pixels to stdout; a `ValueError` is for the visitor. It imports nothing else of
this package to keep startup fast: a new process is started for each upload.
"""

import json
import re
import sys
from io import BytesIO

from PIL import Image

from fagan_hf.data.decode import UnusableImageError, decode_image, readable_formats

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # the common ones; every further format adds attack surface
_PROGRAMS = b"mpet"  # lists of any number of calculations for each pixel, which hardly any real profile has
_SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")  # header of each JPEG scan


def read(content: bytes, *, size: int, channels: int, most_pixels: int, longest_side: int, most_scans: int) -> bytes:
    """Decode an image after checking its size.

    Returns:
        Its center square: uint8 [channels, size, size].

    Raises:
        ValueError: The image is too large or can't be read; the message is for the visitor.
    """
    formats = tuple(name for name in _FORMATS if name in readable_formats())
    try:
        with Image.open(BytesIO(content), formats=formats) as image:  # reads only the header
            (width, height), name, profile = image.size, image.format, image.info.get("icc_profile")
    except Image.DecompressionBombError as error:
        raise ValueError(f"the image has too many pixels ({error}); the limit is {most_pixels:,}") from error
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise ValueError("the file can't be read as an image; upload a PNG, JPEG or WebP") from error
    if width * height > most_pixels or max(width, height) > longest_side:
        raise ValueError(
            f"the image has {width:,} x {height:,} pixels; the limit is {most_pixels:,} in total, and "
            f"{longest_side:,} per side"
        )
    if name in ("JPEG", "MPO") and len(_SCAN.findall(content)) > most_scans:
        raise ValueError(f"the image has more than {most_scans} scans; upload it as a PNG")
    if isinstance(profile, bytes) and _PROGRAMS in profile:
        raise ValueError("the image's color profile is too complex; save the image as sRGB")
    try:
        return decode_image(content, resolution=size, channels=channels, upscale=True, formats=formats).tobytes()
    except UnusableImageError as error:
        raise ValueError("the image is damaged or too small; upload another PNG, JPEG or WebP") from error


if __name__ == "__main__":
    sys.stdout.buffer.write(read(sys.stdin.buffer.read(), **json.loads(sys.argv[1])))
