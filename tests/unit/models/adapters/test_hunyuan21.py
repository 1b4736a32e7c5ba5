"""Import and export against a plain reference of Hunyuan3D-2.1's arithmetic, written from its description (model.md, 1 and 2)."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unipart.errors import UserError
from unipart.models.adapters import hunyuan21
from unipart.models.adapters.hunyuan21_layout import Tie, expected_shapes, vae_layout, whole_dit_layout
from unipart.models.adapters.hunyuan21_release import guess_config, join_sections, split_sections
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig, label_values
from unipart.models.seg_decoder import SegDecoderConfig
from unipart.models.whole_dit import WholeDiT, WholeDiTConfig
from unipart.nn.attention import CrossAttention, SelfAttention

VAE = {
    "embed_dim": 6,
    "num_freqs": 3,
    "include_pi": False,
    "point_feats": 4,
    "pc_sharpedge_size": 0,
    "qkv_bias": False,
    "qk_norm": True,
    "scale_factor": 1.5,
    "geo_decoder_mlp_expand_ratio": 4,
    "geo_decoder_downsample_ratio": 1,
    "geo_decoder_ln_post": True,
    "num_latents": 12,
    "pc_size": 60,
    "width": 24,
    "heads": 3,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
}
DIT = {
    "in_channels": 6,
    "norm_type": "layer",
    "qk_norm_type": "rms",
    "qk_norm": True,
    "qkv_bias": False,
    "use_pos_emb": False,
    "use_attention_pooling": False,
    "with_decoupled_ca": False,
    "input_size": 12,
    "hidden_size": 24,
    "context_dim": 10,
    "depth": 7,
    "num_heads": 3,
    "text_len": 5,
    "num_moe_layers": 2,
    "num_experts": 5,
    "moe_top_k": 3,
}
SD = dict[str, Tensor]


def vae_weights(config: dict, dtype: torch.dtype = torch.float32, seed: int = 0) -> SD:
    """A random state dict in Hunyuan's names; its shapes are spelt out here, not taken from the importer."""
    width, depth = config["width"], config["embed_dim"]
    fourier = 3 + 6 * config["num_freqs"]
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    def norms(*names: str, size: int = width) -> None:
        shapes.update({f"{name}.{leaf}": (size,) for name in names for leaf in ("weight", "bias")})

    def block(name: str, cross: bool) -> None:
        projections = {"c_q": width, "c_kv": 2 * width} if cross else {"c_qkv": 3 * width}
        shapes.update({f"{name}.attn.{part}.weight": (rows, width) for part, rows in projections.items()})
        linear(f"{name}.attn.c_proj", width, width)
        if config["qk_norm"]:
            norms(*(f"{name}.attn.attention.{part}_norm" for part in "qk"), size=width // config["heads"])
        norms(*(f"{name}.ln_{number}" for number in ((1, 2, 3) if cross else (1, 2))))
        linear(f"{name}.mlp.c_fc", 4 * width, width)
        linear(f"{name}.mlp.c_proj", width, 4 * width)

    linear("encoder.input_proj", width, fourier + 4)
    block("encoder.cross_attn", cross=True)
    for layer in range(config["num_encoder_layers"]):
        block(f"encoder.self_attn.resblocks.{layer}", cross=False)
    norms("encoder.ln_post", "geo_decoder.ln_post")
    linear("pre_kl", 2 * depth, width)
    linear("post_kl", width, depth)
    for layer in range(config["num_decoder_layers"]):
        block(f"transformer.resblocks.{layer}", cross=False)
    linear("geo_decoder.query_proj", width, fourier)
    block("geo_decoder.cross_attn_decoder", cross=True)
    linear("geo_decoder.output_proj", 1, width)
    return draw(shapes, dtype, seed)


def dit_weights(config: dict, dtype: torch.dtype = torch.float32, seed: int = 0) -> SD:
    hidden, context = config["hidden_size"], config["context_dim"]
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    def norm(name: str, size: int = hidden, leaves: tuple[str, ...] = ("weight", "bias")) -> None:
        shapes.update({f"{name}.{leaf}": (size,) for leaf in leaves})

    linear("x_embedder", hidden, config["in_channels"])
    linear("t_embedder.mlp.0", 4 * hidden, hidden)
    linear("t_embedder.mlp.2", hidden, 4 * hidden)
    for layer in range(config["depth"]):
        name = f"blocks.{layer}"
        for number in (1, 2, 3):
            norm(f"{name}.norm{number}")
        for attention, width in (("attn1", hidden), ("attn2", context)):
            shapes[f"{name}.{attention}.to_q.weight"] = (hidden, hidden)
            shapes[f"{name}.{attention}.to_k.weight"] = shapes[f"{name}.{attention}.to_v.weight"] = (hidden, width)
            linear(f"{name}.{attention}.out_proj", hidden, hidden)
            for part in "qk" if config["qk_norm"] else "":
                leaves = ("weight",) if config["qk_norm_type"] == "rms" else ("weight", "bias")
                norm(f"{name}.{attention}.{part}_norm", hidden // config["num_heads"], leaves)
        if layer > config["depth"] // 2:
            linear(f"{name}.skip_linear", hidden, 2 * hidden)
            norm(f"{name}.skip_norm")
        if layer >= config["depth"] - config["num_moe_layers"]:
            shapes[f"{name}.moe.gate.weight"] = (config["num_experts"], hidden)
            for expert in [*(f"experts.{number}" for number in range(config["num_experts"])), "shared_experts"]:
                linear(f"{name}.moe.{expert}.net.0.proj", 4 * hidden, hidden)
                linear(f"{name}.moe.{expert}.net.2", hidden, 4 * hidden)
        else:
            linear(f"{name}.mlp.fc1", 4 * hidden, hidden)
            linear(f"{name}.mlp.fc2", hidden, 4 * hidden)
    norm("final_layer.norm_final")
    linear("final_layer.linear", config["in_channels"], hidden)
    return draw(shapes, dtype, seed)


def draw(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, seed: int) -> SD:
    generator = torch.Generator().manual_seed(seed)
    return {name: (0.3 * torch.randn(shape, generator=generator) + 0.1).to(dtype) for name, shape in shapes.items()}


class Reference:
    """Hunyuan's forward passes on a state dict, one line of its description a line of code."""

    def __init__(self, weights: SD, config: dict) -> None:
        self.w, self.config = weights, config

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor, eps: float = 1e-6, rms: bool = False) -> Tensor:
        if f"{name}.weight" not in self.w:
            return x
        weight = self.w[f"{name}.weight"]
        if rms:
            return F.rms_norm(x, weight.shape, weight, eps)
        return F.layer_norm(x, weight.shape, weight, self.w[f"{name}.bias"], eps)

    def mlp(self, first: str, second: str, x: Tensor) -> Tensor:
        return self.linear(second, F.gelu(self.linear(first, x)))

    def attention(self, name: str, out: str, q: Tensor, k: Tensor, v: Tensor, rms: bool = False) -> Tensor:
        """q, k, v: [B T H c]."""
        q, k = (self.norm(f"{name}.{part}_norm", x, rms=rms) for part, x in (("q", q), ("k", k)))
        scores = torch.einsum("bqhc,bkhc->bhqk", q, k) / math.sqrt(q.shape[-1])
        return self.linear(out, torch.einsum("bhqk,bkhc->bqhc", scores.softmax(-1), v).flatten(2))

    def vae_block(self, name: str, x: Tensor, context: Tensor | None = None) -> Tensor:
        heads, at = self.config["heads"], f"{name}.attn"
        if context is None:
            packed = self.linear(f"{at}.c_qkv", self.norm(f"{name}.ln_1", x))
            q, k, v = packed.unflatten(-1, (heads, -1)).chunk(3, dim=-1)
            last = "ln_2"
        else:
            q = self.linear(f"{at}.c_q", self.norm(f"{name}.ln_1", x)).unflatten(-1, (heads, -1))
            packed = self.linear(f"{at}.c_kv", self.norm(f"{name}.ln_2", context))
            k, v = packed.unflatten(-1, (heads, -1)).chunk(2, dim=-1)
            last = "ln_3"
        x = x + self.attention(f"{at}.attention", f"{at}.c_proj", q, k, v)
        return x + self.mlp(f"{name}.mlp.c_fc", f"{name}.mlp.c_proj", self.norm(f"{name}.{last}", x))

    def fourier(self, x: Tensor) -> Tensor:
        angles = (x[..., None] * 2.0 ** torch.arange(self.config["num_freqs"])).flatten(-2)
        return torch.cat([x, angles.sin(), angles.cos()], dim=-1)

    def moments(self, surface: Tensor, index: Tensor) -> Tensor:
        data = self.linear("encoder.input_proj", torch.cat([self.fourier(surface[..., :3]), surface[..., 3:]], dim=-1))
        x = self.vae_block("encoder.cross_attn", data.gather(1, index[..., None].expand(-1, -1, data.shape[-1])), data)
        for layer in range(self.config["num_encoder_layers"]):
            x = self.vae_block(f"encoder.self_attn.resblocks.{layer}", x)
        return self.linear("pre_kl", self.norm("encoder.ln_post", x, eps=1e-5))

    def field(self, z: Tensor, queries: Tensor) -> Tensor:
        x = self.linear("post_kl", z)
        for layer in range(self.config["num_decoder_layers"]):
            x = self.vae_block(f"transformer.resblocks.{layer}", x)
        y = self.vae_block("geo_decoder.cross_attn_decoder", self.linear("geo_decoder.query_proj", self.fourier(queries)), x)
        return self.linear("geo_decoder.output_proj", self.norm("geo_decoder.ln_post", y, eps=1e-5))[..., 0]

    def velocity(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        hidden, depth = self.config["hidden_size"], self.config["depth"]
        angles = t[:, None] * 10_000.0 ** (-torch.arange(hidden // 2) / (hidden // 2))
        time = self.mlp("t_embedder.mlp.0", "t_embedder.mlp.2", torch.cat([angles.sin(), angles.cos()], dim=-1))
        x = torch.cat([time[:, None], self.linear("x_embedder", x)], dim=1)
        stack: list[Tensor] = []
        for layer in range(depth):
            x = self.dit_block(f"blocks.{layer}", x, context, stack.pop() if layer > depth // 2 else None)
            if layer < depth // 2:
                stack.append(x)
        return self.linear("final_layer.linear", self.norm("final_layer.norm_final", x)[:, 1:])

    def dit_block(self, name: str, x: Tensor, context: Tensor, saved: Tensor | None) -> Tensor:
        heads, rms = self.config["num_heads"], self.config["qk_norm_type"] == "rms"
        if saved is not None:
            x = self.norm(f"{name}.skip_norm", self.linear(f"{name}.skip_linear", torch.cat([saved, x], dim=-1)))
        y = self.norm(f"{name}.norm1", x)
        stacked = torch.cat([self.linear(f"{name}.attn1.to_{part}", y) for part in "qkv"], dim=-1)
        q, k, v = stacked.unflatten(-1, (heads, -1)).chunk(3, dim=-1)  # the quirk: heads cut across q, k and v
        x = x + self.attention(f"{name}.attn1", f"{name}.attn1.out_proj", q, k, v, rms)
        q = self.linear(f"{name}.attn2.to_q", self.norm(f"{name}.norm2", x)).unflatten(-1, (heads, -1))
        stacked = torch.cat([self.linear(f"{name}.attn2.to_{part}", context) for part in "kv"], dim=-1)
        k, v = stacked.unflatten(-1, (heads, -1)).chunk(2, dim=-1)
        x = x + self.attention(f"{name}.attn2", f"{name}.attn2.out_proj", q, k, v, rms)
        y = self.norm(f"{name}.norm3", x)
        if f"{name}.moe.gate.weight" not in self.w:
            return x + self.mlp(f"{name}.mlp.fc1", f"{name}.mlp.fc2", y)
        weight, chosen = self.linear(f"{name}.moe.gate", y).softmax(-1).topk(self.config["moe_top_k"])
        experts = [
            self.mlp(f"{name}.moe.experts.{e}.net.0.proj", f"{name}.moe.experts.{e}.net.2", y)
            for e in range(self.config["num_experts"])
        ]
        routed = torch.stack(experts, dim=-2).gather(-2, chosen[..., None].expand(*chosen.shape, y.shape[-1]))
        shared = self.mlp(f"{name}.moe.shared_experts.net.0.proj", f"{name}.moe.shared_experts.net.2", y)
        return x + (routed * weight[..., None]).sum(-2) + shared


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize(
    "changes", [{}, {"width": 40, "heads": 2, "embed_dim": 3, "num_freqs": 5, "num_encoder_layers": 3}, {"qk_norm": False}]
)
@torch.no_grad()
def test_the_vae_computes_what_hunyuan_computes(changes: dict):
    config = VAE | changes
    weights = vae_weights(config)
    vae, reference = hunyuan21.vae_from_hunyuan(config, weights), Reference(weights, config)
    surface, index = torch.rand(2, 60, 7) * 2 - 1, torch.stack([torch.randperm(60)[:12] for _ in range(2)])
    mean, logvar = hunyuan21.hunyuan_moments(vae, surface, index)
    expected = reference.moments(surface, index)
    assert_close(mean, expected[..., : config["embed_dim"]])
    assert_close(logvar, expected[..., config["embed_dim"] :].clamp(-30, 20))
    z, queries = torch.randn(2, 12, config["embed_dim"]), torch.rand(2, 30, 3) * 2 - 1
    assert_close(vae.query(vae.decode_latents(z), queries), reference.field(z, queries))
    assert float(vae.z_scale) == 1.5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"depth": 6, "num_heads": 2, "context_dim": 7},
        {"num_moe_layers": 0, "qk_norm_type": "layer"},
        {"num_moe_layers": 7, "depth": 7, "moe_top_k": 1, "hidden_size": 40, "num_heads": 5},
        {"qk_norm": False, "depth": 1, "num_moe_layers": 1},
    ],
)
@torch.no_grad()
def test_the_dit_computes_what_hunyuan_computes(changes: dict):
    config = DIT | changes
    weights = dit_weights(config)
    dit, reference = hunyuan21.whole_dit_from_hunyuan(config, weights), Reference(weights, config)
    x, t, context = torch.randn(2, 12, 6), torch.tensor([0.1, 0.8]), torch.randn(2, 5, config["context_dim"])
    assert_close(hunyuan21.hunyuan_velocity(dit, x, t, context), reference.velocity(x, t, context))
    assert_close(hunyuan21.hunyuan_velocity(dit, x, t, None), reference.velocity(x, t, torch.zeros_like(context)))
    # In the paper's convention the same model looks from the data to the noise, at the time counted the other way.
    assert torch.equal(dit(x, 1 - t, context), -hunyuan21.hunyuan_velocity(dit, x, t, context))


HEADS, WIDTH, CONTEXT = 3, 24, 10


def projections(*rows_and_columns: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) / shape[1] ** 0.5 for shape in rows_and_columns]


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one head: [T c]."""
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v


@torch.no_grad()
def test_gate_2_self_attention_equals_the_quirk_written_out():
    wq, wk, wv = projections(*[(WIDTH, WIDTH)] * 3)
    x, size = torch.randn(5, WIDTH), WIDTH // HEADS
    stacked = torch.cat([wq, wk, wv])
    heads = []
    for head in range(HEADS):  # head h reads rows 3ch to 3c(h + 1) of the stacked matrix: "to_q" mostly holds no queries
        rows = stacked[3 * size * head : 3 * size * (head + 1)]
        heads.append(written_out(*(x @ part.T for part in rows.split(size))))
    ours = SelfAttention(WIDTH, HEADS, qk_norm="none")
    ours.qkv.weight.copy_(Tie("", ("q", "k", "v"), 3, HEADS).merge([wq, wk, wv]))
    ours.out_proj.weight.copy_(torch.eye(WIDTH))
    ours.out_proj.bias.zero_()
    torch.testing.assert_close(ours(x[None])[0], torch.cat(heads, dim=-1), atol=1e-6, rtol=0)


@torch.no_grad()
def test_gate_2_cross_attention_equals_the_quirk_written_out():
    wq, wk, wv = projections((WIDTH, WIDTH), (WIDTH, CONTEXT), (WIDTH, CONTEXT))
    x, context, size = torch.randn(5, WIDTH), torch.randn(7, CONTEXT), WIDTH // HEADS
    stacked = torch.cat([wk, wv])
    heads = []
    for head in range(HEADS):  # keys and values as above; the query is ordinary
        rows = stacked[2 * size * head : 2 * size * (head + 1)]
        q = x @ wq[size * head : size * (head + 1)].T
        heads.append(written_out(q, *(context @ part.T for part in rows.split(size))))
    ours = CrossAttention(WIDTH, CONTEXT, HEADS, qk_norm="none")
    ours.q.weight.copy_(wq)
    ours.kv.weight.copy_(Tie("", ("k", "v"), 2, HEADS).merge([wk, wv]))
    ours.out_proj.weight.copy_(torch.eye(WIDTH))
    ours.out_proj.bias.zero_()
    torch.testing.assert_close(ours(x[None], context[None])[0], torch.cat(heads, dim=-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_gate_1_export_gives_back_every_byte(dtype: torch.dtype):
    sources = vae_weights(VAE, dtype), dit_weights(DIT, dtype)
    sources[0]["encoder.input_proj.weight"][0, :3] = torch.tensor([0.0, -0.0, 1e-7]).to(dtype)
    sources[1]["final_layer.linear.bias"][:2] = torch.tensor([0.0, -0.0]).to(dtype)
    back = (
        hunyuan21.vae_to_hunyuan(hunyuan21.vae_from_hunyuan(VAE, sources[0])),
        hunyuan21.whole_dit_to_hunyuan(hunyuan21.whole_dit_from_hunyuan(DIT, sources[1])),
    )
    for source, (config, exported), given in zip(sources, back, (VAE, DIT), strict=True):
        assert exported.keys() == source.keys()
        for name, value in source.items():
            assert exported[name].dtype == dtype
            assert exported[name].is_contiguous()
            assert torch.equal(exported[name].view(torch.uint8), value.view(torch.uint8)), name
        assert config == {name: given[name] for name in config}


def test_gate_1_the_released_sizes_have_the_documented_tensors():
    with torch.device("meta"):
        vae, dit = GeomSegVAE(GeomSegVAEConfig(seg=None)), WholeDiT(WholeDiTConfig(reversed_time=True))
    shapes = expected_shapes(vae_layout(vae), vae.state_dict())
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (410, 327_746_177)
    assert shapes["encoder.input_proj.weight"] == (1024, 55)
    assert shapes["transformer.resblocks.15.attn.c_qkv.weight"] == (3072, 1024)
    shapes = expected_shapes(whole_dit_layout(dit), dit.state_dict())
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (752, 3_050_758_720)
    assert shapes["blocks.20.attn2.to_k.weight"] == (2048, 1024)
    assert shapes["blocks.15.moe.experts.7.net.0.proj.weight"] == (8192, 2048)
    assert guess_config("whole", shapes)["num_heads"] == 16


@pytest.mark.parametrize(
    ("convert", "config", "weights"),
    [(hunyuan21.vae_from_hunyuan, VAE, vae_weights(VAE)), (hunyuan21.whole_dit_from_hunyuan, DIT, dit_weights(DIT))],
)
def test_gate_1_every_tensor_must_have_its_place(convert, config: dict, weights: SD):
    first = next(iter(weights))
    with pytest.raises(UserError, match=r"extra\.weight is unexpected"):
        convert(config, {**weights, "extra.weight": torch.zeros(2)})
    last = list(weights)[-1]
    with pytest.raises(UserError, match=f"{last} is missing"):
        convert(config, {name: value for name, value in weights.items() if name != last})
    with pytest.raises(UserError, match=r"is \[[0-9, ]+\], the config says \["):
        convert(config, {**weights, last: torch.zeros(1000)})
    with pytest.raises(UserError, match="complete state dict"):
        convert(config, {name: value for name, value in weights.items() if name != first})
    surplus = {f"extra.{number}": torch.zeros(2) for number in range(30)}
    with pytest.raises(UserError) as error:
        convert(config, {**weights, **surplus})
    assert all(f"{name} is unexpected" in error.value.message for name in surplus)


def test_weights_of_mixed_precision_that_become_one_are_refused():
    weights = dit_weights(DIT)
    weights["blocks.0.attn1.to_k.weight"] = weights["blocks.0.attn1.to_k.weight"].half()
    with pytest.raises(UserError, match=r"to_q.weight and .*float16, float32"):
        hunyuan21.whole_dit_from_hunyuan(DIT, weights)


@pytest.mark.parametrize(("level", "told"), [(1.0, False), (0.0, True)])
def test_norms_that_are_stored_less_one_are_told(caplog: pytest.LogCaptureFixture, level: float, told: bool):
    norms = ("q_norm.weight", "k_norm.weight")
    weights = {name: torch.full_like(w, level) if name.endswith(norms) else w for name, w in dit_weights(DIT).items()}
    hunyuan21.whole_dit_from_hunyuan(DIT, weights)
    assert ("if this model stores them less 1, add 1" in caplog.text) == told


def test_configs_that_we_do_not_have_are_refused_by_name():
    weights = dit_weights(DIT)
    with pytest.raises(UserError, match=r"use_pos_emb True \(only False\)"):
        hunyuan21.whole_dit_from_hunyuan(DIT | {"use_pos_emb": True}, weights)
    with pytest.raises(UserError, match="does not know: skip_norm_first True"):
        hunyuan21.whole_dit_from_hunyuan(DIT | {"skip_norm_first": True}, weights)
    with pytest.raises(UserError, match=r"include_pi True"):
        hunyuan21.vae_from_hunyuan(VAE | {"include_pi": True}, vae_weights(VAE))
    with pytest.raises(UserError, match="the config says"):
        hunyuan21.vae_from_hunyuan(VAE | {"num_freqs": 4}, vae_weights(VAE))


def test_gaps_in_a_config_are_read_off_the_weights():
    vae = hunyuan21.vae_from_hunyuan({"num_latents": 12, "pc_size": 60}, vae_weights(VAE))
    assert vae.config == hunyuan21.vae_from_hunyuan(VAE, vae_weights(VAE)).config
    assert float(vae.z_scale) == pytest.approx(1.0039506158752403)
    assert hunyuan21.whole_dit_from_hunyuan({"moe_top_k": 3}, dit_weights(DIT)).config.depth == 7


def test_a_whole_config_file_will_do():
    document = {"vae": {"target": "ShapeVAE", "params": VAE}, "dit": DIT, "note": "t is Hunyuan time"}
    assert hunyuan21.vae_from_hunyuan(document, vae_weights(VAE)).config.num_latents == 12
    assert hunyuan21.whole_dit_from_hunyuan(document, dit_weights(DIT)).config.top_k == 3


def test_the_callers_tensors_stay_theirs():
    weights = vae_weights(VAE)
    before = weights["pre_kl.bias"].clone()
    vae = hunyuan21.vae_from_hunyuan(VAE, weights)
    with torch.no_grad():
        vae.encoder.to_posterior.bias.add_(1)
    assert torch.equal(weights["pre_kl.bias"], before)


@torch.no_grad()
def test_an_imported_vae_knows_no_labels():
    vae = hunyuan21.vae_from_hunyuan(VAE, vae_weights(VAE))
    labels = label_values(torch.arange(60).expand(2, -1) % 3, torch.tensor([3, 3]), vae.config.label_encoding, None)
    assert labels.shape == (2, 60, 1)
    assert not labels.any()
    surface = torch.rand(1, 60, 7)
    surface[..., 6] = 0
    flagged = surface.clone()
    flagged[..., 6] = 1
    same, other = (hunyuan21.hunyuan_moments(vae, points)[0] for points in (surface, flagged))
    assert not torch.equal(same, other), "the flag's weights are kept"


def test_export_lists_what_hunyuan_has_no_place_for():
    config = hunyuan21.vae_from_hunyuan(VAE, vae_weights(VAE)).config
    seg = SegDecoderConfig(width=16, num_heads=2, trunk_layers=1, two_way_layers=1, mlp_width=16)
    vae = GeomSegVAE(config.replace(seg=seg.model_dump(), label_encoding="scalar_perm"))
    with pytest.raises(UserError, match=r"no place for seg_decoder\."):
        hunyuan21.vae_to_hunyuan(vae)
    _, exported = hunyuan21.vae_to_hunyuan(vae, geometry_only=True)
    assert exported.keys() == vae_weights(VAE).keys()
    coded = GeomSegVAE(config.replace(label_encoding="code8"))
    assert hunyuan21.beyond_hunyuan(coded) == ["the 8 label channels of encoder.input_proj.weight"]
    _, exported = hunyuan21.vae_to_hunyuan(coded, geometry_only=True)
    assert exported["encoder.input_proj.weight"].shape == (24, 25)
    assert not exported["encoder.input_proj.weight"][:, -1].any()


def test_a_dit_that_reads_time_our_way_is_not_exported():
    sizes = hunyuan21.whole_dit_from_hunyuan(DIT, dit_weights(DIT)).config
    for changes in ({"reversed_time": False}, {"t_scale": 1000.0}):
        with pytest.raises(UserError, match="reads 1 - t unscaled"):
            hunyuan21.whole_dit_to_hunyuan(WholeDiT(sizes.replace(**changes)))


def test_files_are_taken_apart_and_put_together():
    parts = {"vae": {"geo_decoder.output_proj.weight": 1}, "whole": {"x_embedder.weight": 2}}
    nested = {"vae": parts["vae"], "model": parts["whole"]}
    assert split_sections(nested) == parts
    assert split_sections(join_sections(parts)) == parts
    assert split_sections(parts["vae"]) == {"vae": parts["vae"]}
    with pytest.raises(UserError, match=r"not Hunyuan3D-2\.1's weights: 1 tensors, the first head\.bias"):
        split_sections({"head.bias": 3})


class FakeDinov2(nn.Module):
    """The few tensors of transformers' Dinov2Model that sizes are read from, under its names."""

    def __init__(self, config) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.position_embeddings = nn.Parameter(torch.randn(1, (config.image_size // 14) ** 2 + 1, config.hidden_size))
        self.embeddings.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(3, config.hidden_size, 14, 14)})
        layers = nn.ModuleList(nn.Linear(config.hidden_size, config.hidden_size) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})


def test_the_conditioner_keeps_its_names_below_a_prefix(monkeypatch: pytest.MonkeyPatch):
    fake = SimpleNamespace(Dinov2Model=FakeDinov2, Dinov2Config=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "transformers", fake)
    model = FakeDinov2(SimpleNamespace(hidden_size=128, image_size=518, num_hidden_layers=3))
    weights = {f"main_image_encoder.model.{name}": value.half() for name, value in model.state_dict().items()}
    encoder = hunyuan21.image_encoder_from_hunyuan(weights)
    assert (encoder.config.width, encoder.config.layers, encoder.config.num_heads) == (128, 3, 2)
    assert (encoder.config.size, encoder.config.num_tokens) == (518, 1370)
    exported = hunyuan21.image_encoder_to_hunyuan(encoder)
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[name], value) for name, value in weights.items())
    with pytest.raises(UserError, match=r"conditioner's weights .*layer\.2\.bias is missing"):
        hunyuan21.image_encoder_from_hunyuan({k: v for k, v in weights.items() if not k.endswith("layer.2.bias")})
