"""Where the values of a parameter rest and where they are used: in place, or as offloading hooks have it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, CpuOffload

from core.errors import ModelUnavailable


@dataclass(frozen=True, kw_only=True)
class Place:
    """A parameter that is what its module has under `name`.

    Modules that travel as a whole (accelerate's CpuOffload, diffusers' groups without a stream) take with them what
    is written, wherever they are just then.
    """

    module: torch.nn.Module
    name: str
    used: torch.device | None = None  # where hooks bring the values for a forward; None: they stay where they are

    def homes(self) -> tuple[torch.Tensor, ...]:
        """All tensors that must hold the values for the next forward to see them, where they rest first."""
        return (getattr(self.module, self.name).detach(),)


@dataclass(frozen=True, kw_only=True)
class Mapped(Place):
    """Sequential offload: the module has no values but for its forward, which takes them from here."""

    values: torch.Tensor

    def homes(self) -> tuple[torch.Tensor, ...]:
        return (self.values.detach(),)


@dataclass(frozen=True, kw_only=True)
class Streamed(Place):
    """A diffusers group with a stream: it drops what is on the device for its copy on the CPU, never the other way."""

    group: Any

    def homes(self) -> tuple[torch.Tensor, ...]:
        parameter = getattr(self.module, self.name)
        return (self.group.cpu_param_dict[parameter], parameter.detach())


class Places:
    """The places of one component's parameters, by the hooks that it has now."""

    def __init__(self, root: torch.nn.Module) -> None:
        travels = [hook.execution_device for hook in _hooks(root) if isinstance(hook, CpuOffload)]
        self._used = torch.device(travels[0]) if travels else None
        self._groups = {parameter: group for group in _groups(root) for parameter in _parameters(group)}

    def of(self, module: torch.nn.Module, name: str) -> Place:
        """Raises ModelUnavailable for values that rest on the disk, or that nobody knows where to find."""
        parameter = getattr(module, name)
        group = self._groups.get(parameter)
        if group is not None:
            if group.offload_to_disk_path is not None:
                raise _unreachable()
            if group.stream is not None:
                return Streamed(module=module, name=name, used=group.onload_device, group=group)
            return Place(module=module, name=name, used=group.onload_device)
        for hook in _hooks(module):
            if isinstance(hook, AlignDevicesHook) and hook.offload:
                values = hook.weights_map[name]
                if values is not hook.weights_map[name]:  # read from the disk anew each time
                    raise _unreachable()
                return Mapped(module=module, name=name, used=torch.device(hook.execution_device), values=values)
        if parameter.is_meta:
            raise _unreachable()
        return Place(module=module, name=name, used=self._used)


def _unreachable() -> ModelUnavailable:
    return ModelUnavailable(
        "The model's weights rest where no LoRA can be written into them (on the disk): let them rest in memory."
    )


def _hooks(module: torch.nn.Module) -> tuple[Any, ...]:
    """Accelerate's, of this module alone; several may be wrapped up in one."""
    hook = getattr(module, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,)))


def _groups(root: torch.nn.Module) -> Iterator[Any]:
    """Diffusers' ModuleGroups; several modules may name the same."""
    for module in root.modules():
        registry = getattr(module, "_diffusers_hook", None)
        hook = None if registry is None else registry.get_hook("group_offloading")
        if hook is not None:
            yield hook.group


def _parameters(group: Any) -> Iterator[torch.nn.Parameter]:
    for module in group.modules:
        yield from module.parameters()
    yield from group.parameters
