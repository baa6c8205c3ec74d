"""The board as code: sections and panels made from the list of keys, the same for every user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r3avatar.dashboards.keys import KEYS, SECTIONS, STEP, Key

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

OPEN = ("novel_view", "media", "loss")
"""Sections that a board shows unfolded."""
LOGARITHMIC = ("loss/", "train/lr_")
# Many curves of one kind: one panel.
_TOGETHER = {
    "train/lr_": "learning rates", "retrieval/distance_": "distance by part", "retrieval/jumps_": "jumps by part",
}  # fmt: skip


def board() -> dict[str, Any]:
    """The board as plain data, fit for JSON: what it is made of in any program.

    {"name", "x": key of all x axes, "sections": [{"name", "open", "panels": [{"kind", "title", "keys", "log_y"}]}]}.
    Kinds: line (scalars over images), bar (scalars of a run's end), histogram, pictures, video, table.
    """
    sections = []
    for name in SECTIONS:
        panels: dict[str, dict[str, Any]] = {}
        for key in KEYS:
            if key.section != name or key.name == STEP:
                continue
            title = next((title for prefix, title in _TOGETHER.items() if key.name.startswith(prefix)), key.name)
            log_y = key.kind == "scalar" and key.name.startswith(LOGARITHMIC)
            panel = {"kind": _panel(key), "title": title, "keys": [], "log_y": log_y}
            panels.setdefault(title, panel)["keys"].append(key.name)
        sections.append({"name": name, "open": name in OPEN, "panels": list(panels.values())})
    return {"name": "r3avatar", "x": STEP, "sections": sections}


def _panel(key: Key) -> str:
    if key.kind == "scalar":
        return "bar" if key.when == "end" else "line"
    return key.kind


def workspace(entity: str, project: str) -> ws.Workspace:
    """The board as a W&B workspace, not yet saved; needs wandb-workspaces."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    plan = board()

    def panel(p: dict[str, Any]):
        if p["kind"] in ("line", "histogram"):
            return wr.LinePlot(title=p["title"], x=plan["x"], y=p["keys"], log_y=p["log_y"] or None)
        if p["kind"] == "bar":
            return wr.BarPlot(title=p["title"], metrics=p["keys"])
        if p["kind"] in ("pictures", "video"):
            return wr.MediaBrowser(title=p["title"], media_keys=p["keys"], num_columns=1)
        return wr.WeavePanelSummaryTable(table_name=p["keys"][0])

    sections = [
        ws.Section(name=s["name"], is_open=s["open"], panels=[panel(p) for p in s["panels"]]) for s in plan["sections"]
    ]
    settings = ws.WorkspaceSettings(x_axis=plan["x"], group_by_prefix="first")
    return ws.Workspace(entity=entity, project=project, name=plan["name"], sections=sections, settings=settings)
