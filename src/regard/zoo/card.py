"""What is known of an embedded model: card.json for programs, README.md for people, both from the run's own record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from regard.checkpoint.files import atomic, write_json
from regard.checkpoint.find import Folder, embedded_names, find

FILE = "card.json"


@dataclass(frozen=True, kw_only=True)
class Card:
    """The card of one model. `tasks` are those it is the default of, its own first; `figure` names the score that
    stands for it; `scores` are on `rows` rows, `held_out` says which; `beside` are other runs of the same recipe with
    their changes and scores; `made` says how it came about (seed, steps, commit, versions, ...).
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    example: str
    data: str
    source: str
    licence: str
    weights_licence: str
    held_out: str
    limits: str
    figure: str
    rows: int
    scores: Mapping[str, float]
    parameters: int
    stored: str
    made: Mapping[str, Any]
    base: str = ""
    beside: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def said(self) -> str:
        """The figure in words: "accuracy 0.9889"."""
        return f"{self.figure} {shown(self.scores[self.figure])}"

    @property
    def command(self) -> str:
        """How to try it."""
        return f"regard run {self.tasks[0]} {self.example} -m {self.name}"


def shown(value: float) -> str:
    """A score as cards show it: four digits behind the point below 10, two above."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def read_card(folder: Folder) -> Card | None:
    """The card in a model's folder; None where there is none. Raises ValueError for one that is not whole."""
    raw = folder.json(FILE)
    if raw is None:
        return None
    known = {f.name for f in fields(Card)}
    missing = sorted(known - {"base", "beside"} - set(raw)) or sorted(set(raw) - known)
    if missing:
        raise ValueError(f"{folder.path / FILE}: {missing[0]!r} is missing, or is no field of a card")
    return Card(**{**raw, "tasks": tuple(raw["tasks"]), "beside": tuple(raw.get("beside", ()))})


def cards() -> list[Card]:
    """The cards of all embedded models, by name."""
    found = (read_card(find(name)) for name in embedded_names())
    return [card for card in found if card is not None]


def megabytes(folder: Path) -> float:
    """What the files of a folder take."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def default_model(*tasks: str) -> str | None:
    """The embedded model for the first of these names of a task that has one."""
    known = cards()
    return next((card.name for task in tasks for card in known if task in card.tasks), None)


def write_card(card: Card, folder: Folder) -> None:
    """Write card.json and README.md."""
    write_json(folder.path / FILE, asdict(card))
    with atomic(folder.path / "README.md") as temporary:
        temporary.write_text(readme(card), "utf-8")


def readme(card: Card) -> str:
    """The card as Markdown, under the front matter that model hubs read."""
    made, commit = card.made, str(card.made["commit"])
    changed = ", with files changed" if commit.endswith("+") else ""
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    scores = ", ".join(f"{name} {shown(value)}" for name, value in card.scores.items())
    rows = [
        ("data", card.data),
        ("where to get it", card.source),
        ("its licence", card.licence),
        ("licence of these weights", card.weights_licence),
        ("begun from", card.base or "nothing: new weights"),
        ("measured", f"{scores}, on {card.rows:,} rows"),
        ("held out", card.held_out),
        *(("with other data", _beside(other)) for other in card.beside),
        ("size", f"{card.parameters:,} parameters, stored as {card.stored}"),
        ("trained by", f"`{made['command']}`, seed {made['seed']}, {made['steps']:,} steps"),
        ("embedded by", f"`{made['embedded']}`"),
        ("code", f"commit `{commit.rstrip('+')}`{changed}; {versions}"),
    ]
    if made.get("temperature"):
        rows.append(("temperature", f"{made['temperature']:.3f}, fitted on the validation rows; in the head's weights"))
    table = "\n".join(f"| {name} | {text.replace('|', chr(92) + '|')} |" for name, text in rows)
    front = f"---\nlicense: {card.weights_licence.lower()}\nlibrary_name: regard\n---\n"
    use = f"```bash\n{card.command}\nregard evaluate {card.name}\n```"
    parts = [f"# {card.name}", f"{card.title}.", use, f"| | |\n|---|---|\n{table}", "## Limits", card.limits]
    return front + "\n" + "\n\n".join(parts) + "\n"


def _beside(other: Mapping[str, Any]) -> str:
    scores = ", ".join(f"{name} {shown(value)}" for name, value in other["scores"].items())
    return f"{scores}, on {other['rows']:,} rows, by a run with `{' '.join(other['changes'])}`"
