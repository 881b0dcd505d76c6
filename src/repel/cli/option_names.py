"""Options by the names that other programs have for them; habits.py has those about devices and the Trainer."""

import re
from collections.abc import Iterable
from typing import Any

from repel.cli.baseline import choices_with, command_groups, group_options, is_group
from repel.cli.habits import ROOMS, STOP_EARLY, instead_of_key
from repel.cli.methods import instead_of_method, plain

__all__ = ["instead_of_name"]

TABLE = {  # what to type -> the last parts of keys
    "type experiment=NAME; --methods lists methods": "method algorithm algo approach framework recipe preset",
    "type loss=NAME; --methods lists methods":
        "loss_fn criterion objective loss_name loss_type loss_function loss.name loss.type",
    "type encoder=NAME": "backbone arch architecture network net base_model encoder_name encoder.type model.name",
    "encoder=resnet18 has encoder.weights=DEFAULT, encoder=timm encoder.pretrained=true": "pretrained use_pretrained",
    "type negatives=NAME": "hard_negatives negative_mode negative_sampling miner mining hard_mining",
    "type optimizer=NAME": "optim opt optimizer_name optimizer.name optimizer.type",
    "type schedule=NAME": "lr_scheduler_type scheduler lr_scheduler lr_schedule schedule.name schedule.type",
    "type schedule.warmup_epochs=N": "warmup warmup_steps num_warmup_steps",
    "type schedule.warmup_epochs=N, in epochs: 0.1 of 25 epochs are 2.5": "warmup_ratio warmup_proportion",
    "type optimizer.lr=X": "base_lr init_lr max_lr body_learning_rate head_learning_rate",
    "type optimizer.weight_decay=X": "wd l2",
    "type optimizer=sgd optimizer.momentum=X, or target=ema target.momentum=X": "momentum",
    "type target=ema target.momentum=X":
        "ema ema_decay use_ema momentum_encoder ema_momentum moving_average_decay target.tau target.decay target.m",
    "type loss.temperature=X": "tau temp",
    "type loss=supcon for a loss that uses labels": "use_labels supervised",
    "type head.out_features=N; for users and items encoder.width=N":
        "projection_dim proj_dim feature_dim feat_dim embedding_dim embed_dim out_dim output_dim z_dim emb_dim",
    "type views=NAME": "transform transforms augmentation augmentations aug augment train_transform",
    "type views.n=N": "n_views num_views views_per_image",
    "type data=NAME": "datasets dataset_name data.name dataset.name data.type",
    "type data.root=DIR":
        "data_path dataset_path root_dir data_folder train_dir image_dir dataset.root data.dir data.path",
    "type data.batch_size=N, of all devices together":
        "bs batchsize per_device_train_batch_size train_batch_size per_gpu_train_batch_size mini_batch_size",
    "type data.image_size=N": "img_size input_size resolution crop_size im_size imsize size",
    "the data has it": "num_classes n_classes classes in_channels",
    "data lies in memory, or images are decoded by data.workers; there is nothing to set":
        "pin_memory persistent_workers prefetch_factor drop_last shuffle dataloader_num_workers dataloader_drop_last "
        "dataloader_pin_memory",
    "data=cifar10 and others are downloaded on first use; there is nothing to set": "download",
    "type name=NAME": "tags run_name exp_name task_name experiment_name notes",
    "type name=NAME, or hydra.run.dir=DIR": "save_dir log_dir logdir workdir work_dir results_dir",
    "type seed=N": "random_seed pl_seed seed_everything manual_seed",
    "type experiment=debug for a run of seconds, or trainer=debug": "debug debugging",
    "type -m sweep=optuna for a search, -m sweep=grid for a grid": "hparams_search hparam_search",
    "train.py trains and then measures; 'evaluators=[]' measures nothing": "train test",
    "type 'evaluators=[knn,linear]', or 'evaluators=[ranking]' for users and items":
        "eval evaluator evaluation metrics metric",
    "callbacks.last and callbacks.best keep the last checkpoint and the best by val/knn_top1, or val/ndcg_at_20":
        "monitor model_checkpoint save_top_k save_best checkpoint_callback save_steps save_strategy save_total_limit "
        "load_best_model_at_end metric_for_best_model",
    f"type {STOP_EARLY}": "early_stopping early_stop patience",
    "type callbacks.progress=null for none": "rich_progress_bar progress_bar tqdm",
    "type --cfg job, which prints the config": "print_config",
    "type 'logger=[default,wandb]'": "wandb use_wandb wandb_project entity",
    "type 'logger=[default,mlflow]'": "mlflow use_mlflow",
    "logger=default has TensorBoard": "use_tensorboard",
}  # fmt: skip
OF_TEXTS = {  # the same, of sentence-transformers, transformers and SetFit
    "type data.max_tokens=N": "max_seq_length max_seq_len max_length max_len seq_len block_size",
    "type trainer.max_epochs=N": "num_train_epochs n_epochs",
    "type trainer.accumulate_grad_batches=N; negatives come from one batch, data.batch_size=N has more":
        "gradient_accumulation_steps accumulation_steps",
    "type trainer.gradient_clip_val=X": "max_grad_norm grad_clip",
    "type trainer.val_check_interval=N, in batches, or trainer.check_val_every_n_epoch=N":
        "eval_strategy evaluation_strategy eval_steps evaluation_steps",
    "type trainer.log_every_n_steps=N": "logging_steps",
    "type logger=NAME": "report_to",
    "type encoder=hf encoder.name=FOLDER data.tokenizer=FOLDER":
        "model_name_or_path model_id pretrained_model pretrained_model_name_or_path encoder.model_name",
    "type encoder=hf encoder.pooling=mean, cls or last; other text encoders take the mean":
        "pooling pooling_mode pooler pooler_type pooling_strategy",
    "type encoder.width=N": "hidden_size d_model hidden_dim vector_size encoder.dim encoder.embedding_dim "
    "embedding_size latent_dim latent_dim_rec n_factors num_factors factors emb_size",
    "type encoder.layers=N": "num_hidden_layers num_layers n_layers gcn_layers",
    "type encoder=transformer encoder.heads=N": "num_attention_heads num_heads n_heads",
    "type encoder=transformer encoder.dropout=X": "dropout",
    "type loss.temperature=X, which is 1 / scale": "scale loss.scale logit_scale",
    "embeddings are compared by their cosine; there is nothing to set": "similarity_fct distance_metric",
    "type loss=triplet loss.margin=X": "margin triplet_margin",
    "type 'loss.dims=[128,64,32]'": "matryoshka_dims",
    "type negatives=own_negatives negatives.weight=X, which is e^hard_negative_weight": "hard_negative_weight",
    "type python scripts/mine_negatives.py ckpt=RUN, and train on what it writes": "mine_hard_negatives",
    "equal texts are one entity, which is never its own negative; there is nothing to set": "batch_sampler",
    "pairs are those of a batch; there is nothing to set": "num_iterations sampling_strategy",
    "type data.root=FILE": "train_file data_file data_files csv_file validation_file test_file data.file data.csv",
    "type data.text=COLUMN": "text_column text_col text_column_name data.column data.texts data.sentence "
    "data.sentence1 data.anchor data.question data.query data.premise",
    "type data.label=COLUMN": "label_column label_col labels_column label_column_name data.target data.target_column",
    "type data.positive=COLUMN": "positive_column data.sentence2 data.answer data.hypothesis data.entailment",
    "type data.negative=COLUMN": "negative_column data.contradiction data.hard_negative",
    "type data.text=COLUMN data.label=COLUMN": "column_mapping",
    "the first row says what separates columns; there is nothing to set": "data.sep data.delimiter data.separator",
    "texts are lowercased; data.tokenizer=FILE takes another tokenizer": "data.lowercase data.lower do_lower_case",
    "type data.vocabulary=N": "vocab_size vocabulary_size",
    "type data.tokenizer=FILE": "tokenizer tokenizer_name tokenizer_file",
    "python export.py ckpt=RUN 'format=[sentence_transformers]' writes a folder to upload": "push_to_hub hub_model_id",
}  # fmt: skip
OF_INTERACTIONS = {  # the same, of RecBole, Elliot and the code of papers
    "type views.negatives=N, which draws N items for each pair, or negatives=random negatives.k=N":
        "num_negatives n_negatives n_neg num_neg neg_num neg_samples num_neg_samples neg_sample_num neg_sampling "
        "train_neg_sample_args",
    "type 'evaluators.ranking.ks=[10,20]'": "topk top_k topks ks at_k k_list",
    "val/ndcg_at_20 chooses the checkpoint; there is nothing to set": "valid_metric eval_metric stopping_metric",
    "type data.user=COLUMN": "user_col user_column user_field user_id user_id_field data.users data.user_name",
    "type data.item=COLUMN": "item_col item_column item_field item_id item_id_field data.product",
    "type data.time=COLUMN": "timestamp time_col time_column time_field timestamp_col data.date",
    "type data.rating=COLUMN data.min_rating=X": "rating_col rating_column rating_field rating_threshold "
    "data.threshold implicit_threshold data.ratings",
    "type 'data.core=[5,5]', items a user and users an item":
        "k_core kcore core_k min_interactions min_user_inter min_item_inter user_inter_num_interval "
        "item_inter_num_interval min_uc min_sc",
    "type data.time=COLUMN data.split=last": "leave_one_out loo",
    "type data.split=random, last, time or given": "eval_args splitter split_method split_strategy splitting",
    "type data.test_fraction=X": "test_size test_ratio data.test_share",
    "type data.val_fraction=X": "val_size val_ratio valid_ratio valid_size val_split",
    "type data.items=FILE data.item_label=COLUMN": "item_file items_file item_features item_metadata",
    "type encoder.rate=X, the share that is left out":
        "keep_prob drop_ratio edge_dropout node_dropout edge_drop_rate",
    "type loss.members.user_views.loss.temperature=X, and of item_views": "ssl_temp ssl_tau",
    "type loss.members.user_views.weight=X, and of item_views": "ssl_reg ssl_weight lambda_ssl cl_rate",
    "type loss.weight=X": "gamma loss.gamma",
    "type optimizer.weight_decay=X, which acts on all vectors": "reg reg_weight reg_lambda l2_reg",
}  # fmt: skip
TABLES = TABLE | OF_TEXTS | OF_INTERACTIONS
NAMES = {name: typed for typed, names in TABLES.items() for name in names.split()}
PLACES = ("dataset", "datamodule", "paths", "extras", "config", "cfg", "args", "hparams", "net", "model.net")
PARTS = ("loss", "encoder", "head", "projector", "callbacks", "logger")
OF_METHODS = ("model", "method", "algorithm", "algo", "approach", "framework", "recipe", "preset", "criterion",
              "objective", "loss_fn", "loss_name", "loss_type", "loss_function")  # fmt: skip


def instead_of_name(key: str, name: str, known: list[str], value: Any) -> str:
    """'; ' and what to type in place of a key that a command has not; empty where no table says.

    Args:
        name: of the command.
        known: its keys.
        value: as typed.
    """
    group, _, option = key.partition(".")
    if is_group(group) and not _has_group(group, name, known):
        return "; it is the run's own"
    if (
        (option or group) in OF_METHODS
        and _has_group("loss", name, known)
        and (method := instead_of_method(str(value)))
    ):
        return method
    words = _table_of_habits(key, known) or _own(key)
    if not (found := re.match(r"type '?((\w+)[\w.]*)=", words)):
        return f"; {words}" if words else ""
    typed, group = found.groups()
    if not _has_group(group, name, known):
        return ""
    if typed == group:
        return f"; {words}" if words.startswith("type '") else f"; {_with_value(words, group, value)}"
    choices = [] if typed in known else choices_with(typed)
    return f"; {words}" + (f", an option of {_either(group, choices)}" if choices else "")


def _table_of_habits(key: str, known: list[str]) -> str:
    room, _, word = key.rpartition(".")
    return instead_of_key(word if room in PLACES else key, known)


def _own(key: str) -> str:
    key = key.replace("-", "_").casefold()
    room, _, word = key.rpartition(".")
    if room.startswith("callbacks."):  # callbacks.early_stopping.patience
        room, word = key.split(".")[:2]
    return NAMES.get(key) or (NAMES.get(word, "") if room in (*ROOMS, *PLACES, *PARTS) else "")


def _has_group(group: str, name: str, known: list[str]) -> bool:
    """Whether a command has the group, or the option: evaluate.py has no loss."""
    several = group in command_groups(name) or any(key.startswith(f"{group}.") for key in known)
    return several or (group in known and not is_group(group))


def _either(group: str, choices: Iterable[str]) -> str:
    *first, last = choices
    return f"{group}={', '.join(first)}{' or ' * bool(first)}{last}"


def _with_value(words: str, group: str, value: Any) -> str:
    """The words with the choice that was typed, where the group has it: dataset=cifar10, data=cifar10."""
    same = [choice for choice in group_options(group) if plain(choice) == plain(str(value))]
    return f"type {group}={same[0]}" if same else words
