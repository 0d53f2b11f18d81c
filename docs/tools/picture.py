"""Draw the picture of the README: `python docs/tools/picture.py` writes docs/picture.svg and docs/picture.zh.svg."""

from __future__ import annotations

from pathlib import Path

from svg import FONT, Box, document, lines_in, path, rectangle, text

DOCS = Path(__file__).parents[1]
WIDTH, HEIGHT, TOP = 980, 420, 32
CSS = f"""
.flow text {{ {FONT}; fill: #1f2430; font-size: 12px; }}
.flow .title {{ font-size: 14px; font-weight: 600; }}
.flow .note {{ font-size: 11px; fill: #4a5163; }}
.flow .paper {{ fill: #ffffff; }}
.flow .panel {{ fill: #f4f6fb; stroke: #d5dae6; }}
.flow .model {{ fill: #e3ebff; stroke: #4051b5; }}
.flow .engine {{ fill: #dff3ea; stroke: #2e8b68; }}
.flow .service {{ fill: #fdf0dc; stroke: #c07a1e; }}
.flow .ray {{ fill: #e9ebf1; stroke: #aab1c3; }}
.flow .edge {{ fill: none; stroke: #4a5163; stroke-width: 1.5; }}
.flow .head {{ fill: #4a5163; }}"""

BOXES: dict[str, tuple[str, Box]] = {
    "offline": ("model", Box(x=30, y=112, width=132, height=150)),
    "engines": ("engine", Box(x=232, y=96, width=130, height=58)),
    "rewards": ("service", Box(x=432, y=96, width=130, height=58)),
    "columns": ("model", Box(x=432, y=222, width=130, height=58)),
    "learners": ("model", Box(x=232, y=222, width=130, height=58)),
    "gateway": ("service", Box(x=818, y=140, width=132, height=74)),
    "production": ("engine", Box(x=648, y=96, width=118, height=52)),
    "candidate": ("engine", Box(x=648, y=176, width=118, height=52)),
    "controller": ("service", Box(x=648, y=262, width=118, height=58)),
    "store": ("service", Box(x=818, y=262, width=132, height=58)),
}
"""By name: kind of the box, and its place."""
PANELS = {"train": Box(x=12, y=44, width=584, height=308), "serve": Box(x=612, y=44, width=356, height=308)}

ENGLISH = {
    "title": "Training on the left, serving on the right: models go right, feedback comes back",
    "train": "Train",
    "serve": "Serve",
    "offline": "Ray Train|pretraining, SFT,|reward models,|DPO and others",
    "engines": "vLLM engines|sample answers",
    "rewards": "rewards|functions, models",
    "columns": "reference, critic|KL, values",
    "learners": "policy, critic|learn: DeepSpeed",
    "gateway": "gateway|OpenAI API, keys,|routing by user",
    "production": "production|vLLM engines",
    "candidate": "candidate|vLLM engines",
    "controller": "release control|shadow, A/B test",
    "store": "store|requests, feedback",
    "loop": "online loop: PPO, GRPO",
    "rollouts": "rollouts",
    "scores": "groups",
    "credit": "advantages",
    "weights": "weights, every step",
    "start": "start",
    "users": "users",
    "model": "trained model",
    "rows": "rows with lineage: pairs, labels, edits",
    "verdict": "shares",
    "ray": "Ray: actors, placement, jobs, Train, Serve. A laptop CPU or a GPU cluster; only the configuration differs.",
}
CHINESE = {
    "title": "左为训练，右为上线服务：模型向右，反馈返回",
    "train": "训练",
    "serve": "服务",
    "offline": "Ray Train|继续预训练、SFT|奖励模型|DPO 等",
    "engines": "vLLM 引擎|采样回答",
    "rewards": "奖励|函数与模型",
    "columns": "参考模型、价值网络|KL、价值",
    "learners": "策略、价值网络|DeepSpeed 学习",
    "gateway": "网关|OpenAI 协议、密钥|按用户路由",
    "production": "生产模型|vLLM 引擎",
    "candidate": "候选模型|vLLM 引擎",
    "controller": "发布控制器|影子、A/B、回滚",
    "store": "存储|请求与反馈",
    "loop": "在线循环：PPO、GRPO",
    "rollouts": "采样序列",
    "scores": "组",
    "credit": "优势",
    "weights": "每一步更新权重",
    "start": "起点",
    "users": "用户",
    "model": "训练好的模型",
    "rows": "带来源的数据行：成对偏好、标签、修改",
    "verdict": "份额",
    "ray": "Ray：actor、放置、作业、Train、Serve。笔记本 CPU 或 GPU 集群，差别只在配置。",
}


def picture(words: dict[str, str]) -> str:
    parts: list[str] = []
    for name, panel in PANELS.items():
        parts += [rectangle(panel, "panel", 10), text(panel.x + 16, panel.y + 24, words[name], "title", "start")]
    parts += edges(words)
    for name, (kind, box) in BOXES.items():
        first, *others = words[name].split("|")
        parts += [rectangle(box, kind), *lines_in(box, [first, *others], "label")]
    bar = Box(x=12, y=402, width=956, height=38)
    parts += [rectangle(bar, "ray", 8), *lines_in(bar, [words["ray"]], "label")]
    parts = [
        rectangle(Box(x=0, y=0, width=WIDTH, height=HEIGHT), "paper", 10),
        f'<g transform="translate(0,-{TOP})">',
        *parts,
        "</g>",
    ]
    return document(WIDTH, HEIGHT, parts, title=words["title"], css=CSS, name="picture")


def edges(words: dict[str, str]) -> list[str]:
    box = {name: place for name, (_, place) in BOXES.items()}
    straight = [
        ("engines", "right", "rewards", "left", "rollouts"),
        ("rewards", "bottom", "columns", "top", "scores"),
        ("columns", "left", "learners", "right", "credit"),
        ("learners", "top", "engines", "bottom", ""),
        ("gateway", "bottom", "store", "top", ""),
        ("store", "left", "controller", "right", ""),
        ("controller", "top", "candidate", "bottom", "verdict"),
    ]
    parts = []
    for source, out, target, into, note in straight:
        (x1, y1), (x2, y2) = getattr(box[source], out), getattr(box[target], into)
        parts.append(path(f"M{x1:.0f},{y1:.0f} L{x2:.0f},{y2:.0f}", "picture"))
        if note and x1 != x2:
            parts.append(text((x1 + x2) / 2, y1 - 7, words[note], "note"))
        elif note:
            parts.append(text(x1 + 8, (y1 + y2) / 2 + 4, words[note], "note", "start"))
    return [*parts, *curves(words)]


def curves(words: dict[str, str]) -> list[str]:
    """Draw edges that are not straight, and words beside no edge."""
    return [
        path("M162,251 H232", "picture"),
        text(197, 244, words["start"], "note"),
        text(397, 184, words["loop"], "title"),
        text(397, 204, words["weights"], "note"),
        # From the learner under the loop, between the panels, to the candidate.
        path("M297,280 V318 Q297,326 305,326 H596 Q604,326 604,318 V210 Q604,202 612,202 H648", "picture"),
        text(450, 320, words["model"], "note"),
        path("M818,160 H792 Q784,160 784,152 V130 Q784,122 776,122 H766", "picture"),
        path("M818,194 H792 Q784,194 784,198 Q784,202 776,202 H766", "picture"),
        path("M884,84 V140", "picture"),
        text(884, 76, words["users"], "label"),
        # From the store under both panels to the offline methods.
        path("M884,320 V370 Q884,378 876,378 H104 Q96,378 96,370 V262", "picture"),
        text(480, 372, words["rows"], "note"),
    ]


PICTURES = {"picture.svg": ENGLISH, "picture.zh.svg": CHINESE}

if __name__ == "__main__":
    for name, words in PICTURES.items():
        (DOCS / name).write_text(picture(words), encoding="utf-8")
