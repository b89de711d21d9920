"""What a patched module is: a form in front of its former class."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn


class KernelForm(nn.Module):
    """A forward method with a kernel, to stand in front of a class whose forward it falls back to (``super()``)."""

    plain_class: ClassVar[type[nn.Module]]
    form: ClassVar[type[KernelForm]]

    def _get_name(self) -> str:
        return self.plain_class.__name__  # what repr(model) prints: as before

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copies and pickles name the form and the former class, since the class itself is made at run time."""
        return _rebuild, (self.form, self.plain_class), self.__dict__


_made: dict[tuple[type[KernelForm], type[nn.Module]], type[nn.Module]] = {}


def patched_class(form: type[KernelForm], plain: type[nn.Module]) -> type[nn.Module]:
    """The class ``Kernel…`` of a module of class ``plain`` that computes by ``form``; one for each pair."""
    if (form, plain) not in _made:
        name = f"Kernel{plain.__name__}"
        attributes = {"plain_class": plain, "form": form, "__module__": __name__, "__doc__": plain.__doc__}
        _made[form, plain] = type(name, (form, plain), attributes)
    return _made[form, plain]


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The module's class, that before patching where it is patched."""
    return module.plain_class if isinstance(module, KernelForm) else type(module)


def _rebuild(form: type[KernelForm], plain: type[nn.Module]) -> nn.Module:
    kind = patched_class(form, plain)
    return kind.__new__(kind)
