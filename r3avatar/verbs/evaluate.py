"""`r3avatar evaluate`: measure a run."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from r3avatar.evaluation.evaluate import evaluate, table
from r3avatar.run import update_metrics
from r3avatar.verbs.parts import build, load_run
from r3avatar.verbs.train import build_data


def results_folder(folder: Path, config: DictConfig) -> Path:
    """The run folder for an evaluation of the run as trained; evaluations/<what differs> below it for any other.

    So what the run's own metrics.json says stays true of the run.
    """
    choices = HydraConfig.get().runtime.choices
    differs = [f"{group}-{choices[group]}" for group in ("retrieval", "rasterizer") if choices.get(group)]
    if config.checkpoint != "last":
        differs.append(f"checkpoint-{config.checkpoint}")
    target = folder / "evaluations" / "_".join(differs) if differs else folder
    target.mkdir(parents=True, exist_ok=True)
    return target


def run(config: DictConfig) -> dict:
    """Evaluate the splits that the configuration names, print the table, write metrics.json (see `results_folder`)."""
    trained = load_run(config)
    data = build_data(trained.config, trained.capture, trained.body)
    folder = results_folder(trained.folder, config)
    sections = evaluate(
        trained.avatar, trained.capture, trained.rasterizer, trained.retriever, data.eval_dataloader,
        folder, config.splits, build(config.lpips), config.media,
    )  # fmt: skip
    metrics = update_metrics(folder, **sections)
    print(f"\n{table(metrics)}\n\nnumbers: {folder / 'metrics.json'}")
    if config.media:
        print(f"pictures: {folder / 'media'}")
    return metrics
