"""Options of ``from_pretrained`` that users know from diffusers and transformers: obeyed, or refused with a reason."""

from typing import Any

import torch

from fagan_hf.utils.devices import find_device

_WHOLE = ("auto", "balanced", "balanced_low_0", "sequential")  # strategies of Accelerate, which one small network meets
_DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}  # names of variants of weights

_ONLY_ONE = "a GAN generates with a single network, the generator; leave it out"
_ONE_DEVICE = "a network is small, and loaded as a whole onto one device; leave it out"
# Options of other libraries, and why there is none of that name here.
REASONS = {
    **dict.fromkeys(("scheduler", "unet", "vae", "text_encoder", "tokenizer", "image_encoder"), _ONLY_ONE),
    **dict.fromkeys(("safety_checker", "requires_safety_checker", "feature_extractor"), _ONLY_ONE),
    **dict.fromkeys(("max_memory", "offload_folder", "offload_state_dict", "offload_buffers"), _ONE_DEVICE),
    "custom_pipeline": "FAGANPipeline is the pipeline; leave it out",
    "generator": "it is loaded from the repository; to use one that you have, call FAGANPipeline(generator)",
    "map_location": "use device_map=, or .to(device) afterward",
    "proxies": "set the environment variable HTTPS_PROXY",
    "quantization_config": "quantized weights are not supported; for less memory use dtype='bfloat16'",
    "resume_download": "downloads always resume; leave it out",
    "strict": "loading is always strict; leave it out",
    "use_auth_token": "it is now called token",
    "use_onnx": "leave it out, and export the model with `fagan-hf export`",
}


def parse_dtype(dtype: torch.dtype | str | None, torch_dtype: torch.dtype | str | None = None) -> torch.dtype | None:
    """Return the requested dtype of weights; ``None`` for the saved one.

    Args:
        dtype: A dtype or its name; ``"auto"`` is the saved one.
        torch_dtype: The same under its older name.

    Raises:
        ValueError: It is not a floating-point dtype, or the two differ.
    """
    options = {"dtype": dtype, "torch_dtype": torch_dtype}
    parsed = {name: _parse(name, given) for name, given in options.items() if given is not None}
    if len(set(parsed.values())) > 1:
        raise ValueError(
            f"dtype is {dtype!r} and torch_dtype is {torch_dtype!r}; they are two names of one option, so give only one"
        )
    return next(iter(parsed.values()), None)


def _parse(option: str, dtype: torch.dtype | str) -> torch.dtype | None:
    if dtype == "auto":
        return None
    parsed = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not (isinstance(parsed, torch.dtype) and parsed.is_floating_point):
        raise ValueError(
            f"{option} is {dtype!r}; it must be a floating-point dtype, such as 'float32' or torch.bfloat16, or 'auto' "
            "for the saved one"
        )
    return parsed


def parse_device_map(device_map: Any) -> torch.device | None:
    """Return the device that a network is moved to; ``None`` to leave it on the CPU.

    Args:
        device_map: A device, its name, or a strategy: ``"auto"`` is the fastest device that is available.

    Raises:
        ValueError: It is a mapping of layers to devices, or the device can't be used.
    """
    if device_map is None:
        return None
    if isinstance(device_map, dict):
        raise ValueError(
            f"device_map is {device_map!r:.60}; a network is small, and is not split over devices: give one device, "
            "such as 'cuda:0', or 'auto'"
        )
    if isinstance(device_map, str) and device_map in _WHOLE:
        return find_device(None)
    if isinstance(device_map, bool) or not isinstance(device_map, str | int | torch.device):
        raise ValueError(f"device_map is {device_map!r}; it must be a device, such as 'cuda:0', or 'auto'")
    try:
        return find_device(device_map)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise ValueError(f"device_map: {error}") from error


def check_format(use_safetensors: bool | None, variant: str | None) -> None:
    """Refuse pickled weights, and variants of weights.

    Raises:
        ValueError: Either was requested.
    """
    if use_safetensors is False:
        raise ValueError(
            "use_safetensors is False, but pickles are never loaded, because they can run code; leave it out"
        )
    if variant is not None:
        dtype = _DTYPES.get(variant)
        instead = f", and use dtype={dtype!r} to load the weights in that precision" if dtype else ""
        raise ValueError(f"variant is {variant!r}, but there is a single file of weights; leave it out{instead}")
