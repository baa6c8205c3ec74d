"""Make the W&B board of r3avatar's runs: the same sections and panels for everyone, from the list of logged keys.

    python tools/make_wandb_board.py --out board.json                     # the board as data; needs no network
    python tools/make_wandb_board.py --entity TEAM --project r3avatar     # a saved view; pip install r3avatar[boards]
    python tools/make_wandb_board.py --keys                               # the keys as Markdown (docs/dashboards.md)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from r3avatar.dashboards.keys import markdown
from r3avatar.dashboards.layout import board, workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the board as JSON")
    parser.add_argument("--keys", action="store_true", help="print the keys as Markdown")
    parser.add_argument("--entity", help="W&B team or user: save the board as a view of the project")
    parser.add_argument("--project", default="r3avatar")
    arguments = parser.parse_args()
    if not (arguments.out or arguments.keys or arguments.entity):
        parser.error("nothing to do: give --out FILE, --entity TEAM or --keys")
    if arguments.keys:
        print(markdown())
    if arguments.out:
        arguments.out.write_text(json.dumps(board(), indent=1) + "\n")
        print(f"board: {arguments.out}")
    if arguments.entity:
        try:
            made = workspace(arguments.entity, arguments.project)
        except ModuleNotFoundError as error:
            parser.error(f"{error}: pip install 'r3avatar[boards]'; --out FILE needs nothing")
        print(f"board: {made.save().url}")


if __name__ == "__main__":
    main()
