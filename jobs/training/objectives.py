"""The four objectives: a batch goes in, named losses come out. The paper's section 3, in code.

Each owns the module that is trained and the frozen ones it builds on; none knows of steps, ranks or clusters.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import smooth_l1_loss

from jobs.training.config import AnchorTrainConfig, AnyTrainConfig, PartTrainConfig, TrainConfig, VaeTrainConfig, WholeTrainConfig
from jobs.training.frozen import M, StoredEncoder, image_tokens, load_frozen, load_segmenter, make_encoder, seeded
from jobs.training.loop import Batch, Place
from jobs.training.masks import jitter_masks, learnable_parts, part_masks, predicted_masks
from jobs.training.segmentation_rounds import segmentation_rounds
from unipart.inference.checkpoints import IMAGE_ENCODER, load_image_encoder
from unipart.losses.flow import flow_loss
from unipart.losses.kl import kl_loss
from unipart.losses.reconstruction import reconstruction_loss
from unipart.models.anchor_decoder import AnchorDecoder
from unipart.models.geom_seg_vae import GeomSegVAE, label_values
from unipart.models.image_encoder import build_image_encoder
from unipart.models.part_dit import DualLatents, PartDiT
from unipart.models.pretrained import load_pretrained, save_pretrained
from unipart.models.warm_start import warm_start
from unipart.models.whole_dit import WholeDiT
from unipart.rng import derive_seed
from unipart.sampling.guidance import draw_dropped
from unipart.sampling.path import assign_noise, interpolate, true_velocity
from unipart.sampling.schedule import sample_times


class VaeObjective:
    """Eq. 1: L_recon + weight * L_seg + lambda_kl * L_kl."""

    def __init__(self, config: VaeTrainConfig, place: Place) -> None:
        self.config = config
        self.trained = self.vae = drawn(lambda: GeomSegVAE(config.model), config, place)
        with torch.no_grad():
            self.vae.encoder.to_posterior.bias[config.model.latent_width :] += 2 * math.log(config.initial_std)

    def losses(self, batch: Batch, draw: Generator) -> dict[str, Tensor]:
        """Returns loss, recon, kl and, for labelled objects, the terms of L_seg."""
        vae, config = self.vae, self.config
        labels, num_parts = batch["labels"], batch["num_parts"]
        values = label_values(labels, num_parts, config.model.label_encoding, draw)
        encoding = vae.encode(batch["points"], batch["normals"], values, draw, batch.get("anchor_index"))
        z = encoding.sample(draw)
        field = vae.query(vae.decode_latents(z), batch["queries"])
        recon = reconstruction_loss(field, vae.field_target(batch["field"]))
        kl = kl_loss(encoding.mean, encoding.logvar)
        loss, terms = recon + config.kl_weight * kl, {"recon": recon, "kl": kl}
        if vae.seg_decoder is not None:
            token_labels = encoding.token_labels(labels)
            seg = segmentation_rounds(vae.seg_decoder, z, token_labels, config.segmentation, draw)
            loss, terms = loss + config.segmentation_weight * seg["seg"], terms | seg
        return {"loss": loss, **terms}

    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Writes the VAE."""
        save_pretrained(self.vae, folder, card)

    def finalize(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Measures z_scale = 1 / std of sampled latents, on which the diffusion models work."""
        count, total, squares, seen = 0, 0.0, 0.0, 0
        while seen < self.config.scale_samples:
            batch = next(batches)
            draw = Generator(batch["points"].device).manual_seed(derive_seed(self.config.seed, "scale", seen))
            values = label_values(batch["labels"], batch["num_parts"], self.config.model.label_encoding, None)
            encoding = self.vae.encode(batch["points"], batch["normals"], values, draw, batch.get("anchor_index"))
            z = encoding.sample(draw).double()
            count, total, squares = count + z.numel(), total + float(z.sum()), squares + float(z.square().sum())
            seen += len(z)
        scale = 1 / math.sqrt(squares / count - (total / count) ** 2)
        self.vae.z_scale.fill_(scale)
        return {"z_scale": scale}


class AnchorObjective:
    """Section 3.2: latent -> position of its anchor; the encoder is frozen."""

    def __init__(self, config: AnchorTrainConfig, parents: dict[str, Path], place: Place) -> None:
        self.config = config
        self.encoder = make_encoder(config, parents["vae"], place)
        self.trained = self.decoder = drawn(lambda: AnchorDecoder(config.model), config, place)

    def losses(self, batch: Batch, draw: Generator) -> dict[str, Tensor]:
        """Returns loss and the mean distance to the true anchor."""
        posterior = self.encoder.whole(batch, draw)
        z = posterior.sample(draw)
        noise = torch.randn(z.shape, generator=draw, device=z.device)
        predicted = self.decoder(z + self.config.latent_noise * noise).float()
        distance = (predicted - posterior.anchors).norm(dim=-1).mean()
        return {"loss": smooth_l1_loss(predicted, posterior.anchors, beta=0.1), "distance": distance.detach()}

    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Writes the anchor decoder."""
        save_pretrained(self.decoder, folder, card)

    def finalize(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Nothing to measure."""
        return {}


class WholeObjective:
    """Eq. 3: rectified flow from noise to Z_0, given the image."""

    def __init__(
        self,
        config: WholeTrainConfig,
        parents: dict[str, Path],
        image_weights: str | None,
        place: Place,
        init: Path | None = None,
    ) -> None:
        self.config = config
        self.encoder = make_encoder(config, parents["vae"], place)
        self.dit = drawn(lambda: WholeDiT(config.model), config, place)
        self.dit.stack.recompute = config.recompute
        if init is not None and image_weights is None and (init / IMAGE_ENCODER).is_dir():
            encoder = load_image_encoder(init)
        else:
            encoder = seeded(lambda: build_image_encoder(config.image_encoder, image_weights), config.seed)
        self.image_encoder = encoder.to(place.device)
        trained: dict[str, nn.Module] = {"dit": self.dit}
        if self.image_encoder.trainable:
            trained[IMAGE_ENCODER] = self.image_encoder
        elif isinstance(self.encoder, StoredEncoder):
            self.encoder.check_images(self.image_encoder)
        self.trained = nn.ModuleDict(trained)

    def losses(self, batch: Batch, draw: Generator) -> dict[str, Tensor]:
        """Returns loss, flow and, with experts, balance."""
        z0 = self.encoder.whole(batch, draw).sample(draw) * self.encoder.scale
        noise, t = _noise_and_times(z0, self.config, draw)
        dropped = draw_dropped(len(z0), self.config.drop, draw)
        conditions = self.dit.conditions(image_tokens(self.image_encoder, batch), dropped)
        velocity = self.dit(interpolate(z0, noise, t), t, conditions)
        return _with_balance(flow_loss(velocity, true_velocity(z0, noise)), self.dit, self.config)

    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Writes the whole model with the image encoder that it was trained with in a subfolder."""
        save_pretrained(self.dit, folder, card)
        save_pretrained(self.image_encoder, folder / IMAGE_ENCODER, card)

    def finalize(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Nothing to measure."""
        return {}


class PartObjective:
    """Eq. 4 and 5: rectified flow of the dual latent X*, given the image, Z_0 and X_i."""

    def __init__(self, config: PartTrainConfig, parents: dict[str, Path], image_weights: str | None, place: Place) -> None:
        self.config = config
        self.encoder = make_encoder(config, parents["vae"], place)
        self.image_encoder = load_image_encoder(parents["whole"], image_weights).to(place.device).requires_grad_(False)
        if isinstance(self.encoder, StoredEncoder):
            self.encoder.check_images(self.image_encoder)
        self.segmenter = load_segmenter(parents["vae"], place) if config.predicted_masks else None
        self.trained = self.dit = drawn(lambda: PartDiT(config.model), config, place)
        self.dit.stack.recompute = config.recompute
        if config.init_from_whole and not place.follows(config):
            self.dit.init_from_whole(load_frozen(parents["whole"], WholeDiT, place))

    def losses(self, batch: Batch, draw: Generator) -> dict[str, Tensor]:
        """Returns loss, flow over the spaces and, with experts, balance."""
        whole = self.encoder.whole(batch, draw)
        z0 = whole.sample(draw)
        part = learnable_parts(whole.token_labels, batch["part"], batch["part_area"])
        members = part_masks(whole.token_labels, part)
        if self.segmenter is not None:
            members = predicted_masks(self.segmenter, z0, members, self.config.predicted_masks, draw)
        members = jitter_masks(members, whole.anchors, self.config.mask_jitter, draw)
        x0 = torch.stack([self._part_latents(batch, space, part, z0, draw) for space in self.config.model.spaces], dim=1)
        x0, condition = x0 * self.encoder.scale, self._disturb(z0 * self.encoder.scale, draw)
        given = condition, condition * members[..., None], members
        if self.config.model.cond_form == "points":
            given = self._points_given(batch, part, draw)
        noise, t = _noise_and_times(x0, self.config, draw)
        with torch.no_grad():
            tokens = image_tokens(self.image_encoder, batch)
        dropped = draw_dropped(len(z0), self.config.drop, draw)
        conditions = self.dit.conditions(tokens, *given, dropped)
        velocity = self.dit(DualLatents.from_stacked(interpolate(x0, noise, t)), t, conditions).stacked()
        return _with_balance(flow_loss(velocity, true_velocity(x0, noise)), self.dit, self.config)

    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Writes the part model."""
        save_pretrained(self.dit, folder, card)

    def finalize(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Nothing to measure."""
        return {}

    def _part_latents(self, batch: Batch, space: str, part: Tensor, z0: Tensor, draw: Generator) -> Float[Tensor, "B L d"]:
        """Encodes the part alone, with label 0; for the whole object as its own part it is Z_0 in both spaces."""
        posterior = self.encoder.part(batch, space, draw)
        return torch.where((part < 0)[:, None, None], z0, posterior.sample(draw))

    def _points_given(self, batch: Batch, part: Tensor, draw: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Features of the whole's surface points and of those that bear the part's label (all, if the draw holds none of them)."""
        points, normals = batch["points"], batch["normals"]
        mask = part_masks(batch["labels"], part)
        mask = mask | ~mask.any(1, keepdim=True)
        rows = torch.multinomial(mask.float(), points.shape[1], replacement=True, generator=draw)[..., None].expand(-1, -1, 3)
        whole = self.encoder.point_features(points, normals, draw)
        xi = self.encoder.point_features(points.gather(1, rows), normals.gather(1, rows), draw)
        return whole, xi, torch.ones_like(xi[..., 0], dtype=torch.bool)

    def _disturb(self, z0: Float[Tensor, "B L d"], draw: Generator) -> Float[Tensor, "B L d"]:
        """Mixes noise into half of the conditions: at inference Z_0 is generated, not encoded."""
        chance = torch.rand(2, len(z0), generator=draw, device=z0.device)
        level = self.config.latent_noise * chance[0] * (chance[1] < 0.5)
        return interpolate(z0, torch.randn(z0.shape, generator=draw, device=z0.device), level)


Objective = VaeObjective | AnchorObjective | WholeObjective | PartObjective


def make_objective(
    config: AnyTrainConfig, parents: dict[str, Path], image_weights: str | None, place: Place, init: Path | None = None
) -> Objective:
    """Returns the objective of a recipe.

    Args:
        config: the recipe.
        parents: the checkpoint folders it builds on, by kind.
        image_weights: released DINOv2 weights, or None.
        place: device.
        init: checkpoint whose weights the trained model starts from: of the same kind, a plain VAE for a VAE, a whole model for a
            part model. None starts from random weights.
    """
    if isinstance(config, VaeTrainConfig):
        objective, model = (made := VaeObjective(config, place)), made.vae
    elif isinstance(config, AnchorTrainConfig):
        objective, model = (made := AnchorObjective(config, parents, place)), made.decoder
    elif isinstance(config, WholeTrainConfig):
        objective, model = (made := WholeObjective(config, parents, image_weights, place, init)), made.dit
    else:
        objective, model = (made := PartObjective(config, parents, image_weights, place)), made.dit
    if init is not None and not place.follows(config):
        seeded(lambda: _started(model, init, place), config.seed)  # the part DiT draws what a whole model lacks
    return objective


def drawn(make: Callable[[], M], config: TrainConfig, place: Place) -> M:
    """Returns a model on the device, its weights drawn from the seed; where they will be dealt out, by the first worker alone."""
    if place.follows(config):
        with torch.device("meta"):
            return make()
    return seeded(make, config.seed).to(place.device)


def _started(model: nn.Module, init: Path, place: Place) -> nn.Module:
    """Gives a model the weights of a checkpoint."""
    warm_start(model, load_pretrained(init).to(place.device))
    return model


def _noise_and_times(z0: Tensor, config: WholeTrainConfig | PartTrainConfig, draw: Generator) -> tuple[Tensor, Tensor]:
    """Draws the noise and one time a sample, the same for both spaces of a part."""
    noise = torch.randn(z0.shape, generator=draw, device=z0.device)
    if config.coupling == "assignment":
        noise = assign_noise(noise, z0)
    return noise, sample_times(len(z0), draw, config.time_sampling, config.time_shift)


def _with_balance(flow: Tensor, dit: WholeDiT | PartDiT, config: WholeTrainConfig | PartTrainConfig) -> dict[str, Tensor]:
    if config.model.moe_layers == 0:
        return {"loss": flow}
    balance = dit.balance_loss()
    return {"loss": flow + config.balance_weight * balance, "flow": flow, "balance": balance}
