"""`r3avatar evaluate`: measure a run."""

from omegaconf import DictConfig

from r3avatar.evaluation.evaluate import evaluate, table
from r3avatar.run import update_metrics
from r3avatar.verbs.parts import build, load_run
from r3avatar.verbs.train import build_data


def run(config: DictConfig) -> dict:
    """Evaluate the splits that the configuration names, print the table, update metrics.json."""
    trained = load_run(config)
    data = build_data(trained.config, trained.capture, trained.body)
    sections = evaluate(
        trained.avatar, trained.capture, trained.rasterizer, trained.retriever, data.eval_dataloader,
        trained.folder, config.splits, build(config.lpips), config.media,
    )  # fmt: skip
    metrics = update_metrics(trained.folder, **sections)
    print(f"\n{table(metrics)}\n\nnumbers: {trained.folder / 'metrics.json'}\npictures: {trained.folder / 'media'}")
    return metrics
