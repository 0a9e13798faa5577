"""Programs of a network at its sizes: one where no size changes the graph, else the ones that ran last."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from inn_core.graph import program_cache as sized_programs
from inn_core.graph.program_cache import SizedPrograms
from tests.inn_core.sized_networks import KINDS, shares

CPU = torch.device("cpu")


def programs_of(kind: str) -> SizedPrograms:
    checkpoint = KINDS[kind]()
    return SizedPrograms(checkpoint.template, checkpoint.structure)


def test_only_the_programs_that_ran_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a template that changes with the size every size has a program of its own."""
    monkeypatch.setattr(sized_programs, "PROGRAMS_KEPT", 2)
    programs = programs_of("concat")
    plans = [{"a": 2 + number, "b": 3, "c": 4} for number in range(3)]
    first, second = (programs.at(plan, CPU) for plan in plans[:2])
    assert programs.at(plans[0], CPU) is first
    third = programs.at(plans[2], CPU)
    assert len(programs) == 2
    assert programs.at(plans[0], CPU) is first  # it ran after the second
    assert programs.at(plans[2], CPU) is third
    assert programs.at(plans[1], CPU) is not second


def test_sizes_in_another_order_are_the_same_size() -> None:
    programs = programs_of("concat")
    assert programs.at({"a": 3, "b": 4, "c": 5}, CPU) is programs.at({"c": 5, "b": 4, "a": 3}, CPU)
    assert programs.at({"a": 3, "b": 5, "c": 4}, CPU) is not programs.at({"a": 3, "b": 4, "c": 5}, CPU)


def test_a_template_that_no_size_changes_has_one_program() -> None:
    checkpoint = KINDS["mlp"]()
    programs = SizedPrograms(checkpoint.template, checkpoint.structure)
    assert programs.at(checkpoint.structure.full_sizes(), CPU) is programs.at(shares(checkpoint, 0.5), CPU)
    assert len(programs) == 1


def test_copies_start_empty() -> None:
    checkpoint = KINDS["mlp"]()
    programs = SizedPrograms(checkpoint.template, checkpoint.structure)
    programs.at(checkpoint.structure.full_sizes(), CPU)
    twin = copy.deepcopy([programs])[0]
    assert (len(programs), len(twin), len(pickle.loads(pickle.dumps(programs)))) == (1, 0, 0)
