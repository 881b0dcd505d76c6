"""Small crops are anchors only: every view is their positive, and nothing is compared with them."""

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, config, options
from loss_cases import NO_NEGATIVES, batch, make, remember, value_and_gradient

from repel.engine.build import build_data, build_module, build_trainer
from repel.losses.soft_targets import sinkhorn

TAKES = [name for name in options("loss") if make(name).takes_crops]
ROWWISE = [name for name in TAKES if name not in {*NO_NEGATIVES, "supcon", "joint"}]
IDS, LABELS = torch.arange(10, 16), torch.tensor([0, 0, 1, 1, 2, 1])


def views_and_crops():
    return batch(2, 6), batch(3, 6, seed=1)


@pytest.mark.parametrize("memory", [False, True], ids=["batch", "queue and target"])
@pytest.mark.parametrize("negatives", ["uniform", "topk", "tilt"])
@pytest.mark.parametrize("name", ROWWISE)
def test_each_crop_adds_a_mean_over_anchors_that_are_compared_with_the_views(name, negatives, memory):
    """RankAgreement they are the mean over all anchors: V views' loss, and L losses of a first view that is a crop."""
    z, crops = views_and_crops()
    changes = {"alpha": 0} if name == "macl" else {}  # its temperature follows the views alone

    def loss(**other):
        made = make(name, negatives, queue=8 * memory, **changes, **other)
        return remember(made) if memory else made

    target = batch(2, 6, seed=2).detach() if memory else None
    whole = loss()(z, LABELS, IDS, target=target, crops=crops)
    alone = loss(candidates="cross", symmetric=False)
    parts = [
        alone(
            torch.cat([crop[None], z]), LABELS, IDS, target=None if target is None else torch.cat([target[:1], target])
        )
        for crop in crops
    ]
    expected = (2 * loss()(z, LABELS, IDS, target=target) + sum(parts)) / 5
    torch.testing.assert_close(whole, expected)
    gradients = [torch.autograd.grad(value, [z, crops], retain_graph=True) for value in (whole, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_infonce_by_hand():
    z, crops = views_and_crops()
    t = make("ntxent").temperature
    keys, small = F.normalize(z, dim=-1), F.normalize(crops, dim=-1)
    total, anchors = make("ntxent")(z) * 12, 12
    for crop in small:
        for i in range(6):
            others = torch.cat([crop[i] @ keys[v, [j for j in range(6) if j != i]].T / t for v in range(2)])
            for view in range(2):
                positive = crop[i] @ keys[view, i] / t
                total = total + (torch.cat([others, positive[None]]).logsumexp(0) - positive) / 2
            anchors += 1
    torch.testing.assert_close(make("ntxent")(z, crops=crops), total / anchors)


def test_supcon_by_hand():
    """All samples of the crop's class are positives, in both views; every key is in the denominator."""
    z, crops = views_and_crops()
    loss = make("supcon", positives="out")
    keys, small = F.normalize(z, dim=-1).flatten(0, 1), F.normalize(crops, dim=-1)
    classes, total = LABELS.repeat(2), loss(z, LABELS) * 12
    for crop in small:
        for i in range(6):
            logits = keys @ crop[i] / loss.temperature
            total = total + logits.logsumexp(0) - logits[classes == LABELS[i]].mean()
    torch.testing.assert_close(loss(z, LABELS, crops=crops), total / 30)
    assert not make("supcon", positives="pairwise").takes_crops


def test_swav_and_byol_by_hand():
    z, crops = views_and_crops()
    swav = make("swav")
    prototypes = F.normalize(swav.prototypes, dim=-1)
    anchors = [*z.unbind(), *crops.unbind()]
    codes = [sinkhorn(F.normalize(v, dim=-1) @ prototypes.T, swav.epsilon, swav.iterations).detach() for v in z]
    log_p = [(F.normalize(v, dim=-1) @ prototypes.T / swav.temperature).log_softmax(-1) for v in anchors]
    pairs = [(i, v) for v in range(2) for i in range(5) if i != v]  # as in facebookresearch/swav, main_swav.py
    by_pair = [-(codes[v] * log_p[i]).sum(1).mean() for i, v in pairs]
    torch.testing.assert_close(swav(z, crops=crops), torch.stack(by_pair).mean())

    target = batch(2, 6, seed=2).detach()
    by_pair = [(2 - 2 * F.cosine_similarity(anchors[i], target[v])).mean() for i, v in pairs]
    torch.testing.assert_close(make("byol")(z, target=target, crops=crops), torch.stack(by_pair).mean())


@pytest.mark.parametrize("name", TAKES)
def test_local_anchors_and_row_chunks_change_nothing(name):
    z, crops = views_and_crops()
    arguments = {"labels": LABELS, "ids": IDS, "crops": crops.detach()}
    whole, gradient = value_and_gradient(make(name), z, **arguments)
    if name in NO_NEGATIVES:
        return
    chunked = value_and_gradient(make(name, row_chunk=4), z, **arguments)
    torch.testing.assert_close(chunked[0], whole)
    torch.testing.assert_close(chunked[1], gradient)
    halves = [make(name)(z, **arguments, local=part) for part in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_what_takes_none_says_so_before_training():
    assert not set(TAKES) & {"barlow", "vicreg", "nnclr", "dhel", "align_uniform", "decoupled_weighted"}
    with pytest.raises(ValueError, match=r"views\.local=null"):
        build_module(config("views=multi_crop", "loss=barlow"))
    assert build_module(config("views=multi_crop", "views.local.n=0", "loss=barlow"))


@pytest.mark.parametrize("extra", [
    ["loss=infonce", "target=ema", "queue.size=64"],
    *(pytest.param(more, marks=pytest.mark.slow) for more in (["loss=swav"], ["experiment=byol"])),
])  # fmt: skip
def test_trains(tmp_path, extra):
    """Crops of another size go through the encoder, the head and the predictor; the target sees the views alone."""
    cfg = config(*TINY, *extra, "views=multi_crop", "views.local.n=3", "callbacks.knn=null",
                 "trainer.limit_train_batches=2", "trainer.max_epochs=1")  # fmt: skip
    module, data, trainer = build_module(cfg), build_data(cfg), build_trainer(cfg, tmp_path, None)
    seen = []
    module.encoder.register_forward_hook(lambda m, args, out: seen.append((m.training, *args[0].shape)))
    trainer.fit(module, data)
    size = round(0.43 * 28)
    assert (True, 2 * 16, 1, 28, 28) in seen
    assert (True, 3 * 16, 1, size, size) in seen
    if module.target is not None:
        calls = []
        module.target.encoder.register_forward_hook(lambda m, args, out: calls.append(args[0].shape))
        trainer.validate(module, data, verbose=False)
        assert {shape[-1] for shape in calls} == {28}
