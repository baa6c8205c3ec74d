"""`r3avatar VERB [key=value ...]`: every verb is a Hydra application over the configuration tree."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
import warnings
from importlib import resources

# What each verb does, and three commands worth trying.
VERBS: dict[str, tuple[str, tuple[str, str, str]]] = {
    "synthesize": (
        "write a synthetic capture: a clothed, dancing person in real .smc files",
        ("", "synthesis=tiny subject=tiny", "subject=cape synthesis.garment=cape synthesis.seed=7"),
    ),
    "inspect": (
        "check a capture: holes, and whether cameras, poses and masks agree; names the mistake and its mend",
        (
            "",
            "capture=dna_rendering capture.root=DIR capture.subject=0019_10 body=smplx body.path=DIR strict=true",
            "views=12 frames=10 every_image=true out=report",
        ),
    ),
    "preprocess": (
        "undistort, scale and crop a capture's frames into the cache",
        (
            "capture=demo body=demo",
            "capture=dna_rendering capture.root=DIR capture.subject=0019_10 body=smplx body.path=DIR",
            "capture=demo body=demo workers=8 cache.folder=/fast/disk",
        ),
    ),
    "train": (
        "train an avatar and evaluate it",
        (
            "experiment=demo",
            "capture=dna_rendering capture.root=DIR capture.subject=0019_10 body=smplx body.path=DIR avatar=r3",
            "-m experiment=demo codebook=small,none seed=0,1 name=study",
        ),
    ),
    "evaluate": (
        "measure a run on novel views and novel poses",
        ("run=outputs/demo", "run=outputs/latest retrieval=none", "run=outputs/demo checkpoint=best lpips=vgg"),
    ),
    "compare": (
        "tables, curves and pictures of several runs",
        (
            "run='outputs/study/*'",
            "run=outputs/ablations by=ablation",
            "run='[outputs/demo,outputs/study/*]' by=[codebook,density.grad_threshold] protocol=paper",
        ),
    ),
    "render": (
        "render recorded frames of a run from any camera",
        ("run=outputs/demo", "run=outputs/demo camera=8", "run=outputs/latest camera=turntable turns=2 scale=2"),
    ),
    "animate": (
        "move a run's avatar into poses that it never took",
        (
            "run=outputs/demo",
            "run=outputs/demo motion=builtin:walk camera=follow picture_in_picture=true",
            "run=outputs/demo motion=walk.bvh camera=turntable format=prores",
        ),
    ),
    "bench": (
        "time training, rendering, preparation and retrieval on this machine",
        (
            "",
            "sections=[training] gaussians=100000 batch.frames=2 batch.views=4 rasterizer=auto",
            "runs=2 seconds=20 out=bench.json",
        ),
    ),
    "convert-body": (
        "convert a body's .pkl (chumpy inside) to .npz, which needs no pickle to be read",
        ("SMPL_NEUTRAL.pkl SMPL_NEUTRAL.npz", "SMPLX_MALE.pkl bodies/smplx/SMPLX_MALE.npz", "male.pkl SMPL_MALE.npz"),
    ),
    "doctor": ("tell what works on this machine, and the command that mends what does not", ("", "", "")),
}

PLAIN = ("convert-body", "doctor")  # verbs without a configuration


class UsageError(Exception):
    """A command line that cannot be run, with the fix in its message."""


def overview() -> str:
    """The text of `r3avatar --help`."""
    lines = ["usage: r3avatar VERB [key=value ...]", ""]
    lines += [f"  {verb:12} {what}" for verb, (what, _) in VERBS.items()]
    return "\n".join([*lines, "", "r3avatar VERB --help lists a verb's groups and keys, with examples."])


def groups() -> dict[str, list[str]]:
    """The configuration groups and their members."""
    found = {}
    for folder in sorted(resources.files("r3avatar.configs").iterdir(), key=lambda f: f.name):
        if folder.is_dir() and not folder.name.startswith("_"):
            members = sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))
            if members:
                found[folder.name] = members
    return found


def verb_help(verb: str) -> str:
    """The text of `r3avatar VERB --help`: what it does, groups, keys, three examples."""
    what, examples = VERBS[verb]
    lines = [f"r3avatar {verb}: {what}", "", "examples"]
    lines += [f"  r3avatar {verb} {example}".rstrip() for example in dict.fromkeys(examples)]
    if verb not in PLAIN:
        folder = resources.files("r3avatar.configs")
        text = folder.joinpath(f"{verb}.yaml").read_text()
        taken = text + (folder.joinpath("train.yaml").read_text() if "  - train\n" in text else "")
        lines += ["", "groups (GROUP=MEMBER)"]
        lines += [f"  {g:16} {', '.join(m)}" for g, m in groups().items() if f" {g}:" in taken]
        lines += [
            "",
            f"keys (configs/{verb}.yaml; every one, and every key of a group's member, can be set by key=value)",
        ]
        lines += ["  " + line for line in text.split("\nhydra:")[0].splitlines()]
        lines += [
            "",
            "-m or --multirun runs every combination of comma-separated values; --cfg job prints the configuration.",
        ]
    return "\n".join(lines)


def _flatten(config, prefix: str = "") -> list[str]:
    keys = []
    for key in config:
        keys.append(prefix + str(key))
        child = config._get_node(key)
        if hasattr(child, "_get_node") and hasattr(child, "keys") and not child._is_none() and not child._is_missing():
            keys += _flatten(child, f"{prefix}{key}.")
    return keys


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not close and "." not in word:
        leaves = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
        close = [leaves[k] for k in difflib.get_close_matches(word, list(leaves), n=1, cutoff=0.6)]
    return f"; did you mean '{close[0]}'?" if close else ""


def check(verb: str, arguments: list[str]):
    """Compose the configuration once, to turn mistakes into messages that name the nearest known key.

    Returns the configuration (of a sweep's first job). Raises UsageError.
    """
    from hydra import compose, initialize_config_module
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    words = [a for a in arguments if not a.startswith("-")]
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except HydraException as error:
        raise UsageError(f"{str(error).splitlines()[0]}; arguments have the form key=value") from error
    sweeping = any(a in ("-m", "--multirun") for a in arguments)
    for o in overrides:
        if o.is_sweep_override() and not sweeping:
            raise UsageError(f"'{o.input_line}' is a sweep; add -m to run every value, or quote a list as '[a,b]'")
    members = groups()

    def first(o) -> str:
        if not o.is_sweep_override():
            return o.input_line
        if isinstance(o.value(), Glob):
            group, pattern = o.input_line.split("=", 1)
            return f"{group}={next(iter(o.value().filter(members.get(group, []))), pattern)}"
        value = next(o.sweep_string_iterator()) if not o.is_interval_sweep() else o.value().start
        return f"{o.input_line.split('=', 1)[0]}={value}"

    choices = [o for o in overrides if o.key_or_group in members and not o.is_add() and not o.is_delete()]
    for o in choices:
        choice = first(o).split("=", 1)[1]
        if choice not in (*members[o.key_or_group], "null"):
            known = members[o.key_or_group]
            raise UsageError(
                f"'{choice}' is no member of the group '{o.key_or_group}'{_nearest(choice, known)} "
                f"There are: {', '.join(known)}"
            )
    every = [first(o) for o in overrides if not o.key_or_group.startswith("hydra")]
    with initialize_config_module("r3avatar.configs", version_base="1.3"):
        if len(every) == len(overrides):  # Hydra's own keys are looked at below
            try:
                return compose(verb, overrides=every)
            except (HydraException, OmegaConfBaseException):
                pass  # what is wrong follows: Hydra's own message does not name the nearest key
        try:
            base = compose(verb, overrides=[first(o) for o in choices])
            keys = _flatten(base)
            null = ("ablation", "experiment", "paper", "debug", "hparams_search")  # groups without keys of their own
            used = [g for g in members if g in keys or g in null]
            for o in overrides:
                key = o.key_or_group
                if o in choices and key not in used:
                    raise UsageError(f"'{verb}' has no group '{key}'{_nearest(key, used)}")
                known = o in choices or key in keys or key.split(".")[0] == "hydra" or o.is_add()
                if not known and not any(key.startswith(f"{k}.") and _is_open(base, k) for k in keys):
                    raise UsageError(f"unknown key '{key}'{_nearest(key, keys + list(members))}")
            return compose(verb, overrides=every)
        except (HydraException, OmegaConfBaseException) as error:
            cause = error.__cause__ if error.__cause__ is not None and not str(error) else error
            raise UsageError(" ".join(str(cause).split())) from error


def require(config) -> None:
    """Raise UsageError for mandatory keys (`???`) that nobody has set, all of them at once."""

    def is_missing(key: str) -> bool:
        *parents, leaf = key.split(".")
        node = config
        for parent in parents:
            node = node._get_node(parent)
        return node._get_node(leaf)._value() == "???"  # the key itself, not what it may refer to

    missing = sorted(key for key in _flatten(config) if is_missing(key))
    if missing:
        raise UsageError(f"set {' '.join(f'{key}=...' for key in missing)}")


def _is_open(config, key: str) -> bool:
    """Whether a key holds a free-form dictionary (an empty one in the file)."""
    from omegaconf import DictConfig, OmegaConf

    value = OmegaConf.select(config, key, throw_on_missing=False)
    return isinstance(value, DictConfig) and len(value) == 0


def explain(error: BaseException) -> str:
    """The message that a user needs: Hydra's 'Error in call to target' is peeled off to the real cause."""
    from hydra.errors import InstantiationException

    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text or type(error).__name__


def _task(verb: str):
    """The Hydra task of a verb: expected errors end in one line, unexpected ones in a traceback."""

    def task(config):
        for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "faiss.loader", "matplotlib"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from hydra.errors import InstantiationException
        from omegaconf.errors import MissingMandatoryValue

        from r3avatar.captures import CaptureError
        from r3avatar.early_start import collect_again
        from r3avatar.light_imports import light_imports
        from r3avatar.motion.poses import MotionError
        from r3avatar.retrieval import RetrievalError
        from r3avatar.run import RunError
        from r3avatar.training.stopping import Stopped

        expected = (
            CaptureError, MotionError, RetrievalError, RunError, OSError, MissingMandatoryValue, InstantiationException,
            ModuleNotFoundError,
        )  # fmt: skip
        try:
            with light_imports():
                run = importlib.import_module(f"r3avatar.verbs.{verb}").run
            collect_again()
            return run(config)
        except expected as error:
            if os.environ.get("R3AVATAR_TRACEBACK") == "1":
                raise
            print(f"r3avatar {verb}: {explain(error)}\n(R3AVATAR_TRACEBACK=1 shows where)", file=sys.stderr)
            raise SystemExit(2) from error
        except Stopped as error:
            if os.environ.get("R3AVATAR_TRACEBACK") == "1":
                raise
            print(f"r3avatar {verb}: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from error

    return task


def _sweep_if_asked(arguments: list[str]) -> None:
    """End with a sweep's exit code if `train` was given -m."""
    from r3avatar.run import RunError

    words = [a for a in arguments if not a.startswith("-")]
    try:
        if any(a in ("-m", "--multirun") for a in arguments):
            from r3avatar.early_start import collect_again
            from r3avatar.sweeps.sweep import sweep

            collect_again()  # it imports little, and lives long
            raise SystemExit(sweep(words))
        for word in words:
            if word.startswith(("launcher=", "hparams_search=")):
                raise RunError(f"{word} is of a sweep: add -m")
    except RunError as error:
        print(f"r3avatar train: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _compose_and_run(verb: str, arguments: list[str]) -> None:
    """A verb that has a configuration."""
    warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_lightning")
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        config = check(verb, arguments)
        require(config)
        if "run" in config and verb != "compare":  # which takes several
            from r3avatar.run import open_run

            open_run(config.run)
    except Exception as error:
        from r3avatar.run import RunError

        if not isinstance(error, (UsageError, RunError)):
            raise
        print(f"r3avatar {verb}: {error}", file=sys.stderr)
        raise SystemExit(2) from error

    if verb == "train" and not any(a.startswith(("--cfg", "-c", "--info")) for a in arguments):
        _sweep_if_asked(arguments)
        if not any(a.startswith("-") for a in arguments):
            from r3avatar.early_start import begin_training

            begin_training(config)

    import hydra

    sys.argv = ["r3avatar", *arguments]
    hydra.main(version_base="1.3", config_path="pkg://r3avatar.configs", config_name=verb)(_task(verb))()


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command `r3avatar`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        print(f"r3avatar: unknown verb '{verb}'{_nearest(verb, list(VERBS))}\n\n{overview()}", file=sys.stderr)
        raise SystemExit(2)
    if any(a in ("-h", "--help") for a in rest):
        print(verb_help(verb))
        return
    if verb == "doctor":
        from r3avatar.verbs.doctor import main as doctor

        raise SystemExit(doctor())
    if verb == "convert-body":
        from r3avatar.body.convert import main as convert_body

        raise SystemExit(convert_body(rest))
    from r3avatar.early_start import uncollected

    with uncollected():
        _compose_and_run(verb, rest)


if __name__ == "__main__":
    main()
