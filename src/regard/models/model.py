"""The few shapes of model: encoder, decoder, both, two encoders, queries. How families differ is in the config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import regard.senses  # noqa: F401  registers its builders
from regard.config import ModelConfig, TowerConfig
from regard.config.vision import DualConfig, QueriedConfig
from regard.nn import Context, KVCache, LanguageHead, Stack, build, builds, initialise
from regard.nn.context import with_memory
from regard.nn.feed_forward import balance
from regard.nn.head import Ends


class Output(dict[str, Any]):
    """Results by name, attribute or number: `out["logits"]`, `out.logits`, `out[0]`.

    `losses` are what layers add to what is learnt, while training.
    """

    losses: Sequence[Tensor] = ()

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"this output has no {name!r}; it has {', '.join(self)}")

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, (int, slice)) else super().__getitem__(key)


@builds(TowerConfig)
class Tower(nn.Module):
    """A front-end and a stack: whatever the front-end reads -> hidden states (..., C), and their context."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.front: nn.Module = build(config.front)
        self.stack: Stack = build(config.stack)

    def forward(self, *inputs: Any, memory: Memory | None = None, **named: Any) -> tuple[Tensor, Context]:
        """Arguments are the front-end's; `memory` is what cross-attention looks at."""
        x, ctx = self.front(*inputs, **named)
        if memory is not None:
            memory = memory if ctx.lengths is not None else memory.padded()
            with_memory(ctx, memory.hidden, memory.valid, memory.lengths)
            ctx.losses += memory.losses
        hidden = self.stack(x, ctx)
        ctx.losses += balance(ctx.routes)
        return hidden, ctx


@dataclass(frozen=True)
class Memory:
    """What an encoder made of its input, for a decoder to look at: (B, S, C) with valid (B, S), or packed (M, C).

    `losses` are those of the encoder's layers.
    """

    hidden: Tensor
    valid: Tensor | None = None
    lengths: tuple[int, ...] | None = None
    ids: Tensor | None = None
    losses: tuple[Tensor, ...] = ()

    def padded(self) -> Memory:
        """The same with one row per sequence."""
        if self.lengths is None:
            return self
        lengths = torch.tensor(self.lengths, device=self.hidden.device)
        valid = torch.arange(max(self.lengths), device=lengths.device) < lengths[:, None]
        rows = self.hidden.new_zeros(*valid.shape, self.hidden.shape[-1])
        rows[valid] = self.hidden  # at once: the gradient of row by row copies all of it for each
        return Memory(rows, None if bool(valid.all()) else valid, losses=self.losses)

    def select(self, rows: Tensor) -> Memory:
        """Rows of a padded memory, some perhaps several times."""
        return Memory(self.hidden[rows], None if self.valid is None else self.valid[rows])


class Model(nn.Module):
    """Base of all models: `config` is the tree it was built from; the rest is what came along with a checkpoint.

    `raw` is the checkpoint's config.json, `architecture` its class name there, `processor` its tokenizer (or other
    processor), `generation` its generation_config.json, `labels` its names of classes, `name` where it came from.
    """

    generate: Callable[..., Any]  # attached by regard.generation, which lies above this room
    save_pretrained: Callable[..., None]  # attached by regard.checkpoint.save

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
        self.fresh: tuple[str, ...] = ()
        """Parameters that the checkpoint has not, of a head that is to be trained."""
        self.encoder = Tower(config.encoder) if config.encoder is not None else None
        self.decoder = Tower(config.decoder) if config.decoder is not None else None
        self.head = build(config.head, *config.widths)

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

    def name_labels(self, labels: Mapping[int, str]) -> None:
        """Give the classes names, which are saved with the model."""
        self.labels = dict(labels)
        label2id = {label: number for number, label in labels.items()}
        self.raw = {**self.raw, "id2label": dict(labels), "label2id": label2id}
        self.raw.pop("num_labels", None)

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

    def hidden(self, *inputs: Any, **named: Any) -> tuple[Tensor, Context]:
        """Last hidden states, (B, T, C) or packed (N, C), and the context; arguments as in `forward`."""
        hidden, ctx = self.tower(*inputs, **named)
        return hidden, ctx

    def forward(self, *inputs: Any, **named: Any) -> Output:
        """Arguments are those of the model's front-end; for text see `regard.nn.Embedding.forward`: input_ids (B, T),
        attention_mask (B, T), and by name position_ids, token_type_ids, inputs_embeds, lengths, cache.

        Returns `last_hidden_state` and what the head gives, such as `logits`.
        """
        hidden, ctx = self.hidden(*inputs, **named)
        return _output(self.head(hidden, Ends(ctx, ctx.ids, self.config.tokens.eos)), hidden, ctx.losses)


class EncoderDecoder(Model):
    """An encoder that reads and a decoder that looks at what was read while it writes."""

    encoder: Tower
    decoder: Tower

    @property
    def reads_words(self) -> bool:
        """Whether the encoder takes ids, rather than images or sound alone."""
        return "input_ids" in inspect.signature(self.encoder.front.forward).parameters

    def encode(self, *inputs: Any, **named: Any) -> Memory:
        """Read what the encoder's front-end takes: (B, S) ids, packed (M,) with `lengths`, ..."""
        hidden, ctx = self.encoder(*inputs, **named)
        return Memory(hidden, ctx.groups[0].q_valid, ctx.lengths, ctx.ids, tuple(ctx.losses))

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
        hidden, ctx = self.decoder(
            decoder_input_ids, decoder_attention_mask, lengths=lengths, cache=cache, memory=memory
        )
        return hidden, ctx

    def shifted(self, ids: Tensor, mask: Tensor | None = None, lengths: Sequence[int] | None = None) -> Tensor:
        """What the decoder is given so that it writes `ids`: every sequence moved right by one."""
        tokens = self.config.tokens
        return shift_right(ids, None if tokens.last_starts else tokens.decoder_start, mask, lengths)

    def forward(
        self,
        *inputs: Any,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_lengths: Sequence[int] | None = None,
        encoder_outputs: Memory | None = None,
        cache: KVCache | None = None,
        **named: Any,
    ) -> Output:
        """The encoder's input as in `encode`, and decoder_input_ids (B, T), or packed with `decoder_lengths`.

        Without decoder_input_ids the decoder gets the input shifted right, as for denoising and classification.
        `encoder_outputs` (from `encode`) saves reading again. Beside an encoder that reads no words, `input_ids` and
        `attention_mask` are the decoder's.
        """
        if decoder_input_ids is None and "input_ids" in named and not self.reads_words:
            decoder_input_ids, decoder_attention_mask = named.pop("input_ids"), named.pop("attention_mask", None)
        memory = self.encode(*inputs, **named) if encoder_outputs is None else encoder_outputs
        if decoder_input_ids is None:
            if memory.ids is None:
                raise ValueError("decoder_input_ids is missing, and there are no input_ids to shift right")
            valid, decoder_lengths = memory.valid, memory.lengths
            decoder_input_ids = self.shifted(memory.ids, valid, decoder_lengths)
            decoder_attention_mask = None if valid is None else valid.long()
        hidden, ctx = self.hidden(
            decoder_input_ids, memory, decoder_attention_mask, lengths=decoder_lengths, cache=cache
        )
        out = _output(self.head(hidden, Ends(ctx, memory.ids, self.config.tokens.eos)), hidden, ctx.losses)
        out["encoder_last_hidden_state"] = memory.hidden
        return out


class DualEncoder(Model):
    """One tower for images and one for text, whose results are compared (2103.00020)."""

    def __init__(self, config: DualConfig):
        super().__init__(config)
        self.vision, self.text = Tower(config.vision), Tower(config.text)

    def towers(self) -> Iterator[Tower]:
        yield from (self.vision, self.text)

    def get_image_features(self, pixel_values: Tensor, **named: Any) -> Tensor:
        """One vector per image (B, D), not normed; arguments are those of the front-end for images."""
        return self._image(pixel_values, **named)[0]

    def _image(self, *inputs: Any, **named: Any) -> tuple[Tensor, list[Tensor]]:
        """Vectors, and losses that layers add."""
        hidden, ctx = self.vision(*inputs, **named)
        return self.head.image(hidden, Ends(ctx)), ctx.losses

    def get_text_features(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **named: Any
    ) -> Tensor:
        """One vector per text (B, D), not normed; arguments are those of the front-end for text."""
        return self._text(input_ids, attention_mask, **named)[0]

    def _text(self, *inputs: Any, **named: Any) -> tuple[Tensor, list[Tensor]]:
        hidden, ctx = self.text(*inputs, **named)
        return self.head.text(hidden, Ends(ctx, ctx.ids, self.config.tokens.eos)), ctx.losses

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> Output:
        """Texts (N, T), padded with a mask or packed with `lengths`, and images (M, channels, height, width).

        Returns `logits_per_image` (M, N), `logits_per_text` (N, M), `text_embeds` and `image_embeds`, both normed.
        """
        image, seen = self._image(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        text, read = self._text(input_ids, attention_mask, position_ids=position_ids, lengths=lengths)
        out = Output(self.head(image, text))
        out.losses = seen + read
        return out


class QueryModel(Model):
    """An encoder that sees, and learned queries that look at what was seen, all at once (2005.12872)."""

    encoder: Tower
    decoder: Tower

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> Output:
        """Images (B, channels, height, width), and pixel_mask (B, height, width), 0 where they are padded.

        Returns what the head gives, `last_hidden_state` of the queries (B, Q, C) and `encoder_last_hidden_state`.
        """
        seen, ctx = self.encoder(pixel_values, pixel_mask)
        hidden, asked = self.decoder(seen, ctx)
        out = _output(self.head(hidden, Ends(asked)), hidden, ctx.losses + asked.losses)
        out.setdefault("encoder_last_hidden_state", seen)  # a head may have a map of it
        return out


def _output(found: dict[str, Tensor], hidden: Tensor, losses: Sequence[Tensor]) -> Output:
    scores = {name: value for name, value in found.items() if name != "pooler_output"}
    rest = {name: value for name, value in found.items() if name == "pooler_output"}
    scores.setdefault("last_hidden_state", hidden)  # a head may give the states another shape
    out = Output({**scores, **rest})
    out.losses = losses
    return out


def build_model(config: ModelConfig, *, seed: int | None = None) -> Model:
    """A new model of the right shape, its weights drawn as `config.init` says; `seed` makes the draw repeatable."""
    both = config.encoder is not None and config.decoder is not None
    if isinstance(config, DualConfig):
        model: Model = DualEncoder(config)
    elif isinstance(config, QueriedConfig):
        model = QueryModel(config)
    else:
        model = EncoderDecoder(config) if both else SingleTower(config)
    if model.device.type != "meta":
        initialise(model, config.init, None if seed is None else torch.Generator().manual_seed(seed))
    model.tie()
    return model


def shift_right(
    ids: Tensor, start: int | None, mask: Tensor | None = None, lengths: Sequence[int] | Tensor | None = None
) -> Tensor:
    """Every sequence moved by one, with `start` in front; None puts its last token there (a language code)."""
    if mask is not None:  # real tokens end to end
        real, new = mask.bool(), ids.clone()
        new[real] = shift_right(ids[real], start, lengths=real.sum(1))
        return new
    counts = torch.as_tensor([ids.shape[1]] * len(ids) if lengths is None else lengths, device=ids.device)
    counts = counts[counts > 0]
    last, flat = counts.cumsum(0) - 1, ids.flatten()
    new = flat.roll(1)
    new[last - counts + 1] = flat[last] if start is None else start
    return new.view(ids.shape)
