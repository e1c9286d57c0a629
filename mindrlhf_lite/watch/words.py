"""The page's words, in English and Chinese. What concerns say in English stands with them (observe/concerns.py)."""

from __future__ import annotations

import re

from mindrlhf_lite.observe.concerns import TEXTS, Concern

LANGUAGES = ("en", "zh")

# key: (English, Chinese)
WORDS = {
    "title": ("mindrlhf_lite: watch", "mindrlhf_lite：训练监视"),
    "language": ("中文", "English"),  # the switch: to the other one
    "overview": ("Overview", "总览"),
    "completions": ("Completions", "回答"),
    "compare": ("Compare checkpoints", "对比检查点"),
    "offline": ("No answer from the server: it may have ended with its run.", "服务器无响应：可能已随训练结束。"),
    "running": ("running", "训练中"),
    "finished": ("finished", "已完成"),
    "ended": ("ended early", "提前结束"),
    "waiting": ("nothing written yet", "尚无数据"),
    "unknown": ("on another host", "在其他主机上"),
    "phase_generate": ("generating", "生成"),
    "phase_reward": ("scoring", "打分"),
    "phase_reference": ("reference logprobs", "参考模型"),
    "phase_policy": ("policy logprobs", "策略概率"),
    "phase_teacher": ("teacher", "教师模型"),
    "phase_critic": ("critic", "价值模型"),
    "phase_update": ("updating", "更新"),
    "phase_update_critic": ("updating the critic", "更新价值模型"),
    "phase_reshard": ("resharding", "重排权重"),
    "phase_save": ("saving", "保存"),
    "phase_restore": ("restoring", "恢复"),
    "phase_finish": ("finishing", "收尾"),
    "phase_evaluate": ("evaluating", "评测"),
    "phase_compiling": ("compiling", "编译中"),
    "phase": ("step {step}: {name}", "第 {step} 步：{name}"),
    "step": ("step", "步"),
    "step_of": ("step {step} of {last}", "第 {step} 步，共 {last} 步"),
    "left": ("{time} left", "剩余 {time}"),
    "measuring": ("estimate follows", "正在估计剩余时间"),
    "age": ("newest row {time} ago", "最新一行写于 {time} 前"),
    "reward": ("mean reward", "平均奖励"),
    "correct": ("correct in training", "训练中正确率"),
    "accuracy": ("held-out accuracy", "留出集准确率"),
    "loss": ("loss", "损失"),
    "tokens": ("tokens", "词元数"),
    "speed": ("tokens/s generated", "生成词元/秒"),
    "memory": ("memory of the largest rank", "单进程最大内存"),
    "peak": ("peak", "峰值"),
    "host": ("of the host", "主机占用"),
    "at_step": ("step {first}: {text}", "第 {first} 步：{text}"),
    "at_steps": ("steps {first} to {last}: {text}", "第 {first} 至 {last} 步：{text}"),
    "no_warnings": ("no warnings", "无警告"),
    "damaged": ("cannot be read: {text}", "无法读取：{text}"),
    "curves": ("Curves", "曲线"),
    "choose": ("Choose metrics", "选择指标"),
    "search": ("search metrics", "搜索指标"),
    "gaps": ("{count} values are not finite", "{count} 个值不是有限值"),
    "thinned": (
        "Long curves show the lowest and the highest value of each stretch.",
        "长曲线显示每段的最低值和最高值。",
    ),
    "run": ("run", "训练"),
    "newer": ("next", "后一步"),
    "older": ("previous", "前一步"),
    "follow": ("newest", "最新"),
    "order": ("order", "排序"),
    "best": ("highest reward first", "奖励从高到低"),
    "worst": ("lowest reward first", "奖励从低到高"),
    "grouped": ("by question", "按题目"),
    "score": ("reward", "奖励"),
    "gold": ("gold", "标准答案"),
    "advantage": ("advantage", "优势"),
    "outcome": ("outcome", "判定"),
    "finish": ("finish", "结束方式"),
    "environment": ("environment", "环境"),
    "turn": ("policy, turn {turn}", "策略，第 {turn} 轮"),
    "failure": ("failure", "故障"),
    "colours": (
        "Colour: the advantage of each token that the policy wrote, blue above 0, orange below. Where the file has "
        "none for a token, all have the completion's mean.",
        "颜色：策略所写每个词元的优势，蓝色为正，橙色为负。文件中没有逐词元数值时，全部采用该回答的平均优势。",
    ),
    "no_completions": (
        "No completions were saved (rl_config.save_prompt_completions_data).",
        "没有保存回答（rl_config.save_prompt_completions_data）。",
    ),
    "no_evaluations": (
        "No evaluations were saved yet (rl_config.eval_interval).",
        "尚无评测结果（rl_config.eval_interval）。",
    ),
    "more": ("more", "更多"),
    "show": ("show", "显示"),
    "all": ("all", "全部"),
    "changed": ("changed", "有变化"),
    "better": ("better", "变好"),
    "worse": ("worse", "变差"),
    "question": ("question", "题"),
    "right": ("right", "正确"),
    "unjudged": ("not judged", "未判定"),
    "wrong": ("wrong", "错误"),
    "common": ("{count} questions in both: {before} → {after}", "{count} 道共同题目：{before} → {after}"),
    "answers_of": ("{run}, step {step}", "{run}，第 {step} 步"),
    "left_side": ("left", "左"),
    "right_side": ("right", "右"),
}

_CHINESE_CONCERNS = {
    "entropy_falls": "熵从 {first:.3g} 降到 {last:.3g} 纳特：策略几乎不再探索",
    "entropy_grows": "熵从 {first:.3g} 升到 {last:.3g} 纳特：策略趋向噪声",
    "kl_grows": "与参考模型的 KL 在 {steps:.0f} 步内从每词元 {first:.3g} 升到 {last:.3g} 纳特",
    "reward_flat": "奖励在 {steps:.0f} 步内没有上升：平均先为 {first:.3g}，后为 {last:.3g}",
    "reward_falls": "奖励在 {steps:.0f} 步内下降：平均先为 {first:.3g}，后为 {last:.3g}",
    "few_taught": "只有 {last:.0%} 的回答有优势值：几乎所有组内奖励都相同",
    "truncation_rises": "被长度上限截断的回答从 {first:.0%} 升到 {last:.0%}",
    "verifier_fails": "{last:.1%} 的回答验证失败（出错或超时）",
    "environment_fails": "{steps:.0f} 步内有 {count:.0f} 个环境失败",
    "not_finite": "有 {count:.0f} 个指标不是有限值",
    "dead_gradients": "仍有可学内容，但梯度为零",
    "entropy_collapse": "熵已塌缩",
    "entropy_runaway": "熵失控：策略接近噪声",
    "kl_runaway": "与参考模型的 KL 失控",
    "equal_rewards": "所有组内奖励相同：学不到东西",
    "at_limit": "几乎所有回答都被长度上限截断",
    "weight_growth": "权重增长过大",
}


def words_of(language: str) -> dict[str, str]:
    """All words in one of `LANGUAGES`."""
    return {key: both[LANGUAGES.index(language)] for key, both in WORDS.items()}


def text_of(concern: Concern, language: str) -> str:
    texts = _CHINESE_CONCERNS if language == "zh" else TEXTS
    return texts[concern.kind].format_map(concern.values)


def language_of(accepted: str) -> str:
    """The one of `LANGUAGES` that an Accept-Language header wants most. Example: "fr, zh-CN;q=0.9, en;q=0.8" is zh"""
    best = ("en", 0.0)
    for part in accepted[:400].split(","):
        found = re.fullmatch(r"\s*([A-Za-z]{1,8})(?:-[\w-]*)?\s*(?:;\s*q=([01](?:\.\d{0,3})?))?\s*", part)
        weight = float(found[2] or 1) if found else 0.0
        if found and found[1].lower() in LANGUAGES and weight > best[1]:
            best = (found[1].lower(), weight)
    return best[0]
