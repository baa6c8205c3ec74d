"""Runs `r3avatar` commands without importing everything for each: reads requests as JSON lines, forks, answers.

A request: the command's arguments, the folder to run in, and files for its output and its errors.
Answers: {"pid": ...} at the start, {"code": ...} at the end, -n for signal n.

A forked process differs from `python -m r3avatar.cli` in the imports that it finds done, and in how it ends. That verbs
bring their own imports and end well is seen by tests/test_readme.py, which starts the real commands.
"""

import atexit
import gc
import importlib.util
import json
import os
import signal
import sys
import threading
import traceback


def imports():
    """What takes long, in one order for all; none of it starts a thread, which a fork would lose."""
    for name in ("torch", "pytorch_lightning", "numba", "matplotlib.pyplot", "cv2", "h5py", "av", "scipy.spatial"):
        importlib.import_module(name)
    if importlib.util.find_spec("faiss"):
        importlib.import_module("faiss")
    from hydra.core.plugins import Plugins

    from r3avatar import cli

    Plugins.instance()  # looks through a folder of modules

    for verb in cli.VERBS:
        if verb not in cli.PLAIN:
            importlib.import_module(f"r3avatar.verbs.{verb}")
    return cli


def become(request, cli):
    """In the forked process: the command's folder, streams and arguments."""
    os.chdir(request["folder"])
    for target, path in ((0, os.devnull), (1, request["output"]), (2, request["errors"])):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(file, target)
        os.close(file)
    sys.argv = [cli.__file__, *request["arguments"]]
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    end(code)


def end(code):
    """As Python ends, but for taking every module apart, which costs a third of a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main():
    # A shell that runs the tests in the background lets its processes ignore Ctrl-C, and they their own.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli = imports()
    gc.freeze()  # a collection would touch, and so copy, every object that the forked process finds
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become(json.loads(line), cli)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
