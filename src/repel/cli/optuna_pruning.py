"""Stop a run of an Optuna study that does worse than the others did at the same epoch."""

from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningModule, Trainer

from repel.cli import optuna_study as study
from repel.data.length import epoch_of
from repel.engine import runs
from repel.monitoring.objective import objective

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.trial import Trial


class Pruning(Callback):
    """Reports the validation metric that the sweep maximizes to the run's trial after each epoch, and asks the pruner.

    A pruned run stops after that epoch and ends as any other, with its checkpoints and its test numbers; its value in
    the study is the best it had. environment.json notes it. The first rank asks, all ranks stop.

    Args:
        pruner: of optuna.pruners.
    """

    def __init__(self, pruner: "BasePruner"):
        self.pruner = pruner
        self.trial: Trial | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        import optuna

        run = Path(trainer.default_root_dir)
        loaded = study.load(run.parent, self.pruner)
        found = study.running_trial(loaded, run) if loaded else None
        if loaded and found:
            self.trial = optuna.trial.Trial(loaded, found._trial_id)
        else:
            print("note     no trial of a running study has this run's parameters: nothing will prune it")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        prune = False
        if self.trial is not None:
            self.trial.report(objective(trainer.callback_metrics), trainer.current_epoch)
            prune = self.trial.should_prune() and trainer.current_epoch + 1 != trainer.max_epochs
        if trainer.strategy.broadcast(prune):
            trainer.should_stop = True
            if trainer.is_global_zero and self.trial is not None:
                self.trial.set_user_attr("pruned", True)
                runs.update_environment(Path(trainer.default_root_dir), pruned_after_epoch=trainer.current_epoch + 1)
                print(f"pruned   after epoch {epoch_of(trainer)}", flush=True)
