"""Models that are saved and loaded whole: safetensors and JSON, every tensor and every setting accounted for.

    class Model(nn.Module, Pretrained):
        def __init__(self, *, d_model: int = 64) -> None: ...

    Model(d_model=32).save_pretrained("folder")
    model = Model.from_pretrained("folder")  # or the name of a repository on the Hugging Face hub

The arguments of the class are its configuration: they are kept as `config.json` (or, where there is one argument
`config`, a dataclass, its fields are). Nothing is printed and nothing is unpickled.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["Pretrained", "WeightsError", "load_weights"]

_LISTED = 5
"""names in a message"""


class WeightsError(ValueError):
    """Saved weights or their configuration are missing, damaged, or of another model."""


class Pretrained(PyTorchModelHubMixin):
    """`save_pretrained` and `from_pretrained` that take all or nothing; to be derived from beside `nn.Module`."""

    _unsaved: Sequence[str] = ()
    """arguments that JSON has not"""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        instance = super().__new__(cls, *args, **kwargs)
        given = {**dict(zip(list(cls._hub_mixin_init_parameters)[1:], args, strict=False)), **kwargs}
        # The mixin leaves these out of the configuration, and a default would take their place.
        vars(instance)["_unsaved"] = [name for name, value in given.items() if not cls._is_jsonable(value)]
        return instance

    def save_pretrained(self, save_directory: str | Path, *, config: Any = None, **kwargs: Any) -> str | None:
        """Write `model.safetensors`, `config.json` and a model card into a folder, which is made.

        Raises:
            WeightsError: an argument of the model is nothing that JSON has, or `config` is another than the model's.
        """
        if self._unsaved:
            raise WeightsError(f"{type(self).__name__} cannot be saved: {self._unsaved[0]} is nothing that JSON has")
        if config is not None and _plain(config) != self._saved_config():
            raise WeightsError("config must be what the model was made with, or None")
        return super().save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        map_location: str = "cpu",
        **model_kwargs: Any,
    ) -> Self:
        """The model in a folder or in a repository of the hub, in evaluation mode.

        Args:
            map_location: the device.
            model_kwargs: settings that take the place of saved ones; the tensors must fit them.

        Raises:
            WeightsError: a file is missing or damaged; a setting is not known or missing; a tensor is missing, not
                known, of another shape or kind.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            for name in (constants.CONFIG_NAME, constants.SAFETENSORS_SINGLE_FILE):
                try:
                    file = hf_hub_download(
                        repo_id=str(pretrained_model_name_or_path),
                        filename=name,
                        revision=revision,
                        cache_dir=cache_dir,
                        force_download=force_download,
                        token=token,
                        local_files_only=local_files_only,
                    )
                except (EntryNotFoundError, OSError, ValueError) as error:
                    raise WeightsError(
                        f"{pretrained_model_name_or_path} is no folder here and gives no {name}: {error}"
                    ) from error
                folder = Path(file).parent
        config = _read_config(folder / constants.CONFIG_NAME)
        unknown = sorted({*config, *model_kwargs} - (cls._known_settings() or {*config, *model_kwargs}))
        if unknown:
            raise WeightsError(f"{folder}: {cls.__name__} has no setting {_listed(unknown)}; it is of another model")
        try:
            return super().from_pretrained(folder, saved_config=config, map_location=map_location, **model_kwargs)
        except WeightsError:
            raise
        except (TypeError, ValueError) as error:
            raise WeightsError(f"{folder / constants.CONFIG_NAME} does not make a {cls.__name__}: {error}") from error

    def _save_pretrained(self, save_directory: Path) -> None:
        tensors: dict[str, Tensor] = {}
        seen: set[Any] = set()
        for name, tensor in self.state_dict().items():  # type: ignore[attr-defined]
            if (key := _place(tensor)) not in seen:  # tied weights are saved once
                seen.add(key)
                tensors[name] = tensor.detach().cpu().contiguous()
        target = save_directory / constants.SAFETENSORS_SINGLE_FILE
        # Under another name first: a kill must not leave half a file where a whole one was.
        temporary = target.with_name(f".tmp-{target.name}-{os.getpid()}")
        try:
            save_file(tensors, temporary, {"format": "pt", **self._digests(tensors, self._saved_config())})
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _saved_config(self) -> dict[str, Any]:
        return _plain(self._hub_mixin_config if self._hub_mixin_config is not None else {})

    @staticmethod
    def _digests(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, str]:
        content = hashlib.sha256()
        for name in sorted(tensors):
            content.update(name.encode())
            content.update(_bytes(tensors[name]))
        text = json.dumps(config, sort_keys=True)
        return {"tensors_sha256": content.hexdigest(), "config_sha256": hashlib.sha256(text.encode()).hexdigest()}

    @classmethod
    def _known_settings(cls) -> set[str] | None:
        """Names that the configuration may have; None where the class takes any."""
        parameters = dict(cls._hub_mixin_init_parameters)
        parameters.pop("self", None)
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            return None
        if "config" in parameters and is_dataclass(kind := parameters["config"].annotation):
            return {*parameters, *(f.name for f in fields(kind))}
        return {*parameters}

    @classmethod
    def _from_pretrained(  # type: ignore[override]
        cls, *, model_id: str, map_location: str = "cpu", saved_config: Mapping[str, Any], **kwargs: Any
    ) -> Self:
        for name in ("revision", "cache_dir", "force_download", "local_files_only", "token"):
            kwargs.pop(name, None)
        file = Path(model_id) / constants.SAFETENSORS_SINGLE_FILE
        model = cls(**kwargs)
        load_weights(model, file, config=saved_config)  # type: ignore[arg-type]
        return model.to(map_location).eval()  # type: ignore[attr-defined, no-any-return]


def load_weights(model: nn.Module, file: Path | str, *, config: Mapping[str, Any] | None = None) -> None:
    """Load a safetensors file into a model: every tensor of either is in the other, or nothing is loaded.

    What `Pretrained` saved has digests of tensors and configuration in its header; they are compared.

    Args:
        config: the configuration that was found beside the file.

    Raises:
        WeightsError: the file is missing or damaged, or tensors are missing, not known, or of another shape or kind.
    """
    file = Path(file)
    if not file.is_file():
        raise WeightsError(f"{file} does not exist: weights are read from safetensors only")
    try:
        with safe_open(file, framework="pt") as header:
            metadata = header.metadata() or {}
        found = load_file(file)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"{file} cannot be read, it is damaged or no safetensors file: {error}") from error
    own = model.state_dict()
    places: dict[Any, str] = {_place(tensor): name for name, tensor in own.items() if name in found}
    tensors = dict(found)
    for name, tensor in own.items():
        if name not in found and (twin := places.get(_place(tensor))) is not None:
            tensors[name] = found[twin]
    faults = [
        ("lacks", sorted(own.keys() - tensors.keys())),
        ("has in addition", sorted(tensors.keys() - own.keys())),
        (
            "has in another shape",
            [
                f"{name} {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
                for name, tensor in own.items()
                if name in tensors and tensors[name].shape != tensor.shape
            ],
        ),
        (
            "has in another kind",
            [
                f"{name} {tensors[name].dtype} instead of {tensor.dtype}"
                for name, tensor in own.items()
                if name in tensors and _kind(tensors[name]) != _kind(tensor)
            ],
        ),
    ]
    told = "; ".join(f"{what} {_listed(names)}" for what, names in faults if names)
    if told:
        raise WeightsError(f"{file} is not of this {type(model).__name__}: it {told}")
    digests = Pretrained._digests(found, config or {})
    if metadata.get("tensors_sha256", digests["tensors_sha256"]) != digests["tensors_sha256"]:
        raise WeightsError(f"{file} is damaged: its tensors are not those that were saved")
    if config is not None and metadata.get("config_sha256", digests["config_sha256"]) != digests["config_sha256"]:
        raise WeightsError(
            f"{file.with_name(constants.CONFIG_NAME)} is not the configuration that the weights beside it were saved "
            "with; give other settings to from_pretrained by name"
        )
    model.load_state_dict(tensors)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist: the folder holds no saved model, or saving was cut off") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{path} must hold an object, got {type(config).__name__}")
    return config


def _plain(config: Any) -> dict[str, Any]:
    """As it comes back from JSON."""
    values = asdict(config) if is_dataclass(config) and not isinstance(config, type) else config
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _place(tensor: Tensor) -> Any:
    """Equal for tensors that share their memory."""
    if tensor.numel() == 0:
        return object()
    return tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype
