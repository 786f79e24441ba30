"""Run by test_kernels.py: the kernels compiled for a GPU that need not be here; no interpreter may be chosen before."""

from __future__ import annotations

import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from reasoning_guard import attention_kernel, slice_kernel

H100 = GPUTarget("cuda", 90, 32)


def compile_for(
    target: GPUTarget, kernel: object, types: dict[str, str], fixed: dict[str, object], **options: int
) -> int:
    """Size of the machine code that a kernel becomes."""
    names = kernel.arg_names  # type: ignore[attr-defined]
    signature = {name: types.get(name, "i32") for name in names} | dict.fromkeys(fixed, "constexpr")
    constants = {(names.index(name),): value for name, value in fixed.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs={})  # type: ignore[arg-type]
    return len(triton.compile(source, target=target, options=options).asm["cubin"])


def main(dtype: str) -> None:
    """Compile both kernels for numbers of a format."""
    pointer = f"*{dtype}"
    exact = dtype == "fp32"
    for size in (64, 128):
        queries, keys, warps, stages = attention_kernel._EXACT_BLOCKS if exact else attention_kernel._BLOCKS[size]
        types = dict.fromkeys(("query", "key", "value", "found"), pointer) | {"table": "*i32", "scale": "fp32"}
        fixed = {"HEADS": 14, "GROUP": 7, "SIZE": size, "COLUMNS": 5, "QUERIES": queries, "KEYS": keys}
        fixed |= {"PRECISION": "ieee" if exact else "tf32"}
        kernel = attention_kernel._attend
        assert compile_for(H100, kernel, types, fixed, num_warps=warps, num_stages=stages)
    types = {"logits": pointer, "numbers": "*fp32"}
    assert compile_for(H100, slice_kernel._read, types, {"BLOCK": slice_kernel._BLOCK}, num_warps=slice_kernel._WARPS)
    print("compiled")


if __name__ == "__main__":
    main(sys.argv[1])
