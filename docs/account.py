"""What a block costs at the size of Wan2.1-1.3B and 832x480, counted on tensors without data; no GPU is needed.

python docs/account.py      prints docs/benchmarks.md's table: the layers as they run uncompiled, and compiled

Counted is a block of three latent frames over a full window: the context laid out, four denoising steps, the commit.
Products and attention cost FLOP; every other operator costs the bytes that it reads and writes. The bytes of compiled
layers are those of the programs that Inductor makes of them: what a fused kernel reads from and writes to memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor
from torch._inductor.dependencies import MemoryDep
from torch._inductor.graph import GraphLowering
from torch._inductor.ir import MultiOutput
from torch._inductor.scheduler import BaseSchedulerNode, ExternKernelSchedulerNode, NopKernelSchedulerNode
from torch._inductor.virtualized import V
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from backbone.cache import CacheShape, KVCache
from backbone.compiling import compile_for
from backbone.config import ContextConfig
from backbone.transformer import Attention, CausalWanTransformer, TextContext, TransformerBlock

LATENTS, DTYPE, STEPS = (16, 60, 104), torch.bfloat16, 4
CONTEXT = ContextConfig()
# What an H100 is thought to reach: FLOP/s of bfloat16 products and of cuDNN's attention, bytes/s.
PRODUCTS_PER_S, ATTENTION_PER_S, BYTES_PER_S = 580e12, 570e12, 2.9e12


@dataclass
class Cost:
    """Of some operators.

    Attributes:
        products, attention: FLOP.
        elementwise: bytes that all the others read and write.
        launches: of kernels.
        by_operator: bytes by the operators' names.
    """

    products: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0
    launches: float = 0.0
    by_operator: dict[str, float] = field(default_factory=dict)

    def add(self, other: Cost, times: float = 1.0) -> None:
        """Add another cost `times` times."""
        self.products += times * other.products
        self.attention += times * other.attention
        self.elementwise += times * other.elementwise
        self.launches += times * other.launches
        for name, size in other.by_operator.items():
            self.by_operator[name] = self.by_operator.get(name, 0.0) + times * size

    @property
    def seconds(self) -> float:
        """On an H100, one after another: an estimate."""
        return self.products / PRODUCTS_PER_S + self.attention / ATTENTION_PER_S + self.elementwise / BYTES_PER_S


class Counter(TorchDispatchMode):
    """Counts the operators that run: those that lay out the context, those of the layers, and all others."""

    def __init__(self) -> None:
        super().__init__()
        self.layout, self.layers, self.others = Cost(), Cost(), Cost()
        self.here = self.layout

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket not in FREE:
            self.here.add(cost_of(func, args, kwargs or {}, out))
        return out

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count operators, and know which are the layers'; attention and RMS norm count as one call, as on CUDA."""
        forward = TransformerBlock.forward

        def in_layer(*args: Any) -> Tensor:
            self.here = self.layers
            try:
                return forward(*args)
            finally:
                self.here = self.others

        def attend(_: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
            batch, queries, heads, head_dim = query.shape
            self.here.add(Cost(attention=4 * batch * heads * queries * key.shape[1] * head_dim, launches=1))
            with torch.utils._python_dispatch._disable_current_modes():
                return torch.empty_like(query)

        def norm(module: nn.RMSNorm, x: Tensor) -> Tensor:
            self.here.add(Cost(elementwise=2 * bytes_of(x), launches=1, by_operator={"rms_norm": 2 * bytes_of(x)}))
            with torch.utils._python_dispatch._disable_current_modes():
                return torch.empty_like(x)

        with ExitStack() as held:
            held.enter_context(patch.object(TransformerBlock, "forward", in_layer))
            held.enter_context(patch.object(Attention, "attend", attend))
            held.enter_context(patch.object(nn.RMSNorm, "forward", norm))
            held.enter_context(self)
            yield


FREE = {torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.new_empty, torch.ops.aten._unsafe_view}


def cost_of(func: Any, args: Any, kwargs: Any, out: Any) -> Cost:
    """Of one operator."""
    if func.overloadpacket in flop_registry:
        return Cost(products=flop_registry[func.overloadpacket](*args, **kwargs, out_val=out), launches=1)
    tensors = [each for each in torch.utils._pytree.tree_leaves((args, kwargs, out)) if isinstance(each, Tensor)]
    size = sum(map(bytes_of, tensors))
    return Cost(elementwise=size, launches=1, by_operator={func.overloadpacket.__name__: size})


def bytes_of(tensor: Tensor) -> int:
    """That lie in memory: what is broadcast lies there once."""
    there = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or size == 1)
    return math.prod(there) * tensor.element_size()


def new_transformer(layers: int) -> CausalWanTransformer:
    """Wan2.1-1.3B's sizes are the defaults."""
    torch.set_default_dtype(DTYPE)
    try:
        return CausalWanTransformer(num_layers=layers).eval()
    finally:
        torch.set_default_dtype(torch.float32)


@torch.no_grad()
def uncompiled() -> Counter:
    """A block as it runs without a compiler."""
    counter = Counter()
    with torch.device("meta"):
        transformer = new_transformer(30)
        heads = (transformer.config.num_attention_heads, transformer.config.attention_head_dim)
        grid = transformer.token_grid(LATENTS[1:])
        cache = KVCache(CONTEXT, CacheShape(30, 1, *heads, grid, DTYPE, torch.device("meta")))
        words = torch.empty(1, transformer.config.text_length, *heads, dtype=DTYPE)
        text = TextContext((words,) * 30, (words,) * 30)
        latents, steps = torch.empty(1, LATENTS[0], CONTEXT.frames_per_block, *LATENTS[1:], dtype=DTYPE), torch.empty(1)
        page = torch.empty(2, 30, transformer.tokens_per_frame(LATENTS[1:]), *heads, dtype=DTYPE)
        memory = [[(number, page) for number in range(CONTEXT.memory_frames)]]
        for _ in range(CONTEXT.window_frames // CONTEXT.frames_per_block):
            cache.admit(CONTEXT.frames_per_block)
            cache.assemble(memory)  # the rotations that it keeps are made here
        with counter.watching():
            cache.assemble(memory)
            counter.here = counter.others
            for _ in range(STEPS):
                transformer.forward_block(latents, steps, text, cache)
            transformer.commit_block(latents, steps, text, cache)
    return counter


class _Counted(Exception):
    """No error: Inductor is left here."""


def compiled_layers() -> Cost:
    """The elementwise bytes and launches of a block's compiled layers: `STEPS` of each, and a commit of all but one."""
    programs: list[Cost] = []

    def count(graph: GraphLowering) -> None:
        graph.init_wrapper_code()
        graph._update_scheduler()
        programs.append(Cost())
        for node in graph.scheduler.nodes:
            programs[-1].add(cost_of_node(node))
        raise _Counted

    context = replace(CONTEXT, memory_frames=0)
    for done in ((), ("forward_block",)):  # each time, the next pass is compiled, and ends where it is counted
        with FakeTensorMode(), patch.object(GraphLowering, "codegen", count), inductor.patch(force_disable_caches=True):
            transformer = new_transformer(2)
            for name in done:
                setattr(transformer, name, lambda *_: None)
            try:
                compile_for(transformer, context, LATENTS)
            except Exception as error:
                if _Counted.__name__ not in repr(error):
                    raise
            torch._dynamo.reset()
    step, commit = programs
    whole = Cost()
    whole.add(step, 30 * STEPS)
    whole.add(commit, 29)
    return whole


def cost_of_node(node: BaseSchedulerNode) -> Cost:
    """What a kernel of a program reads and writes; of those that aren't generated, the launch alone."""
    if isinstance(node, NopKernelSchedulerNode) or isinstance(node.node, MultiOutput):
        return Cost()
    if isinstance(node, ExternKernelSchedulerNode):
        return Cost(launches=1)
    within = {each.get_name() for each in node.get_nodes()}
    touched: dict[str, int] = {}
    for dep in node.read_writes.reads | node.read_writes.writes:
        if not isinstance(dep, MemoryDep):  # of the order of writes alone
            continue
        buffer = node.scheduler.name_to_buf.get(dep.name)
        inside = buffer is not None and buffer.defining_op_name() in within
        if inside and all(user.node.get_name() in within for user in buffer.users):
            continue
        touched[dep.name] = touched.get(dep.name, 0) + dep.numbytes_hint()
    size = sum(min(size, whole_bytes(name, size)) for name, size in touched.items())
    return Cost(elementwise=size, launches=1, by_operator={"fused kernels": size})


def whole_bytes(name: str, unknown: int) -> int:
    """Of a buffer of the program: no kernel moves more of it."""
    buffer = V.graph.try_get_buffer(name)
    if buffer is None:
        return unknown
    numel = V.graph.sizevars.optimization_hint(buffer.get_numel(), fallback=unknown)
    return int(numel) * buffer.get_dtype().itemsize


def main() -> None:
    """Print the table."""
    counter = uncompiled()
    before, after = Cost(), Cost()
    before.add(counter.others)
    before.add(counter.layers)
    after.add(counter.others)
    after.add(replace(compiled_layers(), products=counter.layers.products, attention=counter.layers.attention))
    print("| of a block | uncompiled | compiled |\n|---|---|---|")
    rows = {
        "matrix products, TFLOP": ("products", 1e12),
        "attention, TFLOP": ("attention", 1e12),
        "elementwise work, GB": ("elementwise", 1e9),
        "launches": ("launches", 1),
        "on an H100, one after another, ms (estimate)": ("seconds", 1e-3),
    }
    for title, (name, unit) in rows.items():
        print(f"| {title} | {getattr(before, name) / unit:,.1f} | {getattr(after, name) / unit:,.1f} |")
    layout = counter.layout
    print(
        f"\nBesides, the same in both: laying out the context, {layout.elementwise / 1e9:.1f} GB, "
        f"{layout.launches:.0f} launches, {layout.seconds * 1e3:.1f} ms"
    )
    for title, cost in (("uncompiled", before), ("compiled", after)):
        most = sorted(cost.by_operator.items(), key=lambda item: -item[1])[:12]
        print(f"\nGB, {title}: " + ", ".join(f"{name} {size / 1e9:.1f}" for name, size in most))


if __name__ == "__main__":
    main()
