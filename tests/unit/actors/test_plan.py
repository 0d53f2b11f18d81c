"""Placement as data: who shares what, and what cannot be."""

import pytest

from rlhf.actors.plan import PlacementConfig, RolePlan, lay_out, make_plan
from rlhf.types import InputError


def roles(**num_workers: int) -> list[RolePlan]:
    return [RolePlan(role=name, num_workers=number) for name, number in num_workers.items()]


PPO = roles(policy=4, reference=2, critic=4, reward=1, sampler=3)


def test_separate_roles_have_accelerators_of_their_own():
    plan = make_plan(PPO)
    assert [group.name for group in plan.groups] == ["policy", "reference", "critic", "reward", "sampler"]
    assert (plan.num_accelerators, plan.num_workers) == (14, 14)
    assert not any(group.takes_turns for group in plan.groups)


def test_colocated_roles_need_as_many_accelerators_as_the_widest():
    plan = make_plan(PPO, [["sampler", "policy", "critic", "reference", "reward"]])
    (group,) = plan.groups
    assert (plan.num_accelerators, plan.num_workers) == (4, 14)
    assert group.takes_turns
    assert plan.group_of("sampler") is plan.group_of("policy")


def test_mixed_placement_and_roles_the_run_does_not_have():
    plan = make_plan(roles(policy=4, sampler=3), [["policy", "critic"], ["reference", "reward"]])
    assert [group.name for group in plan.groups] == ["policy", "sampler"]
    assert plan.num_accelerators == 7
    assert plan.has("policy")
    assert not plan.has("critic")


def test_engine_and_reward_model_work_at_the_same_time_so_they_take_no_turns():
    plan = make_plan(roles(policy=1, reward=1, sampler=1), [["sampler", "reward"]])
    assert not plan.group_of("reward").takes_turns
    assert plan.only("sampler", "reward", "critic").num_accelerators == 1


@pytest.mark.parametrize(
    ("colocate", "sentence"),
    [
        ([["policy", "samplers"]], "placement.colocate names 'samplers', which is no role; known are policy,"),
        ([["policy", "critic"], ["policy", "sampler"]], "placement.colocate names policy twice"),
        ([["policy", "policy"]], "placement.colocate names policy twice"),
    ],
)
def test_what_colocate_cannot_mean(colocate, sentence):
    with pytest.raises(InputError) as caught:
        make_plan(PPO, colocate)
    assert sentence in str(caught.value)


def test_wide_engines_share_with_nobody():
    wide = RolePlan(role="sampler", num_workers=2, accelerators_per_worker=4)
    with pytest.raises(InputError, match=r"engines of sampler.tensor_parallel_size=4 cannot share"):
        make_plan([*roles(policy=8), wide], [["policy", "sampler"]])


@pytest.mark.parametrize("number", [0, -1])
def test_a_role_without_workers_is_refused(number):
    with pytest.raises(InputError, match=f"critic has {number} workers"):
        make_plan(roles(policy=1, critic=number))


def test_layout_keeps_wide_engines_on_one_node():
    wide = RolePlan(role="sampler", num_workers=2, accelerators_per_worker=4)
    layout = lay_out(make_plan([*roles(policy=4, reference=4), wide]), [8, 8])
    assert layout == [["sampler", "sampler"], ["policy"] * 4 + ["reference"] * 4]


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        (
            [8, 4],
            "14 accelerators are needed (policy 4 x 1, reference 2 x 1, critic 4 x 1, reward 1 x 1, sampler 3 x 1)",
        ),
        ([8, 4], "the nodes have 8 + 4"),
        ([], "the nodes have 0"),
    ],
)
def test_what_does_not_fit_is_said(nodes, sentence):
    with pytest.raises(InputError) as caught:
        lay_out(make_plan(PPO), nodes)
    assert sentence in str(caught.value)


def test_enough_accelerators_in_all_but_none_with_room_for_a_wide_engine():
    wide = RolePlan(role="sampler", num_workers=1, accelerators_per_worker=4)
    with pytest.raises(InputError, match=r"the nodes have 2 \+ 2 \+ 2; sampler does not fit"):
        lay_out(make_plan([*roles(policy=1), wide]), [2, 2, 2])


def test_nodes_and_accelerators_per_node_come_together():
    with pytest.raises(InputError, match="set both, or neither"):
        PlacementConfig(num_nodes=2)


def test_optimisers_on_the_cpu_share_the_cpus_that_the_other_roles_leave():
    def group(*on_cpu: str):
        names = ("policy", "critic", "sampler")
        members = [RolePlan(role=name, num_workers=2, steps_on_cpu=name in on_cpu) for name in names]
        return make_plan(members, [names]).groups[0]

    assert group().cpus(16) == {"policy": 1, "critic": 1, "sampler": 1}
    assert group("policy").cpus(16) == {"policy": 14, "critic": 1, "sampler": 1}
    assert group("policy", "critic").cpus(16) == {"policy": 7, "critic": 7, "sampler": 1}
    assert group("policy").cpus(1) == {"policy": 1, "critic": 1, "sampler": 1}, "pretended accelerators have one each"
    for per_bundle in range(20):
        reserved = sum(group("policy", "critic").cpus(per_bundle).values())
        assert group("policy", "critic").cpus(reserved) == group("policy", "critic").cpus(per_bundle)
