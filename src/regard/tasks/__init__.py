"""What a user asks for: one task, one file's worth of data in the registry, one object that is called with input."""

from __future__ import annotations

import importlib
from typing import Any

from regard.tasks.registry import TASKS, TaskInfo, find_task, tasks_for

__all__ = ["TASKS", "TaskInfo", "find_task", "tasks_for", "toy"]


def __getattr__(name: str) -> Any:
    if name == "toy":  # it needs torch, which the rest of this room does without
        return importlib.import_module("regard.tasks.toy")
    raise AttributeError(f"module 'regard.tasks' has no attribute {name!r}")
