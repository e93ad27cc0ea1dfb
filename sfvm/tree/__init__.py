"""Nodes, their parents and keys, what must be built and why: pure functions, reading nothing but inputs."""

from sfvm.tree.explain import Difference, explain
from sfvm.tree.node import Node, StepInputs, resolve
from sfvm.tree.pin import Pin
from sfvm.tree.plan import History, Plan, PlanEntry, plan

__all__ = ["Difference", "History", "Node", "Pin", "Plan", "PlanEntry", "StepInputs", "explain", "plan", "resolve"]
