"""SFT in Chinese on a CPU: Alpaca-style rows, and BLEU-4 and ROUGE-L of the completions of held-out rows.

    python benchmarks/chinese_sft.py

Nothing is downloaded: the rows are composed here (numbers in words, because-therefore sentences, words backwards,
sentiment of reviews), the model is a tiny Qwen3 with a token per character. Arguments are those of launch/sft.py.
"""

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "outputs" / "chinese"
NUM_ROWS, NUM_HELD_OUT = 2400, 200
DIGITS = "零一二三四五六七八九"
HANZI = "天地人山水火木金土日月星风雨雪花草鸟鱼虫"
CAUSES = (
    "今天下雨",
    "路上堵车",
    "天气很冷",
    "他生病了",
    "手机没电",
    "作业太多",
    "起得太晚",
    "没有吃饭",
    "电脑坏了",
    "票卖完了",
)
EFFECTS = (
    "我没有出门",
    "他迟到了",
    "我们取消了旅行",
    "她很不开心",
    "大家都回家了",
    "会议改到明天",
    "我买了新的",
    "他休息了一天",
)
THINGS = ("这家餐厅的菜", "这部电影", "这本书", "这个酒店的服务", "新买的手机", "昨天的演出", "这次旅行", "老师的课")
GOOD = ("非常好", "让人满意", "值得推荐", "超出了我的期待", "真不错", "特别棒")
BAD = ("非常差", "让人失望", "不值这个价", "浪费时间", "真糟糕", "特别无聊")
RECIPE = (
    "data.format=alpaca", "train.num_steps=700", "train.rows_per_step=64", "backend.precision=fp32",
    "backend.attention=eager", "backend.max_tokens_per_microbatch=8192", "backend.packed=false", "optimizer.lr=3e-3",
    "optimizer.schedule=cosine", "optimizer.warmup_steps=30", "placement.policy=2", "held_out.every=175",
    "held_out.num_samples=200", "held_out.sample_tokens=40", "held_out.sample_language=zh",
)  # fmt: skip


def in_words(number: int) -> str:
    """Write a number from 0 to 99 in Chinese."""
    tens, ones = divmod(number, 10)
    if tens == 0:
        return DIGITS[ones]
    return ("" if tens == 1 else DIGITS[tens]) + "十" + (DIGITS[ones] if ones else "")


def rows() -> list[dict[str, str]]:
    """Return different rows of four tasks, in random order."""
    generator = random.Random(0)
    sums = [
        {"instruction": f"请计算{a}加{b}，用汉字回答。", "input": "", "output": f"{a}加{b}等于{in_words(a + b)}。"}
        for a, b in itertools.product(range(50), range(50))
    ]
    reasons = [
        {"instruction": "用“因为……所以……”造句。", "input": f"{a}；{b}", "output": f"因为{a}，所以{b}。"}
        for a, b in itertools.product(CAUSES, EFFECTS)
    ]
    words = ["".join(generator.choices(HANZI, k=generator.randint(2, 5))) for _ in range(NUM_ROWS)]
    backwards = [
        {"instruction": "把下面的词语倒过来写。", "input": word, "output": word[::-1]} for word in dict.fromkeys(words)
    ]
    feelings = [
        {
            "instruction": "判断这条评论的情感，回答正面或者负面，并说明理由。",
            "input": f"{thing}{said}，{also}。",
            "output": f"{feeling}，因为评论说{thing}{said}。",
        }
        for feeling, opinions in (("正面", GOOD), ("负面", BAD))
        for thing, (said, also) in itertools.product(THINGS, itertools.permutations(opinions, 2))
    ]
    every = [
        row
        for task in (sums, reasons, backwards, feelings)
        for row in generator.sample(task, min(len(task), NUM_ROWS // 4))
    ]
    generator.shuffle(every)
    return every


def main() -> None:
    from rlhf.models.tiny import build_tiny_model

    FOLDER.mkdir(parents=True, exist_ok=True)
    every = rows()
    for name, part in (("train", every[NUM_HELD_OUT:]), ("held_out", every[:NUM_HELD_OUT])):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (FOLDER / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    alphabet = "".join(sorted({character for row in every for text in row.values() for character in text} | {"\n"}))
    if not (FOLDER / "untrained").is_dir():
        build_tiny_model(FOLDER / "untrained", alphabet=alphabet, hidden_size=128, num_layers=3, context_tokens=128)
    own = (f"model={FOLDER / 'untrained'}", f"output={FOLDER / 'sft'}")
    data = (f"data.path={FOLDER / 'train.jsonl'}", f"held_out.path={FOLDER / 'held_out.jsonl'}")
    command = [sys.executable, ROOT / "launch" / "sft.py", *RECIPE, *own, *data, *sys.argv[1:]]
    done = subprocess.run(command, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
