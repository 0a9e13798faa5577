"""Bodies and queries of the fleet's routes: what they may hold, with an error that points at what is wrong."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from service.contract.sizes import LARGEST_VALUE
from service.ground.errors import InvalidRequestError
from service.ground.names import NAME_PATTERN
from service.http.body import parse_small_json_object, read_body
from service.hub.fleet.documents import STRICT, Capability, Change
from service.hub.routes.bodies import translated

BODY_BYTES = 64 << 10
REPORT_BYTES = 256 << 10
LONGEST_WAIT_SECONDS = 60.0
LONGEST_TOKEN_SECONDS = 30 * 86_400

B = TypeVar("B", bound=BaseModel)

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
# No control characters: labels are shown on terminals.
LabelValue = Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Labels = Annotated[dict[Name, LabelValue], Field(max_length=32)]


class TokenBody(BaseModel):
    """Body of `POST /fleet/tokens`."""

    model_config: ClassVar[ConfigDict] = STRICT
    node: Name | None = Field(default=None, description="Who may use it; any node whose name is free when not given.")
    expires_seconds: int = Field(default=3600, ge=1, le=LONGEST_TOKEN_SECONDS, description="How long it is good.")


class EnrollBody(BaseModel):
    """Body of `POST /fleet/enroll`."""

    model_config: ClassVar[ConfigDict] = STRICT
    node: Name = Field(description="The name that the node wants.")
    token: str = Field(max_length=256, description="From `POST /fleet/tokens`.")
    public_key: str = Field(max_length=64, description="`ed25519:` and base64url of the node's own key.")
    labels: Labels = Field(default_factory=dict)
    capability: Capability = Capability()


class LabelsBody(BaseModel):
    """Body of `PATCH /fleet/nodes/{node}`."""

    model_config: ClassVar[ConfigDict] = STRICT
    labels: Annotated[dict[Name, LabelValue | None], Field(max_length=64)] = Field(
        description="Labels to set; those that are null are taken away."
    )


class RolloutBody(Change):
    """Body of `POST /fleet/rollouts`. Without a budget each node keeps its own."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")] | None = None
    selector: Labels = Field(description="Labels that the nodes have; all nodes when empty.")
    canary_share: float = Field(default=0.1, gt=0.0, le=1.0, description="Share of the nodes that go first.")
    max_failures: int = Field(default=1, ge=1, le=100_000, description="Failed nodes that abort it.")
    bake_seconds: float = Field(default=0.0, ge=0.0, le=30 * 86_400.0, description="Wait after the canaries.")

    @property
    def change(self) -> Change:
        """What the nodes get."""
        return Change(**{name: getattr(self, name) for name in Change.model_fields})


async def read_model(request: Request, body: type[B], *, limit_bytes: int = BODY_BYTES, is_optional: bool = False) -> B:
    """The body of a request.

    Args:
        request: whose body was not read yet.
        body: what it should be.
        limit_bytes: most bytes.
        is_optional: whether no body at all means one without members.

    Raises:
        InvalidRequestError: a member is missing, unknown or wrong; names every place.
        UnreadableBodyError, BodyTooLargeError and others of `read_body`.
    """
    raw = await read_body(request, limit_bytes=limit_bytes, inflated_limit_bytes=limit_bytes)
    document = {} if is_optional and not raw else parse_small_json_object(raw)
    return check_model(document, body)


def check_model(document: Any, body: type[B]) -> B:
    """The value that a JSON object means; errors as of `read_model`."""
    try:
        return body.model_validate(document)
    except ValidationError as error:
        raise translated(error, body) from None


def whole_number(request: Request, name: str) -> int | None:
    """A query parameter that is a whole number.

    Raises:
        InvalidRequestError: it is none.
    """
    text = request.query_params.get(name)
    return None if text is None else parse_number(text, f"/{name}")


def parse_number(text: str, pointer: str) -> int:
    """A whole number from 0 to the largest that JSON holds exactly.

    Raises:
        InvalidRequestError: the text is none.
    """
    if text.isascii() and text.isdecimal() and len(text) <= 16 and int(text) <= LARGEST_VALUE:
        return int(text)
    raise InvalidRequestError.at(pointer, f"{text[:40]!r} is no whole number from 0 to {LARGEST_VALUE}")


def wait_of(request: Request) -> float:
    """The query parameter `wait`: how long the client wants to wait, in whole or broken seconds.

    Raises:
        InvalidRequestError: it is no number from 0 to `LONGEST_WAIT_SECONDS`.
    """
    text = request.query_params.get("wait", "0")
    try:
        seconds = float(text) if len(text) <= 20 else -1.0
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= LONGEST_WAIT_SECONDS:
        raise InvalidRequestError.at("/wait", f"{text[:40]!r} is no number from 0 to {LONGEST_WAIT_SECONDS:g}")
    return seconds


def selector_of(request: Request) -> dict[str, str]:
    """The query parameters `label=KEY=VALUE`.

    Raises:
        InvalidRequestError: one has no `=`, or there are too many.
    """
    texts = request.query_params.getlist("label")
    if len(texts) > 32:
        raise InvalidRequestError.at("/label", f"{len(texts)} labels; at most 32 at a time")
    for text in texts:
        if "=" not in text:
            raise InvalidRequestError.at("/label", f"{text[:60]!r} is no label; write KEY=VALUE")
    return {key: value for key, _, value in (text.partition("=") for text in texts)}
