"""Runs training scripts in two forked processes each, from one process that has imported everything (8 s) once.

    python run_processes.py '[{"module": "train_unconditional", "argv": [...], "signal": [rank, number, update]}, ...]'

Prints one line per script: the exit codes of both processes, as JSON. With "signal", the process of that rank sends
itself this signal during that update; with "fsdp": 2, the weights are spread over the processes by FSDP2.
"""

import importlib
import json
import os
import socket
import sys

import torch
from accelerate import FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType

from scoresde_pipelines.training import interruption, train_classifier, train_unconditional, trainer_core  # noqa: F401


def child(rank, port, script):
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )  # fmt: skip
    if "signal" in script and script["signal"][0] == rank:
        send_at(*script["signal"][1:])
    if "fsdp" in script:
        spread_weights(script["fsdp"])
    module = importlib.import_module(f"scoresde_pipelines.training.{script['module']}")
    try:
        module.main(script["argv"])
    except SystemExit as end:
        return end.code
    except Exception as error:
        print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def send_at(number, update):
    """Sends this process a signal during an update: before the question whether one was received."""
    requested, asked = interruption.Interruption.requested, []

    def wrapper(self, accelerator):
        asked.append(1)
        if len(asked) == update:
            os.kill(os.getpid(), number)
        return requested(self, accelerator)

    interruption.Interruption.requested = wrapper


def spread_weights(version):
    """Accelerate has FSDP on GPUs alone; what it then does works with PyTorch's gloo backend as well."""
    make_accelerator = trainer_core.make_accelerator

    def spreading(args):
        accelerator = make_accelerator(args)
        accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=version, auto_wrap_policy="transformer_based_wrap"
        )
        return accelerator

    trainer_core.make_accelerator = spreading


def main():
    for script in json.loads(sys.argv[1]):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        children = []
        for rank in range(2):
            children.append(os.fork())
            if children[-1] == 0:
                code = 1
                try:
                    code = child(rank, port, script)
                finally:
                    sys.stderr.flush()
                    os._exit(code)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]), flush=True)


if __name__ == "__main__":
    main()
