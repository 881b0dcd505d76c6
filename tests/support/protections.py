"""What protects a run, how to switch each off, and the tests that must fail then: the table of mutations.py.

To keep it right: `find` must stand in the file exactly once (tests/engine/test_protections.py), `tests` are what pytest
takes, below tests/; `tests/x.py::name` may end in the parameters of one case.
"""

from typing import NamedTuple


class Protection(NamedTuple):
    """A protection by name; the file and the text that give it, and what stands there where it is off."""

    name: str
    file: str
    changes: list[tuple[str, str]]
    tests: list[str]


def _one(name: str, file: str, find: str, replace: str, *tests: str) -> Protection:
    return Protection(name, file, [(find, replace)], list(tests))


ENGINE, CLI = "src/repel/engine", "src/repel/cli"
KILLS, CHECKPOINTS, RANKS = "engine/test_reliability.py", "engine/test_checkpoints.py", "engine/test_several_ranks.py"
LINKS, WAITS = "engine/test_rank_links.py", "engine/test_host_waits.py"
SIGNALS = f"{KILLS}::test_a_signal_to_any_rank_stops_all_after_the_same_step"

PROTECTIONS = [
    # ------------------------------------------------------------------------------------------------------ agreement
    _one("finite check of the loss", f"{ENGINE}/agreement.py", "if not math.isfinite(loss):", "if False:",
         f"{KILLS}::test_a_loss_that_is_no_number_stops_all_ranks_before_the_optimizer[1]"),
    _one("finite check of the weights", f"{ENGINE}/checkpoint_callbacks.py",
         "if not torch.isfinite(parameter).all():", "if False:",
         f"{CHECKPOINTS}::test_divergence_names_the_last_good_checkpoint_and_keeps_it_good"),
    _one("signal told to all ranks", f"{ENGINE}/agreement.py",
         "self.stop = int(max(signals))", "self.stop = self.signals.number", f"{SIGNALS}[2-USR1:1:3]"),
    _one("checkpoint at the stop", f"{ENGINE}/agreement.py", "                save_last(trainer)\n", "",
         f"{SIGNALS}[1-TERM:0:2]"),
    _one("raising instead of should_stop", f"{ENGINE}/agreement.py",
         "raise Stopped(self.agreement.stop)", "trainer.should_stop = True", f"{SIGNALS}[1-TERM:0:2]"),
    _one("sizes compared over ranks", f"{ENGINE}/agreement.py",
         "check_same(pair_data(trainer).sizes(), pl_module.device)", "pass",
         f"{RANKS}::test_ranks_that_read_other_data_end_the_epoch_at_its_start"),
    _one("Lightning's signal handler kept out", f"{ENGINE}/agreement.py",
         "trainer._signal_connector.register_signal_handlers = lambda: None", "pass", f"{SIGNALS}[2-TERM:0:2]"),
    # ---------------------------------------------------------------------------------------------------- checkpoints
    _one("a checkpoint waits for the validation of its step", f"{ENGINE}/checkpoint_callbacks.py",
         "self.due = validation_follows(trainer)", "self.due = False",
         "engine/test_trainer_options.py::test_validation_within_an_epoch_resumes"),
    Protection("atomic writing", f"{ENGINE}/checkpoint_io.py",
               [("with temporary.open(", "with path.open("), ("            os.replace(temporary, path)\n", "")],
               [f"{CHECKPOINTS}::test_checkpoints_are_written_whole_or_not_at_all",
                f"{KILLS}::test_killed_while_a_checkpoint_is_written"]),
    _one("CRC", f"{ENGINE}/checkpoint_io.py", "changed = records.testzip()", "changed = None",
         f"{CHECKPOINTS}::test_a_bit_that_turned_over_anywhere_is_found_or_harmless"),
    _one("good checkpoint named", f"{ENGINE}/checkpoint_io.py", "{error}{_alternative(path)}", "{error}",
         f"{CHECKPOINTS}::test_a_truncated_checkpoint_is_named_with_the_newest_good_one"),
    _one("newest good checkpoint named", f"{ENGINE}/checkpoint_io.py", "st_mtime_ns, reverse=True)", "st_mtime_ns)",
         f"{CHECKPOINTS}::test_the_newest_of_several_good_ones_is_named"),
    _one("weights_only", f"{ENGINE}/checkpoint_io.py", "weights_only=True)\n", "weights_only=False)\n",
         f"{CHECKPOINTS}::test_code_in_a_checkpoint_is_not_run"),
    _one("weights compared at resume", f"{ENGINE}/extension.py", "checkpoint_io.check_fits(module, contents, path)",
         "pass", f"{CHECKPOINTS}::test_a_checkpoint_of_another_network_is_refused"),
    _one("data compared at resume", f"{ENGINE}/fit.py",
         'check_unchanged(resumed["samples"], data.splits, data_option(cfg))', "pass",
         "engine/test_data_identity.py::test_resume_refuses_data_that_changed"),
    _one("nothing tested that was trained on", f"{ENGINE}/data_identity.py",
         "data.splits, words = without_trained(", "_, words = without_trained(",
         "engine/test_data_identity.py::test_evaluate_leaves_out_what_was_trained_on[place]"),
    _one("plain containers only", f"{ENGINE}/checkpoint_io.py", "        _check_plain(checkpoint)\n", "",
         f"{CHECKPOINTS}::test_what_could_not_be_loaded_is_not_saved"),
    _one("last is the last", f"{ENGINE}/checkpoint_callbacks.py",
         "    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:\n"
         "        save_last(trainer)\n",
         "    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:\n"
         "        value, before = objective(trainer.callback_metrics), getattr(self, 'value', -1e9)\n"
         "        if value > before:\n"
         "            self.value = value\n"
         "            save_last(trainer)\n",
         "commands/test_run_folder.py::test_best_is_the_best_and_last_is_the_last"),
    _one("nothing saved on an exception", f"{ENGINE}/checkpoint_callbacks.py",
         "class BestCheckpoint(Checkpoint):\n",
         "class BestCheckpoint(Checkpoint):\n"
         "    def on_exception(self, trainer, pl_module, exception):\n"
         "        trainer.save_checkpoint(_path(trainer, 'last'))\n\n",
         f"{CHECKPOINTS}::test_nothing_is_saved_on_an_exception"),
    # ---------------------------------------------------------------------------------------------------------- ranks
    _one("batch norm over ranks", f"{ENGINE}/build.py",
         "batch_norm = [CrossRankBatchNormSync()] if several and not on_gpu(cfg) else []", "batch_norm = []",
         f"{RANKS}::test_any_number_of_ranks_trains_the_same[batch norm]"),
    _one("gather's gradient", "src/repel/base/collectives.py", "        dist.all_reduce(gradient)\n", "",
         "engine/test_distributed.py::test_gradient_of_several_ranks_is_that_of_one[two-ntxent-uniform-batch]"),
    _one("draws by place in the global batch", "src/repel/data/views.py",
         "return slice_params(self.views.draw(self.indices.total, generator), self.indices.local)",
         "return self.views.draw(len(self.indices.places), generator)",
         "images/test_encoded.py::test_workers_ranks_and_resuming_see_the_same_batches"),
    _one("the rank in dropout's counters", "src/repel/module.py", "batch_idx, self.global_rank)\n", "batch_idx)\n",
         "commands/test_resume.py::test_dropout_differs_between_steps_and_ranks"),
    _one("one rank writes the history", "src/repel/monitoring/loggers.py",
         "    @rank_zero_experiment  # the other ranks would write the same file\n", "",
         "monitoring/test_history.py::test_the_first_rank_alone_touches_the_history"),
    _one("PDEATHSIG", f"{ENGINE}/rank.py",
         "ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)", "pass",
         "commands/test_several_devices.py::test_ranks_die_with_their_parent"),
    _one("nothing listens: loopback", f"{ENGINE}/launch.py", '"lo")', '"")',
         "commands/test_several_devices.py::test_ranks_die_with_their_parent"),
    _one("nothing listens: file store", f"{ENGINE}/launch.py",
         'rdzv_configs={"store_type": "file"}, rdzv_endpoint=f"{place}/launcher"',
         'rdzv_configs={}, rdzv_endpoint="localhost:0"',
         "commands/test_several_devices.py::test_ranks_die_with_their_parent"),
    _one("the earliest error recorded", f"{ENGINE}/rank.py", ", key=lambda path: path.stat().st_mtime_ns):", "):",
         f"{RANKS}::test_the_first_rank_to_fail_is_the_cause"),
    # -------------------------------------------------------------------------------------------------------- signals
    _one("ignored signals", "src/repel/base/signals.py", "if signal.getsignal(number) != signal.SIG_IGN]", "]",
         f"{KILLS}::test_what_was_told_to_be_ignored_stays_ignored"),
    _one("unanswered signals", "src/repel/base/signals.py", "if self.number and kind is None:", "if False:",
         f"{KILLS}::test_a_signal_that_nobody_answered_is_not_lost"),
    _one("workers leave signals to the parent", "src/repel/data/loading.py",
         "worker_init_fn=follow_parent", "worker_init_fn=None",
         "data/test_data.py::test_workers_ignore_the_signals_that_their_parent_handles"),
    _one("workers end with their run", "src/repel/base/signals.py",
         "    process.join()\n    os._exit(1)\n", "    pass\n",
         "base/test_workers.py::test_a_worker_ends_with_its_run"),
    # ----------------------------------------------------------------------------------------------- order and resume
    _one("position counted", "src/repel/data/datamodule.py",
         "position=lambda: progress.total.processed,",
         "position=lambda: progress.total.processed // self.batches_per_epoch() * self.batches_per_epoch(),",
         f"{SIGNALS}[1-TERM:0:2]"),
    _one("steps counted from the sampler", "src/repel/data/sampler.py",
         "return self.n // self.batch_size  #", "return self.per_epoch  #",
         "commands/test_run_folder.py::test_limits_of_an_epoch[0.01-3]"),
    _one("SLURM notes of runs", f"{CLI}/resume.py",
         "slurm.remember(folder.parent if _in_sweep() else folder)", "pass",
         f"{RANKS}::test_a_requeued_job_finds_its_run"),
    _one("SLURM notes of sweeps", f"{CLI}/folders.py",
         "        return str(Path(str(resume)).expanduser())\n    return slurm.earlier_folder(Path(new).parent) or",
         "        return str(Path(str(resume)).expanduser())\n    return",
         f"{RANKS}::test_a_requeued_job_finds_its_sweep"),
    _one("the job's own seed", f"{ENGINE}/build.py", "seed_everything(cfg.seed, workers=True, verbose=False)", "pass",
         "engine/test_build.py::test_the_jobs_own_seed_decides_the_weights"),
    # ------------------------------------------------------------------------------------------------------- commands
    _one("secrets redacted", f"{ENGINE}/configs.py",
         "return without_secrets(OmegaConf.to_container(cfg, resolve=True))",
         "return OmegaConf.to_container(cfg, resolve=True)",
         "engine/test_security.py::test_secrets_stay_out_of_the_run_folder"),
    _one("_target_ allow-list", f"{ENGINE}/targets.py", "        _check_own(target)\n", "        pass\n",
         "engine/test_security.py::test_what_a_config_may_call"),
    _one("_target_ allow-list of files", f"{ENGINE}/targets.py",
         "if from_file and target not in _names | _project_names():", "if False:",
         "engine/test_targets.py::test_a_file_may_name_what_ones_own_folder_names"),
    _one("a failed job ends no sweep", f"{CLI}/launchers.py", 'if choices["hydra/sweeper"] != "optuna":', "if False:",
         "cli/test_launchers.py::test_failed_jobs_give_the_status_and_end_no_sweep[here]"),
    _one("failures in other processes", f"{CLI}/job.py",
         "        raise JobFailed(status, message)\n", "        pass\n",
         "cli/test_launchers.py::test_failed_jobs_give_the_status_and_end_no_sweep[elsewhere]"),
    _one("folders of jobs side by side", f"{CLI}/sweeps.py", "*before, *found.values()}", "*before}",
         "cli/test_sweeps.py::test_jobs_find_their_folders_and_new_ones_free_numbers"),
    _one("no job after a signal", f"{CLI}/side_by_side.py", "        raise _stopped[0]\n", "        pass\n",
         "cli/test_side_by_side.py::test_a_stopped_process_begins_no_other_job"),
    _one("a job's process put back", f"{CLI}/job.py",
         "with isolated_job() if several else contextlib.nullcontext():", "with contextlib.nullcontext():",
         "cli/test_isolation.py::test_the_next_job_finds_the_process_as_the_first_did[done]"),
    _one("runs of services ended", f"{CLI}/job.py", "        _close_loggers(status)\n", "",
         "cli/test_isolation.py::test_loggers_are_closed_with_the_outcome_of_their_job[0]"),
    _one("result handed to the sweeper", f"{CLI}/job.py", "        return result\n", "",
         "cli/test_optuna.py::test_a_killed_study_goes_on"),
    _one("a folder of one's own", f"{CLI}/folders.py", "Path(folder).mkdir()", "Path(folder).mkdir(exist_ok=True)",
         "cli/test_folders.py::test_of_many_that_want_one_name_each_gets_a_folder"),
    _one("a taken folder", f"{ENGINE}/runs.py", '.open("x", encoding', '.open("w", encoding',
         "cli/test_mistakes.py::test_a_mistake_leaves_no_folder_and_a_taken_folder_stays"),
    _one("nearest name", f"{CLI}/suggestions.py", 'return f"; did you mean {close[0]}?" if close else ""', 'return ""',
         "cli/test_mistakes.py::test_config_mistakes_get_one_line_before_torch_is_imported[loss=ntxnt]"),
    _one("names judged early", f"{CLI}/command.py", "check_names(name, sys.argv[1:])", "pass",
         "cli/test_mistakes.py::test_names_are_judged_before_hydra_runs"),
    _one("torch imported late", f"{CLI}/command.py", "import functools\n", "import functools\n\nimport torch\n",
         "cli/test_mistakes.py::test_config_mistakes_get_one_line_before_torch_is_imported[loss=ntxnt]"),
    _one("pins", "pyproject.toml", '"lightning>=2.6.4"', '"lightning>=2.6"', "engine/test_security.py::test_pins"),
    # ------------------------------------------------------------------------------------------------ several machines
    _one("a lost rank ends the others", f"{ENGINE}/rank_links.py", "            os._exit(self.status)\n", "",
         f"{LINKS}::test_a_rank_that_ends_without_a_word_ends_the_others_with_a_line"),
    _one("a silent machine is lost", f"{ENGINE}/rank_links.py",
         "    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)\n", "",
         f"{LINKS}::test_a_machine_that_is_silent_is_lost_within_half_a_minute"),
    _one("strangers are no ranks", f"{ENGINE}/rank_links.py", 'if hello["token"] == self.token:', "if True:",
         f"{LINKS}::test_strangers_are_no_ranks"),
    _one("gloo's interface", f"{ENGINE}/rank_links.py", 'os.environ.setdefault("GLOO_SOCKET_IFNAME", name)', "pass",
         f"{LINKS}::test_gloo_uses_the_interface_over_which_the_ranks_meet"),
    # ----------------------------------------------------------------------------------------------- waits for a GPU
    _one("the queue's count on the host", "src/repel/losses/queue.py", "slots = (self._count +",
         "slots = (int(self.written) +",
         f"{WAITS}::test_no_loss_with_any_strategy_waits[infonce-hcl-queue and target]"),
    _one("weights of rows are not asked for", "src/repel/losses/chunking.py", 'return tensor.device.type == "cpu"',
         "return True", f"{WAITS}::test_no_loss_with_any_strategy_waits[align_uniform-annulus-queue and target]"),
    _one("known pairs in a fixed shape", "src/repel/negatives/known.py", 'if block.logits.device.type == "cpu":',
         "if True:", f"{WAITS}::test_no_loss_with_any_strategy_waits[infonce-known-batch]"),
    _one("parameters of views sent without waiting", "src/repel/images/views/augment.py",
         "p = {name: value.to(device, non_blocking=True) for", "p = {name: value.to(device) for",
         f"{WAITS}::test_no_step_waits[images: views=simclr encoder=small encoder.width=4]"),
    _one("the loss copied without waiting", f"{ENGINE}/agreement.py", '.to("cpu", non_blocking=True)', ".cpu()",
         f"{WAITS}::test_the_loss_reaches_the_host_beside_the_backward_pass"),
    _one("the queue is not sent over ranks", "src/repel/losses/queue.py", "class Queue(SameOnRanks):",
         "class Queue(torch.nn.Module):", f"{WAITS}::test_ranks_send_one_another_no_queue"),
    # --------------------------------------------------------------------------------------------- losses and images
    _one("temperature's range", "src/repel/losses/rowwise.py", "if not 0 < temperature < math.inf:", "if False:",
         "losses/test_losses.py::test_impossible_options_are_named[ntxent-changes0-temperature]"),
    _one("image modes", "src/repel/images/decode.py",
         'if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):', "if True:",
         "images/test_folder.py::test_image_modes"),
    _one("unreadable folder named", "src/repel/data/listing.py", ", onerror=_refuse)", ")",
         "images/test_folder.py::test_a_folder_that_cannot_be_read_is_named"),
    _one("splits are no classes", "src/repel/data/layout.py", "in splits_among(top).items():",
         "in [(name, name) for name in top if name in SPLITS]:",
         "images/test_layout.py::test_splits_are_taken_in_any_spelling"),
    _one("splits inside of a class", "src/repel/data/layout.py", 'if {"train"} < set(splits.values()):',
         "if False:", "images/test_layout.py::test_what_could_mix_the_splits_is_refused"),
    _one("a split can be read", "src/repel/images/encoded.py", "if any(self.read_or_skip(",
         "if True or any(self.read_or_skip(",
         "images/test_folder.py::test_a_split_in_which_nothing_can_be_read_is_refused[test-False]"),
    _one("rows that contradict each other", "src/repel/data/labels.py",
         "known.setdefault(column, label) != label:", "known.setdefault(column, label) and False:",
         "data/test_labels.py::test_tables_that_contradict_themselves_are_refused"),
    _one("errors of libraries are crashes", "src/repel/engine/outcomes.py",
         'return raised and _is_ours(place.tb_frame.f_globals.get("__name__"))', "return True",
         "engine/test_outcomes.py::test_a_value_error_is_a_mistake_where_this_project_or_an_own_part_says_so"),
    _one("bad image named", "src/repel/data/loading.py",
         "return error  # raised here, it would come out as a traceback of the worker", "raise",
         "images/test_decode.py::test_training_on_hostile_files_stops_at_the_first_broken_one[false]"),
]  # fmt: skip
