"""init=: a new run starts from the weights of a run, a checkpoint or a safetensors file; what fits is told and kept."""

import copy
import shutil

import pytest
import torch
from conftest import TINY, config, same, thinned
from runs_here import train
from safetensors.torch import save_file
from stateful_runs import last

from repel.engine import runs
from repel.engine.build import build_module
from repel.engine.initial_weights import read_weights, start_from
from repel.interactions.pairs import InteractionInfo
from repel.module import Contrastive

SHORT = [*TINY, "trainer.max_epochs=1", "trainer.limit_train_batches=1", "callbacks.knn=null", "callbacks.monitor=null"]
RESNET = ["encoder=resnet18", "encoder.weights=null", "data.channels=3", "data.mean=[0,0,0]", "data.std=[1,1,1]"]


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A new run with these options: its weights before the first step."""
    first = {}
    monkeypatch.setattr(Contrastive, "on_train_start", lambda self: first.update(copy.deepcopy(self.state_dict())))

    def start(name: str, *options: str) -> dict[str, torch.Tensor]:
        train(tmp_path / name, *SHORT[len(TINY) :], *options)
        return dict(first)

    return start


def parts(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


@pytest.mark.slow
def test_a_run_starts_from_anothers_weights_and_needs_it_no_more(tmp_path, started, capsys):
    """Encoder and target, not the head; on other images; its record keeps where they came from."""
    started("source")
    source = last(tmp_path / "source")["state_dict"]
    first = started("run", f"init={tmp_path / 'source'}", "target=ema", "seed=2", "data.image_size=20",
                    "callbacks.last.every_n_train_steps=1")  # fmt: skip
    assert same(parts(first, "encoder"), parts(source, "encoder"))
    assert same(parts(first, "target.encoder"), parts(source, "encoder"))
    assert not same(parts(first, "head"), parts(source, "head"))
    assert "init     " in (out := capsys.readouterr().out)
    assert "source/checkpoints/last.ckpt: 60 of 60 tensors of the encoder\n" in out
    record = runs.read_environment(tmp_path / "run")["init"]
    assert record["file"] == str(tmp_path / "source/checkpoints/last.ckpt")
    assert (record["epoch"], record["step"], len(record["sha256"])) == (1, 1, 64)
    assert record["encoder"] == {"part": "encoder", "taken": 60, "left": {}, "unused": []}
    shutil.rmtree(tmp_path / "source")
    train(tmp_path / "run", resume=True)
    assert "init     " not in capsys.readouterr().out


def take(folder, init, *options):
    """The network after it took the weights, and before."""
    cfg = config(*options, f"init={init}")
    module = build_module(cfg)
    before = copy.deepcopy(module.state_dict())
    start_from(read_weights(cfg.init), cfg, module, folder, say=True)
    return module.state_dict(), before


def test_what_does_not_fit_stays_as_initialized_and_is_named(tmp_path, capsys):
    source = build_module(config(*TINY, "seed=5"))
    save_file({f"encoder.{n}": t for n, t in source.encoder.state_dict().items()} | {"encoder.fc": torch.ones(3)},
              tmp_path / "weights.safetensors")  # fmt: skip
    color = ["data.channels=3", "data.mean=[0,0,0]", "data.std=[1,1,1]"]
    after, before = take(tmp_path, tmp_path / "weights.safetensors", *TINY, *color)
    stem = "encoder.stem.0.weight"
    assert torch.equal(after[stem], before[stem])
    assert all(torch.equal(after[f"encoder.{n}"], t) for n, t in source.encoder.state_dict().items() if n not in stem)
    assert capsys.readouterr().out.endswith(
        "weights.safetensors: 59 of 60 tensors of the encoder, left as initialized: stem.0.weight ((4, 1, 3, 3) there, "
        "(4, 3, 3, 3) here), not in this network: fc\n"
    )
    assert runs.read_environment(tmp_path)["init"]["encoder"]["unused"] == ["fc"]


@pytest.mark.parametrize("prefix", thinned(["", "net.", "encoder.net."], 3))
def test_a_file_of_the_encoder_alone_fits_with_and_without_its_prefix(tmp_path, prefix):
    """As export.py writes it: the names are those of the library that the network is of."""
    source = build_module(config(*RESNET, "seed=5")).encoder.net
    state = {f"{prefix}{name}": tensor.contiguous() for name, tensor in source.state_dict().items()}
    save_file(state, tmp_path / "encoder.safetensors")
    after, _ = take(tmp_path, tmp_path / "encoder.safetensors", *RESNET)
    assert same(parts(after, "encoder.net"), dict(source.state_dict()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["encoder.width=8"], ["none of its weights fit the encoder", "stem.0.weight", "(4, 1, 3, 3) there"]),
        (["init_parts=[head]"], ["none of its weights fit the head", "absent there", "init_parts"]),
        (["init_parts=[encoder,predictor]"], ["predictor", "this run has none"]),
    ],
)
def test_where_nothing_fits_it_is_refused(tmp_path, options, words):
    save_file(build_module(config(*TINY)).encoder.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        take(tmp_path, tmp_path / "w.safetensors", *TINY, *options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_graph_stays_that_of_the_runs_own_data(tmp_path):
    """Other pairs of as many users and items: vectors are taken, edges are not."""
    module, other = (build_module(config("experiment=ssm", "encoder=lightgcn", "encoder.width=4")) for _ in range(2))
    for one, items in ((module, [0, 1, 2]), (other, [1, 1, 0])):
        one.give_data_info(InteractionInfo(3, users=3, items=3, pairs=torch.tensor([*enumerate(items)])))
    torch.nn.init.ones_(other.encoder.vectors.weight)
    columns = module.encoder.graph.columns.clone()
    save_file(other.encoder.state_dict(), tmp_path / "w.safetensors")
    cfg = config("experiment=ssm", "encoder=lightgcn", f"init={tmp_path / 'w.safetensors'}")
    start_from(read_weights(cfg.init), cfg, module, tmp_path, say=False)
    assert (module.encoder.vectors.weight == 1).all()
    assert torch.equal(module.encoder.graph.columns, columns)
    assert module.encoder.graph.starts.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_what_is_no_weights_file_is_refused(tmp_path):
    for name in ("a.safetensors", "a.ckpt"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ValueError, match=f"{name} is damaged or no"):
            read_weights(str(tmp_path / name))
    for init, words in ((str(tmp_path), "not a run folder"), ("nowhere", "no such run, checkpoint or safetensors")):
        with pytest.raises(ValueError, match=words):
            read_weights(init)
