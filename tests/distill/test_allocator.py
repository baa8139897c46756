"""Memory is kept between steps and given back after the last."""

from pathlib import Path

import torch

from senryu.distill.allocator import keeping

MIB = 2**20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_it_is_kept_for_a_while_and_then_given_back() -> None:
    before = resident()
    with keeping():
        large = torch.ones(64 * MIB // 4)
        del large
        assert resident() > before + 48 * MIB
    assert resident() < before + 32 * MIB
