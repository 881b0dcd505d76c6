"""The commands by name: `repel train loss=ntxent` does what `python train.py loss=ntxent` does, from any folder."""

import sys
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from repel import __version__
from repel.base.encoding import restart_in_utf8_mode
from repel.base.scripts import without_comment
from repel.base.signals import ends_on_signal
from repel.base.terminal import outlive_readers
from repel.cli.baseline import task_overrides
from repel.cli.command import entry_point
from repel.cli.resume import prepare_output, prepare_run
from repel.cli.suggestions import nearest
from repel.cli.sweeps import FINISHED, RESUME
from repel.engine import runs
from repel.engine.resumed import undone_by_mistakes

# What imports torch is imported in the functions, so that a mistake is answered at once.


@entry_point("train")
def train(cfg: DictConfig, folder: Path) -> float | None:
    """Train an encoder, evaluate it and print the table."""
    before, shared = runs.read_environment(folder), folder.is_dir() and any(folder.iterdir())
    cfg, state = prepare_run(cfg, folder)
    if state == FINISHED:
        return runs.read_environment(folder)["objective"]

    from repel.engine.launch import launch

    with undone_by_mistakes(folder, before):
        data = launch(cfg, folder, resume=state == RESUME)
    if cfg.trainer.get("fast_dev_run"):
        runs.discard(folder, shared)
        print("fast_dev_run: a few batches were trained and validated; nothing was kept, and nothing is measured")
        return None

    from repel.report.evaluate import finish

    return runs.mark_finished(folder, finish(cfg, folder, data))


@entry_point("evaluate")
def evaluate(cfg: DictConfig, folder: Path) -> float | None:
    """Measure a checkpoint again: ckpt=RUN_OR_FILE"""
    from repel.report.evaluate import evaluate

    return evaluate(cfg, folder, task_overrides())


@entry_point("embed")
def embed(cfg: DictConfig, folder: Path) -> None:
    """Write the features of every image or text of a set: ckpt=RUN_OR_FILE data=image_folder data.root=DIR"""
    prepare_output(cfg, folder)

    from repel.export.embed import embed

    embed(cfg, folder, task_overrides())


@entry_point("export")
def export(cfg: DictConfig, folder: Path) -> None:
    """Write the encoder as files that need no repel: ckpt=RUN_OR_FILE 'format=[safetensors,onnx]'"""
    prepare_output(cfg, folder)

    from repel.export.export import export

    export(cfg, folder)


@entry_point("mine_negatives")
def mine_negatives(cfg: DictConfig, folder: Path) -> None:
    """Write hard negatives of texts: ckpt=RUN_OR_FILE data=text_csv data.root=FILE"""
    prepare_output(cfg, folder)

    from repel.export.mine_negatives import mine_negatives

    mine_negatives(cfg, folder, task_overrides())


@entry_point("show_views")
def show_views(cfg: DictConfig, folder: Path) -> None:
    """Show samples, their views and the drawn parameters: data=... views=... images=8"""
    from repel.engine.build import build_data
    from repel.evaluation.text_table import TextTable

    data = build_data(cfg)
    data.setup()
    shown = data.splits.train.modality.view_pairs(data, cfg.images)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ("views.md" if isinstance(shown, TextTable) else "views.png")
    if isinstance(shown, TextTable):
        file.write_text(shown.markdown() + "\n", encoding="utf-8")
        print(shown.markdown())
    else:
        shown.save(file)
    print(file.relative_to(Path.cwd()))


def report() -> int:
    """Report a sweep in tables and figures: SWEEP [metric=NAME] [against=ROW]"""
    from repel.cli import sweep_report

    return sweep_report.main()


def search() -> int:
    """Find the images of an embedded set that are nearest to one image, or texts to one text: QUERY.png FOLDER"""
    from repel.cli import search

    return search.main()


def recommend() -> int:
    """Rank items for a user of a run: RUN USER [--exclude-known]"""
    from repel.cli import recommend

    return recommend.main()


def pack_shards() -> int:
    """Pack a folder of images into shards for data=stream: DIR OUT"""
    from repel.images import pack_shards

    return pack_shards.main()


def doctor() -> int:
    """Check that this machine is ready to train."""
    from repel.cli import doctor

    return doctor.main()


COMMANDS: dict[str, Callable[[], int | None]] = {
    "train": train,
    "evaluate": evaluate,
    "embed": embed,
    "export": export,
    "show-views": show_views,
    "mine-negatives": mine_negatives,
    "report": report,
    "search": search,
    "recommend": recommend,
    "pack-shards": pack_shards,
    "doctor": doctor,
}


def usage() -> str:
    docs = {name: command.__doc__ or "" for name, command in COMMANDS.items()}  # python -OO has none
    lines = [f"  {name:<11} {doc.partition(chr(10))[0]}" for name, doc in docs.items()]
    end = "repel COMMAND --help says more; repel train --methods lists methods and what to type for each."
    return "usage: repel COMMAND [key=value ...]\n\n" + "\n".join(lines) + f"\n\n{end}"


def main() -> int | None:
    """The console command: takes its first argument off and runs the command of that name.

    Returns:
        The exit status, None for 0. Commands that Hydra runs end the process by themselves where they fail.
    """
    restart_in_utf8_mode()
    outlive_readers()
    program, *typed = (argument.rstrip("\r") for argument in sys.argv)  # of a script with Windows line ends
    arguments = without_comment(typed)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        sys.exit(0 if arguments else 2)
    name = arguments[0]
    if name == "--version":
        print(f"repel {__version__}")
        return 0
    if name not in COMMANDS:
        known = list(COMMANDS)
        print(f"error: unknown command {name}{nearest(name, known)} (there are: {', '.join(known)})", file=sys.stderr)
        sys.exit(2)
    sys.argv = [str(Path(program).with_name(f"repel {name}")), *arguments[1:]]
    return ends_on_signal(COMMANDS[name])()


if __name__ == "__main__":  # torchrun -m repel.cli.main train
    sys.exit(main())
