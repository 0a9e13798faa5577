"""How every operator couples the axes of what it reads and writes: one small function per operator, in one table."""

from __future__ import annotations

from collections.abc import Callable

from inn_core.graph.analysis.flow import Flow
from inn_core.graph.analysis.rules import elementwise, linear, shape, spatial
from inn_core.graph.node import Node

Rule = Callable[[Flow, Node], None]

RULES: dict[str, Rule] = {**elementwise.RULES, **linear.RULES, **spatial.RULES, **shape.RULES}
