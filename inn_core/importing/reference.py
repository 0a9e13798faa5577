"""What `package.module:name` refers to, with an error that says which part of it is wrong."""

from __future__ import annotations

import importlib
from typing import Any

from inn_core.errors import InnError


def resolve(reference: str, *, form: str, refuse: type[InnError]) -> Any:
    """Import the module and return the attribute.

    Args:
        reference: `package.module:name`.
        form: how the name is called in the message, `package.module:factory`.
        refuse: class of the error.

    Raises:
        InnError: of the class `refuse`: the form is wrong, the module is not installed, or has no such attribute.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name or module_name.startswith("."):
        raise refuse(f"'{reference}' is not of the form {form}", reference=reference)
    try:
        return getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise refuse(
            f"module '{error.name}' of '{reference}' is not installed and not in the working directory",
            reference=reference,
        ) from error
    except AttributeError as error:
        raise refuse(f"module '{module_name}' has no '{name}'", reference=reference) from error
