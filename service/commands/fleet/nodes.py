"""`inn fleet`: the nodes of a hub, what each should run, rollouts over many, tokens that let new ones in."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.commands.arguments import BatchOption, JsonOption, ThreadsOption, budgets, takes
from service.commands.fleet.hub_client import Hub, check_node, open_hub, parse_labels
from service.commands.fleet.tables import changed_lines, is_settled, print_nodes, print_rollout, print_rollouts
from service.contract.sizes import Unit
from service.terminal import CommandError, note, print_json, print_result, print_table, reported_errors

WATCH_SECONDS = 50.0
SELECTORS = ("pause", "resume", "abort")

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Name of a node.", callback=check_node)]
LabelOption = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Only nodes with this label; repeatable.")
]
app = typer.Typer(
    help="See and steer the nodes of a running hub.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@takes(given=budgets)
def wanted_size(
    model: Annotated[str, typer.Option(metavar="M", help="Name of a model of the hub.")],
    given: dict[Unit, float],
    batch: BatchOption = 1,
    threads: ThreadsOption = 1,
    percentile: Annotated[int, typer.Option(help="Of the run times, 50 or 95, for --latency-ms.")] = 95,
    quality: Annotated[str | None, typer.Option(help="refined, instant, trained or uniform; else the best.")] = None,
    multiple_of: Annotated[int, typer.Option(min=1, help="Make group sizes multiples of this.")] = 1,
) -> dict[str, Any]:
    """What nodes are to run, as the hub's routes take it (for `takes`); its budget is None when none is given."""
    if len(given) > 1:
        raise typer.BadParameter("more than one budget is given; give one")
    measured = {"batch": batch, "threads": threads, "percentile": percentile}
    budget = next(({"unit": unit, "value": value, **measured} for unit, value in given.items()), None)
    return {"model": model, "budget": budget, "quality": quality, "multiple_of": multiple_of}


@app.command("list")
@reported_errors()
@takes(hub=open_hub)
def list_nodes(label: LabelOption = None, *, hub: Hub, json: JsonOption = False) -> None:
    """Show all nodes: state, size, budget, measured latency, labels."""
    query = [("label", text) for text in label or ()]
    parse_labels(label or ())
    answer = hub.call("GET", "/fleet/nodes", query=query)
    print_result(answer, lambda shown: print_nodes(shown["nodes"]), json=json)


@app.command()
@reported_errors()
@takes(hub=open_hub)
def show(node: NodeArgument, *, hub: Hub) -> None:
    """Show one node whole, as JSON."""
    print_json(hub.call("GET", f"/fleet/nodes/{node}"))


@app.command("set")
@reported_errors()
@takes(hub=open_hub, wanted=wanted_size)
def set_desired(
    node: NodeArgument,
    wanted: dict[str, Any],
    if_generation: Annotated[
        int | None, typer.Option(metavar="G", min=0, help="Only when the node is still at this generation.")
    ] = None,
    *,
    hub: Hub,
    json: JsonOption = False,
) -> None:
    """Say what a node should run: a model and one budget."""
    if wanted["budget"] is None:
        raise typer.BadParameter(
            "a budget is missing; give one of --params, --macs, --bytes, --latency-ms, --memory-bytes"
        )
    headers = {} if if_generation is None else {"if-match": f'"{if_generation}"'}
    answer = hub.call("PUT", f"/fleet/nodes/{node}/desired", body=wanted, headers=headers)
    note(f"{node} is to have generation {answer['generation']}")
    _print_node(answer, json=json)


@app.command()
@reported_errors()
@takes(hub=open_hub)
def label(
    node: NodeArgument,
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…", help="KEY=VALUE sets, KEY- takes away.")],
    *,
    hub: Hub,
    json: JsonOption = False,
) -> None:
    """Set labels of a node, or take them away."""
    removed: dict[str, str | None] = {text[:-1]: None for text in labels if text.endswith("-") and "=" not in text}
    given = parse_labels([text for text in labels if not (text.endswith("-") and "=" not in text)])
    _print_node(hub.call("PATCH", f"/fleet/nodes/{node}", body={"labels": {**removed, **given}}), json=json)


@app.command()
@reported_errors()
@takes(hub=open_hub, wanted=wanted_size)
def rollout(
    wanted: dict[str, Any],
    label: LabelOption = None,
    name: Annotated[str | None, typer.Option(help="For people.")] = None,
    canary_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the nodes that go first.")] = 0.1,
    max_failures: Annotated[int, typer.Option(min=1, help="Failed nodes that abort it.")] = 1,
    bake_seconds: Annotated[float, typer.Option(min=0.0, help="Wait after the canaries.")] = 0.0,
    *,
    hub: Hub,
    json: JsonOption = False,
) -> None:
    """Give all nodes with some labels a model, canaries first. Without a budget each node keeps its own."""
    body = {
        **wanted,
        "name": name,
        "selector": parse_labels(label or ()),
        "canary_share": canary_share,
        "max_failures": max_failures,
        "bake_seconds": bake_seconds,
    }
    answer = hub.call("POST", "/fleet/rollouts", body=body)
    print_result(answer, print_rollout, json=json)


@app.command()
@reported_errors()
@takes(hub=open_hub)
def rollouts(
    rollout_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Of one rollout; else all.", show_default=False)
    ] = None,
    pause: Annotated[bool, typer.Option("--pause", help="Hold it.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Let it go on.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="End it, and put back what it changed.")] = False,
    *,
    hub: Hub,
    json: JsonOption = False,
) -> None:
    """Show rollouts; pause, resume or abort one."""
    actions = [verb for verb, wanted in zip(SELECTORS, (pause, resume, abort), strict=True) if wanted]
    if len(actions) > 1 or (actions and rollout_id is None):
        raise typer.BadParameter("give the ID of one rollout, and one of --pause, --resume and --abort at most")
    if rollout_id is not None and not rollout_id.isalnum():
        raise typer.BadParameter(f"'{rollout_id}' is no id of a rollout")
    if rollout_id is None:
        answer = hub.call("GET", "/fleet/rollouts")
    elif actions:
        answer = hub.call("POST", f"/fleet/rollouts/{rollout_id}/{actions[0]}")
    else:
        answer = hub.call("GET", f"/fleet/rollouts/{rollout_id}")
    print_result(answer, print_rollout if rollout_id else lambda listed: print_rollouts(listed["rollouts"]), json=json)


@app.command()
@reported_errors()
@takes(hub=open_hub)
def rollback(node: NodeArgument, *, hub: Hub, json: JsonOption = False) -> None:
    """Give a node again what it had committed before."""
    answer = hub.call("POST", f"/fleet/nodes/{node}/rollback")
    note(f"{node} is to have generation {answer['generation']}")
    _print_node(answer, json=json)


@app.command()
@reported_errors()
@takes(hub=open_hub)
def watch(
    label: LabelOption = None,
    until_settled: Annotated[
        bool, typer.Option("--until-settled", help="End when every node has committed what it should run, or failed.")
    ] = False,
    least_nodes: Annotated[
        int, typer.Option("--nodes", metavar="N", min=1, help="With --until-settled: wait until so many have joined.")
    ] = 1,
    *,
    hub: Hub,
    json: JsonOption = False,
) -> None:
    """Print a line whenever a node changes, until stopped; exit code 1 when a node failed with --until-settled."""
    parse_labels(label or ())
    selected = [("label", text) for text in label or ()]
    shown: dict[str, str] = {}
    revision: int | None = None
    while True:
        query = selected if revision is None else [*selected, ("after", str(revision)), ("wait", f"{WATCH_SECONDS:g}")]
        answer = hub.call("GET", "/fleet/nodes", query=query, wait_seconds=WATCH_SECONDS)
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
@takes(hub=open_hub)
def token(
    node: Annotated[str | None, typer.Option(metavar="NODE", help="Only for the node of this name.")] = None,
    expires_seconds: Annotated[int, typer.Option(min=1, help="How long it is good.")] = 3600,
    show_all: Annotated[bool, typer.Option("--list", help="Show all tokens instead, without their secrets.")] = False,
    delete: Annotated[str | None, typer.Option(metavar="ID", help="Make one worthless instead.")] = None,
    *,
    hub: Hub,
    json: JsonOption = False,
) -> None:
    """Make a token that lets one node in, once; it is printed and kept nowhere."""
    if node is not None:
        check_node(node)
    if delete is not None and not delete.isalnum():
        raise typer.BadParameter(f"'{delete}' is no id of a token")
    if delete is not None:
        hub.call("DELETE", f"/fleet/tokens/{delete}")
        note(f"token {delete} is worthless now")
        return
    if show_all:
        answer = hub.call("GET", "/fleet/tokens")
        print_result(answer, _print_tokens, json=json)
        return
    answer = hub.call("POST", "/fleet/tokens", body={"node": node, "expires_seconds": expires_seconds})
    print_result(answer, lambda made: typer.echo(made["token"]), json=json)


@app.command()
@reported_errors()
@takes(hub=open_hub)
def remove(node: NodeArgument, *, hub: Hub) -> None:
    """Forget a node: its key counts no more. It goes on serving what it has."""
    hub.call("DELETE", f"/fleet/nodes/{node}")
    note(f"{node} is forgotten")


def _print_node(node: dict[str, Any], *, json: bool) -> None:
    print_result(node, lambda shown: print_nodes([shown]), json=json)


def _print_tokens(answer: dict[str, Any]) -> None:
    rows = [(one["id"], one["node"] or "any", str(one["expires"]), one["used_by"] or "") for one in answer["tokens"]]
    print_table(("id", "for", "expires", "used by"), rows)
