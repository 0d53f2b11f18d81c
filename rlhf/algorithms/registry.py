"""The methods that are chosen by name: `algorithm=grpo`."""

from __future__ import annotations

from typing import Any

from rlhf.algorithms.cispo import CISPOConfig
from rlhf.algorithms.dapo import DAPOConfig
from rlhf.algorithms.distill import OnPolicyDistillationConfig
from rlhf.algorithms.dpo import DPOConfig
from rlhf.algorithms.dr_grpo import DrGRPOConfig
from rlhf.algorithms.grpo import GRPOConfig
from rlhf.algorithms.gspo import GSPOConfig
from rlhf.algorithms.ipo import IPOConfig
from rlhf.algorithms.kto import KTOConfig
from rlhf.algorithms.orpo import ORPOConfig
from rlhf.algorithms.ppo import PPOConfig
from rlhf.algorithms.process_reward import ProcessRewardConfig
from rlhf.algorithms.reinforce_pp import ReinforcePPConfig
from rlhf.algorithms.reinforce_pp_baseline import ReinforcePPBaselineConfig
from rlhf.algorithms.remax import ReMaxConfig
from rlhf.algorithms.reward_model import RewardModelConfig
from rlhf.algorithms.rloo import RLOOConfig
from rlhf.algorithms.simpo import SimPOConfig

ALGORITHMS: dict[str, type[Any]] = {
    "grpo": GRPOConfig,
    "ppo": PPOConfig,
    "dapo": DAPOConfig,
    "dr_grpo": DrGRPOConfig,
    "gspo": GSPOConfig,
    "cispo": CISPOConfig,
    "rloo": RLOOConfig,
    "reinforce_pp": ReinforcePPConfig,
    "reinforce_pp_baseline": ReinforcePPBaselineConfig,
    "remax": ReMaxConfig,
    "distill": OnPolicyDistillationConfig,
    "dpo": DPOConfig,
    "ipo": IPOConfig,
    "kto": KTOConfig,
    "orpo": ORPOConfig,
    "simpo": SimPOConfig,
    "reward_model": RewardModelConfig,
    "process_reward": ProcessRewardConfig,
}
