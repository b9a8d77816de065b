"""The precision in which the layers compute: what the hardware does well, and what it can't do."""

import torch
from torch.nn import functional
from tqdm import tqdm

from fagan_hf.training.recipe import MixedPrecision, Precision

NAMES: dict[Precision, str] = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}
_TENSOR_CORES = (7, 0)  # compute capability of the first cards that compute float16 faster than float32


def best_precision(device: torch.device) -> Precision:
    """Return bf16 where the hardware has it, fp16 on older CUDA cards with tensor cores, else float32."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability(device) >= _TENSOR_CORES else "no"
    if device.type == "cpu":
        # torch before 2.10 can't be asked; there float32 is the safe choice.
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return "bf16" if any(is_there for name, is_there in capabilities.items() if "bf16" in name) else "no"
    return "no"  # bfloat16 on other devices, such as Macs', is untested


def choose_precision(asked: MixedPrecision, device: torch.device) -> Precision:
    """Return the precision of a run.

    Raises:
        ValueError: The device can't compute in it, or torch was not built for the device; says what can be used.
    """
    check_built_for(device)
    if asked == "auto":
        return best_precision(device)
    if asked == "fp16" and (problem := _problem_of_float16(device)):
        raise ValueError(
            f"mixed_precision is 'fp16', which {device.type} can't compute in with torch {torch.__version__}: "
            f"{problem}. Use 'auto', which chooses {best_precision(device)!r} here"
        )
    return asked


def tell_precision(asked: MixedPrecision, precision: Precision, device: torch.device) -> None:
    """Print what was chosen, and a warning if it is slow."""
    if asked == "auto":
        tqdm.write(f"Layers compute in {NAMES[precision]}, the best on this device (--mixed_precision).")
    if warning := warning_of(precision, device):
        tqdm.write(warning)


def warning_of(precision: Precision, device: torch.device) -> str | None:
    """Return what is slow about a precision on a device, and what to use instead."""
    best = best_precision(device)
    if precision == "bf16" and best != "bf16":
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this processor"
        return f"Warning: {name} has no bfloat16 and emulates it slowly; use --mixed_precision {best}, or auto."
    if precision == "fp16" and device.type == "cpu":
        return "Warning: float16 is for GPUs; on a CPU it is slower than float32 and saves little memory."
    return None


def check_built_for(device: torch.device) -> None:
    """Check that this torch has kernels for the card.

    Raises:
        ValueError: It has none; says which cards it was built for.
    """
    if device.type != "cuda" or torch.version.hip:
        return
    major, minor = torch.cuda.get_device_capability(device)
    built = torch.cuda.get_arch_list()
    numbers = [int("".join(filter(str.isdigit, name.partition("_")[2]))) for name in built if "_" in name]
    # A binary runs on cards of its generation that are at least as new. What is stored as "compute" is translated.
    is_served = any(number // 10 == major and number % 10 <= minor for number in numbers)
    can_translate = any(name.startswith("compute") for name in built)
    is_translated = can_translate and 10 * major + minor >= max(numbers, default=0)
    if built and not (is_served or is_translated):
        raise ValueError(
            f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}, and torch "
            f"{torch.__version__} was built for {', '.join(built)}. Install a build of torch for this card (older CUDA "
            "versions serve older cards, see pytorch.org), or hide it by CUDA_VISIBLE_DEVICES= to train on the CPU"
        )


def _problem_of_float16(device: torch.device) -> str | None:
    """Try the operations of our layers; return the first error."""
    try:
        image = torch.ones(1, 4, 4, 4, device=device, dtype=torch.float16, requires_grad=True)
        kernel = torch.ones(4, 4, 3, 3, device=device, dtype=torch.float16, requires_grad=True)
        tokens = functional.conv2d(image, kernel, padding=1).flatten(2).mT
        functional.scaled_dot_product_attention(tokens, tokens, tokens).float().sum().backward()
    except (RuntimeError, TypeError) as error:
        return str(error).splitlines()[0]
    return None
