"""What can be wrong with a request about the fleet; errors of keys, tokens and signatures are those of `trust`."""

from __future__ import annotations

from collections.abc import Sequence

from service.ground.errors import ServiceError


class UnknownNodeError(ServiceError, LookupError):
    """No node of this name is enrolled."""

    code = "unknown-node"

    def __init__(self, node: str) -> None:
        super().__init__(
            f"there is no node '{node[:64]}'; see GET /fleet/nodes, or enroll it with a token", node=node[:64]
        )


class UnknownTokenError(ServiceError, LookupError):
    """No enrolment token has this id."""

    code = "unknown-token"

    def __init__(self, token: str) -> None:
        super().__init__("there is no token of this id; see GET /fleet/tokens", token=token[:64])


class UnknownRolloutError(ServiceError, LookupError):
    """No rollout has this id."""

    code = "unknown-rollout"

    def __init__(self, rollout: str) -> None:
        super().__init__("there is no rollout of this id; see GET /fleet/rollouts", rollout=rollout[:64])


class NodeConflictError(ServiceError, ValueError):
    """A node of this name is enrolled with another key."""

    code = "node-conflict"

    def __init__(self, node: str) -> None:
        super().__init__(
            f"node '{node}' is enrolled with another key; take another name, or make a token for this very node "
            "(POST /fleet/tokens with its name), which lets it take the place of the old one",
            node=node,
        )


class OtherNodeError(ServiceError, PermissionError):
    """A node asked for what belongs to another one."""

    code = "other-node"

    def __init__(self, node: str) -> None:
        super().__init__(f"node '{node}' may only use its own routes", node=node)


class GenerationConflictError(ServiceError, ValueError):
    """The desired state has changed since the client looked."""

    code = "generation-conflict"

    def __init__(self, node: str, *, expected: int, found: int) -> None:
        super().__init__(
            f"node '{node}' is at generation {found}, the request expects {expected}; look again, then decide",
            node=node,
            generation=found,
        )


class NothingToRollBackError(ServiceError, LookupError):
    """A node has committed nothing else that it could go back to."""

    code = "nothing-to-roll-back"

    def __init__(self, node: str) -> None:
        super().__init__(
            f"node '{node}' has committed nothing else before that it could go back to; set what it should run",
            node=node,
        )


class FleetFullError(ServiceError, RuntimeError):
    """There are as many nodes, tokens or rollouts as the hub keeps."""

    code = "fleet-full"

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"the hub keeps at most {limit:,} {what}; remove some that are not needed", limit=limit)


class DeviceBudgetError(ServiceError, ValueError):
    """Not even the smallest size is within a budget that the device measured."""

    code = "budget-unreachable"

    def __init__(self, model: str, *, unit: str, value: float, best: float) -> None:
        super().__init__(
            f"the smallest size of '{model}' needs {best:g} on this device, the budget is {value:g} ({unit}); "
            "allow more, or give the node another model",
            target=value,
            minimum=best,
            unit=unit,
        )


class DeviceNotMeasuredError(ServiceError, RuntimeError):
    """A device could not measure any size that it was asked to."""

    code = "device-not-measured"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"the node could not measure any size of '{model}', its log says why; "
            "free memory and time on it and set the budget again, or give a budget in params",
            model=model,
        )


class RolloutConflictError(ServiceError, ValueError):
    """Another rollout that has not ended has some of these nodes."""

    code = "rollout-conflict"

    def __init__(self, rollout: str, nodes: Sequence[str]) -> None:
        super().__init__(
            f"rollout {rollout} has not ended and has {len(nodes)} of these nodes ({', '.join(nodes[:3])}…); "
            "abort it or wait for its end",
            rollout=rollout,
            nodes=list(nodes[:20]),
        )


class RolloutStateError(ServiceError, ValueError):
    """A rollout is not in a state in which this can be done."""

    code = "rollout-state"

    def __init__(self, rollout: str, *, state: str, action: str) -> None:
        super().__init__(f"rollout {rollout} is {state}; it cannot {action} any more", rollout=rollout, state=state)


class EmptyRolloutError(ServiceError, LookupError):
    """No node has the labels that a rollout asks for, or none of them a budget."""

    code = "empty-rollout"

    def __init__(self, detail: str) -> None:
        super().__init__(f"{detail}; see the labels in GET /fleet/nodes")
