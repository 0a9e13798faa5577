"""A torch module as the source of an import, or what makes one (`package.module:factory`): exported once, in memory."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import onnx
import torch

from inn_core.errors import InnError, InvalidModuleError, first_line

OPSET = 18


def export_factory(reference: str) -> onnx.ModelProto:
    """The ONNX model of what `package.module:factory` returns: `(module, example inputs)`, called without arguments.

    Raises:
        InvalidModuleError: the reference, the factory or the export fails; the message says which.
    """
    return export_module(*_call(reference), name=reference)


def export_module(module: torch.nn.Module, example: Any, *, name: str) -> onnx.ModelProto:
    """The ONNX model of a torch module with a free batch axis, as it is in evaluation mode; it keeps its own mode.

    Args:
        module: to export.
        example: inputs as a tensor, a tuple or a dict by argument name, batch axis first.
        name: what errors call the module.

    Raises:
        InvalidModuleError: the example or the export fails; the message says which.
    """
    reference = name
    arguments, keywords = _example(reference, example)
    batch = torch.export.Dim("batch", min=1)
    tensors: Sequence[Any] = [*arguments, *keywords.values()]
    shapes = [{0: batch} if isinstance(value, torch.Tensor) and value.ndim else None for value in tensors]
    names = list(keywords)
    dynamic: Any = dict(zip(names, shapes, strict=True)) if names and not arguments else tuple(shapes[: len(arguments)])
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        return export_quietly(module, arguments, kwargs=keywords or None, dynamic_shapes=dynamic)
    except ImportError:
        raise
    except Exception as error:  # the exporter raises many kinds; all mean that it cannot export this module
        reason = first_line(error)
        raise InvalidModuleError(
            f"'{reference}' cannot be exported to ONNX with a free batch axis: {reason}; "
            "export it yourself with torch.onnx.export and import the .onnx file",
            reference=reference,
        ) from error
    finally:
        for part in training:
            part.training = True


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


def _call(reference: str) -> tuple[torch.nn.Module, Any]:
    result = resolve(reference, form="package.module:factory", refuse=InvalidModuleError)()
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], torch.nn.Module):
        raise InvalidModuleError(
            f"'{reference}' returned {type(result).__name__}; a factory returns (module, example inputs)",
            reference=reference,
        )
    return result


def _example(reference: str, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, torch.Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, Sequence) and not isinstance(example, str):
        return tuple(example), {}
    raise InvalidModuleError(
        f"'{reference}' gave example inputs of type {type(example).__name__}; give a tensor, a tuple or a dict",
        reference=reference,
    )


def export_quietly(module: torch.nn.Module, arguments: tuple[Any, ...], **options: Any) -> onnx.ModelProto:
    """Call `torch.onnx.export` and keep to itself what it prints, logs and warns of, which is not for our users."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(module, arguments, dynamo=True, opset_version=OPSET, verbose=False, **options)
    finally:
        logger.setLevel(level)
    if program is None:
        raise RuntimeError("the exporter returned nothing")
    proto = program.model_proto
    assert isinstance(proto, onnx.ModelProto)
    return proto
