"""Tokenizers as other people's folders hold them: with a beginning of their own, saved by other versions of
transformers, with tags that are special tokens, with several chat templates, or none that works.
"""

import json

import pytest
from tokenizers import AddedToken, Regex
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.processors import TemplateProcessing

from mindrlhf_lite.data.templates import load_template
from mindrlhf_lite.data.tokenizer import Tokenizer, copy_tokenizer
from mindrlhf_lite.data.tokenizer_reader import panics_as_errors
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.inference.model_folder import ids_of

SPECIAL = ["<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
CONFIG = {"bos_token": "<|begin|>", "eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
SIMPLE = "{{ messages[0]['content'] }}"


def save_tokenizer(folder, special=(), begins=False, config=(), texts=None):
    """All bytes, special tokens, and what a folder has beside them."""
    symbols = {symbol: number for number, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    backend = Backend(BPE(vocab=symbols, merges=[]))
    backend.pre_tokenizer = Sequence([Split(Regex(r"\d"), "isolated"), ByteLevel(add_prefix_space=False)])
    backend.decoder = ByteLevelDecoder()
    backend.add_special_tokens([AddedToken(token, special=True) for token in (*SPECIAL, *special)])
    if begins:
        backend.post_processor = TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", backend.token_to_id("<|begin|>"))]
        )
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**CONFIG, **dict(config)}))
    for name, text in (texts or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)


WITH_BOS = "{{ bos_token }}" + SIMPLE


@pytest.mark.parametrize("template", ["plain", "r1_zero", "qwen", "chat", "mine"])
@pytest.mark.parametrize("own", [SIMPLE, WITH_BOS])
def test_a_prompt_begins_with_what_the_tokenizer_puts_before_every_text_once(tmp_path, template, own):
    tokenizer = Tokenizer(save_tokenizer(tmp_path, begins=True, config={"chat_template": own}))
    (tmp_path / "t.yaml").write_text("mine: 'Q: {question}'\n")
    name = f"{tmp_path}/t.yaml:mine" if template == "mine" else template
    ids = tokenizer.encode(load_template(name, tokenizer).render("1+2=", ""))
    begin = tokenizer.encode_continuation("<|begin|>")[0]
    assert ids[0] == begin and ids.count(begin) == 1


def test_a_completion_begins_with_nothing_and_nothing_is_added_where_the_tokenizer_adds_nothing(tmp_path):
    begins, plain = (Tokenizer(save_tokenizer(tmp_path / str(begins), begins=begins)) for begins in (True, False))
    ids = plain.encode("1+2")
    assert len(ids) == 3 and begins.encode("1+2")[1:] == ids == begins.encode_continuation("1+2")
    row = {"prompt": "1+2", "completion": "3"}
    assert ids_of(row, "prompt", begins, "", 1000)[1:] == ids
    assert ids_of(row, "completion", begins, "", 1000) == plain.encode("3")
    assert begins.encode("")[1:] == []
    assert begins.fingerprint() != plain.fingerprint()  # data without the beginning is not taken for data with it


@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers", "is_local": True},
        {"extra_special_tokens": ["<|extra|>", "<think>"]},
        {"tokenizer_class": "ATokenizerOfItsOwn", "auto_map": {"AutoTokenizer": ["own.Slow", "own.Fast"]}},
        {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": {"image": "<|extra|>"}},
        {
            "tokenizer_class": "TokenizersBackend",
            "eos_token": {"__type": "AddedToken", "content": "<|im_end|>", "lstrip": False, "special": True},
        },
    ],
)
def test_a_whole_tokenizer_json_is_enough(tmp_path, config):
    code = "raise SystemExit('code of the folder was run')"
    folder = save_tokenizer(tmp_path / "new", special=["<|extra|>"], begins=True, config=config, texts={"own.py": code})
    found, known = Tokenizer(folder), Tokenizer(save_tokenizer(tmp_path / "old", special=["<|extra|>"], begins=True))
    assert found.encode("<|extra|>1+2<|im_end|>") == known.encode("<|extra|>1+2<|im_end|>")
    assert found.eos_token_id == known.eos_token_id is not None


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_files_beside_tokenizer_json_may_begin_with_a_byte_order_mark(tmp_path, mark):
    folder = save_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(mark + (tmp_path / name).read_text(), encoding="utf-8")
    assert Tokenizer(folder).decode(Tokenizer(folder).encode("1+2<|im_end|>")) == "1+2"


def test_a_tokenizer_json_alone_is_enough(tmp_path):
    save_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert len(Tokenizer(str(tmp_path)).encode("1+2<|im_end|>")) == 4


def test_a_tokenizer_that_is_code_is_refused_in_words(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    auto_map = {"AutoTokenizer": ["own.Slow", None]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map, "tokenizer_class": "Slow"}))
    (tmp_path / "own.py").write_text("raise SystemExit('code of the folder was run')")
    with pytest.raises(UserError, match=r"auto_map.*never run; save the tokenizer with tokenizer.json"):
        Tokenizer(str(tmp_path))


@pytest.mark.parametrize("length", [[1], "x", {}])
def test_a_setting_of_another_type_is_said_in_a_line(tmp_path, length):
    save_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": length}))
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        Tokenizer(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", '{"model": 1}'])
def test_a_broken_tokenizer_json_is_said_in_a_line(tmp_path, text):
    save_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match="cannot read the tokenizer") as caught:
        Tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("value", [{"a": 1}, [1e30], [[1]], "2", True, -1, 2**40, 1.0])
def test_end_tokens_that_are_none_are_named(tmp_path, name, value):
    folder = save_tokenizer(tmp_path, texts={name: json.dumps({"eos_token_id": value})})
    with pytest.raises(UserError, match=rf"{name}: eos_token_id=.*: a token id, or a list of them, is needed"):
        Tokenizer(folder)


@pytest.mark.parametrize("value", [None, 3, [], [3, 4]])
def test_end_tokens_that_are_some_are_taken(tmp_path, value):
    ids = {"eos_token_id": value, "pad_token_id": -1, "bos_token_id": None}
    Tokenizer(save_tokenizer(tmp_path, texts={"generation_config.json": json.dumps(ids)}))


MISSING = {"id": "<|none|>", "type_id": 0}
PANICS = [
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
    {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": MISSING}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {},
        }
    },
]


@pytest.mark.parametrize("change", PANICS)
@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "OfItsOwn"])
def test_a_tokenizer_json_that_makes_the_library_panic_is_named(tmp_path, change, tokenizer_class):
    folder = save_tokenizer(tmp_path, config={"tokenizer_class": tokenizer_class})
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(UserError, match=r"tokenizer\.json makes the tokenizers library panic") as caught:
        Tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_a_panic_at_a_later_text_is_an_error_and_an_interrupt_stays_one():
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(UserError, match="makes the tokenizers library panic"), panics_as_errors("t.json"):
        raise panic("index out of bounds")
    for other in (KeyboardInterrupt, SystemExit):
        with pytest.raises(other), panics_as_errors("t.json"):
            raise other


TAGS = ["<think>", "</think>", "<answer>", "</answer>", "<tool_call>", "</tool_call>", "[THINK]"]
SILENT = ["<pad>", "<s>", "</s>", "<end_of_turn>", "<unused7>", "<turn>"]


def test_tags_that_are_special_tokens_are_seen_and_other_special_tokens_are_not(tmp_path):
    folder = save_tokenizer(tmp_path, special=[*TAGS, *SILENT], config={"pad_token": "<pad>"})
    end = Backend.from_file(f"{folder}/tokenizer.json").token_to_id("<turn>")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    tokenizer = Tokenizer(folder)
    for tag in TAGS:
        assert tokenizer.decode(tokenizer.encode(f"a{tag}b")) == f"a{tag}b"
    for mark in [*SPECIAL, *SILENT]:
        assert tokenizer.decode(tokenizer.encode(f"a{mark}b")) == "ab"
    assert tokenizer.decode(tokenizer.encode("<think>\N{GRINNING FACE}</think><|im_end|>")).startswith(
        "<think>\U0001f600"
    )


NAMED = [{"name": "tools", "template": "T " + SIMPLE}, {"name": "rag", "template": "R " + SIMPLE}]


def test_a_named_chat_template_is_chosen_by_name(tmp_path):
    tokenizer = Tokenizer(save_tokenizer(tmp_path, config={"chat_template": NAMED}))
    assert load_template("chat:tools", tokenizer).render("1+1", "") == "T 1+1"
    (tmp_path / "t.yaml").write_text("mine: {user: '{question}', chat_template: 'tokenizer:rag'}\n")
    assert load_template(f"{tmp_path}/t.yaml:mine", tokenizer).render("1+1", "") == "R 1+1"
    with pytest.raises(UserError, match=r"chat templates rag, tools; none of them is the default.*chat:NAME"):
        load_template("chat", tokenizer)
    with pytest.raises(UserError, match=r"chat templates rag, tools; none is called 'rags'"):
        load_template("chat:rags", tokenizer)


def test_named_chat_templates_in_files_of_their_own_are_found_and_copied(tmp_path):
    texts = {"chat_template.jinja": SIMPLE, "additional_chat_templates/tools.jinja": "T " + SIMPLE}
    for tokenizer_class in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        folder = save_tokenizer(tmp_path / "a", config={"tokenizer_class": tokenizer_class}, texts=texts)
        (tmp_path / "b").mkdir(exist_ok=True)
        assert copy_tokenizer(folder, tmp_path / "b")
        tokenizer = Tokenizer(str(tmp_path / "b"))
        assert load_template("chat", tokenizer).render("1+1", "") == "1+1"
        assert load_template("chat:tools", tokenizer).render("1+1", "") == "T 1+1"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0]['content'] + 1 }}",
        "{{ 1 / 0 }}",
        "{{ raise_exception('no\nsuch role') }}",
        "{{ nothing.at.all }}",
        "{% for",
        "{{ [1] | map(attribute='x') | join | int(default='x') // 0 }}",
        "{{ messages[5]['content'] }}",
    ],
)
def test_whatever_a_chat_template_raises_is_one_line(tmp_path, template):
    tokenizer = Tokenizer(save_tokenizer(tmp_path, config={"chat_template": template}))
    with pytest.raises(UserError, match="chat template fails: ") as caught:
        load_template("chat", tokenizer)
    assert "\n" not in str(caught.value)
