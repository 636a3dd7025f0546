"""What is seeded anew in each worker of a zygote. Real zygotes: `test_kernel_zygotes`."""

import pytest

from huterox_kernel.worker import inherited


@pytest.mark.torch
def test_generators_of_torch_are_seeded_anew_where_nobody_has_named_their_seed() -> None:
    torch = pytest.importorskip("torch")
    held = [torch.Generator() for _ in range(3)]  # as a module holds them
    drawn, chosen, _ = held
    drawn.seed()
    chosen.manual_seed(7)
    renewed = [getattr(renew, "__self__", None) for renew in inherited._of_numpy_and_torch()]
    assert [any(one is generator for one in renewed) for generator in held] == [True, False, False]
