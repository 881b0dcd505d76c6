"""docs/library.md: every Python block runs, and its step under DDP on two ranks is that on one."""

import library_page
import pytest
import torch
import torch.multiprocessing as mp


@pytest.mark.parametrize(("options", "code"), library_page.blocks(), ids=lambda part: str(part)[:40].split("\n")[0])
def test_blocks_run(options, code):
    for rival in filter(None, options.get("rivals", "").split(",")):
        pytest.importorskip(rival, reason=f"{rival} is not installed: pip install -e '.[benchmark]'")
    library_page.run(code)


def test_the_step_on_two_ranks_is_that_on_one(tmp_path):
    arguments = 2, f"file://{tmp_path}/store", str(tmp_path)
    mp.start_processes(library_page.rank_main, arguments, nprocs=2, start_method="forkserver")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    value, *gradients = library_page.plain_gradients()
    assert all(gradient.abs().max() > 1e-4 for gradient in gradients)
    torch.testing.assert_close(library_page.ddp_gradients(1, 0), [value, *gradients], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close((ranks[0][0] + ranks[1][0]) / 2, value, rtol=1e-10, atol=1e-12)
    for rank in ranks:
        for ours, whole in zip(rank[1:], gradients, strict=True):
            torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-12)
