"""Executors: who runs a stack or a readout natively where that gives the same answer, and steps aside where not.

PyTorch runs what needs gradients, hooks, another device or a part that the kernels do not know. An executor asks this
anew at every call, since a model may change between two.
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from ..kernels import native
from ..structure.places import Announcing, Listener
from .lower import Unknown

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def enabled() -> bool:
    """Whether native code may be used at all: GLASSFORMER_ENGINE=off says no."""
    return os.environ.get("GLASSFORMER_ENGINE", "on") != "off" and native.load() is not None


_here = threading.local()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Say that until the end nobody else's code runs on this thread: a module looked at once is not looked at again.

    Looking whether every weight and part of a model still is what it was takes as long as a small model's step.
    """
    before = getattr(_here, "stretch", None)
    _here.stretch = object()
    try:
        yield
    finally:
        _here.stretch = before


class Watched:
    """A module as it was when its program was made, to see whether it still is.

    Args:
        root: the module.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = weakref.ref(root)
        named = dict(root.named_modules())
        modules = named.values()
        self.hooks = [getattr(module, name) for module in modules for name in _HOOKS]
        # Weak, as the module holds this: nothing may keep a model's memory when the model is gone.
        self.parts = [(path, weakref.ref(part)) for path, part in named.items() if isinstance(part, Announcing)]
        self.weights = list(root.parameters())
        self.trained = [weight for weight in self.weights if weight.requires_grad]
        self._held = [held for module in modules for held in (module._modules, module._parameters) if held]
        self._kept = [list(held.values()) for held in self._held]  # so that no other object takes their identity
        self._versioned = [weight for weight in self.weights if not weight.is_inference()]
        self._was = self._state()

    def _state(self) -> tuple[list[int], list[int], list[int]]:
        """What is where, and how often it has changed; asked at every call, so that it has to be quick."""
        return (
            list(map(id, chain.from_iterable([held.values() for held in self._held]))),
            list(map(Tensor.data_ptr, self.weights)),
            [weight._version for weight in self._versioned],
        )

    def same(self, root: nn.Module) -> bool:
        """Whether this is the module of before, with the same parts and weights."""
        return self.root() is root and self._state() == self._was

    def unhooked(self) -> bool:
        """Whether no hook would be missed."""
        return not any(self.hooks) and not (hooks._global_forward_hooks or hooks._global_forward_pre_hooks)

    def listened(self) -> list[tuple[str, Announcing, Listener]]:
        """The parts that somebody listens to: path, part and listener."""
        parts = [(path, part()) for path, part in self.parts]
        return [(path, part, part.listener) for path, part in parts if part is not None and part.listener is not None]


def native_here(watched: Watched, training: bool, *inputs: Tensor | None) -> bool:
    """Whether a call wants no gradients, on a CPU, and no hook would be missed."""
    return (
        not training
        and not (torch.is_grad_enabled() and any(weight.requires_grad for weight in watched.trained))
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and all(given is None or (given.device.type == "cpu" and not given.requires_grad) for given in inputs)
        and watched.unhooked()
    )


class Executor(ABC):
    """What executors share: they belong to one module, and a copy of the module begins with a new one.

    Attributes:
        reason: why the module runs in PyTorch always, or None.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.watched: Watched | None = None
        self.stretch: object = None  # the undisturbed one in which it was found that calls run natively
        self.lock = threading.RLock()  # the buffers are one call's at a time
        self.busy = False

    def __call__(self, *call: Any) -> Any:
        """What the module gives, or None where PyTorch has to run: as `_call`, one call after the other.

        A call from within a call, as a listener may make one, is PyTorch's.
        """
        with self.lock:
            if self.busy:
                return None
            self.busy = True
            try:
                if not torch.is_inference_mode_enabled():
                    return self._call(*call)
                # Buffers are kept for calls in other modes, in which what inference mode makes may not be written to.
                with torch.inference_mode(False), torch.no_grad():
                    return self._call(*call)
            finally:
                self.busy = False

    def __copy__(self) -> Executor:
        return type(self)()

    def __deepcopy__(self, memo: Any) -> Executor:
        return type(self)()

    def __reduce__(self) -> Any:
        return type(self), ()

    @property
    def known(self) -> bool:
        """Whether a call just before ran natively, and nobody can have changed the module since."""
        return self.stretch is not None and self.stretch is getattr(_here, "stretch", None)

    def _know(self) -> None:
        """Remember that a call runs natively."""
        self.stretch = getattr(_here, "stretch", None)

    def _ready(self, module: nn.Module) -> bool:
        """Make what is needed, where it has not been made or the module has changed since."""
        if self.watched is not None and self.watched.same(module):
            return self.reason is None
        self.watched, self.reason = Watched(module), None
        devices = {weight.device.type for weight in self.watched.weights}
        if devices != {"cpu"}:
            self.reason = f"its weights are on {', '.join(sorted(devices))}"
            return False
        try:
            self._make(module)
        except Unknown as unknown:
            self.reason = str(unknown)
        return self.reason is None

    @abstractmethod
    def _make(self, module: Any) -> None:
        """Make the programs of a module, or raise Unknown."""

    @abstractmethod
    def _call(self, *call: Any) -> Any:
        """Run a call, or give None where PyTorch has to."""
