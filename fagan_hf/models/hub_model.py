"""Saving networks to files and loading them.

`PyTorchModelHubMixin` alone is lenient: unknown config keys are dropped, missing weights stay random, a pickle is
loaded if safetensors are missing, config and weights may come from two commits. `HubModel` is strict instead.
"""

import inspect
import math
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.hub import client
from fagan_hf.hub.checkpoints import weights_at
from fagan_hf.hub.repository import (
    CONFIG,
    DISCRIMINATOR,
    GENERATOR,
    MAX_CONFIG_BYTES,
    WEIGHTS,
    is_index,
    save_repository,
    write_json,
)
from fagan_hf.hub.snapshot import resolve, split_revision
from fagan_hf.models.load_options import REASONS, check_format, parse_device_map, parse_dtype
from fagan_hf.utils.files import replacing, save_tensors, sha256
from fagan_hf.utils.json_text import parse_json
from fagan_hf.utils.suggest import refuse_keywords

MAX_HEADER_BYTES = 10 * 2**20  # of the weights' file: a network of a thousand layers needs less
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class HubModel(nn.Module, PyTorchModelHubMixin, library_name="fagan_hf", tags=["gan"], license="mit"):
    """A network with a config that is saved, loaded and pushed as ``config.json`` and ``model.safetensors``.

    Attributes:
        config_class: The dataclass that ``config.json`` is read as.
        subfolder: Subfolder of the network in a repository or run folder.
    """

    config_class: ClassVar[type[GeneratorConfig] | type[DiscriminatorConfig]]
    subfolder: ClassVar[str]

    def __init__(self, config: GeneratorConfig | DiscriminatorConfig):
        super().__init__()
        if not isinstance(config, self.config_class):
            raise ValueError(
                f"{type(self).__name__} was given {type(config).__name__}; it takes a {self.config_class.__name__} "
                f"(see also {type(self).__name__}.from_preset(name))"
            )
        self.config = config

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters."""
        return next(self.parameters()).dtype

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write ``config.json`` and ``model.safetensors`` into a folder, each atomically.

        Args:
            save_directory: The folder, created if missing.
            **kwargs: None is accepted; the mixin's options for saving would bypass the config.

        Raises:
            TypeError: An option was passed.
        """
        if kwargs:
            raise TypeError(f"save_pretrained takes only a folder, not {', '.join(kwargs)}; to push, use push_to_hub")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}
        with replacing(folder / WEIGHTS) as path:
            save_tensors(weights, path, metadata={"format": "pt"})
        write_json(folder / CONFIG, self.config.to_dict())

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: str | int | torch.device | dict[str, Any] | None = None,
        use_safetensors: bool | None = None,
        variant: str | None = None,
        low_cpu_mem_usage: bool | None = None,
        trust_remote_code: bool | None = None,
        checkpoint: int | None = None,
        **unknown: Any,
    ) -> Self:
        """Load a network, in eval mode, from a local folder or a repository on the Hub.

        Args:
            pretrained_model_name_or_path: A run folder, a folder with the two files, or a Hub id ``user/name`` or
                ``user/name@revision``.
            subfolder: Subfolder of the two files. By default the class's subfolder, else the top folder.
            revision: Branch, tag or commit on the Hub. Config and weights come from one commit.
            token: Access token; by default the one stored by ``hf auth login``.
            cache_dir: Folder of downloads; by default the Hub's own cache.
            force_download: Download even files that are in the cache.
            local_files_only: Use only files that are in the cache.
            dtype: Dtype of the weights, such as ``torch.bfloat16`` or ``"bfloat16"``; by default, and with ``"auto"``,
                as saved.
            torch_dtype: Older name of `dtype`, still used by diffusers.
            device_map: Device to move the network to, such as ``"cuda:0"``, or ``"auto"`` for the fastest; by default
                the CPU.
            use_safetensors: ``True`` is always the case; ``False`` is an error.
            variant: Only ``None``: there is a single file of weights.
            low_cpu_mem_usage: Accepted and without effect: a network is loaded in the same way.
            trust_remote_code: Accepted and without effect: no code of a repository is run.
            checkpoint: For a local run folder: the weights after this many images, of a checkpoint or, for a generator,
                else of a snapshot; the generator is the averaged one. By default the run's newest model.
            **unknown: None is accepted; the error says why, or which name is closest.

        Raises:
            TypeError: There is no such option.
            FileNotFoundError: There is no such folder or repository, it lacks one of the two files, or there is no such
                checkpoint; pickled weights are not read because they can run code.
            PermissionError: The repository is gated, or the token is not valid for it; says what to try.
            ValueError: The config is invalid, the weights don't match it in every key and shape, or a checkpoint is
                requested of a repository on the Hub.
        """
        refuse_keywords(f"{cls.__name__}.from_pretrained", unknown, _options(cls), REASONS)
        check_format(use_safetensors, variant)
        dtype, device = parse_dtype(dtype, torch_dtype), parse_device_map(device_map)
        if subfolder is not None:
            _check_subfolder(subfolder)
        name = str(pretrained_model_name_or_path)
        saved = None if checkpoint is None else weights_at(name, cls.subfolder, checkpoint)
        folder = cls._fetch(
            name,
            subfolders=(cls.subfolder, "") if subfolder is None else (subfolder,),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        config, weights = _read_config(folder / CONFIG, cls.config_class), saved or folder / WEIGHTS
        _check_download(weights)
        _check_declared(config, weights)
        model = cls(config)
        _load_weights(model, weights, dtype)
        return (model if device is None else model.to(device)).eval()

    @classmethod
    def _fetch(cls, path: str, *, subfolders: tuple[str, ...], **download: Any) -> Path:
        """Find the folder with both files, in a local folder or in one commit of a repository."""
        patterns = [str(PurePosixPath(folder, name)) for folder in subfolders for name in (CONFIG, WEIGHTS)]
        # The top folder's config is requested in any case: the Hub counts these requests as downloads.
        root = resolve(path, allow_patterns=[CONFIG, *patterns], **download).folder
        for folder in (root / name for name in subfolders):
            if (folder / WEIGHTS).is_file() and _is_of_network(folder / CONFIG):
                return folder
        found, advice = _listing(path, root, **download)
        if (root / WEIGHTS).is_file() and (root / CONFIG).is_file() and not _is_of_network(root / CONFIG):
            advice = f" The {CONFIG} in the top folder describes a repository, not a network.{advice}"
        raise _missing_files(cls.__name__, path, found, advice, subfolders)

    def push_to_hub(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the network in one commit, into the class's subfolder.

        With a generator, a card with the facts known from the network is pushed, and the files that other loaders need.
        If it replaces other weights, everything that described those (samples, metrics, exports, the generated part of
        the card) is deleted in the same commit; user edits of the card are kept. `fagan-hf push` publishes a whole run.

        Args:
            repo_id: ``user/name`` or ``user/name@branch``; the repository is created if missing.
            commit_message: By default it names the class.
            private: Whether to make a new repository private.
            token: Access token; by default the one stored by ``hf auth login``.
            revision: Branch to commit to, created if missing; by default that of ``repo_id``, else ``main``.
            create_pr: Open a pull request instead of committing.

        Returns:
            URL of the commit, or of the pull request.

        Raises:
            PermissionError: There is no token, or it lacks write access; says what to try.
            ValueError: ``repo_id`` is not a valid repository name, ``revision`` is not a branch, the repository is
                public but a private one was requested, or the existing card can't be parsed.
            ConnectionError: The Hub could not be reached for a minute.
        """
        from fagan_hf.hub.publishing import publish  # loading should not have to import cards and templates

        with TemporaryDirectory() as folder:
            networks: dict[str, Any] = {self.subfolder: self}
            save_repository(folder, networks.get(GENERATOR), networks.get(DISCRIMINATOR))
            return publish(
                folder,
                repo_id,
                message=commit_message or f"Upload {type(self).__name__}",
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
            )


def _options(network: type[HubModel]) -> list[str]:
    """List the options of loading a network."""
    parameters = inspect.signature(network.from_pretrained).parameters
    return [name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY]


def _is_of_network(config: Path) -> bool:
    return config.is_file() and not is_index(config.read_bytes())


def _check_subfolder(subfolder: str) -> None:
    parts = PurePosixPath(subfolder.replace("\\", "/")).parts
    if ".." in parts or parts[:1] == ("/",) or Path(subfolder).is_absolute():
        raise ValueError(f"subfolder is {subfolder!r}; it must be a folder inside the repository, like 'generator'")


def _listing(
    path: str, root: Path, *, revision: str | None, token: str | bool | None, local_files_only: bool, **_: Any
) -> tuple[list[str], str]:
    """List the existing files, for an error message, and what to do.

    Lists the Hub, because only our files were downloaded; else the cache, where files may be missing; or the folder.
    """
    is_local = client.find_local(path) is not None
    if not is_local and not local_files_only:
        repo_id, revision = split_revision(path, revision)
        found = client.list_files(repo_id, revision=revision, token=token)
        if found is not None:
            return found, ""
    # Two levels, where our files are: the folder may be a home directory.
    found = sorted(
        str(file.relative_to(root)) for pattern in ("*", "*/*") for file in root.glob(pattern) if file.is_file()
    )
    return found, "" if is_local else " The cache is incomplete: load it once with a connection to the Hub."


def _missing_files(
    name: str, path: str, found: list[str], advice: str, subfolders: tuple[str, ...]
) -> FileNotFoundError:
    places = " or ".join(f"{folder}/" if folder else "the top folder" for folder in subfolders)
    pickles = [file for file in found if file.endswith(PICKLE_SUFFIXES)]
    refused = f" {pickles[0]} is refused: it is a pickle, which can run code when loaded." if pickles else ""
    listing = ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
    return FileNotFoundError(
        f"{path!r} is not a {name} repository: it needs {CONFIG} and {WEIGHTS} in {places}; found "
        f"{listing or 'nothing'}.{refused}{advice}"
    )


def _read_config(path: Path, config_class: type) -> Any:
    try:
        if (size := path.stat().st_size) > MAX_CONFIG_BYTES:
            raise ValueError(f"it has {size:,} bytes; at most {MAX_CONFIG_BYTES:,} are allowed")
        data = parse_json(path.read_text(encoding="utf-8"))
        if library := _foreign_library(data):
            raise ValueError(f"it belongs to the library {library}; load the model with that library")
        return config_class.from_dict(data)
    except ValueError as error:  # a JSONDecodeError and a UnicodeDecodeError are ones too
        raise ValueError(f"{path} is not a valid {config_class.__name__}: {error}") from error


# Characteristic keys of each library's config.json.
_LIBRARIES = {
    "transformers": ("transformers_version", "model_type", "architectures"),
    "diffusers": ("_diffusers_version", "_class_name"),
    "timm": ("pretrained_cfg", "num_features"),
    "open_clip": ("model_cfg",),
    "stable-baselines3": ("policy_class",),
}


def _foreign_library(config: Any) -> str | None:
    """Recognize the config of another library by its characteristic keys."""
    if not isinstance(config, dict):
        return None
    for library, keys in _LIBRARIES.items():
        found = next((key for key in keys if key in config), None)
        if found is not None:
            return f"{library} ({found}: {str(config[found])[:60]})"
    return None


def _check_download(path: Path) -> None:
    """Compare a large file of the Hub's cache with its SHA-256, which is its file name there.

    The client checks only the length; a disk or a proxy can still corrupt the content.
    """
    blob = path.resolve()
    if not (path.is_symlink() and blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name)):
        return
    if sha256(blob) != blob.name:
        raise ValueError(
            f"{path} differs from the file on the Hub: it was corrupted during the download or on this disk. "
            "Load with force_download=True"
        )


_WIDE = ("F64", "F32", "F16", "BF16")  # in the file's header
_ALWAYS = 2**24  # weights, 64 MB, that are allocated in any case, to name each tensor that does not fit


def _check_declared(config: GeneratorConfig | DiscriminatorConfig, path: Path) -> None:
    """Refuse a config that declares many more weights than its file holds, before memory is allocated for them."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"its header has {length:,} bytes; at most {MAX_HEADER_BYTES:,} are allowed")
        with safe_open(path, "pt") as weights:
            slices = [weights.get_slice(name) for name in weights.keys()]  # noqa: SIM118
            held = sum(math.prod(each.get_shape()) for each in slices if each.get_dtype() in _WIDE)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from error
    if config.weights > max(held, _ALWAYS):
        raise ValueError(
            f"{path} does not fit its {CONFIG}: it holds {held:,} numbers of at least 16 bits, and the layers need at "
            f"least {config.weights:,}"
        )


def _load_weights(model: nn.Module, path: Path, dtype: torch.dtype | None) -> None:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from error
    expected = model.state_dict()
    if problems := list(_mismatches(expected, weights)):
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(f"{path} does not fit its {CONFIG}:\n  " + "\n  ".join(problems[:10]) + more)
    # The dtype of most tensors: label frequencies stay float32 whatever the dtype of the weights.
    dtypes = Counter(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())
    model.to(dtype or dtypes.most_common(1)[0][0])
    model.load_state_dict(weights)


def _mismatches(expected: dict[str, Tensor], weights: dict[str, Tensor]):
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            yield f"{name} is missing"
        elif name not in expected:
            yield f"{name} is unknown"
        elif weights[name].is_floating_point() != expected[name].is_floating_point() or weights[name].itemsize < 2:
            yield f"{name} is {weights[name].dtype}; it must be like {expected[name].dtype}"
        elif weights[name].shape != expected[name].shape:
            yield f"{name} is {list(weights[name].shape)}; it must be {list(expected[name].shape)}"
