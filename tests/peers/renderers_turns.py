"""What `renderers` writes between the turns of Qwen3's and Llama 3's conversations, as ids of the quickstart's
tokenizer with those models' special tokens: what the bridge of episodes is compared with.

In an environment with transformers and renderers:
    python tests/peers/renderers_turns.py > tests/peers/renderers_turns.json
"""

import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from renderers import create_renderer
from renderers.configs import Llama3RendererConfig, Qwen3RendererConfig
from transformers import AutoTokenizer

MODEL = Path(__file__).resolve().parents[2] / "examples/quickstart/model"
CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "123*456"}}\n</tool_call>'
TOOL, OTHER = ({"role": "tool", "content": text} for text in ("56088", "error: 1/0"))
KINDS = {
    "qwen3": (
        Qwen3RendererConfig(thinking_retention="all"),
        "<|im_end|>",
        ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>", "<tool_call>", "</tool_call>"]
        + ["<tool_response>", "</tool_response>"],
        [
            ("<think>\na product\n</think>\n\n" + CALL, [TOOL]),
            ("Twice:\n" + CALL + "\n" + CALL, [TOOL, OTHER]),
            ("  It is 56088.\n\n", [{"role": "user", "content": "Sure? \u4f60\u597d"}]),
        ],
    ),
    "llama-3": (
        Llama3RendererConfig(thinking_retention="all"),
        "<|eot_id|>",
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"]
        + ["<|end_of_text|>"],
        [
            ('{"name": "calculator", "parameters": {"expression": "1/0"}}', [OTHER]),
            ("It is 56088. ", [{"role": "user", "content": " Sure? \u4f60\u597d\n"}]),
        ],
    ),
}


def with_tokens(tokens: list[str], end: str):
    """The quickstart's tokenizer, with further special tokens behind its own."""
    with tempfile.TemporaryDirectory() as folder:
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(MODEL / file, folder)
        config = json.loads((MODEL / "tokenizer_config.json").read_text())
        first = 1 + max(map(int, config["added_tokens_decoder"]))
        config["added_tokens_decoder"] |= {
            str(first + i): {"content": token, "special": True, "normalized": False}
            for i, token in enumerate(token for token in tokens if token not in known(config))
        }
        config["eos_token"] = end
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
        return AutoTokenizer.from_pretrained(folder), config


def known(config: dict) -> set[str]:
    return {each["content"] for each in config["added_tokens_decoder"].values()}


def main() -> None:
    kinds = {}
    for name, (settings, end, tokens, turns) in KINDS.items():
        tokenizer, config = with_tokens(tokens, end)
        renderer = create_renderer(tokenizer, settings)
        cases = []
        for said, new in turns:
            prompt = renderer.render([{"role": "user", "content": "What is 123*456?"}], add_generation_prompt=True)
            completion = [*tokenizer.encode(said, add_special_tokens=False), tokenizer.convert_tokens_to_ids(end)]
            whole = renderer.bridge_to_next_turn(list(prompt.token_ids), completion, new).token_ids
            behind = len(prompt.token_ids) + len(completion)
            cases.append({"said": said, "new": new, "written": whole[behind:]})
            assert list(whole[:behind]) == [*prompt.token_ids, *completion]
        kinds[name] = {"tokenizer_config": config, "end": end, "turns": cases}
    print(json.dumps({"renderers": version("renderers"), "kinds": kinds}))


if __name__ == "__main__":
    main()
