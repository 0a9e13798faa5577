"""`/jobs/{id}`: how far a job is, as JSON or as a stream of events; and giving it up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.builds.job import Job, JobStatus
from service.http.events import HEARTBEAT, event_bytes, event_stream, wants_events
from service.http.problems import problem_body
from service.hub.services import Hub

HEARTBEAT_SECONDS = 15.0


async def get_job(request: Request) -> Response:
    """State, stage and progress (0 to 1) of a job, its result when done, its problem when failed or cancelled.

    With `Accept: text/event-stream` the answer is a stream: an event named after the state at every change, the
    finished one last, and a comment as heartbeat in between.
    """
    hub: Hub = request.app.state.hub
    job = hub.board.get(request.path_params["job"])
    if wants_events(request.headers.get("accept")):
        return event_stream(_events(job))
    return _response(job)


async def delete_job(request: Request) -> Response:
    """Give a job up. The work itself goes on while another request needs it; a finished job stays as it is."""
    hub: Hub = request.app.state.hub
    job = hub.board.get(request.path_params["job"])
    job.leave()
    return _response(job)


def job_path(job_id: str) -> str:
    """Where a job is served."""
    return f"/jobs/{job_id}"


def job_body(status: JobStatus) -> dict[str, Any]:
    """A job as JSON."""
    body: dict[str, Any] = {
        "id": status.id,
        "kind": status.kind,
        "model": status.model,
        "state": status.state,
        "stage": status.stage,
        "progress": round(status.progress, 4),
        "created": status.created,
        "finished": status.finished,
        "url": job_path(status.id),
    }
    if status.result is not None:
        body["result"] = status.result
        if status.kind == "export":
            url = f"/artifacts/{status.result['digest']}"
            body["result"] = {**status.result, "url": url, "cached": status.cached}
    if status.error is not None:
        body["problem"] = problem_body(status.error)
    return body


def _response(job: Job) -> Response:
    headers = {"cache-control": "no-store"}
    if not job.is_finished:
        headers["retry-after"] = "1"
    return Response(orjson.dumps(job_body(job.status), default=str), headers=headers, media_type="application/json")


async def _events(job: Job) -> AsyncIterator[bytes]:
    async for status in job.events(HEARTBEAT_SECONDS):
        yield HEARTBEAT if status is None else event_bytes(status.state, job_body(status))
