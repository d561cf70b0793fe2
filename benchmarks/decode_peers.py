"""Other engines that write, each in a process of its own: CTranslate2 on GPT-2's shape, llama.cpp on both shapes.

Their files hold random weights, as ours do: how fast they are read does not depend on what they are. llama.cpp's
quantized files have one kind throughout, the table of words included, as our int8 and int4 have.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from benchmarks import peers

LLAMA_PACKAGES = ("llama-cpp-python==0.3.*", "gguf==0.19.*")
CTRANSLATE2 = """
import sys, json, time, ctranslate2
kind, folder, threads, clock = sys.argv[1:]
clock = getattr(time, clock)
model = ctranslate2.Generator(folder, compute_type=kind, intra_threads=int(threads), inter_threads=1)
def run(rows, new):
    start = clock()
    model.generate_batch(rows, max_length=new, min_length=new, sampling_topk=1, include_prompt_in_result=False)
    return clock() - start
print(json.dumps(ctranslate2.__version__), flush=True)
for line in sys.stdin:
    batch, prompt, new = json.loads(line)
    rows = [[str(i) for i in range(prompt)]] * batch
    run(rows, new + 3)
    short = run(rows, 3)
    print(json.dumps((run(rows, new + 3) - short) / new), flush=True)
"""
WRITER = """
import json, numpy as np, gguf, llama_cpp
path, kinds, c = sys.argv[1], sys.argv[2].split(","), json.loads(sys.argv[3])
noise = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32) * 0.02
out = gguf.GGUFWriter(f"{path}.f32", c["arch"])
out.add_context_length(1024); out.add_embedding_length(c["dim"]); out.add_block_count(c["layers"])
out.add_feed_forward_length(c["hidden"]); out.add_head_count(c["heads"]); out.add_head_count_kv(c["kv_heads"])
out.add_layer_norm_eps(1e-5); out.add_layer_norm_rms_eps(1e-6); out.add_rope_freq_base(10000.0)
out.add_vocab_size(c["vocab"]); out.add_tokenizer_model("none")
def add(name, *shape, ones=False):
    out.add_tensor(name, np.ones(shape, np.float32) if ones else np.resize(noise, shape))
dim, hidden, kv = c["dim"], c["hidden"], c["dim"] // c["heads"] * c["kv_heads"]
def norm(name):
    add(name + ".weight", dim, ones=True)
    if c["arch"] == "gpt2": add(name + ".bias", dim)
def linear(name, rows, width, bias):
    add(name + ".weight", rows, width)
    if bias: add(name + ".bias", rows)
add("token_embd.weight", c["vocab"], dim)
norm("output_norm")
if c["arch"] == "gpt2": add("position_embd.weight", 1024, dim)
for i in range(c["layers"]):
    at = f"blk.{i}."
    norm(at + "attn_norm"); norm(at + "ffn_norm")
    if c["arch"] == "gpt2":
        linear(at + "attn_qkv", 3 * dim, dim, True); linear(at + "attn_output", dim, dim, True)
        linear(at + "ffn_up", hidden, dim, True); linear(at + "ffn_down", dim, hidden, True)
    else:
        linear(at + "attn_q", dim, dim, True); linear(at + "attn_k", kv, dim, True)
        linear(at + "attn_v", kv, dim, True); linear(at + "attn_output", dim, dim, False)
        linear(at + "ffn_gate", hidden, dim, False)
        linear(at + "ffn_up", hidden, dim, False); linear(at + "ffn_down", dim, hidden, False)
out.write_header_to_file(); out.write_kv_data_to_file(); out.write_tensors_to_file(); out.close()
for kind, number in (("q8_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0), ("q4_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0)):
    if kind in kinds:
        how = llama_cpp.llama_model_quantize_default_params()
        how.ftype, how.pure, how.nthread = number, True, 1
        if llama_cpp.llama_model_quantize(f"{path}.f32".encode(), f"{path}.{kind}".encode(), how):
            raise SystemExit("llama.cpp could not make " + kind)
"""
LLAMA = """
import ctypes, sys, json, time, statistics, numpy as np, llama_cpp as L
path, vocabulary, threads, clock = sys.argv[1], *map(int, sys.argv[2:4]), getattr(time, sys.argv[4])
silent = L.llama_log_callback(lambda *said: None)
L.llama_log_set(silent, ctypes.c_void_p(0))
L.llama_backend_init()
model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
how = L.llama_context_default_params()
how.n_ctx, how.n_batch, how.n_threads, how.n_threads_batch = 512, 512, threads, threads
context = L.llama_init_from_model(model, how)
def read(ids):
    tokens = (L.llama_token * len(ids))(*ids)
    if L.llama_decode(context, L.llama_batch_get_one(tokens, len(ids))): raise SystemExit("llama_decode failed")
    return int(np.ctypeslib.as_array(L.llama_get_logits_ith(context, -1), (vocabulary,)).argmax())
print(json.dumps(L.__version__), flush=True)
for line in sys.stdin:
    batch, prompt, new = json.loads(line)
    L.llama_memory_clear(L.llama_get_memory(context), True)
    token, times = read(list(range(prompt))), [clock()]
    for _ in range(new):
        token = read([token]); times.append(clock())
    print(json.dumps(statistics.median(b - a for a, b in zip(times[2:], times[3:]))), flush=True)
"""


def ctranslate2(folder: str, config: Any, kind: str, threads: int, clock: str) -> peers.Peer:
    """CTranslate2 with `kind` weights. Raises Missing."""
    if config.model_type != "gpt2":
        raise peers.Missing("this shape is timed beside llama.cpp")
    place = f"{folder}/{config.model_type}"
    if not Path(f"{place}.ct2").exists():
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(f"{place}.hf")
        peers.to_ctranslate2(f"{place}.hf", f"{place}.ct2", config.vocab_size)
    return peers.Peer(CTRANSLATE2, kind, f"{place}.ct2", str(threads), clock, threads=threads)


def llama(folder: str, config: Any, kind: str, threads: int, clock: str) -> peers.Peer:
    """llama.cpp with `kind` weights. Raises Missing."""
    peers.python(*LLAMA_PACKAGES)
    raw, place = config.to_dict(), f"{folder}/{config.model_type}"
    if not Path(f"{place}.f32").exists():
        dim, heads = config.hidden_size, config.num_attention_heads
        shape = {"arch": config.model_type, "dim": dim, "heads": heads, "layers": config.num_hidden_layers}
        shape |= {
            "hidden": raw.get("intermediate_size") or 4 * dim,
            "kv_heads": raw.get("num_key_value_heads") or heads,
        }
        peers.convert(WRITER, place, "q8_0,q4_0", json.dumps({**shape, "vocab": config.vocab_size}))
    return peers.Peer(LLAMA, f"{place}.{kind}", str(config.vocab_size), str(threads), clock, threads=threads)
