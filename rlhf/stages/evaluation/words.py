"""Texts of an evaluation's report, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlhf.evaluation.areas import ALL, CAPABILITY
from rlhf.evaluation.forms import Area
from rlhf.evaluation.text import Language


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Texts of the report in one language."""

    title: str
    figures: str
    figure: tuple[str, ...]
    compared: tuple[str, ...]
    areas: str
    area: tuple[str, ...]
    area_names: Mapping[str, str]
    verdicts: str
    samples: str
    item: tuple[str, ...]
    legend: str
    against: str

    def columns(self, has_baseline: bool) -> tuple[str, ...]:
        return (*self.figure, *(self.compared if has_baseline else ()))


WORDS = {
    Language.en: Words(
        title="Evaluation of {}",
        figures="Figures",
        figure=("figure", "value (95 % interval)", "items"),
        compared=("baseline", "difference (95 % interval)", "in baseline deviations", "p", "change"),
        areas="Improvement by area",
        area=("area", "improvement (95 % interval)", "worse", "better", "figures"),
        area_names={CAPABILITY: "capability (below 0: alignment tax)"},
        verdicts="Verdicts",
        samples="Answers",
        item=("item", "prompt", "right", "answer"),
        legend="Intervals and tests are by cluster: samples of one prompt and questions on one passage are not "
        "independent. A change is named if the interval excludes 0.",
        against="Compared with {} on the same items, regressions first.",
    ),
    Language.zh: Words(
        title="{} 的评估",
        figures="指标",
        figure=("指标", "值（95 % 区间）", "题数"),
        compared=("基线", "差（95 % 区间）", "以基线标准差计", "p", "变化"),
        areas="各方面的改进",
        area=("方面", "改进（95 % 区间）", "退步", "进步", "指标数"),
        area_names={
            ALL: "整体",
            CAPABILITY: "能力（低于 0 即对齐税）",
            Area.understanding: "理解",
            Area.generation: "生成",
            Area.reasoning: "推理",
            Area.knowledge: "知识",
            Area.helpful: "有用",
            Area.harmless: "无害",
            Area.honest: "诚实",
            Area.safety: "安全",
        },
        verdicts="达标表",
        samples="回答",
        item=("题目", "提示", "参考答案", "回答"),
        legend="区间和检验按簇计算：同一提示的多个回答、同一篇章的多个问题并不独立。区间不含 0 时才称为变化。",
        against="与 {} 在相同题目上比较，退步在前。",
    ),
}
CHANGES = {
    Language.en: {"worse": "worse", "better": "better", "other": "different", "none": "no evidence"},
    Language.zh: {"worse": "退步", "better": "进步", "other": "不同", "none": "无证据"},
}
