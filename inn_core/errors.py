"""The error tree of inn_core: every error has a stable code, keyword fields and a message with a way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


def first_line(error: BaseException) -> str:
    """The first line of a foreign error's message, for one of ours; the name of its class when it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class InnError(Exception):
    """Base of all errors that a user of inn_core can cause.

    `code` is a fixed kebab-case name that programs may rely on; `fields` holds the values that the message
    shows, for programs (they become members of the HTTP problem and of `--json` output).
    """

    code: ClassVar[str] = "inn-error"

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields


class InvalidTypeError(InnError, TypeError):
    """An argument is of a type that is not taken."""

    code = "invalid-type"

    def __init__(self, what: str, found: object, wanted: str) -> None:
        super().__init__(
            f"{what} is of type {type(found).__name__}; give {wanted}", what=what, found=type(found).__name__
        )


class InvalidOnnxError(InnError, ValueError):
    """The bytes are no ONNX model, or the model breaks the ONNX specification."""

    code = "invalid-onnx"


class ExternalDataError(InnError, ValueError):
    """An initializer keeps its data in another file; such files are refused."""

    code = "external-data"

    def __init__(self, tensor: str) -> None:
        super().__init__(
            f"initializer '{tensor}' keeps its data in another file; only self-contained ONNX files are accepted: "
            "save the model with its weights inside (onnx.save_model(model, path, save_as_external_data=False))",
            tensor=tensor,
        )


class GraphTooLargeError(InnError, ValueError):
    """The graph or file is larger than the limit."""

    code = "graph-too-large"

    def __init__(self, what: str, found: int, limit: int) -> None:
        super().__init__(
            f"the model has {found:,} {what}, the limit is {limit:,}; split the model or raise the limit",
            what=what,
            found=found,
            limit=limit,
        )


class UnsupportedOperatorError(InnError, ValueError):
    """No way to execute an operator of the graph."""

    code = "unsupported-operator"

    def __init__(self, node: str, operator: str, reason: str = "inn-service has no implementation of it") -> None:
        super().__init__(
            f"node '{node}' uses operator '{operator}': {reason}; export the model without it",
            node=node,
            operator=operator,
        )


class InvalidWeightsError(InnError, ValueError):
    """A weight holds NaN or infinity."""

    code = "invalid-weights"

    def __init__(self, tensor: str, found: str) -> None:
        super().__init__(
            f"weight '{tensor}' holds {found}; a network can only be imported with finite weights: "
            "check the training run that wrote it",
            tensor=tensor,
        )


class InvalidCalibrationError(InnError, ValueError):
    """Calibration samples are missing, have the wrong shape or dtype, or are not finite."""

    code = "invalid-calibration"


class InvalidFreezeError(InnError, ValueError):
    """A `TENSOR:AXIS` to freeze does not exist."""

    code = "invalid-freeze"


class InvalidCheckpointError(InnError, ValueError):
    """A `.inn` file is truncated, damaged or of an unknown format version."""

    code = "invalid-checkpoint"


class DigestMismatchError(InnError, ValueError):
    """Bytes do not have the digest they should have."""

    code = "digest-mismatch"

    def __init__(self, what: str, expected: str, found: str) -> None:
        super().__init__(
            f"{what} has digest {found}, expected {expected}; it was damaged or changed: fetch it again",
            expected=expected,
            found=found,
        )


class InvalidBudgetError(InnError, ValueError):
    """A budget is not a positive integer in a known unit, or a multiple-of is out of range."""

    code = "invalid-budget"


class BudgetUnreachableError(InnError, ValueError):
    """The budget is below the smallest size of the network."""

    code = "budget-unreachable"

    def __init__(self, *, target: int, minimum: int, maximum: int, unit: str) -> None:
        super().__init__(
            f"target of {target:,} {unit} is below the smallest size of this network, {minimum:,} {unit}; "
            f"ask for {minimum:,} to {maximum:,}",
            target=target,
            minimum=minimum,
            maximum=maximum,
            unit=unit,
        )


class QualityUnavailableError(InnError, ValueError):
    """The checkpoint lacks what a quality needs."""

    code = "quality-unavailable"

    def __init__(self, quality: str, available: Sequence[str], reason: str) -> None:
        super().__init__(
            f"quality '{quality}' is not available: {reason}; use one of: {', '.join(available)}",
            quality=quality,
            available=list(available),
        )


class ArtifactTooLargeError(InnError, ValueError):
    """The ONNX file would pass the 2 GiB limit of the protobuf format."""

    code = "artifact-too-large"


class ParityError(InnError, ArithmeticError):
    """ONNX Runtime and the PyTorch program disagree on an artifact; it is not published."""

    code = "parity-failed"


class MissingPackageError(InnError, ImportError):
    """An optional package that an operation needs is not installed."""

    code = "missing-package"

    def __init__(self, package: str, purpose: str) -> None:
        super().__init__(
            f"package '{package}' is needed {purpose} and is not installed; run: pip install {package}",
            package=package,
        )


class InvalidEvaluationError(InnError, ValueError):
    """Evaluation samples or labels are missing, have the wrong shape, or do not belong together."""

    code = "invalid-evaluation"


class InvalidInputError(InnError, ValueError):
    """A graph input is missing, unknown, or has the wrong rank or element type; or a weight is missing."""

    code = "invalid-input"


class ExecutionError(InnError, RuntimeError):
    """An operator of the graph cannot run on the tensors it got, most often because shapes do not fit."""

    code = "execution-failed"

    def __init__(self, node: str, operator: str, shapes: Sequence[str], reason: str) -> None:
        super().__init__(
            f"node '{node}' ({operator}) cannot run on inputs of shape {', '.join(shapes) or 'none'}: {reason}; "
            "check the shapes of the graph inputs and that the model passes onnx.checker",
            node=node,
            operator=operator,
            shapes=list(shapes),
        )


class DeviceError(InnError, ValueError):
    """The device is unknown or not on this machine."""

    code = "device-unavailable"


class InvalidNameError(InnError, ValueError):
    """A network's name does not match the pattern of names."""

    code = "invalid-name"


class InvalidModuleError(InnError, ValueError):
    """A `package.module:factory` cannot be loaded, called or exported to ONNX."""

    code = "invalid-module"


class StatisticsMissingError(InnError, RuntimeError):
    """Normalization statistics are needed and there are none for the present parameters."""

    code = "statistics-missing"


class PartitionError(InnError, ValueError):
    """Points, sizes or weights of a partition are out of range, or its grid and quadrature do not go together."""

    code = "invalid-partition"


class TrainingStateError(InnError, ValueError):
    """A saved training state is unreadable or belongs to another run."""

    code = "training-state-mismatch"


class InvalidTrainingError(InnError, ValueError):
    """A setting of a training run is out of range, or the run cannot go on."""

    code = "invalid-training"
