"""README and docs: every link and path exists, every command composes, and the example of a new loss works."""

import importlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import types

import pytest
import torch
import yaml
from composing import composed
from conftest import CONF, ROOT, TINY, command, run_folder, thinned
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pages import NEW_FILE
from PIL import Image

import repel.cli.command  # noqa: F401  registers the resolvers that conf/ uses

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ADDING = ROOT / "docs/adding.md"
WITH_COMMANDS = [page for page in PAGES if page != ADDING]  # whose commands need the reader's own package
ROOMS = {path.name for path in (ROOT / "src/repel").iterdir() if path.is_dir()}
TOPS = {"src", "conf", "docs", "tests", "scripts", "notebooks"}
SHELL_CHARACTERS = set("[]{}*?~;&<>()$`!")
COMMAND = re.compile(
    r"(?:^|\s)(?:python )?(train|evaluate|embed|export|scripts/show_views|scripts/mine_negatives)\.py (.*)"
)
CONSOLE = re.compile(r"^repel (train|evaluate|embed|export) (.*)")


def name(page):
    return str(page.relative_to(ROOT))


def read(page):
    return page.read_text(encoding="utf-8")


def block_lines(text):
    """Lines of indented blocks; not of prose, where a command may be cut short."""
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def commands(text):
    """(config name, arguments as typed, without the comment) of every command with arguments."""
    lines = [*block_lines(text), *re.findall(r"`([^`\n]+)`", text)]
    for line in lines:
        for pattern in (COMMAND, CONSOLE):
            if found := pattern.search(line):
                typed = re.split(r"(?:^| +)#| \|\| ", found[2])[0].strip()
                if typed and typed != "-m ...":
                    yield found[1].rsplit("/", 1)[-1], typed


COMMANDS = sorted({command for page in WITH_COMMANDS for command in commands(read(page))})


def overrides_of(typed):
    return [word for word in shlex.split(typed) if "=" in word]


def sweep_jobs(overrides):
    """Overrides with each swept value at least once."""
    choices = []
    for override in OverridesParser.create().parse_overrides(overrides):
        choices.append([override.input_line])
        if override.is_sweep_override():
            swept = override.value()
            values = [swept.start] if isinstance(swept, IntervalSweep) else override.sweep_string_iterator()
            choices[-1] = [f"{override.get_key_element()}={value}" for value in values]
    for number in range(max(map(len, choices), default=1)):
        yield [values[number % len(values)] for values in choices]


def test_commands_are_found():
    assert len(COMMANDS) > 40
    known = {"train", "evaluate", "embed", "export", "show_views", "mine_negatives"}
    assert {command for command, _ in COMMANDS} == known


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", read(page))
    missing = [t for t in targets if "://" not in t and not (page.parent / t.split("#")[0]).exists()]
    assert not missing


def test_pictures_of_the_readme(finished, tmp_path, monkeypatch):
    """They are there and small, and the script that the README names makes them from a run's report."""
    shown = {ROOT / path for path in re.findall(r'<img src="([^"]+)" alt="[^"]+"', read(ROOT / "README.md"))}
    assert shown == set((ROOT / "docs/pictures").iterdir())
    assert all(path.stat().st_size < 100_000 for path in shown)
    script = ROOT / "scripts/readme_pictures.py"
    assert f"python {script.relative_to(ROOT)} RUN" in read(ROOT / "README.md")
    monkeypatch.setattr(sys, "argv", [str(script), str(finished), str(tmp_path)])
    monkeypatch.setattr("repel.base.signals.SIGNALS", ())
    assert runpy.run_path(str(script))["main"]() == 0
    for path in shown:
        with Image.open(path) as picture, Image.open(tmp_path / path.name) as made:
            assert picture.format == made.format == "PNG"


def test_an_installation_shows_how_far_it_is():
    """uv has a bar, unless it is quiet. The extras that pages name are those of the project."""
    lines = [line for line in read(ROOT / "Makefile").splitlines() if "uv pip install" in line]
    assert lines
    assert not any("--quiet" in line for line in lines)
    extras = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    named = {extra for page in PAGES for words in re.findall(r"pip install (?:-e )?'\.\[([\w,-]+)\]'", read(page))
             for extra in words.split(",")}  # fmt: skip
    assert {"export", "notebooks", "wandb"} <= named <= extras.keys()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_exist(page):
    text = read(page)
    added = {path for path, _ in NEW_FILE.findall(text)}
    missing = []
    for path in re.findall(r"(?<![\w/.<-])((?:\w[\w.-]*/)+[\w.-]*)", text):
        path, top = path.rstrip("."), path.split("/")[0]
        places = [ROOT / path] if top in TOPS else []
        places += [ROOT / "src/repel" / path] if top in ROOMS and path.endswith((".py", "/")) else []
        if places and path not in added and not any(place.exists() for place in places):
            missing.append(path)
    assert not missing


@pytest.mark.parametrize("line", thinned([f"{c} {t}" for c, t in COMMANDS], 5))
def test_commands_compose(line, tmp_path):
    command, _, typed = line.partition(" ")
    if "loss=margin" in typed:  # the loss that the README adds
        conf = shutil.copytree(CONF, tmp_path / "conf")
        added = dict(NEW_FILE.findall(read(ROOT / "README.md")))["conf/loss/margin.yaml"]
        (conf / "loss/margin.yaml").write_text(added, encoding="utf-8")
        with initialize_config_dir(str(conf), version_base="1.3"):
            assert compose(command, overrides=overrides_of(typed))
        return
    ours = [o for o in overrides_of(typed) if not re.match(r"\+?hydra[/.]launcher", o)]  # Hydra's, and its plugins'
    for overrides in sweep_jobs(ours):
        assert composed(command, overrides)


@pytest.mark.parametrize(("command", "typed"), COMMANDS, ids=[f"{c} {t}" for c, t in COMMANDS])
def test_shells_leave_commands_alone(command, typed):
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", typed)
    assert not SHELL_CHARACTERS & set(unquoted)


def test_the_loss_of_the_readme_works(monkeypatch):
    files = dict(NEW_FILE.findall(read(ROOT / "README.md")))
    module = types.ModuleType("repel.losses.margin")
    exec(files["src/repel/losses/margin.py"], module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    added = yaml.safe_load(files["conf/loss/margin.yaml"])
    assert added["defaults"] == ["_rowwise"]
    cfg = composed("train", ["loss=ntxent", "negatives=hcl"])
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    loss = instantiate(cfg.loss, _target_=added["_target_"])
    z = torch.randn(2, 8, 4, requires_grad=True)
    loss(z).backward()
    assert isinstance(loss, module.Margin)
    assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("number", range(read(ROOT / "README.md").count("```python")))
def test_python_of_the_readme_runs(number):
    code = re.findall(r"```python\n(.*?)```", read(ROOT / "README.md"), re.DOTALL)[number]
    exec(code, {})


@pytest.mark.slow
def test_the_api_page_has_every_public_name(tmp_path):
    """Built as make docs does it: a warning is an error (with --quiet it would not count). Examples are code."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "docs/mkdocs.yml"]
    subprocess.run([*command, "--site-dir", str(tmp_path / "site")], cwd=ROOT, check=True)
    page = (tmp_path / "site/api.html").read_text(encoding="utf-8")
    for package in ("losses", "negatives", "images.views", "evaluation", "base.collectives"):
        for public in importlib.import_module(f"repel.{package}").__all__:
            assert f'id="repel.{package}.{public}"' in page
    assert "<blockquote>" not in page  # what Markdown makes of >>> outside a section
    assert page.count('<span class="doc-section-title">Examples:</span>') > 40


@pytest.mark.slow
def test_own_parts_of_the_docs_train(tmp_path):
    """The package of docs/adding.md, and the first command there."""
    text = read(ADDING)
    for path, content in NEW_FILE.findall(text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content, encoding="utf-8")
    typed = next(line.removeprefix("repel train ") for line in block_lines(text) if line.startswith("repel train "))
    result = command("train.py", *shlex.split(typed), *TINY, "evaluators=[]", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (run_folder(result, tmp_path) / "checkpoints/last.ckpt").exists()
