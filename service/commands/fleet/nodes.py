"""`inn fleet`: the nodes of a hub, what each should run, rollouts over many, tokens that let new ones in."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.commands.arguments import JsonOption
from service.commands.fleet.hub_client import (
    DEFAULT_HUB,
    DEFAULT_STORE,
    HubOption,
    KeyFileOption,
    KeyOption,
    StoreOption,
    check_node,
    open_hub,
    parse_labels,
)
from service.commands.fleet.tables import changed_lines, is_settled, print_nodes, print_rollout, print_rollouts
from service.terminal import CommandError, note, print_json, print_table, reported_errors

WATCH_SECONDS = 50.0
SELECTORS = ("pause", "resume", "abort")

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Name of a node.", callback=check_node)]
LabelOption = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Only nodes with this label; repeatable.")
]
ModelOption = Annotated[str, typer.Option(metavar="M", help="Name of a model of the hub.")]
ParamsOption = Annotated[int | None, typer.Option(metavar="N", min=1, help="At most so many parameters.")]
MacsOption = Annotated[int | None, typer.Option(metavar="N", min=1, help="At most so many multiply-accumulates.")]
BytesOption = Annotated[int | None, typer.Option("--bytes", metavar="N", min=1, help="At most so many bytes.")]
LatencyOption = Annotated[
    float | None, typer.Option("--latency-ms", metavar="X", help="At most so long a run, measured on the device.")
]
MemoryOption = Annotated[
    int | None, typer.Option("--memory-bytes", metavar="N", min=1, help="At most so much memory, measured there.")
]
BatchOption = Annotated[int, typer.Option(min=1, help="Rows of one run, for measured budgets.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads of one run, for measured budgets.")]
PercentileOption = Annotated[int, typer.Option(help="Of the run times, 50 or 95, for --latency-ms.")]
QualityOption = Annotated[str | None, typer.Option(help="refined, instant, trained or uniform; else the best.")]
MultipleOption = Annotated[int, typer.Option("--multiple-of", min=1, help="Make group sizes multiples of this.")]

app = typer.Typer(
    help="See and steer the nodes of a running hub.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("list")
@reported_errors()
def list_nodes(
    label: LabelOption = None,
    hub: HubOption = DEFAULT_HUB,
    key_file: KeyFileOption = None,
    key: KeyOption = None,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Show all nodes: state, size, budget, measured latency, labels."""
    query = [("label", text) for text in label or ()]
    parse_labels(label or ())
    answer = open_hub(hub, key_file=key_file, key=key, store=store).call("GET", "/fleet/nodes", query=query)
    if json:
        print_json(answer)
    else:
        print_nodes(answer["nodes"])


@app.command()
@reported_errors()
def show(
    node: NodeArgument,
    hub: HubOption = DEFAULT_HUB,
    key_file: KeyFileOption = None,
    key: KeyOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Show one node whole, as JSON."""
    print_json(open_hub(hub, key_file=key_file, key=key, store=store).call("GET", f"/fleet/nodes/{node}"))


@app.command("set")
@reported_errors()
def set_desired(
    node: NodeArgument,
    model: ModelOption,
    params: ParamsOption = None,
    macs: MacsOption = None,
    n_bytes: BytesOption = None,
    latency_ms: LatencyOption = None,
    memory_bytes: MemoryOption = None,
    batch: BatchOption = 1,
    threads: ThreadsOption = 1,
    percentile: PercentileOption = 95,
    quality: QualityOption = None,
    multiple_of: MultipleOption = 1,
    if_generation: Annotated[
        int | None, typer.Option(metavar="G", min=0, help="Only when the node is still at this generation.")
    ] = None,
    hub: HubOption = DEFAULT_HUB,
    key_file: KeyFileOption = None,
    key: KeyOption = None,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Say what a node should run: a model and one budget."""
    targets = {
        "params": params,
        "macs": macs,
        "bytes": n_bytes,
        "latency_ms": latency_ms,
        "memory_bytes": memory_bytes,
    }
    budget = _budget(targets, batch=batch, threads=threads, percentile=percentile)
    if budget is None:
        raise typer.BadParameter(
            "a budget is missing; give one of --params, --macs, --bytes, --latency-ms, --memory-bytes"
        )
    body = {"model": model, "budget": budget, "quality": quality, "multiple_of": multiple_of}
    headers = {} if if_generation is None else {"if-match": f'"{if_generation}"'}
    admin = open_hub(hub, key_file=key_file, key=key, store=store)
    answer = admin.call("PUT", f"/fleet/nodes/{node}/desired", body=body, headers=headers)
    note(f"{node} is to have generation {answer['generation']}")
    _print_node(answer, json=json)


@app.command()
@reported_errors()
def label(
    node: NodeArgument,
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…", help="KEY=VALUE sets, KEY- takes away.")],
    hub: HubOption = DEFAULT_HUB,
    key_file: KeyFileOption = None,
    key: KeyOption = None,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Set labels of a node, or take them away."""
    removed: dict[str, str | None] = {text[:-1]: None for text in labels if text.endswith("-") and "=" not in text}
    given = parse_labels([text for text in labels if not (text.endswith("-") and "=" not in text)])
    admin = open_hub(hub, key_file=key_file, key=key, store=store)
    _print_node(admin.call("PATCH", f"/fleet/nodes/{node}", body={"labels": {**removed, **given}}), json=json)


@app.command()
@reported_errors()
def rollout(
    model: ModelOption,
    label: LabelOption = None,
    params: ParamsOption = None,
    macs: MacsOption = None,
    n_bytes: BytesOption = None,
    latency_ms: LatencyOption = None,
    memory_bytes: MemoryOption = None,
    batch: BatchOption = 1,
    threads: ThreadsOption = 1,
    percentile: PercentileOption = 95,
    quality: QualityOption = None,
    multiple_of: MultipleOption = 1,
    name: Annotated[str | None, typer.Option(help="For people.")] = None,
    canary_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the nodes that go first.")] = 0.1,
    max_failures: Annotated[int, typer.Option(min=1, help="Failed nodes that abort it.")] = 1,
    bake_seconds: Annotated[float, typer.Option(min=0.0, help="Wait after the canaries.")] = 0.0,
    hub: HubOption = DEFAULT_HUB,
    key_file: KeyFileOption = None,
    key: KeyOption = None,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Give all nodes with some labels a model, canaries first. Without a budget each node keeps its own."""
    targets = {
        "params": params,
        "macs": macs,
        "bytes": n_bytes,
        "latency_ms": latency_ms,
        "memory_bytes": memory_bytes,
    }
    body: dict[str, Any] = {
        "name": name,
        "selector": parse_labels(label or ()),
        "model": model,
        "budget": _budget(targets, batch=batch, threads=threads, percentile=percentile),
        "quality": quality,
        "multiple_of": multiple_of,
        "canary_share": canary_share,
        "max_failures": max_failures,
        "bake_seconds": bake_seconds,
    }
    answer = open_hub(hub, key_file=key_file, key=key, store=store).call("POST", "/fleet/rollouts", body=body)
    if json:
        print_json(answer)
    else:
        print_rollout(answer)


@app.command()
@reported_errors()
def rollouts(
    rollout_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Of one rollout; else all.", show_default=False)
    ] = None,
    pause: Annotated[bool, typer.Option("--pause", help="Hold it.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Let it go on.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="End it, and put back what it changed.")] = False,
    hub: HubOption = DEFAULT_HUB,
    key_file: KeyFileOption = None,
    key: KeyOption = None,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Show rollouts; pause, resume or abort one."""
    actions = [verb for verb, wanted in zip(SELECTORS, (pause, resume, abort), strict=True) if wanted]
    if len(actions) > 1 or (actions and rollout_id is None):
        raise typer.BadParameter("give the ID of one rollout, and one of --pause, --resume and --abort at most")
    if rollout_id is not None and not rollout_id.isalnum():
        raise typer.BadParameter(f"'{rollout_id}' is no id of a rollout")
    admin = open_hub(hub, key_file=key_file, key=key, store=store)
    if rollout_id is None:
        answer = admin.call("GET", "/fleet/rollouts")
    elif actions:
        answer = admin.call("POST", f"/fleet/rollouts/{rollout_id}/{actions[0]}")
    else:
        answer = admin.call("GET", f"/fleet/rollouts/{rollout_id}")
    if json:
        print_json(answer)
    elif rollout_id is None:
        print_rollouts(answer["rollouts"])
    else:
        print_rollout(answer)


@app.command()
@reported_errors()
def rollback(
    node: NodeArgument,
    hub: HubOption = DEFAULT_HUB,
    key_file: KeyFileOption = None,
    key: KeyOption = None,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Give a node again what it had committed before."""
    answer = open_hub(hub, key_file=key_file, key=key, store=store).call("POST", f"/fleet/nodes/{node}/rollback")
    note(f"{node} is to have generation {answer['generation']}")
    _print_node(answer, json=json)


@app.command()
@reported_errors()
def watch(
    label: LabelOption = None,
    until_settled: Annotated[
        bool, typer.Option("--until-settled", help="End when every node has committed what it should run, or failed.")
    ] = False,
    least_nodes: Annotated[
        int, typer.Option("--nodes", metavar="N", min=1, help="With --until-settled: wait until so many have joined.")
    ] = 1,
    hub: HubOption = DEFAULT_HUB,
    key_file: KeyFileOption = None,
    key: KeyOption = None,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Print a line whenever a node changes, until stopped; exit code 1 when a node failed with --until-settled."""
    admin = open_hub(hub, key_file=key_file, key=key, store=store)
    parse_labels(label or ())
    selected = [("label", text) for text in label or ()]
    shown: dict[str, str] = {}
    revision: int | None = None
    while True:
        query = selected if revision is None else [*selected, ("after", str(revision)), ("wait", f"{WATCH_SECONDS:g}")]
        answer = admin.call("GET", "/fleet/nodes", query=query, wait_seconds=WATCH_SECONDS)
        revision = answer["revision"]
        for line in changed_lines(answer["nodes"], shown, as_json=json):
            typer.echo(line)
        if until_settled and len(answer["nodes"]) >= least_nodes and all(is_settled(node) for node in answer["nodes"]):
            failed = [node["node"] for node in answer["nodes"] if is_settled(node) == "failed"]
            if failed:
                raise CommandError("nodes-failed", f"failed: {', '.join(failed)}; see inn fleet show NODE")
            return


@app.command()
@reported_errors()
def token(
    node: Annotated[str | None, typer.Option(metavar="NODE", help="Only for the node of this name.")] = None,
    expires_seconds: Annotated[int, typer.Option(min=1, help="How long it is good.")] = 3600,
    show_all: Annotated[bool, typer.Option("--list", help="Show all tokens instead, without their secrets.")] = False,
    delete: Annotated[str | None, typer.Option(metavar="ID", help="Make one worthless instead.")] = None,
    hub: HubOption = DEFAULT_HUB,
    key_file: KeyFileOption = None,
    key: KeyOption = None,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Make a token that lets one node in, once; it is printed and kept nowhere."""
    if node is not None:
        check_node(node)
    if delete is not None and not delete.isalnum():
        raise typer.BadParameter(f"'{delete}' is no id of a token")
    admin = open_hub(hub, key_file=key_file, key=key, store=store)
    if delete is not None:
        admin.call("DELETE", f"/fleet/tokens/{delete}")
        note(f"token {delete} is worthless now")
        return
    if show_all:
        answer = admin.call("GET", "/fleet/tokens")
        if json:
            print_json(answer)
            return
        rows = [
            (one["id"], one["node"] or "any", str(one["expires"]), one["used_by"] or "") for one in answer["tokens"]
        ]
        print_table(("id", "for", "expires", "used by"), rows)
        return
    answer = admin.call("POST", "/fleet/tokens", body={"node": node, "expires_seconds": expires_seconds})
    if json:
        print_json(answer)
    else:
        typer.echo(answer["token"])


@app.command()
@reported_errors()
def remove(
    node: NodeArgument,
    hub: HubOption = DEFAULT_HUB,
    key_file: KeyFileOption = None,
    key: KeyOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Forget a node: its key counts no more. It goes on serving what it has."""
    open_hub(hub, key_file=key_file, key=key, store=store).call("DELETE", f"/fleet/nodes/{node}")
    note(f"{node} is forgotten")


def _budget(targets: dict[str, Any], *, batch: int, threads: int, percentile: int) -> dict[str, Any] | None:
    given = {unit: value for unit, value in targets.items() if value is not None}
    if len(given) > 1:
        raise typer.BadParameter("more than one budget is given; give one")
    for unit, value in given.items():
        return {"unit": unit, "value": value, "batch": batch, "threads": threads, "percentile": percentile}
    return None


def _print_node(node: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(node)
    else:
        print_nodes([node])
