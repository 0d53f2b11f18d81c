"""Tensors leave for host memory that is allocated once, and come back unchanged."""

import torch

from rlhf.runtimes.memory import HostBuffers

CPU = torch.device("cpu")


def test_buffers_are_kept_between_moves_and_grow_with_the_optimiser():
    torch.manual_seed(0)
    weights = [torch.randn(3, 2).requires_grad_(), torch.randn(5).bfloat16()]
    moments = [torch.randn(3, 2)]
    expected = [each.detach().clone() for each in (*weights, *moments)]
    buffers = HostBuffers(pinned=False)
    lived_at = [each.data_ptr() for each in weights]
    buffers.take(weights)  # before the first step there are no moments
    host = [each.data_ptr() for each in weights]
    assert not set(host) & set(lived_at)
    buffers.give_back(weights, CPU)
    assert not {each.data_ptr() for each in weights} & set(host)
    everything = [*weights, *moments]
    buffers.take(everything)
    assert [each.data_ptr() for each in weights] == host
    buffers.give_back(everything, CPU)
    assert all(torch.equal(found, value) for found, value in zip(everything, expected, strict=True))
    assert weights[0].requires_grad


def test_a_parameter_that_changed_its_size_gets_another_buffer():
    tensor = torch.zeros(4)
    buffers = HostBuffers(pinned=False)
    buffers.take([tensor])
    tensor.data = torch.ones(2)
    buffers.take([tensor])
    buffers.give_back([tensor], CPU)
    assert tensor.tolist() == [1.0, 1.0]
