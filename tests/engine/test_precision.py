"""bf16-mixed beside float32, on the CPU, for every modality; fused optimizers; the loss in float32."""

import copy

import pytest
import torch
from conftest import config
from plain_steps import NAMES, batch_of, losses_of, module_of

from repel.engine.build import build_module

# of the loss, at every step: how far it may be; batch norm of few samples makes most of it, and users and items have no
# matrix product before the loss
BANDS = {"images": 0.05, "bag": 0.005, "transformer": 0.01, "table": 0.0, "lightgcn": 0.0}
CLIPPED = ["optimizer.fused=true", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1.0"]


@pytest.mark.parametrize("name", NAMES)
def test_bf16_mixed_stays_beside_float32(name):
    module = module_of(name)
    full, half = (losses_of(copy.deepcopy(module), name, 6, dtype) for dtype in (None, torch.bfloat16))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=BANDS[name], atol=0)
    assert torch.equal(half, full) == (not BANDS[name])
    assert full.std() > 0.001


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_computed_in_float32_under_autocast(name):
    """From embeddings in bfloat16 it has the value that float64 gives, far closer than bfloat16's 2^-8."""
    module = module_of(name)
    with torch.autocast("cpu", torch.bfloat16):
        loss, output = module.shared_step(batch_of(name, 0))
    exact = module.loss.double()(output.z.double(), output.labels, output.ids)
    torch.testing.assert_close(loss.detach().double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_fused_optimizer_takes_the_same_steps_and_goes_on_after_a_resume(name, tmp_path):
    draws = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, generator=draws)
    gradients = torch.randn(6, 3, 4, generator=draws)

    def after(optimizer_of, steps, weight, state=None):
        parameter = torch.nn.Parameter(weight.clone())
        optimizer = optimizer_of([{"params": [parameter]}])
        if state is not None:
            optimizer.load_state_dict(state)
        for gradient in steps:
            parameter.grad = gradient.clone()
            optimizer.step()
        return parameter.detach(), optimizer

    plain, fused = (build_module(config(f"optimizer={name}", f"optimizer.fused={value}", "encoder.width=2")).optimizer
                    for value in ("null", "true"))  # fmt: skip
    assert "fused" not in plain.keywords
    whole, optimizer = after(fused, gradients, start)
    assert optimizer.param_groups[0]["fused"] is True
    torch.testing.assert_close(whole, after(plain, gradients, start)[0], rtol=1e-5, atol=1e-7)
    half, optimizer = after(fused, gradients[:3], start)
    torch.save(optimizer.state_dict(), tmp_path / "state")
    resumed, _ = after(fused, gradients[3:], half, torch.load(tmp_path / "state", weights_only=True))
    assert torch.equal(resumed, whole)


@pytest.mark.parametrize(("typed", "words"), [
    (["optimizer=lars", "+optimizer.fused=true"], r"optimizer\.fused: repel\.model\.lars\.LARS has no fused form"),
    (["optimizer._target_=torch.optim.RMSprop", "optimizer.fused=true"], r"optimizer\.fused: .*RMSprop has no fused"),
    (CLIPPED, r"trainer\.gradient_clip_val: with trainer\.precision=bf16-mixed .* type optimizer\.fused=null"),
])  # fmt: skip
def test_what_cannot_be_fused_says_so_in_a_line(typed, words):
    with pytest.raises(ValueError, match=words) as caught:
        build_module(config(*typed, "encoder.width=2"))
    assert "\n" not in str(caught.value)


def test_other_optimizers_do_not_see_the_option():
    cfg = config("optimizer._target_=torch.optim.RMSprop", "encoder.width=2")
    assert build_module(cfg).optimizer.func is torch.optim.RMSprop
    build_module(config(*CLIPPED[:2], "encoder.width=2"))
    build_module(config(*CLIPPED[::2], "encoder.width=2"))  # in float32 it clips
