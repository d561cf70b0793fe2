"""Chat templates: the same text as the reference for the shapes that checkpoints use, and bombs that are stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from regard.preprocess import chat_limits
from regard.preprocess.chat import render_chat
from regard.preprocess.text import Tokenizer

CHATML = (
    "{%- if tools %}\n    {{- '<|im_start|>system\\n' }}\n    {%- if messages[0]['role'] == 'system' %}"
    "{{- messages[0]['content'] + '\\n\\n' }}{%- endif %}\n{{- '# Tools' }}\n    {%- for tool in tools %}\n"
    "        {{- '\\n' }}\n        {{- tool | tojson }}\n    {%- endfor %}\n    {{- '<|im_end|>\\n' }}\n{%- endif %}\n"
    "{%- for message in messages %}\n    {%- if (message.role == 'user') or (message.role == 'system' and not "
    "loop.first)"
    " or message.role == 'assistant' %}\n        {{- '<|im_start|>' + message.role + '\\n' + message.content + "
    "'<|im_end|>'"
    " + '\\n' }}\n    {%- elif message.role == 'tool' %}\n{%- if loop.previtem and loop.previtem.role != 'tool' %}"
    "{{ '<|im_start|>user' }}{%- endif %}{{- '<tool_response>' ~ message.content ~ '</tool_response>' }}\n    "
    "{%- endif %}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
)
INST = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
HEADERS = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' "
    "+ message['role']"
    " + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MACROS = (
    "{%- macro show(value, depth=0) -%}\n{%- if value is mapping -%}{ {%- for key, item in value | dictsort -%}"
    "{{ key }}: {{ show(item, depth + 1) }}{{ ', ' if not loop.last }}{%- endfor -%} }\n"
    "{%- elif value is string -%}{{ value | upper | replace('A', '4') }}{%- elif value is iterable -%}"
    "[{{ value | map('string') | join('; ') }}]{%- else -%}{{ value }}{%- endif -%}{%- endmacro -%}\n"
    "{%- set ns = namespace(seen=0, last='') -%}{%- for m in messages if m.role != 'tool' -%}"
    "{%- set ns.seen = ns.seen + 1 -%}{%- set ns.last = m.role -%}{%- if ns.seen > 3 -%}{%- break -%}{%- endif -%}"
    "{%- if m.role == 'system' -%}{%- continue -%}{%- endif -%}<{{ loop.index }}/{{ loop.length }} {{ loop.last }}>"
    "{{ show(m) }}{{ m.get('x', 'none') }}{{ m.content.split(' ')[-1].strip() }}{{ m.content[:3] }}\n{%- endfor -%}"
    "{{ ns.seen }}{{ ns.last }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    "{{ messages[::-1][0].role }}{{ '**%s-%5d**' % ('a', 3) }}{{ 'x{}y'.format(2) }}{{ range(3) | list }}{{ 'u' "
    "in 'user' }}"
    "{{ {'a': [1, 2.5, none, true]} | tojson(indent=2) }}{{ '<&>' }}{{ missing is defined }}{{ missing }}{{ '-' * 5 }}"
    "{{ 7 // 2 }}{{ dict(a=1, b='ü') | tojson }}{{ 'a b'.title() }}{% set text %}inner {{ 1 + 1 }}{% endset "
    "%}{{ text }}"
    "{% for a in 'xyz' %}{{ loop.cycle('0', '1') }}{{ loop.nextitem }}{{ a }}{% else %}never{% endfor %}"
    "{% for item in [[1, [2]], [3]] recursive %}{{ loop(item) if item is iterable else item }}{% endfor %}"
)
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "Hello <b> & 'you' "},
    {"role": "assistant", "content": "Grüße 👋 {{ 1 }}"},
    {"role": "user", "content": "What is\n2 + 2?", "reasoning_content": None},
]
TOOLS = [{"type": "function", "function": {"name": "größe", "parameters": {"a": [1, {"b": "<>"}]}}}]


@pytest.mark.parametrize("template", [CHATML, INST, HEADERS, MACROS], ids=["chatml", "inst", "headers", "macros"])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("prompt", [False, True])
def test_same_text_as_the_reference(pair: Callable[[str], Any], template: str, tools: Any, prompt: bool) -> None:
    theirs, ours = pair("llama")
    options: dict[str, Any] = {"tools": tools, "add_generation_prompt": prompt, "chat_template": template}
    expected = theirs.apply_chat_template(MESSAGES, tokenize=False, **options)
    assert ours.apply_chat_template(MESSAGES, tokenize=False, **options) == expected
    ids = theirs.apply_chat_template(MESSAGES, return_dict=False, **options)
    assert ours.apply_chat_template(MESSAGES, **options) == ids
    both = ours.apply_chat_template([MESSAGES, MESSAGES[:1]], tokenize=False, **options)
    assert both == theirs.apply_chat_template([MESSAGES, MESSAGES[:1]], tokenize=False, **options)


def test_shapes_of_the_answer(pair: Callable[[str], Any]) -> None:
    theirs, ours = pair("llama")
    assert ours.apply_chat_template(MESSAGES, chat_template=HEADERS, return_tensors="pt").shape[0] == 1
    encoding = ours.apply_chat_template(MESSAGES, chat_template=HEADERS, return_dict=True)
    assert list(encoding.attention_mask) == [1] * len(encoding.input_ids)
    with pytest.raises(ValueError, match="no chat template"):
        ours.apply_chat_template(MESSAGES)
    with pytest.raises(ValueError, match="empty"):
        ours.apply_chat_template([], chat_template=HEADERS)
    extra = "{{ messages[0].content }}|{{ enable_thinking }}|{{ bos_token }}"
    assert ours.apply_chat_template(
        MESSAGES[:1], chat_template=extra, tokenize=False, enable_thinking=False
    ) == theirs.apply_chat_template(MESSAGES[:1], chat_template=extra, tokenize=False, enable_thinking=False)


def test_templates_by_name(folder: Callable[[str], Any], tmp_path: Any) -> None:
    tokenizer = Tokenizer.from_folder(folder("llama"))
    tokenizer.chat_template = {"default": "D{{ messages[0].content }}", "tool_use": "T{{ tools | length }}"}
    tokenizer.save_pretrained(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert again.apply_chat_template(MESSAGES, tokenize=False) == "D" + MESSAGES[0]["content"]
    assert again.apply_chat_template(MESSAGES, tokenize=False, tools=TOOLS) == "T1"
    assert again.apply_chat_template(MESSAGES, tokenize=False, chat_template="tool_use", tools=[]) == "T0"


def _render(template: str) -> str:
    return render_chat(template, MESSAGES, tools=None, add_generation_prompt=False, variables={"bos_token": "<s>"})


def test_messages_of_templates_and_mistakes() -> None:
    with pytest.raises(ValueError, match="must alternate"):
        render_chat(INST, MESSAGES[1:], tools=None, add_generation_prompt=False, variables={})
    with pytest.raises(ValueError, match="line 2"):
        _render("a\n{% if %}")
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        _render("{{ 1 / 0 }}")
    with pytest.raises(ValueError, match="nofilter"):
        _render("{{ 1 | nofilter }}")
    with pytest.raises(ValueError, match="message 0"):
        render_chat("x", ["text"], tools=None, add_generation_prompt=False, variables={})
    with pytest.raises(ValueError, match="at most"):
        _render("x" * (1 << 20) + "x")
    assert _render("{{ strftime_now('%Y') | length }}") == "4"


BOMBS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops-writing": "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "loops-deep": "".join(f"{{% for i{n} in range(9) %}}" for n in range(12)) + "{% endfor %}" * 12,
    "range": "{{ range(10**9) | list | length }}",
    "repeat": "{{ 'x' * 10**9 }}",
    "repeat-left": "{{ 999999999 * [1] }}",
    "repeat-constant": "{% set x = 'abc' * 500000000 %}",
    "power": "{{ 9 ** 99999999 }}",
    "power-of-power": "{{ 9 ** 9 ** 9 ** 9 ** 9 }}",
    "product": "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "double-plus": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "double-tilde": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "double-join": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] | join "
    "%}{% endfor %}",
    "double-block": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set y %}{{ ns.x }}{{ ns.x }}{% "
    "endset %}"
    "{% set ns.x = y %}{% endfor %}",
    "double-macro": "{% macro f(s) %}{{ s }}{{ s }}{% endmacro %}{{ " + "f(" * 60 + "'ab'" + ")" * 60 + " }}",
    "double-replace": "{% set ns = namespace(x='aa') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('a', "
    "'aa') %}{% endfor %}",
    "replace-filter": "{{ ('a' * 9999) | replace('a', 'b' * 9999) }}",
    "replace-empty": "{{ ('a' * 9999).replace('', 'b' * 9999) }}",
    "laughs": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor "
    "%}{{ ns.x }}",
    "laughs-json": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
    "{{ ns.x | tojson }}",
    "laughs-equal": "{% set a = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set a.x = [a.x, a.x] %}"
    "{% set a.y = [a.y, a.y] %}{% endfor %}{{ a.x == a.y }}",
    "laughs-hash": "{% set a = namespace(x=(1,)) %}{% for i in range(60) %}{% set a.x = (a.x, a.x) %}{% endfor "
    "%}{{ {a.x: 1} }}",
    "laughs-namespace": "{% set a = namespace() %}{% set a.x = [] %}{% for i in range(60) %}{% set b = "
    "namespace(l=a, r=a) %}"
    "{% set a.x = [a.x, a.x, b] %}{% endfor %}{{ a }}",
    "format": "{{ '%1000000000d' % 3 }}",
    "format-filter": "{{ '%1000000000d' | format(3) }}",
    "format-method": "{{ '{:1000000000}'.format(3) }}",
    "format-nested": "{{ '{:{w}}'.format(3, w=1000000000) }}",
    "format-map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "format-star": "{{ '%*d' % (1000000000, 3) }}",
    "justify": "{{ 'x'.ljust(1000000000) }}",
    "zfill": "{{ 'x'.zfill(1000000000) }}",
    "center": "{{ 'x' | center(1000000000) }}",
    "indent": "{{ ('x\n' * 9999) | indent(999999) }}",
    "tabs": "{{ ('\t' * 9999).expandtabs(999999) }}",
    "bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "join": "{{ ('x' * 9999).join('y' * 9999) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursion-tree": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(80) }}",
    "recursion-silent": "{% macro f(n) %}{% if n %}{% set a = f(n - 1) %}{% set b = f(n - 1) %}{% endif %}{% "
    "endmacro %}{{ f(80) }}",
    "parentheses": "{{ " + "(" * 50000 + "1" + ")" * 50000 + " }}",
    "lists": "{{ " + "[" * 50000 + "]" * 50000 + " }}",
    "blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "map": "{{ range(99999) | map('replace', '1', 'x' * 99999) | list | length }}",
    "sum": "{% set a = [1] * 9999 %}{{ ([a] * 9999) | sum(start=[]) | length }}",
    "lipsum": "{{ lipsum(n=100000000) }}",
    "include": "{% include 'x' %}",
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_bombs_are_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_limits, "MAX_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(ValueError, match="chat template"):
        _render(BOMBS[name])
    assert time.monotonic() - start < 4


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ '' | attr('__class__') }}",
    "{{ range.__init__.__globals__ }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{0.__class__}' | format('') }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'a': 1}) }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ strftime_now.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.mro() }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns }}",
    "{{ namespace(**{'__class__': 1}) }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ messages | map('attr', '__class__') | list }}",
    "{{ self._TemplateReference__context }}",
    "{{ (messages | tojson).encode().__class__ }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ loop.__class__ }}{% for a in messages %}{{ loop.__class__.__init__ }}{% endfor %}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_no_way_out_of_the_sandbox(template: str) -> None:
    try:
        text = _render(template)
    except ValueError:
        return
    # Jinja turns some unsafe look-ups into an undefined value, which prints as nothing, or formats the text as it
    # stands.
    assert (
        "class" not in text.replace("{0.__class__}", "") and "<" not in text.replace("<b>", "") and "module" not in text
    )
