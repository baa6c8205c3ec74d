"""Where a sweep's jobs run: here one by one or several at a time (joblib), on SLURM (submitit), on a Ray cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from r3avatar.run import RunError
from r3avatar.sweeps.gpus import visible_gpus
from r3avatar.sweeps.jobs import Job, Outcome
from r3avatar.sweeps.process import run_job, stop_all, stopping

Done = Callable[[Job, Outcome], None]


class Launcher(Protocol):
    """Runs jobs; `jobs` is asked for the next one only when there is room for it, so that a search can learn first."""

    def launch(self, jobs: Iterable[Job], done: Done, folder: Path, search: bool) -> None:
        """Run all jobs and call `done` as each ends. folder: for the launcher's own files. search: they are a search's.

        RunError where a package is missing.
        """
        ...


def missing(package: str, extra: str) -> RunError:
    """The error for a launcher whose package is not installed."""
    return RunError(f"launcher={extra} needs the package {package}: pip install 'r3avatar[{extra}]'")


def _until_stopped(jobs: Iterable[Job]) -> Iterator[Job]:
    iterator = iter(jobs)
    while not stopping() and (job := next(iterator, None)) is not None:
        yield job


def _places(jobs: int | None, jobs_per_gpu: int, gpus: tuple[str, ...]) -> int:
    """How many jobs fit this machine: one a GPU, or one for two cores where there is none."""
    return jobs or len(gpus) * jobs_per_gpu or max(1, (os.cpu_count() or 2) // 2)


def _share_cores(job: Job, places: int) -> Job:
    """A job with its share of the cores, unless the user has said how many threads to use."""
    threads = str(max(1, (os.cpu_count() or 1) // places))
    names = [name for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS") if name not in os.environ]
    return replace(job, environment={**job.environment, **dict.fromkeys(names, threads)}) if places > 1 else job


class BasicLauncher:
    """One job after the other, here, each on the next free GPU; prints what they print."""

    def launch(self, jobs: Iterable[Job], done: Done, folder: Path, search: bool) -> None:
        gpus = visible_gpus()
        for job in _until_stopped(jobs):
            done(job, run_job(replace(job, devices=gpus), show=True))


class JoblibLauncher:
    """Several jobs at a time on this machine."""

    def __init__(self, jobs: int | None, jobs_per_gpu: int):
        """jobs: at a time; None: as many as GPUs hold, or one for two cores. jobs_per_gpu: 1 gives each a GPU alone."""
        self.jobs, self.jobs_per_gpu = jobs, jobs_per_gpu

    def launch(self, jobs: Iterable[Job], done: Done, folder: Path, search: bool) -> None:
        try:
            from joblib import Parallel, delayed
        except ModuleNotFoundError as error:
            raise missing("joblib", "joblib") from error
        gpus = visible_gpus()
        places = _places(self.jobs, self.jobs_per_gpu, gpus)

        def work(job: Job) -> None:
            job = replace(_share_cores(job, places), devices=gpus, jobs_per_gpu=self.jobs_per_gpu)
            done(job, run_job(job))

        # Threads, as each only waits for its process. The next job is taken when one has ended.
        Parallel(n_jobs=places, backend="threading", pre_dispatch=places, batch_size=1)(
            delayed(work)(job) for job in _until_stopped(jobs)
        )


_QUEUED_AGAIN = 100  # times at most that SLURM may run one job


class _Requeued:
    """`run_job` on a SLURM machine; submitit queues it again when its time is up (by `checkpoint`)."""

    def __call__(self, job: Job) -> Outcome:
        return run_job(job)

    def checkpoint(self, job: Job):
        from submitit.helpers import DelayedSubmission

        stop_all(wait=True)
        return DelayedSubmission(self, job)


class SubmititLauncher:
    """A SLURM job each, a plain sweep as one array; cluster 'local' tries the same without SLURM."""

    def __init__(self, jobs: int | None, cluster: str | None, poll_seconds: float, parameters: dict):
        """jobs: at a time; None: what SLURM allows. cluster: 'slurm', 'local', None: what there is.

        parameters: of submitit's AutoExecutor (timeout_min, cpus_per_task, mem_gb, slurm_partition, ...).
        """
        self.jobs, self.cluster, self.poll, self.parameters = jobs, cluster, poll_seconds, parameters

    def launch(self, jobs: Iterable[Job], done: Done, folder: Path, search: bool) -> None:
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise missing("submitit", "submitit") from error
        executor = submitit.AutoExecutor(
            folder=folder / "submitit", cluster=self.cluster, slurm_max_num_timeout=_QUEUED_AGAIN
        )
        local = executor.cluster in ("local", "debug")
        gpus = visible_gpus()
        parameters = {k: v for k, v in self.parameters.items() if v is not None}
        if local:  # every process is started at once there: no more than there is room for
            places: int | None = _places(self.jobs, 1, gpus)
            parameters = {k: v for k, v in parameters.items() if not k.startswith("slurm_")} | {"gpus_per_node": 0}
        else:
            places = self.jobs or (4 if search else None)
            if self.jobs:
                parameters["slurm_array_parallelism"] = self.jobs
        executor.update_parameters(name="r3avatar", tasks_per_node=1, nodes=1, **parameters)

        def prepared(job: Job) -> Job:
            return replace(_share_cores(job, places or 1), devices=gpus) if local else replace(job, devices=None)

        run = _Requeued()
        if not local and not search:
            waiting = [prepared(job) for job in _until_stopped(jobs)]
            running = list(zip(executor.map_array(run, waiting), waiting)) if waiting else []
            jobs, places = (), None
        else:
            running = []
        iterator = _until_stopped(jobs)
        while True:
            while (places is None or len(running) < places) and (job := next(iterator, None)) is not None:
                job = prepared(job)
                running.append((executor.submit(run, job), job))
            if not running:
                return
            if stopping():
                for handle, _ in running:
                    handle.cancel()
            ended = [(handle, job) for handle, job in running if handle.done()]
            for handle, job in ended:
                running.remove((handle, job))
                done(job, _result(handle.result, (submitit.core.utils.UncompletedJobError, OSError)))
            if stopping() and not ended:
                for _, job in running:
                    done(job, Outcome("stopped", error="cancelled"))
                return
            if not ended:
                time.sleep(self.poll)


def _result(get: Callable[[], Outcome], errors: tuple[type[Exception], ...]) -> Outcome:
    """The outcome of a job elsewhere; a failure of the machine or the scheduler is that job's."""
    try:
        return get()
    except errors as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        state = "stopped" if stopping() else "failed"
        return Outcome(state, error=f"{type(error).__name__}: {lines[0] if lines else ''}")


class RayLauncher:
    """A task each on a Ray cluster, with one of its GPUs; without an address a cluster of this machine alone."""

    def __init__(self, jobs: int | None, jobs_per_gpu: int, address: str | None, cpus: float):
        """jobs: at a time; None: what the cluster holds. address: of a running one, or 'auto'. cpus: reserved a job."""
        self.jobs, self.jobs_per_gpu, self.address, self.cpus = jobs, jobs_per_gpu, address, cpus

    def launch(self, jobs: Iterable[Job], done: Done, folder: Path, search: bool) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise missing("ray", "ray") from error
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here tells nobody
        ray.init(
            address=self.address or "local", include_dashboard=False, log_to_driver=False, configure_logging=False
        )
        try:
            self._launch(ray, jobs, done, search)
        finally:
            ray.shutdown()

    def _launch(self, ray, jobs: Iterable[Job], done: Done, search: bool) -> None:
        resources = ray.cluster_resources()
        if resources.get("CPU", 0) < self.cpus:
            raise RunError(f"launcher.cpus={self.cpus}: this Ray cluster has {resources.get('CPU', 0):g} CPUs")
        gpus = resources.get("GPU", 0)
        places = self.jobs
        if places is None and search:
            places = int(gpus * self.jobs_per_gpu) or max(1, int(resources.get("CPU", 1) // self.cpus))

        running: dict = {}
        iterator = _until_stopped(jobs)
        while True:
            while (places is None or len(running) < places) and (job := next(iterator, None)) is not None:
                job = replace(job, devices=None)
                remote = ray.remote(
                    num_cpus=self.cpus, num_gpus=1 / self.jobs_per_gpu if job.gpu and gpus else 0, max_retries=0
                )(run_job)
                running[remote.remote(job)] = job
            if not running:
                return
            if stopping():
                for handle in running:
                    ray.cancel(handle)
            ended, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
            for handle in ended:
                done(running.pop(handle), _result(partial(ray.get, handle), (ray.exceptions.RayError,)))
