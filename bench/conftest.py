"""What pytest-benchmark does not know of its machine: torch, its threads, and the GPU."""

from typing import Any

import torch


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Add torch's version and threads, and the GPU's name."""
    machine_info["torch"] = torch.__version__
    machine_info["torch_threads"] = torch.get_num_threads()
    machine_info["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
