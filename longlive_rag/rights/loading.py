"""A pipeline all of whose weights pass through one door, whichever method loads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

from diffusers import DiffusionPipeline
from diffusers.loaders import WanLoraLoaderMixin
from safetensors.torch import load as load_tensors

from backbone.checkpoints import check_finite, check_folder
from backbone.errors import FieldError, refused_as
from backbone.lora import adapter_file
from longlive_rag.rights.door import Door
from longlive_rag.rights.policy import LicensePolicy, pick_policy


class AdmittedPipeline(DiffusionPipeline, WanLoraLoaderMixin):
    """A diffusers pipeline that judges its weights by the licence policy, and keeps their rights.

    Attributes:
        weighted_parts: the classes of the parts that have weights, by name; one of them is `transformer`.
    """

    weighted_parts: ClassVar[Mapping[str, Any]]

    def __init__(self) -> None:
        super().__init__()
        self._door = Door(pick_policy())

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, license_policy: str | None = None, **settings: Any
    ) -> Self:
        """Open a pipeline folder, passing other arguments on to diffusers' `from_pretrained`.

        Args:
            folder: the pipeline folder.
            license_policy: `any`, `research` or `commercial`; default is the setting in the environment or the user's
                config file, else `any`. It also applies to everything loaded later.
            settings: arguments for diffusers.

        Raises:
            LicenseError: if the policy does not allow a weight file, before anything is loaded.
            ValueError: if a weight file of a local folder is missing or doesn't fit its config; names the tensors. Or
                if `use_safetensors` is off, as only these files are checked.
        """
        door = Door(pick_policy(license_policy))
        for name in sorted(cls.weighted_parts.keys() & settings.keys()):
            if settings[name] is not None:
                door.admit_without_file(f"{name} (put in from Python)")
        if Path(folder).is_dir():
            if settings.get("use_safetensors") is False:
                raise FieldError("use_safetensors", False, "leave it out; only .safetensors files are opened")
            door.admit(Path(folder))
            cls._check_folder(Path(folder))
        else:
            door.admit_without_file(str(folder))
        with refused_as(str(folder)) if Path(folder).is_dir() else nullcontext():
            pipe = super().from_pretrained(folder, **settings)
        pipe._pass_through(door)
        return pipe

    @classmethod
    def _check_folder(cls, folder: Path) -> None:
        """Raise ValueError unless the weight files of a pipeline folder fit their configs; names the tensors."""
        check_folder(folder, cls.weighted_parts)

    def _pass_through(self, door: Door) -> None:
        """Pass everything loaded from now on through `door`."""
        door.keep(self._weighted())
        self._door = door
        self.transformer.admit_adapter = lambda: door.admit_without_file("a LoRA (put in from Python)")

    def _weighted(self) -> dict[str, Any]:
        """The parts that have weights, by name."""
        return {name: getattr(self, name) for name in self.weighted_parts}

    @property
    def door(self) -> Door:
        """The door that all weights pass through; an unloaded LoRA stays on its record."""
        return self._door

    @property
    def license_policy(self) -> LicensePolicy:
        """The licence policy that applies to all weights; fixed when the pipeline is opened."""
        return self.door.policy

    def load_lora_weights(self, source: Any, adapter_name: str | None = None, **settings: Any) -> None:
        """Load a LoRA as in diffusers, from a local safetensors file, a folder with one, or tensors.

        Args:
            source: the file or folder, or the tensors by name.
            adapter_name: see diffusers.
            settings: arguments for diffusers; `subfolder` and `weight_name` choose a file in a folder.

        Raises:
            LicenseError: if the policy does not allow it.
            ValueError: if there is no such file, or a tensor is not finite.
        """
        state = source
        if isinstance(source, Mapping):
            self.door.admit_without_file("a LoRA (put in from Python)")
        else:
            path = adapter_file(Path(source), settings.pop("subfolder", None), settings.pop("weight_name", None))
            content = path.read_bytes()
            self.door.admit_bytes(path, content)
            with refused_as(str(path)):
                state = load_tensors(content)
        check_finite(state, str(source) if not isinstance(source, Mapping) else "the LoRA")
        with self.door.open(), refused_as("the LoRA"):
            super().load_lora_weights(dict(state), adapter_name=adapter_name, **settings)
