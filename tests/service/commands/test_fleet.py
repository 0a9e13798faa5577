"""`inn fleet`: what an administrator types, against a running hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from tests.service.hub.fleet.simulated import ADMIN_KEY, PARAMS_EACH, Admin, Node, enrolled
from tests.service.hub.fleet_hub import fleet_hub
from tests.service.hub.live_hub import LiveHub


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INN_HUB", "INN_ADMIN_KEY", "INN_ADMIN_KEY_FILE", "INN_STORE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveHub, Admin]]:
    with fleet_hub(tmp_path_factory.mktemp("fleet")) as pair:
        yield pair


@pytest.fixture
def toy(running: tuple[LiveHub, Admin]) -> LiveHub:
    return running[0]


def run(toy: LiveHub, *words: str, code: int = 0, key: str = ADMIN_KEY) -> Result:
    result = CliRunner().invoke(app, ["fleet", *words, "--hub", toy.url], env={"INN_ADMIN_KEY": key})
    assert result.exit_code == code, (result.output, result.exception)
    return result


def run_json(toy: LiveHub, *words: str) -> Any:
    return json.loads(run(toy, *words, "--json").stdout)


def test_from_a_token_to_a_roll_back(toy: LiveHub) -> None:
    token = run(toy, "token", "--node", "cam").stdout.strip()
    assert re.fullmatch(r"inn1\.[0-9a-f]{12}\.\S+", token)
    node = Node(toy.client, "cam")
    assert node.enroll(token).status_code == 201
    (shown,) = [one for one in run_json(toy, "token", "--list")["tokens"] if one["used_by"] == "cam"]
    assert shown["node"] == "cam"
    for units in (10, 20):
        answer = run_json(toy, "set", "cam", "--model", "toy", "--params", str(units * PARAMS_EACH))
        assert answer["desired"]["budget"]["value"] == units * PARAMS_EACH
        node.follow()
    listed = run(toy, "list").stdout
    assert re.search(r"cam +committed +toy +180 parameters +180 ", listed), listed
    assert "is to have generation 3" in run(toy, "rollback", "cam").stderr
    assert node.follow()["desired"]["params"] == 10 * PARAMS_EACH
    assert json.loads(run(toy, "show", "cam").stdout)["desired"]["rollback"] is True
    assert run(toy, "remove", "cam").stdout == ""
    assert "error[unknown-node]" in run(toy, "show", "cam", code=1).stderr


def test_labels_and_rollouts(toy: LiveHub) -> None:
    nodes = {}
    for number in range(3):
        nodes[f"l{number}"] = enrolled(toy.client, f"l{number}")
        run(toy, "label", f"l{number}", "group=l", "old=1")
        assert run_json(toy, "label", f"l{number}", "old-")["labels"] == {"group": "l"}
    assert [node["node"] for node in run_json(toy, "list", "--label", "group=l")["nodes"]] == list(nodes)
    words = ["--label", "group=l", "--model", "toy", "--params", "90", "--name", "first"]
    rollout = run_json(toy, "rollout", *words)
    shown = run(toy, "rollouts", rollout["id"]).stdout
    assert re.search(r"l\d +canary +updating", shown), shown
    assert run_json(toy, "rollouts", rollout["id"], "--pause")["state"] == "paused"
    assert run_json(toy, "rollouts", rollout["id"], "--resume")["state"] == "canary"
    assert "error[rollout-conflict]" in run(toy, "rollout", *words, code=1).stderr
    assert run_json(toy, "rollouts", rollout["id"], "--abort")["state"] == "aborted"
    assert "first" in run(toy, "rollouts").stdout
    assert "error[rollout-state]" in run(toy, "rollouts", rollout["id"], "--resume", code=1).stderr


def test_watch_shows_changes_and_ends_when_all_is_settled(toy: LiveHub) -> None:
    node = enrolled(toy.client, "w", group="w")
    run(toy, "set", "w", "--model", "toy", "--params", "90")
    node.follow()
    out = run(toy, "watch", "--label", "group=w", "--until-settled").stdout
    assert re.fullmatch(r"\d\d:\d\d:\d\d  w  committed  generation 1 of 1  90 parameters\n", out), out
    run(toy, "set", "w", "--model", "toy", "--params", "1")
    told = node.desired(wait=20)
    assert told is not None
    node.known = told["generation"]
    node.report("committed")
    failed = run(toy, "watch", "--label", "group=w", "--until-settled", "--nodes", "1", code=1)
    assert "error[nodes-failed]: failed: w" in failed.stderr


def test_nothing_that_a_node_says_steers_the_terminal(toy: LiveHub) -> None:
    node = enrolled(toy.client, "evil", group="evil")
    error = {"code": "x", "detail": "\x1b[2J\x07[bold]hidden[/]\n", "generation": 0}
    node.report("failed", error=error)
    for words in (["list", "--label", "group=evil"], ["list", "--label", "group=evil", "--json"]):
        out = run(toy, *words).stdout
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "[bold]" in out


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["set", "a", "--model", "toy"], "a budget is missing"),
        (["set", "a", "--model", "toy", "--params", "9", "--bytes", "9"], "more than one budget"),
        (["set", "../a", "--model", "toy", "--params", "9"], "names no node"),
        (["list", "--label", "x"], "no label"),
        (["label", "a", "x"], "no label"),
        (["rollouts", "--pause"], "ID of one rollout"),
        (["rollouts", "../x"], "no id of a rollout"),
        (["token", "--node", "a/b"], "names no node"),
    ],
)
def test_misuse(toy: LiveHub, words: list[str], what: str) -> None:
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", run(toy, *words, code=2).stderr).split())
    assert what in shown


def test_wrong_and_missing_keys(toy: LiveHub, tmp_path: Path) -> None:
    assert "error[invalid-admin-key]" in run(toy, "list", key="wrong", code=1).stderr
    runner = CliRunner()
    words = ["fleet", "list", "--hub", toy.url, "--store", str(tmp_path)]
    missing = runner.invoke(app, words)
    assert missing.exit_code == 1
    assert "error[admin-key-missing]" in missing.stderr
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet" / "admin-key").write_text(f"{ADMIN_KEY}\n")
    assert runner.invoke(app, words).exit_code == 0
    by_file = [*words[:-2], "--admin-key-file", str(tmp_path / "fleet" / "admin-key")]
    assert runner.invoke(app, by_file, env={"INN_ADMIN_KEY": "wrong"}).exit_code == 0


@pytest.mark.parametrize(
    ("url", "code"),
    [("http://127.0.0.1:9", "hub-unreachable"), ("nonsense", "invalid-address"), ("http://hub:x", "invalid-address")],
)
def test_a_hub_that_is_not_there(url: str, code: str) -> None:
    result = CliRunner().invoke(app, ["fleet", "list", "--hub", url], env={"INN_ADMIN_KEY": ADMIN_KEY})
    assert result.exit_code == 1
    assert f"error[{code}]" in result.stderr


def test_problems_keep_their_code(toy: LiveHub) -> None:
    enrolled(toy.client, "p")
    run(toy, "set", "p", "--model", "toy", "--params", "9", "--if-generation", "0")
    again = run(toy, "set", "p", "--model", "toy", "--params", "9", "--if-generation", "0", code=1)
    assert "error[generation-conflict]" in again.stderr
    assert "error[nothing-to-roll-back]" in run(toy, "rollback", "p", code=1).stderr
