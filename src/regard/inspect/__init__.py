"""Look inside: capture what any layer sees, draw attention, print a model's tree."""

from regard.inspect.capture import Seen, capture
from regard.inspect.rollout import rollout

__all__ = ["Seen", "capture", "rollout"]
