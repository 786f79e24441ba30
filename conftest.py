"""What is written in Triton is collected where there is Triton: it comes for Linux alone."""

from importlib.util import find_spec

_KERNELS = ("reasoning_guard/slice_kernel.py", "reasoning_guard/attention_kernel.py")
_SCRIPTS = ("tests/interpreted_kernels.py", "tests/compiled_kernels.py")

collect_ignore = [] if find_spec("triton") else [*_KERNELS, *_SCRIPTS]
