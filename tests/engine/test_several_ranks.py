"""One, two and four ranks train the same; ranks that torchrun and srun start meet; a requeued job finds its run."""

import json
import os
import socket
from types import SimpleNamespace

import faults
import pytest
import ranks
import torch
from conftest import ROOT, TINY, begun, command, config, environment, same
from runs_here import history, train
from stateful_runs import last, losses
from torch.distributed import run

from repel.data.pair import Pair
from repel.engine import agreement
from repel.engine.rank import failure_records
from repel.module import Contrastive


@pytest.mark.slow
def test_a_requeued_job_finds_its_run(tmp_path):
    """SLURM asks it to stop, and starts the same command again: other times, the same job."""
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    typed = [*TINY, "evaluators=[]"]
    first = command("train.py", *typed, cwd=tmp_path, **job, **faults.injected("USR1:parent:4"))
    assert first.returncode == 143, first.stderr
    again = command("train.py", *typed, cwd=tmp_path, **job, SLURM_RESTART_COUNT="1")
    assert again.returncode == 0, again.stderr
    assert "from step 5" in again.stdout
    (folder,) = (path for path in tmp_path.glob("runs/train/*") if path.name != ".slurm")
    assert last(folder)["global_step"] == 8
    other = command("train.py", *typed, "seed=2", "trainer.max_epochs=0", cwd=tmp_path, **job, SLURM_RESTART_COUNT="1")
    assert other.returncode == 2  # another command of the job is another run


@pytest.mark.slow
def test_a_requeued_job_finds_its_sweep(tmp_path):
    job, sweep = {"SLURM_JOB_ID": "7"}, ["-m", "seed=1,2", *TINY, "evaluators=[]", "evaluation.map=null"]
    first = command("train.py", *sweep, cwd=tmp_path, **job, **faults.injected("USR1:parent:4"))
    assert first.returncode == 143, first.stderr
    again = command("train.py", *sweep, cwd=tmp_path, **job, SLURM_RESTART_COUNT="1")
    assert again.returncode == 0, again.stderr
    assert "from step 5" in again.stdout
    found = sorted(tmp_path.glob("sweeps/train/*/*/checkpoints"))
    assert [path.parent.name for path in found] == ["0", "1"]
    assert len({path.parents[1] for path in found}) == 1
    assert [last(path.parent)["global_step"] for path in found] == [8, 8]


def test_ranks_that_read_other_data_end_the_epoch_at_its_start(tmp_path, monkeypatch):
    monkeypatch.setattr("repel.engine.agreement.gather", lambda mine: torch.cat([mine, mine - 1]))
    with pytest.raises(RuntimeError, match="rank 1 has 5939 training samples and rank 0 has 5940"):
        train(tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()


def test_the_first_rank_to_fail_is_the_cause(tmp_path):
    """The others complain later, of a lost connection."""
    for rank, time in ((0, 9), (1, 7), (2, 8)):
        path = tmp_path / f"error_rank{rank}.json"
        path.write_text(json.dumps({"rank": rank, "status": 1, "message": "", "traceback": ""}), encoding="utf-8")
        os.utime(path, (time, time))
    assert [record.rank for record in failure_records(tmp_path)] == [1, 2, 0]


def test_ranks_that_read_other_data_are_named(monkeypatch):
    monkeypatch.setattr("repel.engine.agreement.gather", lambda mine: torch.tensor([[5, 2], [4, 2]]))
    with pytest.raises(RuntimeError, match="rank 1 has 4 training images and rank 0 has 5"):
        agreement.check_same({"training images": 5, "batches": 2}, torch.device("cpu"))


def test_validation_weighs_ranks_by_their_samples(monkeypatch):
    """Where they share a batch unevenly. Lightning averages the ranks' batch sizes in whole numbers: equal ones."""
    logged = []
    monkeypatch.setattr("repel.module.world_size", lambda: 2)
    for loss, samples in ((1.0, 2), (4.0, 3)):
        rank = SimpleNamespace(
            shared_step=lambda batch, loss=loss: (torch.tensor(loss), None),
            log=lambda name, value, batch_size, **_: logged.append((float(value), batch_size)),
        )
        ids = torch.zeros(2, samples, dtype=torch.int64)
        Contrastive.validation_step(rank, Pair(torch.zeros(2, samples, 1), ids, None, total=5), 0)
    (first, second), sizes = zip(*logged, strict=True)
    assert sizes == (5, 5)
    assert (first + second) / 2 == pytest.approx((2 * 1.0 + 3 * 4.0) / 5)


SAME = ["experiment=debug", "data.batch_size=16", "trainer.limit_train_batches=4", "trainer.precision=64-true",
        "callbacks.knn=null", "callbacks.monitor=null", "callbacks.pairs=null", "evaluators=[]",
        "data.val_fraction=0.01017"]  # fmt: skip


NETWORKS = {
    "batch norm": ["encoder.width=4", "head.out_features=8"],
    "layer norm": ["encoder=timm", "encoder.name=vit_tiny_patch16_224", "head=linear", "target=ema", "queue.size=32",
                   "+encoder.options={img_size:28,patch_size:14,embed_dim:8,depth:1,num_heads:2}"],
    "multi-crop": ["encoder.width=4", "head.out_features=8", "views=multi_crop"],
    "ring": ["encoder.width=4", "head.out_features=8", "views=multi_crop", "target=ema", "negatives=hcl",
             "gather=ring"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_any_number_of_ranks_trains_the_same(tmp_path, network):
    """The whole pipeline: order, views, gather, batch norm, gradients, schedule, validation. 8 steps in float64."""
    found, several = {}, {"multi-crop": [2], "ring": [4]}.get(network, [2, 4])
    for world in (1, *several):
        folder = tmp_path / str(world)
        typed = [*NETWORKS[network], f"trainer.devices={world}", *(["gather=all"] if world == 1 else [])]
        assert ranks.run(config(*SAME, *typed), folder) == [0] * world
        validated = [float(row["val/loss"]) for row in history(folder) if row["val/loss"]]
        found[world] = last(folder)["state_dict"], losses(folder), validated
    for world in several:
        for name, one in found[1][0].items():
            torch.testing.assert_close(found[world][0][name], one, rtol=0, atol=1e-12, msg=f"{world}: {name}")
        assert found[world][1].keys() == found[1][1].keys()
        for step, loss in found[1][1].items():
            assert float(found[world][1][step]) == pytest.approx(float(loss), abs=1e-12), (world, step)
        assert found[world][2] == pytest.approx(found[1][2], abs=1e-12)  # 61 images, shared unevenly


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_ranks_of_torchrun_meet_in_one_run(tmp_path, nodes):
    """Of one machine, and of two as far as one can play both; `make two-machines` plays them better."""
    options = [*TINY, f"trainer.devices={2 // nodes}", f"trainer.num_nodes={nodes}", "evaluators=[]"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*free.getsockname())
    start = [f"--nnodes={nodes}", f"--nproc-per-node={2 // nodes}"]
    start += ["--rdzv-backend=c10d", f"--rdzv-endpoint={address}", "--local-addr=127.0.0.1"]
    start += [str(ROOT / "train.py"), *options, "evaluation.map=null"]
    scripts = [ranks.Script([run.__file__, *start], tmp_path, environment({})) for _ in range(nodes)]
    ended = [node.end(120) for node in scripts]
    assert [status for status, *_ in ended] == [0] * nodes, ended
    (folder,) = tmp_path.glob("runs/train/*")
    assert ranks.run(config(*TINY, "trainer.devices=2"), tmp_path / "ours") == [0, 0]
    assert same(last(folder)["state_dict"], last(tmp_path / "ours")["state_dict"])


@pytest.mark.slow
def test_tasks_of_srun_meet_in_one_run(tmp_path):
    """What srun sets, without it (`make slurm` has it); a config that the first task refuses ends the others too."""
    options = [*TINY, "trainer.devices=2", "evaluators=[]", "evaluation.map=null"]

    def task(job: str, rank: int) -> dict[str, str]:
        return {"SLURM_JOB_ID": job, "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": str(rank),
                "SLURM_LOCALID": str(rank), "SLURM_STEP_NODELIST": "localhost"}  # fmt: skip

    started = [begun("train.py", *options, cwd=tmp_path, **task("51", rank)) for rank in range(2)]
    ended = [script.end(200) for script in started]
    assert [status for status, *_ in ended] == [0, 0], ended
    refused = [begun("train.py", *options, "data.batch_size=7", cwd=tmp_path, **task("52", rank)) for rank in range(2)]
    first, second = [script.end(100) for script in refused]
    assert first[0] == 2, first
    assert second[0], second
    (folder,) = (path for path in tmp_path.glob("runs/train/*") if path.name != ".slurm")
    assert last(folder)["global_step"] == 8


def test_a_number_of_ranks_that_is_not_the_configs_is_refused(tmp_path, monkeypatch):
    from repel.engine.launch import launch

    for name, value in {"RANK": "0", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"trainer\.devices=1 on trainer\.num_nodes=1 are not the 4 ranks"):
        launch(config(), tmp_path, resume=False)
    monkeypatch.delenv("RANK")
    with pytest.raises(ValueError, match=r"trainer\.num_nodes=2: start train\.py on each machine with torchrun"):
        launch(config("trainer.num_nodes=2"), tmp_path, resume=False)
