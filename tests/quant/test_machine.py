"""A GPU is told by its compute capability, a machine without one is a CPU."""

import pytest

from senryu.quant.machine import generation, this_machine


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ((7, 5), None),
        ((8, 0), "ampere"),
        ((8, 6), "ampere"),
        ((8, 9), "ada"),
        ((9, 0), "hopper"),
        ((10, 0), "blackwell"),
        ((12, 0), "blackwell"),
    ],
)
def test_a_generation_begins_with_its_capability(
    capability: tuple[int, int], name: str | None
) -> None:
    assert generation(capability) == name


def test_without_a_gpu_it_is_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENRYU_DEVICE", "cpu")
    assert this_machine() == "cpu"
