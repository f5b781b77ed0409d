"""Memory, disk and time that a backbone and a take of it will need, worked out from configs alone.

Peaks are sums of what exists at the same time. Everything except page tiers, index and disk is the same for a take of
ten seconds and of ten hours. Times are accurate to a factor of about 1.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backbone.config import ContextConfig
from backbone.errors import refused_as
from backbone.files import read_config
from backbone.vae_config import widest_map
from longlive_rag.config import CheckpointConfig, OutputConfig, checkpoint_spacing
from longlive_rag.presets.geometry import BYTES, FLOAT32_BYTES, Geometry, read_geometry
from longlive_rag.presets.precision import pick_precision
from longlive_rag.presets.preset import TINY_DECODER, Preset
from longlive_rag.timeline import Timeline
from retrieval.budgets import PageBudgets, host_slots

GIB = 2**30
# Measured: a process that has only imported the pipeline, and a CUDA context.
LIBRARIES_BYTES = int(0.6 * GIB)
CUDA_CONTEXT_BYTES = int(0.5 * GIB)
BLOCK_FILE_BYTES = 1536  # overhead of a stored block beyond its arrays
# How many tensors the size of the VAE's output feature maps exist at once while it decodes; folded convolutions need
# more (measured at 416x240 and 832x480: 12 to 15).
DECODE_MAPS = {"cpu": 14, "cuda": 5}
# Covers time outside matrix products (normalisation, positions, softmax, kernel launches) and unfavourable shapes.
TIME_OVER_PRODUCTS = 1.6
USED_AT_MOST = (
    0.9  # of a machine's memory; the rest is for recomputed pages, other processes and what the sums leave out
)
# Share of a GPU left to other processes, workspaces of libraries and fragmentation.
RESERVED_OF_GPU = 0.03
TEXT_ENCODER = "text encoder"
TEXT_WEIGHTS = f"weights of the {TEXT_ENCODER}"


@dataclass(frozen=True)
class Plan:
    """The bytes a take needs.

    Attributes:
        blocks, latent_frames: length of the take.
        page_bytes: keys and values of one latent frame, as the transformer uses them.
        stored_page_bytes: the same in the host tier.
        gpu_page_budget: bytes that pages may take on the GPU; 0 on a CPU.
        gpu_pages, host_pages: the most pages each tier will hold.
        past_pages: the most pages the take could need: one per frame that leaves the window.
        view_frames: latent frames that memory keeps of each new view; 0 if every frame enters.
        memory_frame_bytes: the most that a frame in memory takes of pages and index.
        device: peak by part, where the transformer runs (on a CPU: the host).
        host: peak by part, of the host beside a GPU; empty on a CPU.
        disk: size by part.
    """

    blocks: int
    latent_frames: int
    page_bytes: int
    stored_page_bytes: int
    gpu_page_budget: int
    gpu_pages: int
    host_pages: int
    past_pages: int
    view_frames: int
    memory_frame_bytes: int
    device: dict[str, int]
    host: dict[str, int]
    disk: dict[str, int]

    @property
    def device_bytes(self) -> int:
        """Peak where the transformer runs."""
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        """Peak of the host beside a GPU."""
        return sum(self.host.values())

    @property
    def disk_bytes(self) -> int:
        """Size of the finished take on disk."""
        return sum(self.disk.values())


def make_plan(
    geometry: Geometry,
    context: ContextConfig,
    budgets: PageBudgets,
    timeline: Timeline,
    weights: Mapping[str, int],
    *,
    dtype: str = "float32",
    on_gpu: bool = False,
    gpu_bytes: int | None = None,
    text_on_host: bool = False,
    has_cues: bool = False,
    decode_bytes: int = 0,
    video_bytes: int = 0,
    view_frames: int = 0,
    checkpoints: CheckpointConfig | None = None,
) -> Plan:
    """Add up what a take of `timeline` needs.

    Args:
        geometry: of the backbone at the request's size.
        context, budgets: of the request.
        weights: bytes by part.
        dtype: of the transformer.
        on_gpu: whether the transformer runs on a GPU; otherwise everything is in the host's memory.
        gpu_bytes: size of the whole GPU, for a page budget that depends on it.
        text_on_host: whether the text encoder stays on the host, beside a GPU.
        has_cues: whether there are cues; a cue runs the whole window at once.
        decode_bytes: bytes of the VAE while it decodes.
        video_bytes: size of the video on disk.
        view_frames: latent frames that memory keeps of each new view. How many views a take shows is not known in
            advance: peaks are those of a take that shows something new all the time.
        checkpoints: settings of checkpoints; None leaves them out.
    """
    page = geometry.page_bytes(dtype)
    stored = geometry.stored_page_bytes(dtype, budgets.precision)
    frames = timeline.latent_frames
    memory_frames = context.memory_frames
    past = max(0, frames - context.window_frames) if memory_frames else 0
    budget = budgets.on_gpu if on_gpu else 0
    if on_gpu and gpu_bytes is not None and budgets.gpu_bytes is None:
        there = {part: count for part, count in weights.items() if not (text_on_host and part == TEXT_ENCODER)}
        budget = _left_for_pages(geometry, context, dtype, gpu_bytes, sum(there.values()), decode_bytes)
    gpu_pages = min(past, max(memory_frames, budget // page)) if on_gpu else 0
    host_pages = host_slots(gpu_pages, budgets.host_bytes // stored, past)
    remade = memory_frames if gpu_pages + host_pages < past or (has_cues and past) else 0
    device = {
        **{f"weights of the {part}": count for part, count in weights.items()},
        "cache and context": cache_bytes(context, page),
        "prompt": _prompt_bytes(geometry, dtype),
        "recomputed pages": remade * page,
        "activations": activation_bytes(geometry, context, dtype, remade, has_cues),
        "decoding": decode_bytes,
    }
    index = 2 * frames * geometry.embedding_bytes if memory_frames else 0  # it grows by doubling
    host = {"page tier": host_pages * stored, "index": index, "libraries": LIBRARIES_BYTES}
    if on_gpu:
        device |= {"page tier": gpu_pages * page, "CUDA context": CUDA_CONTEXT_BYTES}
    device, host = _placed(device, host, on_gpu, text_on_host)
    return Plan(
        blocks=timeline.blocks,
        latent_frames=frames,
        page_bytes=page,
        stored_page_bytes=stored,
        gpu_page_budget=budget,
        gpu_pages=gpu_pages,
        host_pages=host_pages,
        past_pages=past,
        view_frames=min(view_frames, past),
        memory_frame_bytes=stored + geometry.embedding_bytes,
        device=device,
        host=host,
        disk={
            "latents": _latents_bytes(geometry, timeline, bool(memory_frames)),
            "video and pictures": video_bytes,
            "checkpoints": checkpoint_bytes(checkpoints, timeline, context, page) if checkpoints else 0,
        },
    )


def _left_for_pages(
    geometry: Geometry, context: ContextConfig, dtype: str, gpu_bytes: int, weight_bytes: int, decode_bytes: int
) -> int:
    """Return the bytes left for a take's pages on a whole GPU that also holds these weights."""
    work = working_bytes(geometry, context, dtype, decode_bytes)
    return bytes_for_pages(gpu_bytes - CUDA_CONTEXT_BYTES - weight_bytes, gpu_bytes, work)


def _placed(
    device: dict[str, int], host: dict[str, int], on_gpu: bool, text_on_host: bool
) -> tuple[dict[str, int], dict[str, int]]:
    """Split parts into those where the transformer runs and those beside it; on a CPU all are in one place."""
    if not on_gpu:
        return device | host, {}
    if not text_on_host:
        return device, host
    return {part: device[part] for part in device if part != TEXT_WEIGHTS}, host | {TEXT_WEIGHTS: device[TEXT_WEIGHTS]}


def _prompt_bytes(geometry: Geometry, dtype: str) -> int:
    """Return the bytes of a prompt's embeddings and of its keys and values in all layers."""
    keys_values = 2 * geometry.layers * geometry.text_length * geometry.width * BYTES[dtype]
    return keys_values + geometry.text_length * geometry.text_dim * FLOAT32_BYTES


def _latents_bytes(geometry: Geometry, timeline: Timeline, with_memory: bool) -> int:
    """Return the bytes of a take's stored blocks."""
    frame = geometry.latent_bytes + (geometry.embedding_bytes if with_memory else 0)
    return timeline.latent_frames * frame + timeline.blocks * BLOCK_FILE_BYTES


def cache_bytes(context: ContextConfig, page_bytes: int) -> int:
    """Return the bytes of the window's keys and values and of the context that a block sees.

    If memory's gain changes, its keys are there twice.
    """
    keys_again = context.memory_frames * page_bytes // 2 if context.first_gain is not None else 0
    return 2 * context.window_frames * page_bytes + keys_again


def bytes_for_pages(free_bytes: int, gpu_bytes: int, work_bytes: int) -> int:
    """Return the default budget of a page cache on a GPU: all that nothing else needs.

    Args:
        free_bytes: bytes free with only the weights loaded.
        gpu_bytes: size of the whole GPU.
        work_bytes: what making a take needs besides pages; see `working_bytes`.
    """
    return max(0, free_bytes - work_bytes - int(RESERVED_OF_GPU * gpu_bytes))


def working_bytes(geometry: Geometry, context: ContextConfig, dtype: str, decode_bytes: int, batch: int = 1) -> int:
    """Return the bytes that making takes needs besides weights and kept pages, even if they are directed live.

    Args:
        dtype: of the transformer.
        decode_bytes: bytes of the VAE while it decodes one take.
        batch: number of takes made side by side.
    """
    page, remade = geometry.page_bytes(dtype), context.memory_frames
    text = 2 * geometry.layers * geometry.text_length * geometry.width * BYTES[dtype]
    pages = cache_bytes(context, page) + remade * page
    activations = activation_bytes(geometry, context, dtype, remade, has_cues=True)
    return batch * (pages + text + activations + decode_bytes)


def checkpoint_bytes(checkpoints: CheckpointConfig, timeline: Timeline, context: ContextConfig, page_bytes: int) -> int:
    """Estimate the disk size of a take's checkpoints: ever sparser windows, and every page once."""
    if checkpoints.mode == "light":
        return 0
    every = timeline.segment_blocks
    count = sum(every / checkpoint_spacing(blocks, every) for blocks in range(every, timeline.blocks + 1, every))
    windows = round(count) * context.window_frames
    pages = timeline.latent_frames if context.memory_frames else 0
    return min(int(checkpoints.gib * GIB), (windows + pages) * page_bytes)


def budgets_that_fit(plan: Plan, gpu_bytes: int | None, host_bytes: int | None) -> dict[str, float]:
    """Return `--page-gpu-gib` and `--page-host-gib` for a machine of this size, leaving a tenth free.

    Raises:
        ValueError: if the take does not fit even without pages.
    """
    advice: dict[str, float] = {}
    peaks = {"gpu": (plan.device, gpu_bytes, plan.page_bytes), "host": (plan.host, host_bytes, plan.stored_page_bytes)}
    if not plan.host:
        peaks = {"host": (plan.device, host_bytes, plan.stored_page_bytes)}
    for name, (parts, there, page) in peaks.items():
        if there is None:
            continue
        rest = sum(parts.values()) - parts["page tier"]
        room = int(USED_AT_MOST * there) - rest
        if room < 0:
            where = "GPU" if name == "gpu" else name
            raise ValueError(
                f"the {where} has {there / GIB:g} GiB, but {rest / GIB:.1f} GiB are needed even without pages; "
                "use a smaller size, a narrower dtype, or offloading"
            )
        advice[f"page_{name}_gib"] = float(f"{min(room, plan.past_pages * page) / GIB:.4g}")
    return advice


def sessions_at_once(plan: Plan, gpu_bytes: int | None, host_bytes: int | None) -> int | None:
    """Return how many takes of a plan fit on a machine of this size at once, leaving a tenth free.

    Each is made by its own worker, with its own weights, cache and page tiers.

    Returns:
        The number of takes; None if no size is given.
    """
    peaks = [(plan.device_bytes, gpu_bytes), (plan.host_bytes, host_bytes)]
    if not plan.host:
        peaks = [(plan.device_bytes, host_bytes)]
    fits = [int(USED_AT_MOST * there) // needed for needed, there in peaks if there is not None]
    return min(fits, default=None)


def disk_bytes_an_hour(plan: Plan, seconds: float) -> int:
    """Return the most disk that an hour of video takes, in takes of a plan, each this long."""
    return round(plan.disk_bytes * 3600 / seconds)


@dataclass(frozen=True)
class Estimate:
    """What a backbone needs while it generates with its preset's settings.

    Attributes:
        bytes_by_part: bytes on the device, all at the same time.
        text_encoder_bytes: bytes on the device while a prompt is encoded; can be freed or left to another machine.
        page_bytes: keys and values of one latent frame in all layers.
        flops_per_block: of the transformer.
        pixel_frames_per_block: after the first block.
    """

    bytes_by_part: dict[str, int]
    text_encoder_bytes: int
    page_bytes: int
    flops_per_block: float
    pixel_frames_per_block: int

    @property
    def device_bytes(self) -> int:
        """Sum of all parts, without the text encoder."""
        return sum(self.bytes_by_part.values())

    def has_room_for_text(self, memory_bytes: int) -> bool:
        """Whether a device of this size can hold the text encoder beside all other parts, leaving a tenth free."""
        return self.device_bytes + self.text_encoder_bytes <= USED_AT_MOST * memory_bytes

    def frames_per_second(self, flops_per_second: float) -> float:
        """Estimate the rate on a machine that multiplies matrices at this rate; transformer only."""
        return self.pixel_frames_per_block * flops_per_second / (self.flops_per_block * TIME_OVER_PRODUCTS)


def estimate(preset: Preset, dtype: str, device: str) -> Estimate:
    """Estimate what a backbone needs, from its configs.

    Args:
        preset: the backbone's preset.
        dtype: of the transformer, or `auto`; the VAE's follows from it, see `pick_precision`.
        device: `cpu` or `cuda`.
    """
    context = preset.context
    geometry = read_geometry(preset, preset.output, preset.memory.encoder)
    dtype, vae_dtype = pick_precision(dtype, device)
    weights, page = weight_bytes(preset, dtype, vae_dtype), geometry.page_bytes(dtype)
    text_encoder_bytes = weights.pop(TEXT_ENCODER)
    parts = {
        **weights,
        "cache and context": cache_bytes(context, page),
        "pages of a block": (2 if device == "cuda" else 1) * context.memory_frames * page,
        "activations": activation_bytes(geometry, context, dtype),
        "decoding": decode_bytes(preset, preset.output, device, vae_dtype),
    }
    width, tokens = geometry.width, context.frames_per_block * geometry.tokens_per_frame
    linear = 2.0 * tokens * width * (6 * width + 2 * geometry.ffn_dim)
    attended = 4.0 * tokens * width * (context.window_frames * geometry.tokens_per_frame + geometry.text_length)
    passes = len(preset.sampler.denoising_steps) + 1
    return Estimate(
        bytes_by_part=parts,
        text_encoder_bytes=text_encoder_bytes,
        page_bytes=page,
        flops_per_block=passes * geometry.layers * (linear + attended),
        pixel_frames_per_block=preset.temporal_factor * context.frames_per_block,
    )


def weight_bytes(preset: Preset, dtype: str, vae_dtype: str = "float32") -> dict[str, int]:
    """Return the bytes of each part's weights as `load_pipeline` loads them, from the configs alone.

    Args:
        preset: the backbone's preset.
        dtype: of the transformer.
        vae_dtype: of the VAE and the tiny decoder.
    """
    import torch
    from diffusers import AutoencoderKLWan
    from transformers import UMT5Config, UMT5EncoderModel

    from backbone.tiny_decoder import TinyDecoder
    from backbone.transformer import CausalWanTransformer
    from longlive_rag.presets.embeddings import text_dtype
    from retrieval.encoder import LatentAutoencoder

    def parameters(model: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    def config(part: str) -> dict[str, object]:
        return read_config(preset.folder / part / "config.json")

    # Backbones known only by their configs have UMT5-xxl.
    text_itemsize = text_dtype(preset.folder).itemsize if preset.has_weights else BYTES["bfloat16"]
    with refused_as(f"a config in {preset.folder}"), torch.device("meta"):
        counts = {
            "transformer": parameters(CausalWanTransformer.from_config(config("transformer"))) * BYTES[dtype],
            "vae": parameters(AutoencoderKLWan.from_config(config("vae"))) * BYTES[vae_dtype],
            TEXT_ENCODER: parameters(UMT5EncoderModel(UMT5Config(**config("text_encoder")))) * text_itemsize,
        }
        if (preset.folder / "encoder" / "config.json").is_file():
            counts["retrieval encoder"] = parameters(LatentAutoencoder.from_config(config("encoder"))) * FLOAT32_BYTES
        elif not preset.has_weights and preset.memory.encoder == "autoencoder":
            counts["retrieval encoder"] = parameters(LatentAutoencoder()) * FLOAT32_BYTES
        if (preset.folder / TINY_DECODER / "config.json").is_file():
            counts["tiny decoder"] = parameters(TinyDecoder.from_config(config(TINY_DECODER))) * BYTES[vae_dtype]
    return counts


def decode_bytes(preset: Preset, output: OutputConfig, device: str, vae_dtype: str = "float32") -> int:
    """Estimate the bytes the VAE needs to decode one latent frame; its widest maps have the highest resolution.

    Args:
        preset: the backbone's preset.
        output: size of the frames.
        device: `cpu` or `cuda`.
        vae_dtype: of the VAE.
    """
    path = preset.folder / "vae" / "config.json"
    widest = widest_map(read_config(path), str(path))
    return decode_maps_bytes(widest, preset.temporal_factor, output, device, vae_dtype)


def decode_maps_bytes(
    widest: tuple[int, int], temporal_factor: int, output: OutputConfig, device: str, vae_dtype: str
) -> int:
    """Estimate as `decode_bytes` does, given the VAE's `widest_map`."""
    channels, side = widest
    of_one = channels * temporal_factor * (output.height // side) * (output.width // side) * BYTES[vae_dtype]
    return DECODE_MAPS[device] * of_one


def activation_bytes(
    geometry: Geometry, context: ContextConfig, dtype: str, remade: int = 0, has_cues: bool = False
) -> int:
    """Estimate the activations of the largest pass: a block, recomputed pages, or a recache of the whole window.

    Attention holds about eight tensors of a token's width at once, the feed-forward half as many plus its own.
    """
    frames = max(context.frames_per_block, remade, context.window_frames if has_cues else 0)
    per_token = max(8 * geometry.width, 4 * geometry.width + geometry.ffn_dim)
    narrow = (BYTES[dtype] + FLOAT32_BYTES) / (2 * FLOAT32_BYTES)  # about half of them are always float32
    return int(frames * geometry.tokens_per_frame * per_token * FLOAT32_BYTES * narrow)
