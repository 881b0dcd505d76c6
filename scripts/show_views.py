"""A contact sheet of images, their views and the drawn parameters: python scripts/show_views.py data=... views=...

Takes the options of train.py, and images=8: how many. What it shows is what training with these options begins with.
"""

from pathlib import Path

from omegaconf import DictConfig

from repel.cli.command import entry_point
from repel.engine.build import build_data


@entry_point("show_views")
def main(cfg: DictConfig, folder: Path) -> None:
    from repel.images.contact_sheet import contact_sheet, preview

    data = build_data(cfg)
    data.setup()
    sheet = contact_sheet(preview(data, cfg.images), cfg.data.mean, cfg.data.std)
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(folder / "views.png")
    print(f"{folder.relative_to(Path.cwd())}/views.png")


if __name__ == "__main__":
    main()
