"""``unipart train --dry-run`` and ``--list``: what a recipe is, what it costs and that it runs, before a GPU is booked."""

import json
import time
from dataclasses import asdict
from typing import Any

from jobs.recipes import ablations, find_recipe, recipe_names
from jobs.recipes.generation import SWITCHES
from jobs.recipes.sizes import TIERS, tier
from jobs.training.budget import Budget, make_budget
from jobs.training.config import KINDS, AnyTrainConfig, VaeTrainConfig, WholeTrainConfig
from jobs.training.smoke import smoke_run
from jobs.training.workload import Parents
from unipart.inference.pipeline import GenerateConfig
from unipart.models.geom_seg_vae import GeomSegVAEConfig
from unipart.models.image_encoder import ImageEncoderConfig
from unipart.models.whole_dit import WholeDiTConfig

SMOKE_SIZE = "ci"
GENERATION = "unipart generate: switches that need no training"
SPELLING = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (0.0, "MFLOP"))


def dry_run(config: AnyTrainConfig, recipe: AnyTrainConfig, name: str, size: str, workers: int) -> dict[str, Any]:
    """Counts a training and runs one batch of its small sister.

    Args:
        config: what would be trained.
        recipe: what it was derived from.
        name: the recipe's name: a tier, or an address.
        size: the tier, also of the models that the training builds on.
        workers: GPUs, at least 1.

    Returns:
        config, changed, budget, smoke: plain values.
    """
    changed = {field: [theirs, ours] for field, (ours, theirs) in config.diff(recipe).items()}
    vae, image, _ = _parents(size)
    budget = make_budget(config, Parents(vae, image), max(workers, 1))
    return {
        "config": config.model_dump(mode="json"),
        "changed": changed,
        "budget": asdict(budget),
        "smoke": _smoke(config, name, changed),
    }


def describe(document: dict[str, Any]) -> str:
    """Returns the result of `dry_run` for people; the config is JSON that ``--config`` reads."""
    fields = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in document["config"].items()]
    lines = ["{", ",\n".join(fields), "}"]
    lines += [f"changed: {name} {theirs} -> {ours}" for name, (theirs, ours) in document["changed"].items()]
    lines += ["", *_describe_budget(document["budget"]), "", document["smoke"]["told"]]
    return "\n".join(lines)


def recipe_list(size: str) -> list[dict[str, Any]]:
    """Returns every recipe: the models in every size, the ablations with what they change in one size, generation's switches."""
    rows: list[dict[str, Any]] = [
        {"kind": kind, "recipe": name, "group": "sizes", "summary": find_recipe(kind, name).recipe, "changes": {}}
        for kind in KINDS
        for name in recipe_names()
    ]
    for group, members in (("ablations of the paper", ablations.OF_THE_PAPER), ("our own ablations", ablations.OUR_OWN)):
        for ablation in members:
            kind = ablation(tier(size)).kind
            changes = {name: list(pair) for name, pair in ablations.changes(ablation, tier(size)).items()}
            address = f"{ablations.__name__}:{ablation.__name__}"
            summary = (ablation.__doc__ or "").splitlines()[0]
            rows.append({"kind": kind, "recipe": address, "group": group, "summary": summary, "changes": changes})
    defaults = GenerateConfig().flat()
    for field, (values, summary) in SWITCHES.items():
        switch = {"kind": "generate", "recipe": f"--{field}", "group": GENERATION, "summary": summary}
        rows.append({**switch, "changes": {field: [defaults[field], *values]}})
    return rows


def describe_list(rows: list[dict[str, Any]], size: str) -> str:
    """Returns the list of recipes for people."""
    lines = [f"unipart train {{{','.join(KINDS)}}} {{{','.join(recipe_names())}}}"]
    group = "sizes"
    for row in rows:
        if row["group"] == "sizes":
            continue
        if row["group"] != group:
            group = row["group"]
            lines += ["", f"{group}{'' if group == GENERATION else f' (changes at --size {size})'}:"]
        if group == GENERATION:
            (default, *values), *_ = row["changes"].values()
            lines += [f"  {row['recipe']} {default}, or {', '.join(map(str, values))}", f"        {row['summary']}"]
            continue
        changes = ", ".join(f"{name} {json.dumps(old)} -> {json.dumps(new)}" for name, (old, new) in _shorten(row["changes"]))
        lines += [f"  {row['kind']:<5} {row['recipe']}", f"        {row['summary']}", f"        {changes}"]
    return "\n".join([*lines, "", ablations.LEFT_OUT])


def _shorten(changes: dict[str, Any]) -> list[tuple[str, Any]]:
    """Leaving a model out (model.seg is None) changes all its fields: one entry says it."""
    gone = {name.rpartition(".")[0] for name, (_, new) in changes.items() if new is None and name.count(".") > 1}
    kept = [(name, pair) for name, pair in changes.items() if name.rpartition(".")[0] not in gone]
    return [(name, ["...", None]) for name in gone] + kept


def _parents(size: str) -> tuple[GeomSegVAEConfig, ImageEncoderConfig, WholeDiTConfig]:
    vae, whole = find_recipe("vae", size), find_recipe("whole", size)
    assert isinstance(vae, VaeTrainConfig)
    assert isinstance(whole, WholeTrainConfig)
    return vae.model, whole.image_encoder, whole.model


def _smoke(config: AnyTrainConfig, name: str, changed: dict[str, list[Any]]) -> dict[str, Any]:
    """One step of the same recipe at the smallest size, with the switches (not the numbers) that the user changed."""
    switches = {field: ours for field, (_, ours) in changed.items() if _is_switch(field, ours)}
    small = find_recipe(config.kind, SMOKE_SIZE if name in TIERS else name, SMOKE_SIZE)
    small = small.replace(**{field.replace(".", "__"): value for field, value in switches.items()})
    start = time.perf_counter()
    row = smoke_run(small, *_parents(SMOKE_SIZE))
    seconds = time.perf_counter() - start
    carried = f" with {', '.join(f'{field} {value}' for field, value in switches.items())}" if switches else ""
    told = (
        f"smoke test: one step of {small.recipe}{carried} on this CPU with two made-up objects (forward, backward, AdamW, "
        f"checkpoint) took {seconds:.1f} s; loss {row['loss']:.3f}, gradient norm {row['grad_norm']:.3f}"
    )
    return {"recipe": small.recipe, "switches": switches, "seconds": seconds, "row": row, "told": told}


def _is_switch(field: str, value: Any) -> bool:
    """A word or a choice, not a size; the small image encoder stays, since DINOv2 needs weights."""
    if field.startswith("image_encoder.") or field == "recipe":
        return False
    members = value if isinstance(value, list) else [value]
    return all(member is None or isinstance(member, bool | str) for member in members)


def _describe_budget(budget: dict[str, Any]) -> list[str]:
    known = Budget(**budget)
    lines = ["parameters"]
    lines += [f"  {name:<28}{count:>16,}" for name, count in known.parameters.items() if name != "frozen" or count]
    lines += [f"    {name:<26}{count:>16,}" for name, count in known.modules.items()]
    lines += ["FLOPs a sample (a multiply-add is 2)"]
    lines += [_flop_line(f"forward: {name}", flops) for name, flops in known.forward.items()]
    lines += [_flop_line(f"frozen: {name}", flops) for name, flops in known.frozen.items()]
    lines += [_flop_line("training step", known.step)]
    recomputed = any("recomputed" in kind for kind in budget["memory"])
    if recomputed:
        lines += [_flop_line("  with blocks recomputed", known.step + sum(known.forward.values()))]
    micro = next(iter(budget["memory"].values()))["micro_batch"]
    lines += [f"memory of each of {known.workers} GPU(s), GiB, eager, {micro} sample(s) at once; workspace comes on top"]
    kinds = [kind for kind in budget["memory"] if known.workers > 1 or not kind.startswith("sharded")]
    lines += [" " * 26 + "".join(f"{kind:>24}" for kind in kinds)]
    names = dict.fromkeys(name for kind in kinds for name in budget["memory"][kind]["lines"] if name != "total")
    for name in (*names, "total"):
        sizes = [budget["memory"][kind]["lines"].get(name, 0.0) / 2**30 for kind in kinds]
        lines += [f"  {name:<24}" + "".join(f"{size:>24.2f}" for size in sizes)]
    total = budget["memory"][known.chosen]["lines"]["total"] / 2**30
    hint = "; sharded is --parallel fsdp" if known.workers > 1 and known.chosen.startswith("replicated") else ""
    lines += [f"  this training is: {known.chosen}, {total:.2f} GiB{hint}"]
    return lines


def _flop_line(name: str, flops: float) -> str:
    unit, word = next((unit, word) for unit, word in SPELLING if flops >= unit)
    return f"  {name:<40}{flops / (unit or 1e6):>10.3f} {word}"
