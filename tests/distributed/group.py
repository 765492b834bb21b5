"""Processes that stay for the tests of a file and compute what they are asked for together."""

import contextlib
import multiprocessing
import os
import tempfile

import torch
import torch.distributed as dist

from occplug.distributed import join_ranks
from tests.distributed.trials import TRIALS

# not forked from pytest itself, as autograd refuses to run where its parent has run it
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.distributed.trials", "occplug.distributed.layers"])


def _serve(rank, world, file, pipe):
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    while (asked := pipe.recv()) is not None:
        name, args, kwargs = asked
        try:
            with join_ranks():
                pipe.send((True, TRIALS[name](*args, **kwargs)))
        except (Exception, SystemExit) as error:
            pipe.send((False, f"{type(error).__name__}: {error}"))


class Group:
    def __init__(self, world):
        self.folder = tempfile.TemporaryDirectory()
        file = os.path.join(self.folder.name, "store")
        self.pipes, self.processes = [], []
        for rank in range(world):
            here, there = CONTEXT.Pipe()
            process = CONTEXT.Process(target=_serve, args=(rank, world, file, there), daemon=True)
            process.start()
            self.pipes.append(here)
            self.processes.append(process)

    def __call__(self, name, *args, **kwargs):
        """What each rank says to the trial `name`."""
        answers = self._asked(name, args, kwargs)
        assert all(done for done, _ in answers), answers
        return [answer for _, answer in answers]

    def failures(self, name, *args):
        """What each rank raises in the trial `name`."""
        answers = self._asked(name, args, {})
        assert not any(done for done, _ in answers), answers
        return [answer for _, answer in answers]

    def _asked(self, name, args, kwargs):
        for pipe in self.pipes:
            pipe.send((name, args, kwargs))
        answers = []
        for pipe in self.pipes:
            assert pipe.poll(300), f"no answer to {name} {args}"
            answers.append(pipe.recv())
        return answers

    def close(self):
        for pipe in self.pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in self.processes:
            process.join(5)
            if process.is_alive():
                process.kill()
        self.folder.cleanup()
