"""What a training run is: optimiser, data draws and rhythm. A recipe returns one of the four complete configs below."""

from typing import Literal, Self

from pydantic import Field, model_validator

from jobs.runs import KINDS as KINDS
from jobs.runs import Kind
from jobs.training.segmentation_rounds import SegmentationRoundsConfig
from unipart.config import Config
from unipart.models.anchor_decoder import AnchorDecoderConfig
from unipart.models.geom_seg_vae import GeomSegVAEConfig
from unipart.models.image_encoder import ImageEncoderConfig
from unipart.models.part_dit import PartDiTConfig
from unipart.models.whole_dit import WholeDiTConfig
from unipart.sampling.schedule import TimeSampling


class OptimizerConfig(Config):
    """AdamW with warm-up and a cosine end; weight decay on matrices only."""

    lr: float = Field(default=1e-4, ge=0)
    """Peak learning rate."""
    lr_factors: dict[str, float] = Field(default_factory=dict)
    """Factor on the rate of parameters whose name contains the key, e.g. {"seg_decoder": 10}."""
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = Field(default=1e-6, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    warmup_steps: int = Field(default=1000, ge=0)
    decay_fraction: float = Field(default=0.2, ge=0, le=1)
    """Part of the run, at its end, over which the rate falls to `final_factor` along a cosine."""
    final_factor: float = Field(default=0.01, ge=0)
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)
    """Decay of the averaged weights that the checkpoint publishes; 0 publishes the raw ones."""


class TrainConfig(Config):
    """What all four trainings share."""

    recipe: str
    """Name of the recipe that made this config."""
    steps: int = Field(ge=1)
    """Optimiser steps of the whole run."""
    batch_size: int = Field(default=32, ge=1)
    """Objects a step, over all workers and accumulated micro-batches."""
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches a step, shared evenly by the workers; with more workers than that, one each. A micro-batch is the unit of
    losses and of random draws: as long as their number stays, the curve does not depend on the number of workers."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What several workers share: gradients only, or also weights, their average and the optimiser's state, in slices."""
    compile_blocks: bool = False
    """torch.compile for each transformer block."""
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "bf16"
    """Compute type of the forward pass; weights and optimiser state stay fp32."""
    log_every: int = Field(default=50, ge=1)
    checkpoint_every: int = Field(default=1000, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    best: str = Field(default="", pattern=r"^$|^.+:(min|max)$")
    """Figure by which the best checkpoint is kept besides, with its direction: "val/loss:min". Measured at each checkpoint;
    a figure of the scored objects only where `score_every` meets `checkpoint_every`."""
    validate_every: int = Field(default=2000, ge=1)
    validation_batches: int = Field(default=4, ge=0)
    score_every: int = Field(default=0, ge=0)
    """Steps between scores and pictures of held-out objects; 0 only at the end."""
    score_objects: int = Field(default=8, ge=0)
    """Held-out objects that are scored; 0 for none."""
    score_resolution: int = Field(default=128, ge=8)
    """Cells along an axis of the grid on which scored shapes are decoded."""
    loader_workers: int = Field(default=4, ge=0)
    """Loader processes a training worker."""
    cache_samples: bool = False
    """Keep decoded samples in memory: for sets of a few hundred objects."""
    window_shards: int = Field(default=0, ge=0)
    """Shards whose samples are mixed at a time, in a shuffled order of the shards; 0 shuffles all samples. For data in object
    storage that is larger than the shard cache: an epoch then reads each shard once."""
    shard_cache: str = ""
    """Folder on each machine's own disk that keeps whole shards of s3:// data; empty reads each sample by a request of its own."""
    shard_cache_gb: float = Field(default=100.0, gt=0)
    """Most that the shard cache may hold; the least recently used shards make room."""
    stream_buffer: int = Field(default=0, ge=0)
    """Read the shards as a stream, without a cache, and mix so many samples, which are held in memory; 0 reads them by index.
    For data in object storage. The order then depends on the number of workers and loader workers."""
    optimizer: OptimizerConfig = OptimizerConfig()

    @model_validator(mode="after")
    def _check_stream(self) -> Self:
        others = {"window_shards": self.window_shards, "shard_cache": self.shard_cache, "cache_samples": self.cache_samples}
        others["latents"] = getattr(self, "latents", "online") != "online"
        if self.stream_buffer and any(others.values()):
            told = ", ".join(name for name, value in others.items() if value)
            raise ValueError(f"a stream of shards (stream_buffer) cannot be combined with {told}")
        return self


class VaeTrainConfig(TrainConfig):
    """Geom-Seg VAE: reconstruction + segmentation + KL."""

    kind: Literal["vae"] = "vae"
    model: GeomSegVAEConfig
    segmentation: SegmentationRoundsConfig = SegmentationRoundsConfig()
    segmentation_weight: float = 1.0
    """Weight of L_seg beside L_recon."""
    kl_weight: float = Field(default=1e-3, ge=0)
    initial_std: float = Field(default=1.0, gt=0)
    """Posterior standard deviation at step 0. Below 1 a short training need not first outgrow its own noise."""
    queries: tuple[int, int, int] = (4096, 4096, 4096)
    """Volume, near-surface and sharp-edge queries an object and step."""
    part_fraction: float = Field(default=0.2, ge=0, le=1)
    """Share of the batch that is a single part, half in its NCS and half in GCS, with label 0."""
    unlabelled_fraction: float = Field(default=0.1, ge=0, le=1)
    """Share of the batch that is a whole object without labels."""
    scale_samples: int = Field(default=2048, ge=1)
    """Objects over which z_scale = 1/std of the latents is measured after the last step."""


class AnchorTrainConfig(TrainConfig):
    """Anchor decoder on the latents of a frozen VAE."""

    kind: Literal["anchor"] = "anchor"
    model: AnchorDecoderConfig
    latent_noise: float = Field(default=0.05, ge=0)
    """Standard deviation of noise on the latents, so that generated ones are decoded too."""
    cache_latents: bool = False
    """Encode each object once and keep its posterior in memory."""
    point_draws: int = Field(default=1, ge=1)
    """Draws of surface points an object that cache_latents chooses among; latent shards have a number of their own."""
    latents: str = "online"
    """Where the frozen encoders' answers come from: online, or the address of latent shards (`unipart data encode`)."""


class WholeTrainConfig(TrainConfig):
    """Whole model: image -> latents of the object."""

    kind: Literal["whole"] = "whole"
    model: WholeDiTConfig
    image_encoder: ImageEncoderConfig
    time_sampling: TimeSampling = "logit_normal"
    time_shift: float = Field(default=1.0, gt=0)
    coupling: Literal["independent", "assignment"] = "independent"
    """Which noise goes with which latent of a set: any, as in the paper, or the one that a linear assignment finds nearest."""
    drop: float = Field(default=0.1, ge=0, le=1)
    """Probability that a sample is trained without its conditions."""
    balance_weight: float = 0.01
    """Weight of the experts' balance loss."""
    recompute: bool = False
    """Compute the blocks again in the backward pass: a sixth of the memory for a third more work."""
    cache_latents: bool = False
    point_draws: int = Field(default=1, ge=1)
    latents: str = "online"
    """As in the anchor decoder, like the two fields above."""


class PartTrainConfig(TrainConfig):
    """Part model: image, whole latents and part latents -> the part's dual latent."""

    kind: Literal["part"] = "part"
    model: PartDiTConfig
    time_sampling: TimeSampling = "logit_normal"
    time_shift: float = Field(default=1.0, gt=0)
    coupling: Literal["independent", "assignment"] = "independent"
    drop: float = Field(default=0.1, ge=0, le=1)
    balance_weight: float = 0.01
    recompute: bool = False
    """As in the whole model."""
    whole_fraction: float = Field(default=0.2, ge=0, le=1)
    """Share of the batch where the part is the whole object (X_i = Z_0, NCS = GCS)."""
    predicted_masks: float = Field(default=0.0, ge=0, le=1)
    """Share of the batch where X_i is D_seg's answer to a click into the part (if it is of this part) and not the true mask."""
    mask_jitter: float = Field(default=0.05, ge=0, le=1)
    """Share of X_i's latents that is dropped, and of neighbours that is added."""
    latent_noise: float = Field(default=0.3, ge=0, le=1)
    """Largest level of noise mixed into Z_0, with probability one half."""
    init_from_whole: bool = False
    """Start from the whole model's weights; the paper starts both from Hunyuan3D-2.1."""
    cache_latents: bool = False
    point_draws: int = Field(default=1, ge=1)
    latents: str = "online"
    """As in the anchor decoder, like the two fields above."""


AnyTrainConfig = VaeTrainConfig | AnchorTrainConfig | WholeTrainConfig | PartTrainConfig
CONFIGS: dict[Kind, type[AnyTrainConfig]] = {
    "vae": VaeTrainConfig,
    "anchor": AnchorTrainConfig,
    "whole": WholeTrainConfig,
    "part": PartTrainConfig,
}
