"""The pipeline: turns a prompt into a stream of finished blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.utils import BaseOutput
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from backbone.config import ContextConfig, SamplerConfig
from backbone.errors import FieldError
from backbone.files import read_json
from backbone.text import check_known, clean_prompt, encode_prompts, prompt_ids, unknown_words
from backbone.tiny_decoder import StreamingTinyDecoder, TinyDecoder, check_decoder
from backbone.transformer import CausalWanTransformer
from backbone.vae import StreamingDecoder, TakeDecoder, encode_video, fold_temporal_convs, shapes_compiled_for
from backbone.vae_config import check_channels
from longlive_rag.config import MemoryConfig, OutputConfig, TakeRequest
from longlive_rag.generation.batch import Batch
from longlive_rag.generation.behind import AHEAD, Behind
from longlive_rag.generation.block import Block
from longlive_rag.generation.cues import cue_blocks, cut_blocks, directed_at
from longlive_rag.generation.directions import (
    Direction,
    Directions,
    check_policy,
    planned,
    reseed_blocks,
    retrieval_rules,
)
from longlive_rag.generation.download import Download
from longlive_rag.generation.in_step import room_on_all
from longlive_rag.generation.noise import NoiseSource, PhiloxNoise, PolicySeeds, TakeSeeds
from longlive_rag.generation.rollout import Rollout
from longlive_rag.generation.rollout_memory import RememberedFrames
from longlive_rag.generation.stopwatch import Stopwatch
from longlive_rag.presets.embeddings import stacked
from longlive_rag.presets.geometry import backbone_id, check_encoder, check_latents, check_positions, check_size
from longlive_rag.presets.page_room import gpu_room, host_bytes
from longlive_rag.presets.preset import INDEX, load_preset, refuse_other_layout
from longlive_rag.rights.loading import AdmittedPipeline
from longlive_rag.takes.finishing import Finishing, MadeBlock, TakeStores, Then
from longlive_rag.takes.inputs import remembered_frames, shared_inputs
from longlive_rag.takes.record import TakeRun
from longlive_rag.takes.resume import TakeStore, blocks_again, due_checkpoints, resume_rollout
from longlive_rag.timeline import Timeline
from retrieval.budgets import PageBudgets
from retrieval.encoder import LatentAutoencoder, LatentEncoder, MeanPoolEncoder
from retrieval.memory import Choose, pooled_prompts
from retrieval.selection import Selection
from retrieval.store import BlockStore

COMPONENTS: dict[str, Any] = {
    "transformer": CausalWanTransformer,
    "encoder": LatentAutoencoder,
    "vae": AutoencoderKLWan,
    "text_encoder": UMT5EncoderModel,
    "tiny_decoder": TinyDecoder,
}


@dataclass
class LongLiveRAGOutput(BaseOutput):
    """A whole take in memory.

    Attributes:
        frames: [B, F, H, W, 3] uint8.
        latents: [B, T, C, h, w] float32.
        selections: the selections of all blocks that retrieved, in time order.
    """

    frames: np.ndarray
    latents: Tensor
    selections: list[tuple[Selection, ...]]


class LongLiveRAGPipeline(AdmittedPipeline):
    """Streams video from a causal Wan backbone that remembers what it has made.

    Args:
        transformer: the frozen backbone.
        vae: decodes latents, with state carried from block to block.
        text_encoder, tokenizer: UMT5; without the encoder, only prompts in `prompt_embeds` can be used.
        encoder: embeds latents for memory; without it, memory can only search mean-pooled latents.
        context, sampler, memory, output: the preset, as dicts of the dataclasses' fields.
        tiny_decoder: a decoder that is faster but less sharp than the VAE; used if `decoder` is `tiny`.

    Raises:
        ValueError: if the VAE and the transformer disagree on the number of latent channels.

    Attributes:
        backbone: the backbone's name, as the user knows it; None uses its folder.
        decoder: what decodes the pixels of takes: `full` (the VAE) or `tiny`.
        new_rollout: makes the rollout of a take; replaced to run on several GPUs.
    """

    weighted_parts = COMPONENTS
    new_rollout: type[Rollout] | Callable[..., Rollout] = Rollout
    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components: ClassVar[list[str]] = ["encoder", "tiny_decoder"]

    def __init__(
        self,
        transformer: CausalWanTransformer,
        vae: AutoencoderKLWan,
        text_encoder: UMT5EncoderModel | None,
        tokenizer: PreTrainedTokenizerBase,
        encoder: LatentAutoencoder | None = None,
        context: Mapping[str, Any] | None = None,
        sampler: Mapping[str, Any] | None = None,
        memory: Mapping[str, Any] | None = None,
        output: Mapping[str, Any] | None = None,
        tiny_decoder: TinyDecoder | None = None,
    ) -> None:
        super().__init__()
        check_channels(vae.config, transformer.config.in_channels, "this pipeline")
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            encoder=encoder,
            tiny_decoder=tiny_decoder,
        )
        self.context = ContextConfig(**(context or {}))
        self.sampler = SamplerConfig(**(sampler or {}))
        self.memory = MemoryConfig(**(memory or {}))
        self.output = OutputConfig(**(output or {}))
        self.register_to_config(
            context=asdict(self.context),
            sampler={**asdict(self.sampler), "denoising_steps": list(self.sampler.denoising_steps)},
            memory=asdict(self.memory),
            output=asdict(self.output),
        )
        self.backbone: str | None = None
        self.decoder = "full"
        self.prompt_embeds: dict[str, Tensor] = {}
        fold_temporal_convs(self.vae)

    @classmethod
    def _check_folder(cls, folder: Path) -> None:
        refuse_other_layout(folder, read_json(folder / INDEX))
        super()._check_folder(folder)
        check_latents(folder)

    @property
    def device(self) -> torch.device:
        """The transformer's device; the text encoder may be on another."""
        return self.transformer.device

    @property
    def folder(self) -> Path:
        """The folder it was opened from; ValueError if it was assembled in memory."""
        if "_name_or_path" not in self.config:
            raise ValueError("this pipeline was not opened from a folder")
        return Path(self.config["_name_or_path"])

    # ---- before a take starts ----

    def request(self, prompt: str, *, seconds: float, **settings: Any) -> TakeRequest:
        """Build a request, with this backbone's preset for fields of `TakeRequest` missing in `settings`."""
        preset = {"context": self.context, "sampler": self.sampler, "memory": self.memory, "output": self.output}
        return TakeRequest(prompt=prompt, seconds=seconds, **{**preset, **settings})

    def timeline(self, request: TakeRequest) -> Timeline:
        """The blocks and frames of a request on this backbone."""
        return Timeline(
            request.pixel_frames,
            request.output.fps,
            request.context.frames_per_block,
            self.vae.config.scale_factor_temporal,
        )

    def take_run(self, codec: str = "vp9", load_seconds: float = 0.0) -> TakeRun:
        """Describe, for a `TakeWriter`, how takes are made in its current state; arguments as in `TakeRun`.

        Raises:
            ValueError: if the pipeline was not opened from a folder.
        """
        return TakeRun(
            backbone=self.backbone or str(self.folder),
            folder=self.folder,
            device=self.device.type + (f":{self.device.index}" if self.device.index else ""),
            dtype=str(self.transformer.dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            noise=PhiloxNoise.name,
            codec=codec,
            load_seconds=load_seconds,
            backbone_id=backbone_id(self.folder),
            decoder=self.decoder,
            compiled=bool(self.transformer.compiled_for),
            attention=self.transformer.attention_backend,
            vae_dtype=str(self._decoding_part.dtype).removeprefix("torch."),
            compiled_decoder=self.decoder == "full" and bool(shapes_compiled_for(self.vae)),
        )

    @property
    def _decoding_part(self) -> Any:
        """The model that decodes the pixels."""
        return self.tiny_decoder if self.decoder == "tiny" and self.tiny_decoder is not None else self.vae

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of `prompt` that are not in the backbone's vocabulary."""
        return unknown_words(self.tokenizer, prompt)

    def check(self, request: TakeRequest) -> None:
        """Check that this backbone can make a request.

        Raises:
            ValueError: if it can't; names the field, the value and what is expected.
        """
        check_size(request.output, self.vae.config.scale_factor_spatial, self.transformer.config.patch_size)
        if self.decoder != "full":
            tiny = self.tiny_decoder
            name = self.backbone or str(self.config.get("_name_or_path", "this backbone"))
            check_decoder(name, None if tiny is None else tiny.config, self.vae.config)
        for prompt in (request.prompt, *(cue.prompt for cue in request.cues)):
            self.check_prompt(prompt)
        timeline = self.timeline(request)
        cue_blocks(request, timeline)
        check_policy(request.memory)
        check_positions(request, timeline, self.transformer.config.rope_max_seq_len)
        if request.context.memory_frames and request.memory.encoder == "autoencoder" and self.encoder is None:
            shown = "'autoencoder', but this backbone's folder has none"
            raise FieldError("encoder", request.memory.encoder, "use 'mean_pool'", shown)
        if self.encoder is not None:
            check_encoder("the encoder", self.encoder.config.in_channels, self.transformer.config.in_channels)

    def check_prompt(self, prompt: str) -> None:
        """Raise ValueError unless this backbone can encode `prompt`; may be called while a stream runs."""
        ids = prompt_ids(self.tokenizer, prompt, self.transformer.config.text_length)
        if self.text_encoder is not None:
            check_known(self.tokenizer, ids, self.text_encoder)
        elif clean_prompt(prompt) not in self.prompt_embeds:
            raise ValueError(
                f"the prompt {prompt[:60]!r} has no stored embedding, and no text encoder is loaded; "
                "add it with: longlive-rag models embed-prompts"
            )

    # ---- making a take ----

    def __call__(
        self, prompt: str | TakeRequest | Sequence[TakeRequest], *, seconds: float | None = None, **settings: Any
    ) -> LongLiveRAGOutput:
        """Make a whole take in memory; arguments as for `stream`, with `ahead` defaulting to `AHEAD`."""
        blocks = list(self.stream(prompt, seconds=seconds, **{"ahead": AHEAD, **settings}))
        return LongLiveRAGOutput(
            frames=torch.cat([block.pixels for block in blocks], dim=1).numpy(),
            latents=torch.cat([block.latents.cpu() for block in blocks], dim=1),
            selections=[block.selections for block in blocks if block.selections],
        )

    def stream(
        self,
        prompt: str | TakeRequest | Sequence[TakeRequest],
        *,
        seconds: float | None = None,
        noise: NoiseSource | None = None,
        stores: Sequence[BlockStore] = (),
        remembered: RememberedFrames | None = None,
        choose: Choose | None = None,
        directions: Directions | None = None,
        then: Then | None = None,
        ahead: int = 0,
        **settings: Any,
    ) -> Iterator[Block]:
        """Generate blocks, yielding each one as soon as it is finished.

        However it ends, once it is closed every denoised block has been stored, decoded and passed to `then`, except
        blocks after one that failed, and none of its threads is left running.

        Args:
            prompt: the prompt; or a whole request; or requests to run side by side, which may differ only in their
                seeds and words and so share their start image and what they remember.
            seconds: length of the take, if `prompt` is a string.
            noise: source of noise; default is `PhiloxNoise` with the requests' seeds.
            stores: one per request, such as a `TakeWriter` or a `LatentWriter`: every block is appended there before it
                is decoded and yielded, and past latents are read from there. Without stores, latents are kept in a
                temporary file. A `TakeStore` also keeps checkpoints and the inputs of its take, so that each take of a
                batch can be resumed alone. A single store that already holds blocks is resumed: its blocks are rerun
                from its newest checkpoint, and those it has not shown yet are decoded and yielded first.
            remembered: frames of other takes; default is those named by the request's `memory.remember`. The takes'
                rights list the weight files that they come with; without any, these are not known.
            choose: picks what a block remembers, in place of the search: a function of (take of the batch, block,
                candidates) that returns at most K frame numbers from the sequence `candidates`, best first. It is
                called once the previous block has been yielded. Similarities are still recorded.
            directions: gives the changes at each block; default is what the requests say. See `LiveTake`.
            then: called with each block before it is yielded, such as a writer's `add`. If it raises, the stream ends.
            ahead: number of blocks that may be on their way through the store, the decoder and `then`, each in its own
                thread, while the next block is denoised in this thread; `AHEAD` hides all that can be hidden. Blocks
                are yielded that much later. 0 does everything in sequence, as is always the case with `choose` and
                with CPU offloading. The blocks are the same.
            settings: other fields of `TakeRequest` (cues, seed, context, sampler, memory, output), if `prompt` is a
                string; the preset fills in the rest.

        Raises:
            ValueError: before anything runs, if a request can't be met.
        """
        self.door.check_parts(self._weighted())
        batch = self._batch(prompt, seconds, settings)
        for request in batch.requests:
            self.check(request)
        if stores and len(stores) != len(batch.requests):
            raise ValueError(f"{len(stores)} stores given for {len(batch.requests)} requests; pass one per request")
        if len(stores) > 1 and any(store.blocks for store in stores):
            raise ValueError("one of the stores already holds blocks; resume takes one at a time")
        kept = TakeStores(stores, batch.shared.context.frames_per_block)
        rollout = self._rollout(batch, noise, kept, remembered, choose)
        if choose is not None or hasattr(self.vae, "_hf_hook"):  # offload hooks move the transformer off the GPU
            ahead = 0
        return self._stream(batch, rollout, kept, directions or planned(batch), then, ahead)

    def _stream(
        self,
        batch: Batch,
        rollout: Rollout,
        stores: TakeStores,
        directions: Directions,
        then: Then | None,
        ahead: int,
    ) -> Iterator[Block]:
        timeline, decoder, watch = batch.timeline, self._new_decoder(), Stopwatch(self._execution_device)
        prompts: list[str] = []
        done = 0
        if stores.stores and stores.stores[0].blocks:
            resumed = stores.stores[0]
            done = resumed.blocks
            prompts = [resumed.record(done - 1).prompt]
            for block in self._resume(batch, rollout, decoder, resumed, watch, directions):
                if then is not None:
                    then(block)
                yield block
        finishing = Finishing(stores, timeline, decoder, self._decode, then)
        saving = done - 1  # the newest block whose checkpoint may still be being written
        with Behind(finishing.stages, threads=ahead > 0) as behind:
            for index in range(done, timeline.blocks):
                if (index + 1) % timeline.segment_blocks == 0 or stores.checkpoint_is_asked:
                    yield from behind.down_to(min(ahead, index - 1 - saving))
                direction = directions(index)
                if direction is None:
                    break
                prompts = direction.prompts or prompts
                self._direct(rollout, direction, batch, watch)
                finished = rollout.next_block()
                stores.expect(index, finished.latents)
                is_saved = index - behind.under_way > saving  # a checkpoint depends on the one before it
                takes = due_checkpoints(stores.stores, index + 1) if is_saved else {}
                saving = index if takes else saving
                behind.put(MadeBlock.of(finished, prompts, direction, rollout, takes, watch))
                yield from behind.down_to(ahead)
            yield from behind.down_to(0)

    def _direct(self, rollout: Rollout, direction: Direction, batch: Batch, watch: Stopwatch) -> None:
        """Apply the changes that take effect at the next block."""
        if direction.memory is not None:
            window_frames = batch.shared.context.window_frames
            rollout.steer(retrieval_rules(direction.memory, batch.timeline, window_frames))
        if direction.prompts is not None:
            with watch.stage("text"):
                embeds = self.embed(direction.prompts)
            rollout.direct(embeds, direction.cut)

    def _resume(
        self,
        batch: Batch,
        rollout: Rollout,
        decoder: TakeDecoder,
        store: BlockStore,
        watch: Stopwatch,
        directions: Directions,
    ) -> Iterator[Block]:
        """Bring rollout and decoder to the end of the blocks in `store`; yield blocks it has not shown."""
        timeline, context = batch.timeline, batch.shared.context
        cuts = cut_blocks(batch.shared, timeline)
        yield from blocks_again(decoder, store, timeline, self._decode, cuts, watch, rollout.page_counters)

        def prompt_at(block: int) -> tuple[Tensor | None, bool]:
            direction = directions(block) or Direction()
            if direction.memory is not None:
                rollout.steer(retrieval_rules(direction.memory, timeline, batch.shared.context.window_frames))
            return None if direction.prompts is None else self.embed(direction.prompts), direction.cut

        if store.blocks < timeline.blocks:
            with watch.stage("replay"):
                resume_rollout(rollout, store, context.frames_per_block, context.window_frames, prompt_at)

    # ---- parts ----

    def _batch(
        self, prompt: str | TakeRequest | Sequence[TakeRequest], seconds: float | None, settings: dict[str, Any]
    ) -> Batch:
        if isinstance(prompt, str):
            if seconds is None:
                raise FieldError("seconds", None, "give the length of the take, such as seconds=30")
            return self._batch(self.request(prompt, seconds=seconds, **settings), None, {})
        requests = (prompt,) if isinstance(prompt, TakeRequest) else tuple(prompt)
        if not requests or not all(isinstance(request, TakeRequest) for request in requests):
            raise ValueError("pass a prompt, a TakeRequest, or one or more TakeRequests to make side by side")
        if settings or seconds is not None:
            raise ValueError(f"a TakeRequest already sets everything; drop {', '.join(settings) or 'seconds'}")
        return Batch(requests, self.timeline(requests[0]))

    def _rollout(
        self,
        batch: Batch,
        noise: NoiseSource | None,
        stores: TakeStores,
        remembered: RememberedFrames | None,
        choose: Choose | None,
    ) -> Rollout:
        request, timeline, size = batch.shared, batch.timeline, len(batch.requests)
        seeds = TakeSeeds(tuple(each.seed for each in batch.requests), reseed_blocks(request, timeline))
        if noise is None:
            noise = PhiloxNoise(seeds.seeds, seeds.reseeds)
        start, remembered = self._inputs(request, stores.stores, remembered)
        factor = self.vae.config.scale_factor_spatial
        latent_size = (request.output.height // factor, request.output.width // factor)
        return self.new_rollout(
            self.transformer,
            request.context,
            request.sampler,
            noise,
            (self.transformer.config.in_channels, *latent_size),
            batch_size=size,
            encoder=self._latent_encoder(request) if request.context.memory_frames else None,
            device=self._execution_device,
            start=None if start is None else start.expand(size, -1, -1, -1),
            rules=retrieval_rules(directed_at(request.memory, timeline, 0), timeline, request.context.window_frames),
            budgets=self._budgets(batch, stores.stores),
            past_pages=size * (timeline.latent_frames + (len(remembered.latents) if remembered else 0)),
            past=stores.latents if stores.stores else None,
            remembered=remembered,
            choose=choose,
            policy_seeds=PolicySeeds(seeds, tuple(each.prompt for each in batch.requests)),
        )

    def _budgets(self, batch: Batch, stores: Sequence[BlockStore]) -> PageBudgets:
        """The page budgets; an automatic GPU budget is what is free now.

        A resumed take gets no more than when it began: which pages are remade affects its last bits.
        """
        budgets, device = batch.shared.memory.budgets, self._execution_device
        if budgets.gpu_bytes is not None or device.type != "cuda" or not batch.shared.context.memory_frames:
            return budgets
        takes = [store for store in stores if isinstance(store, TakeStore)]
        ranks, asked = self.transformer.ranks, (batch.shared, len(batch.requests))
        room = self.room_for_pages(*asked) if ranks is None else room_on_all(ranks, self.room_for_pages, *asked)
        budget = min([room, *(kept for take in takes if (kept := take.kept_page_budget()) is not None)])
        for take in takes:
            take.keep_page_budget(budget)
        return replace(budgets, gpu_bytes=budget)

    def room_for_pages(self, request: TakeRequest, batch: int = 1) -> int:
        """Bytes left for pages on this pipeline's GPU, after everything else that the request needs.

        Args:
            batch: number of takes made side by side.
        """
        return gpu_room(self.transformer, self.vae, self._execution_device, request, batch)

    def host_bytes_for_pages(self, request: TakeRequest) -> int:
        """Bytes of host memory that a take on a GPU allocates for pages at its start."""
        if self._execution_device.type != "cuda" or not request.context.memory_frames:
            return 0
        asked = request.memory.budgets.gpu_bytes
        gpu_bytes = self.room_for_pages(request) if asked is None else asked
        return host_bytes(self.transformer, self.vae, request, gpu_bytes, self.timeline(request).latent_frames)

    def _inputs(
        self, request: TakeRequest, stores: Sequence[BlockStore], remembered: RememberedFrames | None
    ) -> tuple[Tensor | None, RememberedFrames | None]:
        """The inputs shared by all takes: their first latent frame [1, C, h, w], and frames of other takes."""
        if remembered is not None:
            remembered = replace(remembered, files=self.door.admit_frames(remembered.files))
        for store in stores:
            if isinstance(store, TakeStore):
                store.keep_rights(self.door.policy, self.door.rights)
        picture, remembered = shared_inputs(request, stores, remembered, lambda: self._find_remembered(request))
        return None if picture is None else self._encode_picture(picture.pixels), remembered

    @torch.no_grad()
    def _encode_picture(self, pixels: np.ndarray) -> Tensor:
        """Encode a picture [H, W, 3] uint8 as a latent frame [1, C, h, w] float32."""
        self._onload_vae()
        weight = self.vae.quant_conv.weight
        frame = torch.from_numpy(pixels).to(weight.device, weight.dtype).permute(2, 0, 1)
        return encode_video(self.vae, frame[None, :, None] / 127.5 - 1)[:, :, 0].float()

    def _find_remembered(self, request: TakeRequest) -> RememberedFrames:
        preset = load_preset(str(self.folder))
        return remembered_frames(
            request, preset, self.door.policy, lambda prompt: pooled_prompts(self.embed([prompt]))[0]
        )

    def _latent_encoder(self, request: TakeRequest) -> LatentEncoder:
        if request.memory.encoder == "mean_pool" or self.encoder is None:
            return MeanPoolEncoder()
        return self.encoder.to(self._execution_device)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Tensor:
        """Embed prompts as [prompts, up to text_length, text_dim]; those in `prompt_embeds` need no text encoder."""
        length = self.transformer.config.text_length
        if all(clean_prompt(prompt) in self.prompt_embeds for prompt in prompts):
            device, dtype = self._execution_device, self.transformer.dtype
            return stacked(self.prompt_embeds, prompts, length).to(device, dtype)
        return encode_prompts(self.tokenizer, self.text_encoder, prompts, length)

    def _onload_vae(self) -> None:
        hook = getattr(self.vae, "_hf_hook", None)
        if hook is not None:  # CPU offload hooks run on `forward`, which streaming doesn't call
            hook.pre_forward(self.vae)

    def _new_decoder(self) -> TakeDecoder:
        return StreamingDecoder(self.vae) if self.decoder == "full" else StreamingTinyDecoder(self.tiny_decoder)

    @torch.no_grad()
    def _decode(self, decoder: TakeDecoder, latents: Tensor, cut: bool) -> Tensor:
        """Decode the next latents [B, T, C, h, w] to pixels [B, F, H, W, 3] uint8 on the CPU; `cut` begins a shot."""
        self._onload_vae()
        if cut:
            decoder.begin_shot(latents.transpose(1, 2))
        pixels = decoder.decode(latents.transpose(1, 2))
        pixels = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1)
        on_host = Download(pixels.contiguous()).wait()
        return on_host if pixels.device.type == "cpu" else on_host.clone()
