"""What every `/infer` does, on the hub and on a node: read the body, make arrays of it, write the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.ground.errors import ServiceError
from service.ground.metrics import FAST, counter, histogram
from service.http.body import parse_json_object, read_body
from service.http.problems import status_of
from service.inference.tensors import Array, TensorSpec, arrays_from_json, holds_only_numbers

# Larger bodies are read in a thread, so that other requests get their turn in between.
THREAD_BYTES = 1 << 20

# `model` is one that is registered, or `unknown`.
_REQUESTS = counter("inn_infer_requests_total", "Inference requests answered.", ["model", "code"])
_REQUEST_SECONDS = histogram(
    "inn_infer_request_duration_seconds", "Time of an inference request, its build included.", buckets=FAST
)


@dataclass(frozen=True)
class InferenceDocument:
    """The body of a request: as it came, and parsed."""

    raw: bytes
    members: dict[str, Any]

    @cached_property
    def only_numbers(self) -> bool:
        """See `holds_only_numbers`; `members["inputs"]` must have been found to be an object."""
        return holds_only_numbers(self.raw, self.members)


@dataclass
class CountedInference:
    """What is counted of a request: the model once it is known to exist, and the status of the answer."""

    model: str = "unknown"
    status: int = 500


@contextmanager
def counted() -> Iterator[CountedInference]:
    """Counts what happens inside as one inference request; the block sets `model` and `status`."""
    started = time.perf_counter()
    request = CountedInference()
    try:
        yield request
    except ServiceError as error:
        request.status = status_of(error)
        raise
    finally:
        _REQUESTS.labels(request.model, str(request.status)).inc()
        _REQUEST_SECONDS.observe(time.perf_counter() - started)


async def read_document(request: Request, *, limit_bytes: int, inflated_limit_bytes: int) -> InferenceDocument:
    """The body of a request, any JSON object.

    Raises:
        BodyTooLargeError, BodyTimeoutError, UnsupportedEncodingError, UnreadableBodyError, ClientDisconnect: see
            `read_body` and `parse_json_object`.
    """
    raw = await read_body(request, limit_bytes=limit_bytes, inflated_limit_bytes=inflated_limit_bytes)
    members = parse_json_object(raw) if len(raw) < THREAD_BYTES else await asyncio.to_thread(parse_json_object, raw)
    return InferenceDocument(raw, members)


async def input_arrays(document: InferenceDocument, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The arrays in `inputs`, checked against what the network takes.

    Raises:
        InvalidInputError: one of its children, with a JSON pointer to what is wrong.
    """
    inputs, only_numbers = document.members["inputs"], document.only_numbers
    if len(document.raw) < THREAD_BYTES:
        return arrays_from_json(specs, inputs, only_numbers=only_numbers)
    return await asyncio.to_thread(arrays_from_json, specs, inputs, only_numbers=only_numbers)


def inference_response(*, model: str, params: int, digest: str, outputs: Mapping[str, Array]) -> Response:
    """The answer: nested lists by output; a number that is not finite is null."""
    answer = {
        "model": model,
        "params": params,
        "digest": digest,
        "outputs": {name: np.ascontiguousarray(values) for name, values in outputs.items()},
    }
    return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
