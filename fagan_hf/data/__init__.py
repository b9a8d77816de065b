"""Images to train on: drawn, from folders or the Hub; decoded once and cached, or streamed. Knows no networks."""

from typing import TYPE_CHECKING

from fagan_hf.utils.on_demand import on_demand

if TYPE_CHECKING:
    from fagan_hf.data.cache import Images
    from fagan_hf.data.image_source import ImageSource
    from fagan_hf.data.prepare import prepare_images
    from fagan_hf.data.stream import ImageStream, open_stream

__all__ = ["ImageSource", "ImageStream", "Images", "open_stream", "prepare_images"]

__getattr__ = on_demand(
    __name__,
    {
        "image_source": ["ImageSource"],
        "cache": ["Images"],
        "prepare": ["prepare_images"],
        "stream": ["ImageStream", "open_stream"],
    },
)
