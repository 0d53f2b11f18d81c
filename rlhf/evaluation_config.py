"""Configuration of `launch/evaluate.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf.evaluation.gate_config import GateConfig
from rlhf.evaluation.suite import SuiteConfig
from rlhf.evaluation.text import Language
from rlhf.judges.config import EndpointConfig
from rlhf.offline_config import RunConfig
from rlhf.runtimes.configs import SamplerConfig
from rlhf.types import InputError


@dataclass(kw_only=True, slots=True)
class EvaluationConfig(RunConfig):
    """Evaluation of a model by suites: `launch/evaluate.py`."""

    model: str | None = None  # type: ignore[assignment]  # the others need one
    """Folder or Hub id of the model, which engines of this project sample; or None, and `endpoint.url` is set."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    """An OpenAI-compatible server whose model is evaluated, in place of `model`."""
    suite: dict[str, SuiteConfig] = field(default_factory=dict)
    """The suites by name: `suite=[quickstart,gsm8k]` takes files of `conf/suite/`, `suite.gsm8k.path=FILE` sets a key
    of one, and `'+suite={NAME: {path: FILE}}'` begins one of your own."""
    suite_root: str | None = None
    """Folder of the suites' data. None: the working directory."""
    baseline: str | None = None
    """Folder of an earlier evaluation, with which each figure is compared on the same items."""
    answers: str = "outputs/answers"
    """Folder in which all evaluations keep answers, by model, suite and sampling: none is asked for twice."""
    overall: dict[str, float] = field(default_factory=dict)
    """Weights of figures in the overall improvement on the baseline, by SUITE/METRIC, in the figures' units:
    `+overall.gsm8k/math=2`. Empty: the first metric of each suite, with equal weights."""
    gate: GateConfig = field(default_factory=GateConfig)
    """Conditions that the figures have to satisfy; the exit code tells the verdict: 0 passed, 10 failed, 11 undecided
    or awaiting people."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """The engines."""
    language: Language = Language.en
    """Language of the report: `en` or `zh`."""
    num_shown: int = 3
    """Number of answers of each suite in the report, right and wrong ones in turn."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.endpoint.url is None):
            raise InputError(
                f"model={self.model or 'null'}, endpoint.url={self.endpoint.url or 'null'}: set one of them, a folder "
                "or Hub id, or the address of a server"
            )
        if not self.suite:
            raise InputError("suite is empty: choose one or more of conf/suite, as in suite=[quickstart]")
        if self.num_shown < 0:
            raise InputError(f"num_shown={self.num_shown}: give 0 or more")
