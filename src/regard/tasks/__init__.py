"""What a user asks for: one task, one file's worth of data in the registry, one object that is called with input."""

from regard.tasks.registry import TASKS, TaskInfo, find_task, tasks_for

__all__ = ["TASKS", "TaskInfo", "find_task", "tasks_for"]
