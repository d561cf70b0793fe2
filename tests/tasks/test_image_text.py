"""Talk about images, against the reference's pipeline on the same tiny LLaVA."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL.Image")
from PIL import Image

import regard
from tests.preprocess.folders import FOLDERS
from tests.tasks.conftest import sharpen
from tests.tasks.seeing import photo, words

TEMPLATE = (
    "{% for m in messages %}{{ m.role | upper }}: {% for p in m.content %}"
    "{% if p.type == 'image' %}<image>\n{% else %}{{ p.text }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
ASKED = "USER: <image>\nWhat does the fox do? ASSISTANT:"
GREEDY = {"do_sample": False, "max_new_tokens": 7}
Talker = tuple[Any, Any, Path]


def llava(folder: Path, template: str | None = TEMPLATE) -> Talker:
    """The reference's model and processor, saved in a folder; 4 x 4 patches make 16 tokens of an image."""
    transformers = pytest.importorskip("transformers")
    folder.mkdir(exist_ok=True)
    FOLDERS["llama"](folder)
    tokenizer = words(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"], "pad_token": "<pad>"})
    tokenizer.padding_side = "left"
    module = transformers.models.llava.image_processing_pil_llava
    images = module.LlavaImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    settings = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = transformers.LlavaProcessor(images, tokenizer, chat_template=template, **settings)
    processor.save_pretrained(folder)
    side = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**side, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 128, "model_type": "llama"}
    config = transformers.LlavaConfig(
        vision_config={**side, "image_size": 32, "patch_size": 8, "model_type": "clip_vision_model"},
        text_config={**text, "pad_token_id": tokenizer.pad_token_id},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(3)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    sharpen(model)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    return model, processor, folder


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Talker:
    return llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def theirs(talker: Talker) -> Any:
    import transformers

    pipe = transformers.pipeline("image-text-to-text", model=talker[0], processor=talker[1], device="cpu")

    def call(*args: Any, **options: Any) -> Any:
        kept = {name: options.pop(name) for name in list(options) if name in SHAPES}
        return pipe(*args, **kept, generate_kwargs=options)

    return call


SHAPES = ("images", "text", "return_full_text", "return_tensors", "continue_final_message", "skip_special_tokens")


@pytest.fixture(scope="module")
def ours(talker: Talker) -> Any:
    return regard.pipeline("image-text-to-text", talker[2])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        photo(40 + 9 * i, 50, i).save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(3)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_full_text": False},
        {"return_full_text": True},
        {"skip_special_tokens": False},
        {"num_beams": 3, "num_return_sequences": 2},
        {"repetition_penalty": 1.4},
    ],
    ids=str,
)
def test_a_text_and_its_image(theirs: Any, ours: Any, files: list[str], options: dict[str, Any]) -> None:
    expected = theirs(images=files[0], text=ASKED, **GREEDY, **options)
    assert ours(images=files[0], text=ASKED, **GREEDY, **options) == expected
    shapes = {name: options[name] for name in options if name in SHAPES}
    rest = {name: options[name] for name in options if name not in SHAPES}
    assert ours(files[0], ASKED, generate_kwargs={**GREEDY, **rest}, **shapes) == expected
    assert any(len(entry["generated_text"]) > 3 for entry in expected)


def test_what_is_written_depends_on_the_image(ours: Any, files: list[str]) -> None:
    assert len({ours(name, ASKED, **GREEDY)[0]["generated_text"] for name in files}) > 1


def test_ids(theirs: Any, ours: Any, files: list[str]) -> None:
    (expected,) = theirs(images=files[0], text=ASKED, return_tensors=True, **GREEDY)
    (found,) = ours(images=files[0], text=ASKED, return_tensors=True, **GREEDY)
    assert found == {"input_text": ASKED, "generated_token_ids": expected["generated_token_ids"].tolist()}


def test_without_a_limit_256_tokens_are_written(ours: Any, files: list[str]) -> None:
    ids, long = (
        ours(files[0], ASKED, do_sample=False, eos_token_id=[], return_tensors=True, **more)[0]["generated_token_ids"]
        for more in ({"max_new_tokens": 1}, {})
    )
    assert len(long) - len(ids) == 255 and long[: len(ids)] == ids


@pytest.mark.parametrize("kind", ["path", "PIL", "bytes", "data", "file", "array"])
def test_images_of_every_kind(ours: Any, files: list[str], kind: str) -> None:
    data = Path(files[1]).read_bytes()
    made = {
        "path": Path(files[1]),
        "PIL": Image.open(files[1]),
        "bytes": data,
        "data": "data:image/png;base64," + base64.b64encode(data).decode(),
        "file": io.BytesIO(data),
        "array": torch.from_numpy(np.array(Image.open(files[1]))).permute(2, 0, 1),
    }
    assert ours(images=made[kind], text=ASKED, **GREEDY) == ours(images=files[1], text=ASKED, **GREEDY)


def test_several_images_and_several_texts(theirs: Any, ours: Any, files: list[str]) -> None:
    two = "USER: <image> and <image>\nWhich is the dog? ASSISTANT:"
    assert ours(images=files[:2], text=two, **GREEDY) == theirs(images=files[:2], text=two, **GREEDY)
    many = {"images": files, "text": [ASKED, two]}
    assert ours(**many, **GREEDY) == theirs(**many, **GREEDY)
    nested = {"images": [files[:1], files[1:]], "text": [ASKED, two]}
    assert ours(**nested, **GREEDY) == theirs(**nested, **GREEDY)
    items = [{"image": files[0], "text": ASKED}, {"images": files[1:], "text": two}]
    assert [row for (row,) in ours(items, **GREEDY)] == ours(**nested, **GREEDY)
    assert [row for (row,) in ours(iter(items), **GREEDY)] == ours(**nested, **GREEDY)


def test_text_alone(theirs: Any, ours: Any) -> None:
    texts = ["USER: What does the fox do? ASSISTANT:", "The dog"]
    assert ours(text=texts[0], **GREEDY) == theirs(text=texts[0], **GREEDY)
    assert ours(text=texts, **GREEDY) == theirs(text=texts, **GREEDY)


def said(*parts: Any, role: str = "user") -> dict[str, Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image", **part} for part in parts]
    return {"role": role, "content": content}


@pytest.mark.parametrize("key", ["url", "path", "image", "base64"])
@pytest.mark.parametrize("options", [{}, {"return_full_text": False}], ids=str)
def test_a_conversation(theirs: Any, ours: Any, files: list[str], key: str, options: dict[str, Any]) -> None:
    image = Image.open(files[0]) if key == "image" else files[0]
    if key == "base64":
        image = base64.b64encode(Path(files[0]).read_bytes()).decode()
    chat = [said({key: image}, "What does the fox do?")]
    found = ours(text=chat, **GREEDY, **options)
    assert found == theirs(text=chat, **GREEDY, **options)
    assert found == ours(chat, **GREEDY, **options)
    if not options:
        assert found[0]["generated_text"][-1]["role"] == "assistant" and found[0]["input_text"] == chat


def test_longer_conversations(theirs: Any, ours: Any, files: list[str]) -> None:
    first = said({"path": files[0]}, "Who?")
    chat = [first, said("The fox.", role="assistant"), said("And here?", {"path": files[1]})]
    assert ours(text=chat, **GREEDY) == theirs(text=chat, **GREEDY)
    both = ours(text=[chat, [first]], **GREEDY)
    assert both == theirs(text=[chat, [first]], **GREEDY) == [ours(text=chat, **GREEDY), ours(text=[first], **GREEDY)]
    prefilled = [first, said("It is the lazy", role="assistant")]
    for options in ({}, {"continue_final_message": True}, {"return_full_text": False}):
        assert ours(text=prefilled, **GREEDY, **options) == theirs(text=prefilled, **GREEDY, **options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": ["{0}", "{1}"], "text": ASKED}, r"the text has 1 <image> places for 2 images"),
        ({"images": "{0}", "text": "What?"}, r"the text has 0 <image> places for 1 images; write <image> where"),
        ({"text": ASKED}, r"the text has 1 <image> places for 0 images"),
        ({"images": ["{0}"], "text": [ASKED, ASKED]}, r"the texts have 2 <image> places for 1 images"),
        ({"images": "none.png", "text": ASKED}, r"there is no file 'none\.png'"),
        ({"images": "{text}", "text": ASKED}, r"words\.txt is no image of a known kind"),
        ({"images": "http://example.org/cat.png", "text": ASKED}, r"needs the host 'example\.org'; name it in allow_h"),
        ({"images": "{0}"}, "text is missing"),
        ({"images": ["{0}", "{1}"]}, "text is missing"),
        ({"images": "{0}", "text": ""}, "text is an empty string"),
        ({"images": "{0}", "text": 3}, r"text is 3 \(type int\)"),
        ({}, "neither is given"),
        ({"images": "{0}", "text": [said("Who?")]}, "images and a conversation are given"),
        ({"text": [{"role": "user"}]}, r"message 0 has role; allowed"),
        ({"text": [said({})]}, r"message 0 has an image without a source; allowed: one of image, url, path, base64"),
        ({"text": [{"role": "user", "content": [{"type": "video"}]}]}, r"message 0 has a part \{'type': 'video'\}"),
        ({"text": [{"role": "user", "content": 5}]}, r"message 0 has a part 5"),
        ({"text": [said({"path": "none.png"}, "Who?")]}, r"there is no file 'none\.png'"),
        ({"images": "{0}", "text": ASKED, "truncation": True}, r"truncation is True; allowed: None or False"),
        ({"images": "{0}", "text": ASKED, "max_new_tokens": -1}, r"max_new_tokens is -1"),
        ({"images": "{0}", "text": ASKED, "generate_kwargs": 3}, "generate_kwargs is 3"),
        ({"images": "{0}", "text": ASKED, "temprature": 3}, "did you mean 'temperature'"),
    ],
    ids=str,
)
def test_mistakes_are_named(ours: Any, files: list[str], tmp_path: Path, given: Any, message: str) -> None:
    (tmp_path / "words.txt").write_text("no image")
    filled = json.dumps(given).replace("{text}", str(tmp_path / "words.txt"))
    for i, name in enumerate(files):
        filled = filled.replace(f"{{{i}}}", name)
    with pytest.raises(ValueError, match=message) as caught:
        ours(**json.loads(filled))
    assert "\n" not in str(caught.value)


def test_bad_items_can_be_skipped(ours: Any, files: list[str]) -> None:
    found = ours(images=[[files[0]], ["none.png"]], text=[ASKED, ASKED], on_error="skip", **GREEDY)
    assert found == [*ours(files[0], ASKED, **GREEDY), {"error": "item 1: there is no file 'none.png'"}]


def test_models_that_see_nothing_are_refused(make: Any) -> None:
    with pytest.raises(
        ValueError, match="a GPT2LMHeadModel reads text; image-text-to-text needs a model that reads im"
    ):
        regard.pipeline("image-text-to-text", make("gpt2", "GPT2LMHeadModel")[1])


def test_half_precision(talker: Talker, files: list[str]) -> None:
    found = regard.pipeline("image-text-to-text", talker[2], dtype="bfloat16")(files[0], ASKED, **GREEDY)
    assert found[0]["generated_text"].startswith(ASKED) and len(found[0]["generated_text"]) > len(ASKED)


def test_prompts_in_which_images_alternate_with_text(tmp_path: Path) -> None:
    """IDEFICS takes images without places for them in the text."""
    transformers = pytest.importorskip("transformers")
    FOLDERS["llama"](tmp_path)
    tokens = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    tokenizer = words(tmp_path)
    tokenizer.add_special_tokens({"additional_special_tokens": tokens, "pad_token": "<pad>"})
    images = transformers.models.idefics.image_processing_pil_idefics.IdeficsImageProcessorPil(image_size=24)
    processor = transformers.IdeficsProcessor(images, tokenizer)
    processor.save_pretrained(tmp_path)
    sight = {"embed_dim": 32, "image_size": 24, "patch_size": 8, "intermediate_size": 48}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.IdeficsConfig(
        **{"hidden_size": 32, "intermediate_size": 48, **layers, "use_resampler": False, "cross_layer_interval": 1},
        **{"vocab_size": len(tokenizer) - 3, "additional_vocab_size": 3, "pad_token_id": tokenizer.pad_token_id},
        **{"alpha_type": "vector", "alpha_initializer": "ones", "vision_config": {**sight, **layers}},
        **{"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id},
    )
    torch.manual_seed(0)
    model = transformers.IdeficsForVisionText2Text(config).eval()
    sharpen(model)
    for name, parameter in model.named_parameters():
        if "gated_cross_attn" in name and parameter.ndim == 2:
            parameter.data.mul_(4)  # so that the image matters
    model.save_pretrained(tmp_path)
    pipe = transformers.pipeline("image-text-to-text", model=model, processor=processor, device="cpu")
    ours = regard.pipeline("image-text-to-text", tmp_path)
    asked = ["User: What is this?", "And the fox?"]
    expected = [pipe(images=[photo(seed=i)], text=[asked[i]], generate_kwargs=GREEDY)[0] for i in (0, 1)]
    assert ours(photo(), asked[0], **GREEDY) == expected[:1]
    assert ours(images=[photo(seed=0), photo(seed=1)], text=asked, **GREEDY) == expected
    assert len({ours(photo(seed=i), asked[0], **GREEDY)[0]["generated_text"] for i in range(4)}) > 1
