"""The causal Wan2.1 text-to-video transformer.

Without masks or a cache it computes the same function as diffusers' `WanTransformer3DModel`, with the same parameter
names, so that checkpoints and LoRA files for that class load unchanged. The difference is where self-attention gets
its context: from the sequence itself (`forward`, for training and tests) or from a `KVCache` (`forward_block`, for
streaming).

Tensors inside are token-major: [B, tokens, width], tokens = latent frames x height x width, time slowest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import FromOriginalModelMixin, PeftAdapterMixin
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from backbone.attention import BACKENDS, AttentionCall, attention
from backbone.cache import KVCache, LayerContext
from backbone.errors import FieldError
from backbone.parallel import Ranks
from backbone.rope import Rotation, rotation


class SelfContext(Protocol):
    """What self-attention sees in one layer; query, key and value are unrotated [B, tokens, heads, head_dim]."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attention: AttentionCall) -> Tensor:
        """Attend to the context; returns [B, tokens, heads, head_dim]."""
        ...

    def write(self, key: Tensor, value: Tensor) -> None:
        """Keep what `attend` would keep of key and value, without attending."""
        ...


@dataclass(frozen=True)
class SequenceContext:
    """The sequence itself as the context.

    Attributes:
        rotation: rotary positions of its tokens.
        mask: [B or 1, 1, tokens, tokens], True = attend; None attends to everything.
        page: where to store keys and values, [B, 2, tokens, heads, head_dim]; None does not store them.
    """

    rotation: Rotation
    mask: Tensor | None = None
    page: Tensor | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attention: AttentionCall) -> Tensor:
        """See `SelfContext`."""
        self.write(key, value)
        return attention(self.rotation(query), self.rotation(key), value, self.mask)

    def write(self, key: Tensor, value: Tensor) -> None:
        """See `SelfContext`."""
        if self.page is not None:
            self.page[:, 0], self.page[:, 1] = key, value


@dataclass(frozen=True)
class TextContext:
    """What cross-attention needs of a prompt: keys and values of its tokens in every layer.

    Attributes:
        keys, values: one tensor per layer, [B, text_length, heads, head_dim].
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer."""
        return list(zip(self.keys, self.values, strict=True))

    def of_take(self, take: int) -> TextContext:
        """One take's part of the batch."""
        return self._each(lambda tensor: tensor[take : take + 1])

    def expand(self, count: int) -> TextContext:
        """Repeat one prompt for `count` sequences, without copying it."""
        return self._each(lambda tensor: tensor.expand(count, -1, -1, -1))

    def _each(self, change: Callable[[Tensor], Tensor]) -> TextContext:
        return TextContext(tuple(map(change, self.keys)), tuple(map(change, self.values)))


class CausalWanTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin, FromOriginalModelMixin):
    """A Wan2.1 transformer of any size, run block by block over a cache.

    Args:
        patch_size: (time, height, width) of one token in latent elements; time is 1.
        num_attention_heads, attention_head_dim: their product is the width.
        in_channels, out_channels: channels of the latents.
        text_dim: width of the prompt embeddings.
        text_length: prompt embeddings are padded with zeros to this many tokens.
        freq_dim: number of sinusoids in the timestep embedding.
        ffn_dim, num_layers, cross_attn_norm, eps: as in Wan2.1.
        rope_max_seq_len: maximum number of frames with absolute positions.
        qk_norm, image_dim, added_kv_proj_dim, pos_embed_seq_len: present in diffusers' configs; only the values of a
            text-to-video model are accepted.

    Raises:
        ValueError: if the sizes don't fit together.
    """

    _supports_gradient_checkpointing = False
    _no_split_modules = ("TransformerBlock",)
    _repeated_blocks = ("TransformerBlock",)
    _skip_layerwise_casting_patterns = ("patch_embedding", "condition_embedder", "norm")
    admit_adapter: Callable[[], None] | None = None
    """Called before an adapter's weights are loaded; the transformer's owner may raise here to refuse them."""
    ranks: Ranks | None = None
    """The processes that run it together, each with its own tokens and heads; None if there is only one."""
    compiled_for: frozenset[tuple[int, ...]] = frozenset()
    """Block shapes [B, C, T, h, w] that the layers are compiled for; see `backbone.compiling`."""

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 12,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        text_length: int = 512,
        freq_dim: int = 256,
        ffn_dim: int = 8960,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        eps: float = 1e-6,
        rope_max_seq_len: int = 1024,
        qk_norm: str = "rms_norm_across_heads",
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        pos_embed_seq_len: int | None = None,
    ) -> None:
        super().__init__()
        if qk_norm != "rms_norm_across_heads" or image_dim or added_kv_proj_dim or pos_embed_seq_len:
            raise ValueError(
                f"qk_norm is {qk_norm!r}, image_dim {image_dim}, added_kv_proj_dim {added_kv_proj_dim}, "
                f"pos_embed_seq_len {pos_embed_seq_len}; this is the text-to-video model, which has "
                "'rms_norm_across_heads' and none of the others"
            )
        if patch_size[0] != 1:
            raise ValueError(f"patch_size is {tuple(patch_size)}; a token must span one latent frame, as in (1, 2, 2)")
        if attention_head_dim % 2:
            raise ValueError(f"attention_head_dim is {attention_head_dim}; rotary positions need an even number")
        width = num_attention_heads * attention_head_dim
        self.patch_embedding = nn.Conv3d(in_channels, width, kernel_size=patch_size, stride=patch_size)
        self.condition_embedder = ConditionEmbedder(width, freq_dim, text_dim)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, num_attention_heads, ffn_dim, cross_attn_norm, eps) for _ in range(num_layers)
        )
        self.norm_out = FP32LayerNorm(width, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(width, out_channels * math.prod(patch_size))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)

    def load_lora_adapter(self, *args: Any, **settings: Any) -> None:
        """As in diffusers, if `admit_adapter` allows it."""
        if self.admit_adapter is not None:
            self.admit_adapter()
        super().load_lora_adapter(*args, **settings)

    def set_attention_backend(self, backend: str) -> None:
        """Set the attention backend, a key of `attention.BACKENDS`."""
        if backend not in BACKENDS:
            raise FieldError("attention", backend, f"it must be one of {', '.join(BACKENDS)}")
        for module in self.modules():
            if isinstance(module, Attention):
                module.backend = backend

    @property
    def attention_backend(self) -> str:
        """The attention backend."""
        return self.layers[0].attn1.backend

    # ---- the two ways to run it ----

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        frame_positions: Tensor | None = None,
        frame_mask: Tensor | None = None,
    ) -> Tensor:
        """Run a whole sequence without a cache.

        Args:
            hidden_states: [B, C, F, h, w], latents at their noise levels.
            timestep: [B], or [B, F] if frames have their own noise levels; 0..1000.
            encoder_hidden_states: [B, up to text_length, text_dim].
            frame_positions: [F] or [B, F], temporal positions; default 0..F-1.
            frame_mask: [F, F] or [B, F, F], True where the row's frame may attend to the column's; default all.

        Returns:
            The flow v = noise - x0, [B, C, F, h, w].
        """
        _, _, frames, height, width = hidden_states.shape
        if frame_positions is None:
            frame_positions = torch.arange(frames, device=hidden_states.device)
        turned = self.rotation(frame_positions, (height, width))
        mask = None if frame_mask is None else _token_mask(frame_mask, self.tokens_per_frame((height, width)))
        contexts = [SequenceContext(turned, mask)] * self.config.num_layers
        return self._flow(hidden_states, timestep, self.encode_text(encoder_hidden_states), contexts)

    @apply_forward_hook
    def forward_block(self, hidden_states: Tensor, timestep: Tensor, text: TextContext, cache: KVCache) -> Tensor:
        """Run one block over the context assembled in `cache`, overwriting the block's own keys and values there.

        Args:
            hidden_states: [B, C, T, h, w], the frames at the tail of the assembled context.
            timestep: [B], or [B, T] if frames have their own noise levels; 0..1000.
            text: the prompt, from `encode_text`.
            cache: holds the context; see `KVCache.assemble`.

        Returns:
            The flow v, [B, C, T, h, w].
        """
        return self._flow(hidden_states, timestep, text, cache.contexts(keep=False))

    @apply_forward_hook
    def commit_block(self, hidden_states: Tensor, timestep: Tensor, text: TextContext, cache: KVCache) -> None:
        """As `forward_block`, but only for the keys and values, which the cache keeps; no flow is computed."""
        self._run_for_pages(hidden_states, timestep, text, cache.contexts(keep=True))

    @apply_forward_hook
    def encode_pages(self, latents: Tensor, positions: Tensor, timestep: float, text: TextContext) -> Tensor:
        """Recompute pages of past latent frames in one pass, with each frame attending only to itself.

        This makes a page depend on its latents and the prompt only, not on other frames in the pass.

        Args:
            latents: [N, C, h, w], clean, in the transformer's dtype.
            positions: [N], temporal positions.
            timestep: timestep of clean frames, 0..1000.
            text: one prompt, from `encode_text`, or N.

        Returns:
            Pages [N, 2, layers, tokens, `cached_heads`, head_dim], with unrotated keys.
        """
        count, _, height, width = latents.shape
        turned = self.rotation(positions[:, None], (height, width))
        tokens, head_dim = self.tokens_per_frame((height, width)), self.config.attention_head_dim
        page = (2, self.config.num_layers, tokens, self.cached_heads, head_dim)
        pages = latents.new_empty((count, *page))
        contexts = [SequenceContext(turned, page=page) for page in pages.unbind(2)]
        steps = torch.full((count,), timestep, device=latents.device)
        self._run_for_pages(latents[:, :, None], steps, text.expand(count), contexts)
        return pages

    @apply_forward_hook
    def encode_text(self, prompt_embeds: Tensor) -> TextContext:
        """Project prompt embeddings [B, up to text_length, text_dim] to every layer's keys and values."""
        length = self.config.text_length
        if prompt_embeds.shape[1] > length:
            raise ValueError(
                f"the prompt has {prompt_embeds.shape[1]} tokens; this backbone reads text_length = {length}"
            )
        padded = F.pad(prompt_embeds, (0, 0, 0, length - prompt_embeds.shape[1]))
        text = self.condition_embedder.text_embedder(padded)
        pairs = [block.attn2.keys_values(text) for block in self.layers]
        return TextContext(tuple(key for key, _ in pairs), tuple(value for _, value in pairs))

    @property
    def layers(self) -> list[TransformerBlock]:
        """The transformer's blocks, in order."""
        return [cast(TransformerBlock, block) for block in self.blocks]

    # ---- geometry ----

    @property
    def cached_heads(self) -> int:
        """Heads whose keys and values this process caches."""
        heads: int = self.config.num_attention_heads
        return heads if self.ranks is None else heads // self.ranks.size

    def token_grid(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        """Tokens along height and width of a latent frame of `latent_size` (height, width)."""
        _, patch_h, patch_w = self.config.patch_size
        return latent_size[0] // patch_h, latent_size[1] // patch_w

    def tokens_per_frame(self, latent_size: tuple[int, int]) -> int:
        """Tokens per latent frame of `latent_size` (height, width)."""
        return math.prod(self.token_grid(latent_size))

    def rotation(self, frame_positions: Tensor, latent_size: tuple[int, int]) -> Rotation:
        """Rotary positions of whole frames at temporal positions [F] or [B, F]."""
        return rotation(frame_positions, *self.token_grid(latent_size), self.config.attention_head_dim)

    # ---- inside ----

    def _flow(self, latents: Tensor, timestep: Tensor, text: TextContext, contexts: Sequence[SelfContext]) -> Tensor:
        x, time, modulation = self._enter(latents, timestep)
        layers = self._programs(latents, timestep, contexts)
        contexts = contexts if self.ranks is None else self.ranks.exchanging(contexts, latents.shape[2])
        for layer, words, context in zip(layers, text.layers, contexts, strict=True):
            x = layer(x, modulation, words, context)
        return self._leave(x, time, latents.shape)

    def _run_for_pages(
        self, latents: Tensor, timestep: Tensor, text: TextContext, contexts: Sequence[SelfContext]
    ) -> None:
        """Run only what the keys and values of every layer need: in the last layer, just their projections."""
        x, _, modulation = self._enter(latents, timestep)
        layers = self._programs(latents, timestep, contexts)
        contexts = contexts if self.ranks is None else self.ranks.exchanging(contexts, latents.shape[2])
        for layer, words, context in zip(layers[:-1], text.layers[:-1], contexts[:-1], strict=True):
            x = layer(x, modulation, words, context)
        contexts[-1].write(*self.layers[-1].keys_values(x, modulation))

    def _programs(
        self, latents: Tensor, timestep: Tensor, contexts: Sequence[SelfContext]
    ) -> Sequence[Callable[..., Tensor]]:
        """The layers to call; compiled ones only for passes of the kind and shape they were compiled for."""
        if not self.compiled_for:
            return self.layers
        seen = contexts[0]
        is_usual = isinstance(seen, LayerContext) and seen.has_past and seen.mask is None and timestep.ndim == 1
        if not is_usual or tuple(latents.shape) not in self.compiled_for:
            return [layer.forward for layer in self.layers]
        for context in cast("Sequence[LayerContext]", contexts):
            context.leave_length_open()
        return self.layers

    def _enter(self, latents: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed latents as own tokens [B, tokens, width], and the timestep by `ConditionEmbedder.embed_time`."""
        tokens = self.patch_embedding(latents).flatten(2).transpose(1, 2)
        if self.ranks is not None:
            tokens = self.ranks.own_tokens(tokens, latents.shape[2])
        tokens = tokens.contiguous()
        return tokens, *self.condition_embedder.embed_time(timestep)

    def _leave(self, x: Tensor, time: Tensor, shape: torch.Size) -> Tensor:
        """Project own tokens [B, tokens, width] to the flow of latents of `shape` [B, C, F, h, w]."""
        batch, _, frames, height, width = shape
        shift, scale = (self.scale_shift_table[None] + time[:, :, None]).chunk(2, dim=2)
        x = self.proj_out(_modulate(self.norm_out, x, shift, scale))
        if self.ranks is not None:
            x = self.ranks.all_tokens(x, frames)
        rows, columns = self.token_grid((height, width))
        _, patch_h, patch_w = self.config.patch_size
        x = x.reshape(batch, frames, rows, columns, patch_h, patch_w, -1)
        return x.permute(0, 6, 1, 2, 4, 3, 5).reshape(batch, -1, frames, height, width)


class ConditionEmbedder(nn.Module):
    """Embeds the timestep and the prompt."""

    def __init__(self, width: int, freq_dim: int, text_dim: int) -> None:
        super().__init__()
        self.timesteps_proj = Timesteps(freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(freq_dim, width)
        self.time_proj = nn.Linear(width, 6 * width)
        self.text_embedder = PixArtAlphaTextProjection(text_dim, width, act_fn="gelu_tanh")

    def embed_time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """[B] or [B, F] timesteps to (embedding [B, F or 1, width], modulation [B, F or 1, 6, width])."""
        frames = timestep.shape[1] if timestep.ndim == 2 else 1
        sinusoids = self.timesteps_proj(timestep.flatten()).to(self.time_proj.weight.dtype)
        time = self.time_embedder(sinusoids).unflatten(0, (-1, frames))
        return time, self.time_proj(F.silu(time)).unflatten(2, (6, -1))


class TransformerBlock(nn.Module):
    """Self-attention over the context, cross-attention to the prompt, feed-forward; each gated or added (adaLN)."""

    def __init__(self, width: int, heads: int, ffn_dim: int, cross_attn_norm: bool, eps: float) -> None:
        super().__init__()
        self.norm1 = FP32LayerNorm(width, eps, elementwise_affine=False)
        self.attn1 = Attention(width, heads, eps)
        self.attn2 = Attention(width, heads, eps)
        self.norm2 = FP32LayerNorm(width, eps, elementwise_affine=True) if cross_attn_norm else nn.Identity()
        self.ffn = FeedForward(width, ffn_dim)
        self.norm3 = FP32LayerNorm(width, eps, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, width) / width**0.5)

    def keys_values(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value [B, tokens, heads, head_dim] that `forward` passes to its context, of x [B, tokens, width]."""
        shift, scale = (self.scale_shift_table[None] + modulation.float()).chunk(6, dim=2)[:2]
        return self.attn1.keys_values(_modulate(self.norm1, x, shift, scale))

    def forward(self, x: Tensor, modulation: Tensor, text: tuple[Tensor, Tensor], context: SelfContext) -> Tensor:
        """Run one layer.

        Args:
            x: [B, tokens, width].
            modulation: [B, F or 1, 6, width].
            text: keys and values of the prompt in this layer, [B, text_length, heads, head_dim] each.
            context: what self-attention sees.

        Returns:
            [B, tokens, width].
        """
        mods = (self.scale_shift_table[None] + modulation.float()).chunk(6, dim=2)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = mods

        query, key, value = self.attn1.queries_keys_values(_modulate(self.norm1, x, shift, scale))
        x = _add_gated(x, self.attn1.output(context.attend(query, key, value, self.attn1.attend)), gate)

        query = self.attn2.queries(self.norm2(x))
        x = x + self.attn2.output(self.attn2.attend(query, *text))

        update = self.ffn(_modulate(self.norm3, x, ffn_shift, ffn_scale))
        return _add_gated(x, update.float(), ffn_gate)


class Attention(nn.Module):
    """An attention call with its projections; queries and keys are RMS-normalised across all heads.

    Attributes:
        backend: attention backend, a key of `attention.BACKENDS`.
    """

    backend = "native"

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.norm_q = nn.RMSNorm(width, eps)
        self.norm_k = nn.RMSNorm(width, eps)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, tokens, width] to three [B, tokens, heads, head_dim], not yet rotated."""
        return self.queries(x), *self.keys_values(x)

    def queries(self, x: Tensor) -> Tensor:
        """[B, tokens, width] to [B, tokens, heads, head_dim]."""
        return self._heads(self.norm_q(self.to_q(x)))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, tokens, width] to two [B, tokens, heads, head_dim]."""
        return self._heads(self.norm_k(self.to_k(x))), self._heads(self.to_v(x))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Call `attention` with this layer's backend."""
        return attention(query, key, value, mask, self.backend)

    def output(self, attended: Tensor) -> Tensor:
        """[B, tokens, heads, head_dim] to [B, tokens, width]."""
        return self.to_out[0](attended.flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1))


class FeedForward(nn.Module):
    """Linear, GELU (tanh approximation), linear; parameters are named as in diffusers."""

    def __init__(self, width: int, ffn_dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([_Projection(width, ffn_dim), nn.Identity(), nn.Linear(ffn_dim, width)])

    def forward(self, x: Tensor) -> Tensor:
        hidden = cast(_Projection, self.net[0]).proj(x)
        if torch.is_grad_enabled():
            return self.net[2](F.gelu(hidden, approximate="tanh"))
        # In place: this is a block's largest tensor, and allocating another costs more than the arithmetic.
        return self.net[2](torch.ops.aten.gelu_(hidden, approximate="tanh"))


class _Projection(nn.Module):
    """Holds `proj`, so that the parameter is called `net.0.proj`."""

    def __init__(self, width: int, ffn_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, ffn_dim)


def _modulate(norm: nn.Module, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) * (1 + scale) + shift in float32; x [B, tokens, width], shift and scale [B, F or 1, 1, width]."""
    normed = norm(x.float()).unflatten(1, (shift.shape[1], -1))
    return torch.addcmul(shift, normed, 1 + scale).flatten(1, 2).type_as(x)


def _add_gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """x + update * gate in float32; x and update [B, tokens, width], gate [B, F or 1, 1, width]."""
    frames = gate.shape[1]
    gated = torch.addcmul(x.float().unflatten(1, (frames, -1)), update.unflatten(1, (frames, -1)), gate)
    return gated.flatten(1, 2).type_as(x)


def _token_mask(frame_mask: Tensor, tokens_per_frame: int) -> Tensor:
    """Expand a mask over frames, [F, F] or [B, F, F], to one over tokens, [B or 1, 1, tokens, tokens]."""
    mask = frame_mask if frame_mask.ndim == 3 else frame_mask[None]
    return mask.repeat_interleave(tokens_per_frame, 1).repeat_interleave(tokens_per_frame, 2)[:, None]
