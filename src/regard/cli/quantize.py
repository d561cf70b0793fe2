"""`regard quantize REF -o FOLDER --to int8`: a checkpoint with smaller weights, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from regard.cli.lasting import lasting

if TYPE_CHECKING:
    import torch

    from regard.models.model import Model

    Measured = tuple[list[torch.Tensor], float | None]

_TOKENS, _WINDOW = 8192, 128


def quantize(
    ref: str = typer.Argument(..., help="A folder, a hub id, or an embedded name such as regard/shakespeare."),
    output: Path = typer.Option(..., "-o", "--output", help="The folder to write."),
    to: str = typer.Option("int8", "--to", help="int8, bf16 or int4."),
    head: bool = typer.Option(None, "--head/--no-head", help="The language head too; unsaid, where a model writes."),
    force: bool = typer.Option(False, "--force", help="Take a precision even if it is slower on this processor."),
    check: Path | None = typer.Option(None, "--check", help="A text file to compare the two models on."),
) -> None:
    """Make a checkpoint's linears small; prints sizes, and with --check how far results move."""
    with lasting():
        import regard
        from regard.adapt import quantize as change
        from regard.adapt.quantize import KINDS
        from regard.native import writes

    if to not in KINDS:
        raise ValueError(f"--to is {to!r:.80}; allowed: {', '.join(KINDS)}")
    if output.exists() and not output.is_dir():
        raise ValueError(f"-o is {output}, which is a file; allowed: a folder")
    model = regard.load(ref)
    if output.exists() and model.folder is not None and output.resolve() == Path(model.folder).resolve():
        raise ValueError(f"-o is {output}, the checkpoint itself; allowed: another folder")
    rows = None if check is None else _rows(model, check)
    before = None if rows is None else _measured(model, rows)
    size = sum(p.nbytes for p in model.parameters())
    change(model, to, head=writes(model) if head is None else head, force=force)  # type: ignore[arg-type]
    model.save_pretrained(output)
    after = sum(file.stat().st_size for file in output.glob("*.safetensors"))
    typer.echo(
        f"{output}: {to}, {after / 1e6:,.1f} MB; float32 is {size / 1e6:,.1f} MB, {size / after:.2f} times as much"
    )
    if rows is not None and before is not None:
        for line in _compared(before, _measured(model, rows)):
            typer.echo(line)


def _rows(model: Model, path: Path) -> list[list[int]]:
    """The first tokens of a text, in rows of up to 128, each with what the tokenizer puts around a text."""
    tokenizer = getattr(model.processor, "tokenizer", model.processor)
    if tokenizer is None or not callable(tokenizer):
        raise ValueError(f"--check needs a tokenizer, and {model.name} has none")
    if model.encoder is not None and model.decoder is not None:
        raise ValueError("--check reads models of one tower; compare this one with regard evaluate")
    with open(path, encoding="utf-8", errors="strict") as file:
        text = file.read(8 * _TOKENS)
    words = text.split()
    rows: list[list[int]] = []
    per = _WINDOW // 2  # words: most take more than one token
    for start in range(0, len(words), per):
        found = tokenizer([" ".join(words[start : start + per])], truncation=True, max_length=_limit(model))
        rows.append(list(found["input_ids"][0]))
        if sum(map(len, rows)) >= _TOKENS:
            break
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise ValueError(f"{path} holds no text")
    return rows


def _limit(model: Model) -> int:
    return min(_WINDOW, model.max_length or _WINDOW)


def _measured(model: Model, rows: list[list[int]]) -> Measured:
    """Mean hidden state of each row, and the perplexity of a model that writes or fills in."""
    import math

    import torch

    from regard.nn import LanguageHead

    vectors: list[torch.Tensor] = []
    loss, count = 0.0, 0
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor(row)[None]
            if not isinstance(model.head, LanguageHead):
                vectors.append(model(ids).last_hidden_state[0].mean(0))
                continue
            mask, given = _hidden_from(model, ids)
            out = model(given)
            vectors.append(out.last_hidden_state[0].mean(0))
            scores = out.logits[0].log_softmax(-1)
            places = mask.nonzero()[:, 0]
            loss -= float(scores[places - (1 if model.decoder is not None else 0), ids[0, places]].sum())
            count += len(places)
    return vectors, math.exp(loss / count) if count else None


def _hidden_from(model: Model, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens (T,) a model must guess, and what it is given: all but the first, or each seventh masked."""
    import torch

    places = torch.zeros(ids.shape[1], dtype=torch.bool)
    if model.decoder is not None:
        places[1:] = True
        return places, ids
    tokenizer = getattr(model.processor, "tokenizer", model.processor)
    mask_id = getattr(tokenizer, "mask_token_id", None)
    given = ids.clone()
    if mask_id is not None:
        places[1:-1:7] = True
        given[0, places] = mask_id
    return places, given


def _compared(
    before: tuple[list[torch.Tensor], float | None], after: tuple[list[torch.Tensor], float | None]
) -> list[str]:
    import torch

    a, b = torch.stack(before[0]), torch.stack(after[0])
    cosine = torch.cosine_similarity(a.float(), b.float())
    lines = [f"cosine of mean hidden states over {len(a)} rows: mean {cosine.mean():.5f}, least {cosine.min():.5f}"]
    if before[1] is not None and after[1] is not None:
        change = 100 * (after[1] / before[1] - 1)
        lines.append(f"perplexity: {before[1]:.4f} before, {after[1]:.4f} after ({change:+.2f} %)")
    return lines


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command("quantize")(quantize)
