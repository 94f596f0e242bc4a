"""The command line of `accelerate launch` for tests."""

import socket
import sys


def accelerate_launch(processes: int = 2) -> list[str]:
    """The words before `-m module`, with a free port: accelerate before 1.7 takes port 0 as it is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"--multi_gpu --num_processes {processes} --num_machines 1 --main_process_port {port}"
    return [sys.executable, "-m", "accelerate.commands.launch", *options.split()]
