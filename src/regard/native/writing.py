"""A whole step of writing in one call of the kernels: vectors of the newest tokens, layers, logits, and the choice."""

from __future__ import annotations

from ctypes import addressof, c_int64
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from regard.config import AllOf, Causal, LearnedPositions, Mask, RopeConfig, SinusoidalPositions, Window
from regard.models.model import EncoderDecoder, Memory, Model, SingleTower, Tower
from regard.native import layout
from regard.native.best import COUNT
from regard.native.passes import Pass, Sight
from regard.native.run import MANY, ROWS, NativeStack, StandIn, Watch, unseen
from regard.native.weights import NAMES, Store, Unknown
from regard.nn import Context, Embedding, KVCache, LanguageHead, Stack
from regard.nn.bias import Alibi, RelativeBias
from regard.nn.context import Group, Tokens, with_memory
from regard.nn.position import rotary, sinusoids

BIASES = (type(None), RelativeBias, Alibi)  # scores of distances


class Writer(StandIn):
    """Stands in for a model whose rows go on from their newest tokens. Raises Unknown for one that is not known.

    What does not fit, such as beams that have changed places, is left to the stand-ins of the model's parts.
    """

    def __init__(self, model: Model, stack: NativeStack, store: Store):
        tower, head = model.decoder, model.head
        known = type(model) in (SingleTower, EncoderDecoder) and type(tower) is Tower and type(tower.stack) is Stack
        if not known or tower is None or stack.unknown or type(tower.stack.bias) not in BIASES:
            raise Unknown("more than known layers")
        if type(head) is not LanguageHead or head.transform is not None or head.config.softcap is not None:
            raise Unknown("a head that changes logits")
        self.model, self.stack, self.store = model, stack, store
        for attention in tower.stack.attentions():
            window(attention.config.mask or tower.stack.config.mask)
        self.embedding, self.norm = tables(tower.front, store)
        self.linear, self.scale = store.linear(head.out), head.config.scale
        self.most = MANY if store.kinds == {layout.KINDS["int8"]} else ROWS
        self.watch = Watch(model)
        self.steps: WeakKeyDictionary[KVCache, Step] = WeakKeyDictionary()

    def __call__(
        self, cache: KVCache, memory: Memory | None, ids: Tensor, end: int, config: Any, **beside: Tensor | None
    ) -> list[int] | None:
        """As `Decoding.write`."""
        step = self.steps.get(cache)
        if step is not None and not step.fits(cache, memory, config):
            step = None
        if (step is None or not cache.steady) and not self._suits(ids if step is None else step.work.x, config):
            return None
        if cache.origins() is not None or max(cache.lengths) >= cache.capacity:
            return None
        if step is None:
            step = self.steps[cache] = Step(self, cache, memory, config)
        return step(cache, end, ids=ids, **beside)

    def _suits(self, like: Tensor, config: Any) -> bool:
        choice = not config.do_sample or (config.top_k <= COUNT and config.typical_p == 1.0)
        fits = choice and len(like) <= self.most and unseen(like) and not self.model.training
        return fits and self.watch.alone() and self.watch.unchanged()

    def __reduce__(self) -> Any:
        """A copy of the model is torch's."""
        return type(None), ()


class Step:
    """The next token of each row of a cache, made ready; run over and over while keys and values lie where they lay."""

    def __init__(self, writer: Writer, cache: KVCache, memory: Memory | None, config: Any):
        self.memory, self.config, rows = memory, config, len(cache.lengths)
        first = cache.numbers(0, 1, torch.device("cpu")).expand(rows, 1)
        ctx = Context(first, [Group(Tokens(first), Tokens(first))], cache=cache)
        if memory is not None:
            with_memory(ctx, memory.hidden, memory.valid, memory.lengths)
        writer.stack.stack.prepare(ctx)
        self.kept: list[Any] = []
        self.beside: dict[str, Tensor | None] = {}
        self.columns, self.newest = (c_int64 * rows)(), (c_int64 * rows)()
        self.writing = layout.Writing(rows, columns=addressof(self.columns))
        self.choice = self._choice(writer, rows)
        self.work = p = Pass(torch.empty(rows, 1, writer.stack.stack.config.dim), ctx)
        embedding = layout.Embedding.from_buffer_copy(writer.embedding)
        embedding.writing = addressof(self.writing)
        p.call("embed", embedding)
        p.call("norm", writer.norm)
        before = len(p.calls)
        writer.stack.plan(p, ctx)
        p.call("choose", self.choice)
        turns: dict[RopeConfig, Tensor] = {}
        for sight in p.sights():
            if sight.sort.is_cross:
                sight.update(ctx, lambda rope: turns[rope])  # what was read stays
            else:
                p.call("see", self._renewed(sight, ctx, turns, writer.stack.stack.bias), at=before)
        p.close()
        self.kept.append(embedding)

    def _choice(self, writer: Writer, rows: int) -> layout.Choice:
        c, count = self.config, self.config.top_k if self.config.do_sample else 1
        values, ids = torch.empty(rows, count), torch.empty(rows, count, dtype=torch.long)
        weights = torch.empty(2, rows)
        self.kept += [values, ids, weights]
        best = layout.Best(count, values.data_ptr(), ids.data_ptr())
        self.weights = weights.data_ptr(), weights.data_ptr() + 4 * rows
        return layout.Choice(
            *(addressof(self.writing), addressof(writer.linear), None, best, addressof(self.newest)),
            *(writer.scale, c.temperature, 1 - c.top_p, c.min_p or 0.0),
        )

    def _renewed(
        self, sight: Sight, ctx: Context, turns: dict[RopeConfig, Tensor], score: nn.Module | None
    ) -> layout.Sight:
        """How a view of the cache is renewed."""
        view, rope = sight.view, sight.sort.rope
        mask = torch.empty(view.rows * view.capacity, dtype=torch.bool)
        size = window(sight.sort.mask or ctx.groups[0].default_mask)
        found = layout.Sight(addressof(view), addressof(self.writing), size, mask.data_ptr())
        self.kept += [mask, found]
        if rope is not None:
            if rope not in turns:
                turns[rope] = torch.stack(rotary(torch.arange(view.capacity), rope)).squeeze(2)
            turned = torch.empty(2, view.rows, turns[rope].shape[-1])
            self.kept += [turns[rope], turned]
            view.rope_dim, view.cos, view.sin = turned.shape[-1], turned.data_ptr(), turned[1].data_ptr()
            found.turns, found.turned = turns[rope].data_ptr(), turned.data_ptr()
        if score is not None:
            size = view.capacity
            table = score(torch.tensor([[size - 1]]), torch.arange(2 * size - 1)[None])[0, :, 0].float().contiguous()
            bias = torch.empty(view.rows, len(table), size)
            self.kept += [table, bias]
            found.scores, found.bias, found.heads = table.data_ptr(), bias.data_ptr(), len(table)
        return found

    def fits(self, cache: KVCache, memory: Memory | None, config: Any) -> bool:
        """Whether this can be run."""
        return self.memory is memory and self.config is config and self.work.lies(cache)

    def __call__(self, cache: KVCache, end: int, **beside: Tensor | None) -> list[int]:
        """Read column `end - 1` of `ids` (R, ...) and write column `end`: the new tokens."""
        for name, x in beside.items():
            if x is not self.beside.get(name):
                self._lay(name, x)
        self.columns[:] = cache.lengths  # type: ignore[assignment]
        self.writing.at = end
        self.work.run()
        cache.lengths = [n + 1 for n in cache.lengths]
        cache.width = max(cache.lengths)
        return self.newest[:]  # type: ignore[no-any-return]

    def _lay(self, name: str, x: Tensor | None) -> None:
        assert x is None or x.is_contiguous()
        self.beside[name] = x
        setattr(self.choice if name == "rule" else self.writing, name, None if x is None else x.data_ptr())
        if name == "ids" and x is not None:
            self.writing.room = x.shape[1]
        elif name == "logs":
            self.choice.best.peak, self.choice.best.mass = (None, None) if x is None else self.weights


def window(mask: Mask | None) -> int:
    """How many of the tokens before, itself with them, a token sees; 0 for all. Raises Unknown for other masks."""
    parts = mask.masks if isinstance(mask, AllOf) else (mask,)
    sizes = [part.size for part in parts if type(part) is Window]
    if Causal() not in parts or len(sizes) + 1 != len(parts):
        raise Unknown(f"mask {mask}")
    return min(sizes, default=0)


def tables(front: nn.Module, store: Store) -> tuple[layout.Embedding, layout.Norm]:
    """A front-end of words. Raises Unknown for others."""
    if type(front) is not Embedding or front.proj is not None or type(front.token) is not nn.Embedding:
        raise Unknown(type(front).__name__)
    c, weight = front.config, front.token.weight.detach()
    if weight.dtype not in NAMES or weight.device.type != "cpu" or not weight.is_contiguous():
        raise Unknown(f"a table of {weight.dtype}")
    positions, segment = None, None if front.segment is None else front.segment.weight[0]
    if isinstance(c.positions, SinusoidalPositions):
        positions = sinusoids(torch.arange(c.positions.size), c.dim, c.positions).to(weight.dtype)
    elif isinstance(c.positions, LearnedPositions) and front.position is not None:
        positions = front.position.weight[c.positions.offset :]
    places = 0 if positions is None else len(positions)
    pointers = store.pointer(weight), store.vector(segment), store.vector(positions)
    half = weight.dtype == torch.bfloat16
    found = layout.Embedding(None, *pointers, c.vocab_size, places, half, c.scale)
    return found, store.norm(front.norm)
