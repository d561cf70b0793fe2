"""`generate`: from a prompt to what the model writes after it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from regard.generation.beam import beam_search
from regard.generation.config import GenerationConfig, from_checkpoint, resolve
from regard.generation.decode import Decoding, limit
from regard.generation.guess import Draft, Guess, Guessing, Lookup
from regard.generation.job import Job, Written
from regard.generation.processors import Facts, build_processors
from regard.generation.prompt import Prompt, prompt
from regard.generation.search import search
from regard.generation.stop import Stop
from regard.models.model import EncoderDecoder, Memory, Model, Output
from regard.nn import Embedding, LanguageHead

DEFAULT_NEW = 20


@dataclass
class Inputs:
    """What a call is about. `other` holds other input of the front-end that reads, such as sound, by name."""

    ids: Tensor | Sequence[Any] | None = None
    mask: Any = None
    lengths: Sequence[int] | None = None
    decoder_ids: Tensor | Sequence[Any] | None = None
    decoder_mask: Any = None
    memory: Memory | None = None
    other: dict[str, Any] = field(default_factory=dict)

    def take(self, model: Model, options: dict[str, Any]) -> None:
        """Move what the front-end that reads knows by name from the options to here."""
        if isinstance(model, EncoderDecoder):
            known = list(inspect.signature(model.encoder.front.forward).parameters)
            self.other = {name: options.pop(name) for name in list(options) if name in known and name != "cache"}
            if isinstance(self.ids, Tensor) and self.ids.is_floating_point():  # no words: sound, say, without its name
                self.other[known[0]], self.ids = self.ids, None
            if self.ids is not None and not model.reads_words:  # images, say: then words are what to go on from
                self.decoder_ids, self.decoder_mask, self.ids, self.mask = self.ids, self.mask, None, None
        elif model.decoder is not None:  # images among the words
            words = inspect.signature(Embedding.forward).parameters
            known = [name for name in inspect.signature(model.decoder.front.forward).parameters if name not in words]
            self.other = {name: options.pop(name) for name in list(options) if name in known}


def generate(
    model: Model,
    input_ids: Tensor | Sequence[Any] | None = None,
    attention_mask: Tensor | None = None,
    *,
    lengths: Sequence[int] | None = None,
    decoder_input_ids: Tensor | Sequence[Any] | None = None,
    decoder_attention_mask: Tensor | None = None,
    encoder_outputs: Memory | None = None,
    generation_config: GenerationConfig | Mapping[str, Any] | None = None,
    **options: Any,
) -> Tensor | Output:
    """Write on after a prompt: greedy, sampled, or by beam search; options as fields of `GenerationConfig`.

    `input_ids`: (B, T) padded on either side with `attention_mask` (B, T), a list of lists, packed (N,) with `lengths`,
    or None for the start token alone. Models with an encoder read them (or get `encoder_outputs`) and write from
    `decoder_input_ids`, by default their start token; other input of an encoder (sound, images) is passed by its name.
    Defaults come from the checkpoint's generation_config.json;
    without any limit there or here, 20 new tokens are written.

    Returns ids (B * num_return_sequences, W + new), the prompt first, padded on the right; with
    `return_dict_in_generate` an Output with `sequences`, `lengths` (new tokens of each row), `logprobs` (what the model
    gave each new token), and on request `scores` per step; beams add `sequences_scores`.
    Raises ValueError for an unknown option or a value that is not allowed, and for a prompt beyond the model's length.
    """
    inputs = Inputs(input_ids, attention_mask, lengths, decoder_input_ids, decoder_attention_mask, encoder_outputs)
    inputs.take(model, options)
    config = configure(model, generation_config, options)
    with torch.inference_mode():
        job, start = _prepare(model, config, inputs, options)
        out = _run(job, start)
    copies = config.num_return_sequences
    new = int(out.lengths.max())
    shown = start.shown.repeat_interleave(copies, 0)
    sequences = torch.cat([shown, out.tokens.clone()[:, :new]], 1)
    if not config.return_dict_in_generate:
        return sequences
    result = Output(sequences=sequences, lengths=out.lengths.clone())
    if out.logprobs is not None:
        result["logprobs"] = out.logprobs.clone()[:, :new]
    if out.totals is not None:
        result["sequences_scores"] = out.totals.clone()
    if config.output_scores:
        result["scores"] = tuple(s.clone() for s in out.scores)
    return result


def configure(
    model: Model, base: GenerationConfig | Mapping[str, Any] | None, options: Mapping[str, Any]
) -> GenerationConfig:
    """All options of a call, with the special tokens and the tokenizer that the model brings."""
    if model.decoder is None or not isinstance(model.head, LanguageHead):
        raise ValueError(f"{model.architecture or 'this model'} does not write: it needs a decoder and a language head")
    defaults = from_checkpoint(model.generation, model.raw)
    tokens = model.config.tokens
    known = {"eos_token_id": tokens.eos, "pad_token_id": tokens.pad, "bos_token_id": tokens.bos}
    known["decoder_start_token_id"] = tokens.decoder_start
    processor = getattr(model.processor, "tokenizer", model.processor)
    if hasattr(processor, "decode"):
        known["tokenizer"] = processor
    return resolve({**known, **defaults}, base, options)


def steps(model: Model, config: GenerationConfig, inputs: Inputs, options: Mapping[str, Any]) -> Iterator[Tensor]:
    """Each step's tokens (B * num_return_sequences,), as they are written; without beams."""
    if config.num_beams > 1:
        raise ValueError(f"num_beams is {config.num_beams}; allowed in streams: 1, as beams change what came before")
    with torch.inference_mode():
        job, start = _prepare(model, config, inputs, options)
        out = Written.empty(job, start.ids.shape[0] * config.num_return_sequences)
    if job.at_once < len(out.tokens):
        raise ValueError(f"{len(out.tokens)} rows are streamed, and {job.at_once} can be written at once; stream fewer")
    found = search(job, out, watched=True)
    while True:
        with torch.inference_mode():  # not held while the caller works with a step
            tokens = next(found, None)
        if tokens is None:
            return
        yield tokens.clone()


def _run(job: Job, start: Prompt) -> Written:
    c = job.config
    functions = (c.streamer, c.prefix_allowed_tokens_fn, *c.logits_processor, *c.stopping_criteria)
    job.decoding.steady = all(one is None for one in functions)
    out = Written.empty(job, start.ids.shape[0] * c.num_return_sequences)
    if c.num_beams > 1:
        out.totals = torch.zeros(len(out.tokens), device=job.ids.device)
        beam_search(job, out)
        return out
    streamer = c.streamer
    put = getattr(streamer, "put", streamer)
    if hasattr(streamer, "put"):
        put(start.shown.repeat_interleave(c.num_return_sequences, 0).cpu())
    for tokens in search(job, out, watched=streamer is not None):
        if put is not None and tokens is not None:
            put(tokens.to("cpu", copy=True))
    if hasattr(streamer, "end"):
        streamer.end()
    return out


def _prepare(model: Model, config: GenerationConfig, inputs: Inputs, options: Mapping[str, Any]) -> tuple[Job, Prompt]:
    """Read what has to be read once, and set up the rules."""
    device, memory, source, eos = model.device, None, None, config.eos_token_id
    pad = config.pad_token_id if config.pad_token_id is not None else next(iter(eos), 0)
    if isinstance(model, EncoderDecoder):
        start, memory, source = _encoded(model, config, inputs)
    else:
        if any(x is not None for x in (inputs.decoder_ids, inputs.decoder_mask, inputs.memory)):
            raise ValueError("decoder_input_ids and encoder_outputs are for models with an encoder; pass input_ids")
        ids = _default(inputs.ids, config.bos_token_id, 1, "bos_token_id", "input_ids")
        start = prompt(ids, inputs.mask, inputs.lengths, pad=config.pad_token_id, ends=eos, device=device)
    assert model.decoder is not None and isinstance(model.head, LanguageHead)
    front: Any = model.decoder.front
    _check_ids(start.ids, front.config.vocab_size)
    max_new = _budget(model, config, start, options)
    vocab, width = model.head.config.vocab_size, start.ids.shape[1]
    min_new = config.min_length - width if config.min_new_tokens is None else config.min_new_tokens
    facts = Facts(width, max_new, min_new, vocab, pad, device, start.ids if source is None else source)
    by_token = () if memory is not None else getattr(front, "by_token", ())
    beside: dict[str, Any] = {} if memory is not None else inputs.other
    rows = {name: start.beside(beside[name], name, inputs.lengths) for name in by_token if name in beside}
    work = (model, memory, width + max_new, {**beside, **rows}, config.max_context)
    guesses = _guesses(model, config, inputs, source, width + max_new)
    decoding = Decoding(*work) if guesses is None else Guessing(*work, guesses_for=guesses)
    rules, stop = build_processors(config, facts), Stop(config, width, pad, device)
    every = start.ids.shape[0] * config.num_return_sequences
    at_once = 1 if decoding.guesses else min(every, config.batch_size or every)
    if at_once < every:
        slides = decoding.limit is not None and decoding.limit + 1 < width + max_new
        reasons = {"input beside the words": bool(beside), "output_scores": config.output_scores}
        reasons |= {"a streamer": config.streamer is not None, "a text longer than the model looks at": slides}
        if why := next((name for name, found in reasons.items() if found), None):
            what = "guessed tokens go" if decoding.guesses else f"batch_size is {config.batch_size} and goes"
            raise ValueError(f"{what} with {why} only where all rows are written together; pass fewer inputs")
    return Job(config, decoding, start.ids, max_new, pad, vocab, rules, stop, at_once), start


def _guesses(
    model: Model, c: GenerationConfig, inputs: Inputs, source: Tensor | None, total: int
) -> Callable[[int], Guess] | None:
    """What guesses tokens for each input, if any was asked for. Raises ValueError for a draft that does not fit."""
    if c.prompt_lookup_num_tokens is None and c.assistant_model is None:
        return None
    assert model.decoder is not None
    if any(rope.by_length for a in model.decoder.stack.attentions() if (rope := a.config.rope) is not None):
        raise ValueError(f"{model.architecture}: its angles change with every token, so none can be read ahead")
    if c.prompt_lookup_num_tokens is not None:
        count, ngram = c.prompt_lookup_num_tokens, c.max_matching_ngram_size
        return lambda i: Lookup(count, ngram, None if source is None else source[i][source[i] >= 0])
    draft: Model = c.assistant_model
    _check_draft(model, draft)
    if not isinstance(model, EncoderDecoder) and inputs.other:
        raise ValueError("assistant_model reads words alone, and this prompt has more; use prompt_lookup_num_tokens")
    memory = _encoded(draft, c, inputs)[1] if isinstance(draft, EncoderDecoder) else None

    def of(i: int) -> Guess:
        mine = None if memory is None else memory.select(torch.tensor([i], device=draft.device))
        return Draft(c.num_assistant_tokens, Decoding(draft, mine, total))

    return of


def _check_draft(model: Model, draft: Model) -> None:
    """Raise a ValueError for a draft that does not write as the model does, with the same vocabulary."""
    name = f"assistant_model is {draft.name or draft.architecture or 'a model'}"
    if draft.decoder is None or not isinstance(draft.head, LanguageHead):
        raise ValueError(f"{name}, which does not write")
    if isinstance(draft, EncoderDecoder) != isinstance(model, EncoderDecoder):
        raise ValueError(f"{name}; a draft and its model both have an encoder, or neither has")
    assert isinstance(model.head, LanguageHead)
    sizes = draft.head.config.vocab_size, model.head.config.vocab_size
    if sizes[0] != sizes[1]:
        raise ValueError(f"{name} with a vocabulary of {sizes[0]}; that of the model has {sizes[1]}: they must be one")
    words = [getattr(getattr(m.processor, "tokenizer", m.processor), "get_vocab", None) for m in (draft, model)]
    if words[0] is not None and words[1] is not None and words[0]() != words[1]():
        raise ValueError(f"{name}, whose tokenizer has other words than the model's: they must be one")
    if draft.device != model.device:
        raise ValueError(f"{name} on {draft.device}; the model is on {model.device}")


def _encoded(model: EncoderDecoder, config: GenerationConfig, inputs: Inputs) -> tuple[Prompt, Memory, Tensor | None]:
    """The decoder's first tokens, what the encoder made of its input, and that input's ids."""
    memory, source = inputs.memory, None
    pad, eos = config.pad_token_id, config.eos_token_id
    if memory is None and inputs.other:
        named = inputs.other if inputs.mask is None else {"attention_mask": inputs.mask, **inputs.other}
        memory = model.encode(**named) if inputs.ids is None else model.encode(inputs.ids, **named)
    elif memory is None:
        if inputs.ids is None:
            raise ValueError("input_ids is missing; this model reads it with its encoder (or pass encoder_outputs)")
        read = prompt(inputs.ids, inputs.mask, inputs.lengths, pad=pad, ends=eos, device=model.device)
        source = read.ids
        if bool((source >= 0).all()):
            memory = model.encode(source)
        else:  # padding is left out, so that it costs nothing
            rows = read.rows()
            memory = model.encode(torch.cat(rows), lengths=[len(row) for row in rows])
    memory = memory.padded()
    count = memory.hidden.shape[0]
    first = config.decoder_start_token_id if config.decoder_start_token_id is not None else config.bos_token_id
    ids = _default(inputs.decoder_ids, first, count, "decoder_start_token_id", "decoder_input_ids")
    # The start token is often the pad id: only a mask can say what is padding here.
    mask = inputs.decoder_mask
    start = prompt(ids, mask, None, pad=None, ends=(), device=model.device, name="decoder_input_ids")
    if start.ids.shape[0] != count:
        raise ValueError(f"decoder_input_ids has {start.ids.shape[0]} rows; the encoder read {count}")
    return start, memory, source


def _default(ids: Any, first: int | None, rows: int, name: str, needed: str) -> Any:
    if ids is not None:
        return ids
    if first is None:
        raise ValueError(f"{needed} is missing and the model has no {name} to begin with; pass one of them")
    return [[first]] * rows


def _budget(model: Model, c: GenerationConfig, start: Prompt, options: Mapping[str, Any]) -> int:
    """How many tokens may be written. Raises ValueError naming both numbers where the model's positions end first."""
    width = start.ids.shape[1]
    if c.max_new_tokens is not None:
        new = c.max_new_tokens
    elif c.max_length is not None:
        new = c.max_length - width
        if new < 1:
            raise ValueError(f"max_length is {c.max_length} but the prompt has {width} tokens; pass max_new_tokens")
    else:
        new = DEFAULT_NEW
    most, longest = limit(model), start.longest
    if most is None or c.on_long_prompt == "slide" or c.max_context is not None:
        return new
    if longest > most:
        raise ValueError(
            f"the prompt has {longest} tokens; this model takes at most {most}; "
            "shorten it, or pass on_long_prompt='slide' to keep its last tokens"
        )
    room = most + 1 - longest  # the last token is written, never read
    if new > room and (options.get("max_new_tokens") or options.get("max_length")):
        raise ValueError(
            f"the prompt has {longest} tokens and {new} new ones are asked for; this model takes at most {most}; "
            "ask for fewer, or pass on_long_prompt='slide' to forget the oldest"
        )
    return min(new, room)


def _check_ids(ids: Tensor, vocab: int) -> None:
    high = int(ids.max())
    if high >= vocab:
        raise ValueError(f"the prompt holds id {high}; this model's vocabulary has {vocab} ids, 0 to {vocab - 1}")
