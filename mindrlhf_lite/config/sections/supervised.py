"""supervised_config: rows that are trained on as they are, by python -m mindrlhf_lite.sft, dpo and reward_model."""

from __future__ import annotations

from dataclasses import dataclass

from mindrlhf_lite.config.setting import FREE, NOT_NEGATIVE, POSITIVE, setting


@dataclass(frozen=True)
class SupervisedConfig:
    batch_size: int = setting(
        32, "rows an optimizer update, over all ranks; of pairs: pairs", bounds=POSITIVE, unit="rows"
    )
    train_on: str = setting(
        "all", "which answers of a conversation count in the loss: all, or the last one", ("all", "last")
    )
    prompt_type: str = setting("plain", "template of prompts that are texts, as of rlhf_data.py --prompt_type")
    chat_template: str = setting(
        "tokenizer",
        "form of rows that are messages: the tokenizer's own chat template, or ChatML",
        ("tokenizer", "chatml"),
    )
    skip_bad_rows: bool = setting(
        False, "leave out rows that cannot be used, also those longer than rl_config.seq_length; false: stop at them"
    )
    num_samples: int = setting(
        4,
        "sft, dpo: held-out prompts that are answered at every evaluation, in completions/eval_N.jsonl; 0: none",
        bounds=NOT_NEGATIVE,
        unit="prompts",
        resume=FREE,
    )
