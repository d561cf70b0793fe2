"""The few shapes of model: encoder, decoder, encoder-decoder. What differs between families is in the config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regard.config import ModelConfig, TowerConfig
from regard.nn import Context, KVCache, LanguageHead, Stack, build, initialise
from regard.nn.context import cached, packed, padded, with_memory
from regard.nn.head import Ends


class Output(dict[str, Any]):
    """Results by name, attribute or number: `out["logits"]`, `out.logits`, `out[0]`."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"this output has no {name!r}; it has {', '.join(self)}")

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, (int, slice)) else super().__getitem__(key)


class Tower(nn.Module):
    """A front-end and a stack: ids -> hidden states (..., C) in the context's layout."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.front = build(config.front)
        self.stack: Stack = build(config.stack)

    def forward(
        self, ctx: Context, ids: Tensor | None, segments: Tensor | None = None, vectors: Tensor | None = None
    ) -> Tensor:
        return self.stack(self.front(ids, ctx.positions, segments, vectors), ctx)


@dataclass(frozen=True)
class Memory:
    """What an encoder made of its input, for a decoder to look at: (B, S, C) with valid (B, S), or packed (M, C)."""

    hidden: Tensor
    valid: Tensor | None = None
    lengths: tuple[int, ...] | None = None

    def padded(self) -> Memory:
        """The same with one row per sequence."""
        if self.lengths is None:
            return self
        rows = nn.utils.rnn.pad_sequence(self.hidden.split(list(self.lengths)), batch_first=True)
        lengths = torch.tensor(self.lengths, device=rows.device)
        valid = torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]
        return Memory(rows, None if bool(valid.all()) else valid)

    def select(self, rows: Tensor) -> Memory:
        """Rows of a padded memory, some perhaps several times."""
        return Memory(self.hidden[rows], None if self.valid is None else self.valid[rows])


class Model(nn.Module):
    """Base of all models: `config` is the tree it was built from; the rest is what came along with a checkpoint.

    `raw` is the checkpoint's config.json, `architecture` its class name there, `processor` its tokenizer (or other
    processor), `generation` its generation_config.json, `labels` its names of classes, `name` where it came from.
    """

    generate: Callable[..., Any]  # attached by regard.generation, which lies above this room

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.raw: dict[str, Any] = {}
        self.architecture = ""
        self.name = ""
        self.folder: Path | None = None
        self.processor: Any = None
        self.generation: dict[str, Any] = {}
        self.labels: dict[int, str] = {}
        tower = config.decoder or config.encoder
        assert tower is not None
        self.encoder = Tower(config.encoder) if config.encoder is not None else None
        self.decoder = Tower(config.decoder) if config.decoder is not None else None
        self.head = build(config.head, tower.stack.dim)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def max_length(self) -> int | None:
        """The longest sequence that the model takes, or None if there is no end."""
        return self.config.max_length

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary scores of chosen hidden states (..., C) -> (..., V). Raises ValueError without a language head."""
        if not isinstance(self.head, LanguageHead):
            raise ValueError(f"this model has a {type(self.head).__name__}, which gives no vocabulary scores")
        return self.head.logits(hidden)

    def tie(self) -> None:
        """Make the config's tied parameters one and the same."""
        for name, owner in self.config.tied:
            module, _, last = name.rpartition(".")
            setattr(self.get_submodule(module), last, self.get_parameter(owner))

    def towers(self) -> Iterator[Tower]:
        """Encoder and decoder, those that there are."""
        yield from (tower for tower in (self.encoder, self.decoder) if tower is not None)


class SingleTower(Model):
    """An encoder or a decoder alone: one tower and a head."""

    @property
    def tower(self) -> Tower:
        """The only tower."""
        return next(self.towers())

    def hidden(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, Context]:
        """Last hidden states, (B, T, C) or packed (N, C), and the context; arguments as in `forward`."""
        ctx = context(self.tower, input_ids, attention_mask, position_ids, inputs_embeds, lengths, cache)
        return self.tower(ctx, input_ids, token_type_ids, inputs_embeds), ctx

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        cache: KVCache | None = None,
    ) -> Output:
        """input_ids (B, T) with attention_mask (B, T), padded on either side; or packed (N,) with `lengths`.

        Positions follow the mask unless `position_ids` says otherwise, so that padding never changes a result. With a
        `cache`, the tokens continue its rows (padding on the right only). Returns `last_hidden_state` and what the
        head gives. Raises ValueError for ids outside the vocabulary and for input beyond the model's length.
        """
        hidden, ctx = self.hidden(
            input_ids,
            attention_mask,
            position_ids=position_ids,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            lengths=lengths,
            cache=cache,
        )
        return _output(self.head(hidden, Ends(ctx, input_ids, self.config.tokens.eos)), hidden)


class EncoderDecoder(Model):
    """An encoder that reads and a decoder that looks at what was read while it writes."""

    encoder: Tower
    decoder: Tower

    def encode(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Memory:
        """Read (B, S) ids, or packed (M,) with `lengths`."""
        ctx = context(self.encoder, input_ids, attention_mask, None, inputs_embeds, lengths, None)
        return Memory(self.encoder(ctx, input_ids, vectors=inputs_embeds), ctx.groups[0].q_valid, ctx.lengths)

    def hidden(
        self,
        decoder_input_ids: Tensor,
        memory: Memory,
        decoder_attention_mask: Tensor | None = None,
        *,
        lengths: Sequence[int] | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, Context]:
        """Last hidden states of the decoder, (B, T, C) or packed (N, C), and the context."""
        if lengths is None:
            memory = memory.padded()
        ctx = context(self.decoder, decoder_input_ids, decoder_attention_mask, None, None, lengths, cache)
        ctx = with_memory(ctx, memory.hidden, memory.valid, memory.lengths)
        return self.decoder(ctx, decoder_input_ids), ctx

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        encoder_outputs: Memory | None = None,
        lengths: Sequence[int] | None = None,
        decoder_lengths: Sequence[int] | None = None,
        cache: KVCache | None = None,
    ) -> Output:
        """input_ids (B, S) and decoder_input_ids (B, T), or both packed with their lengths.

        Without decoder_input_ids the decoder gets the input shifted right, as for denoising and classification.
        `encoder_outputs` (from `encode`) saves reading again.
        """
        memory = encoder_outputs or self.encode(input_ids, attention_mask, inputs_embeds=inputs_embeds, lengths=lengths)
        if decoder_input_ids is None:
            if input_ids is None:
                raise ValueError("decoder_input_ids is missing, and there are no input_ids to shift right")
            decoder_input_ids = shift_right(input_ids, self.config.tokens.decoder_start, attention_mask, lengths)
            decoder_attention_mask, decoder_lengths = attention_mask, lengths
        hidden, ctx = self.hidden(
            decoder_input_ids, memory, decoder_attention_mask, lengths=decoder_lengths, cache=cache
        )
        out = _output(self.head(hidden, Ends(ctx, input_ids, self.config.tokens.eos)), hidden)
        return Output(out, encoder_last_hidden_state=memory.hidden)


def _output(found: dict[str, Tensor], hidden: Tensor) -> Output:
    scores = {name: value for name, value in found.items() if name != "pooler_output"}
    rest = {name: value for name, value in found.items() if name == "pooler_output"}
    return Output({**scores, "last_hidden_state": hidden, **rest})


def build_model(config: ModelConfig, *, seed: int | None = None) -> Model:
    """A new model of the right shape, its weights drawn as `config.init` says; `seed` makes the draw repeatable."""
    both = config.encoder is not None and config.decoder is not None
    model: Model = EncoderDecoder(config) if both else SingleTower(config)
    if model.device.type != "meta":
        initialise(model, config.init, None if seed is None else torch.Generator().manual_seed(seed))
    model.tie()
    return model


def context(
    tower: Tower,
    ids: Tensor | None,
    mask: Tensor | None,
    positions: Tensor | None,
    vectors: Tensor | None,
    lengths: Sequence[int] | None,
    cache: KVCache | None,
) -> Context:
    """Check what was passed in and say how it is laid out: padded, packed or continuing a cache."""
    tokens = ids if ids is not None else vectors
    if tokens is None or (ids is not None and vectors is not None):
        raise ValueError("pass either input_ids or inputs_embeds")
    shape = tokens.shape if ids is not None else tokens.shape[:-1]
    if ids is not None:
        _check_ids(ids, tower.front.config.vocab_size)
    if lengths is not None:
        if len(shape) != 1 or sum(lengths) != shape[0] or min(lengths, default=0) < 1:
            raise ValueError(
                f"packed input has shape {tuple(shape)}; allowed: one axis of sum(lengths) = {sum(lengths)}"
            )
        if mask is not None or positions is not None:
            raise ValueError("packed input (lengths=...) takes neither attention_mask nor position_ids")
        check_length(max(lengths), tower.front.limit)
        return packed(lengths, tokens.device, cache)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"input has shape {tuple(shape)}; allowed: (batch, tokens), both at least 1; or packed with lengths="
        )
    if mask is not None and mask.shape != shape:
        raise ValueError(f"attention_mask has shape {tuple(mask.shape)}; the input has {tuple(shape)}")
    if cache is not None:
        return _continue(tower, shape, tokens.device, mask, cache)
    check_length(shape[1], tower.front.limit, mask)
    if mask is None:
        plain = torch.arange(shape[1], device=tokens.device).expand(shape)
        return padded(plain, aligned=True) if positions is None else padded(positions.expand(shape))
    valid = mask.bool()
    if positions is None:
        positions = (valid.long().cumsum(1) - 1).clamp(min=0)
    return padded(positions.expand(shape), valid)


def _continue(tower: Tower, shape: Sequence[int], device: torch.device, mask: Tensor | None, cache: KVCache) -> Context:
    rows, width = shape
    counts = [width] * rows if mask is None else [int(n) for n in mask.sum(1)]
    if mask is not None and bool((mask[:, 1:] > mask[:, :-1]).any()):
        raise ValueError(
            "with a cache, padding must be on the right; `generate` rearranges left-padded prompts by itself"
        )
    starts = cache.lengths or [0] * rows
    check_length(max(s + c for s, c in zip(starts, counts, strict=True)), tower.front.limit)
    positions = torch.arange(width, device=device) + torch.tensor(starts, device=device)[:, None]
    if tower.front.limit is not None:
        positions = positions.clamp(max=tower.front.limit - 1)  # only padding lies beyond
    return cached(positions, counts, cache)


def check_length(length: int, limit: int | None, mask: Tensor | None = None) -> None:
    """Raise a ValueError that names both numbers if an input is longer than the model's positions."""
    if limit is None or length <= limit:
        return
    if mask is not None:
        length = int(mask.sum(1).max())
    if length > limit:
        raise ValueError(f"input has {length} tokens; this model takes at most {limit}; pass truncation=True to cut it")


def _check_ids(ids: Tensor, vocab_size: int) -> None:
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"input_ids has type {ids.dtype}; allowed: torch.int64 or torch.int32")
    if torch.compiler.is_compiling() or ids.device.type != "cpu" or ids.numel() == 0:
        return
    low, high = (int(x) for x in ids.aminmax())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise ValueError(
            f"input_ids holds {wrong}; this model's vocabulary has {vocab_size} ids, 0 to {vocab_size - 1}"
        )


def shift_right(
    ids: Tensor, start: int | None, mask: Tensor | None = None, lengths: Sequence[int] | None = None
) -> Tensor:
    """Every sequence moved by one, with `start` in front; None puts its last token there (a language code)."""
    rows = list(ids.split(list(lengths))) if lengths is not None else list(ids)
    marks = [torch.ones_like(row, dtype=torch.bool) for row in rows] if mask is None else list(mask.bool())
    shifted = []
    for row, real in zip(rows, marks, strict=True):
        new = row.clone()
        new[real] = row[real].roll(1)  # the last real token comes first ...
        if start is not None:
            new[real.int().argmax()] = start  # ... unless the model has its own start
        shifted.append(new)
    return torch.cat(shifted) if lengths is not None else torch.stack(shifted)
