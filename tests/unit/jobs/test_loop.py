import pytest
from torch.utils.data import DataLoader, Dataset

from jobs.recipes import find_recipe
from jobs.training.loop import decaying, explained, make_optimizer
from jobs.training.workload import Parents, make_workload
from unipart.errors import EnvironmentProblem, UserError


class _Damaged(Dataset):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> int:
        if number:
            raise self.error
        return number


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [UserError("shard 3 is damaged", "copy it again"), EnvironmentProblem("a disk is full")])
def test_a_mistake_that_a_loader_process_meets_keeps_message_and_fix(error: UserError, workers: int):
    batches = explained(iter(DataLoader(_Damaged(error), batch_size=None, num_workers=workers)))
    assert next(batches) == 0
    with pytest.raises(UserError) as caught:
        next(batches)
    assert type(caught.value) is type(error)
    assert (caught.value.message, caught.value.fix) == (error.message, error.fix)


EXEMPT = {
    "vae": ("encoder.norm.weight", "encoder.input_proj.bias", "seg_decoder.click_sign.weight", "seg_decoder.answers"),
    "anchor": ("stem.bias",),
    "whole": ("dit.stack.blocks.4.ffn.fc1_bias", "dit.time.fc1.bias", "image_encoder.positions", "image_encoder.image_token"),
    "part": ("space_embedding", "latent_conditioner.kind", "latent_conditioner.pad", "stack.blocks.4.ffn.fc2_bias"),
}
SHRUNK = {
    "vae": ("encoder.input_proj.weight", "seg_decoder.two_way.0.self_attention.q.weight"),
    "anchor": ("head.weight",),
    "whole": ("dit.stack.blocks.4.ffn.fc1_weight", "image_encoder.stem.0.weight"),
    "part": ("stack.blocks.4.ffn.gate.weight", "latent_conditioner.embed.weight"),
}


def trained(kind):
    parents = Parents(find_recipe("vae", "ci").model, find_recipe("whole", "ci").image_encoder)
    return make_workload(find_recipe(kind, "ci"), parents).trained


@pytest.mark.parametrize("kind", EXEMPT)
def test_weight_decay_shrinks_matrices_alone(kind):
    module = trained(kind)
    names, found = {name for name, _ in module.named_parameters()}, decaying(module)
    assert names >= {*EXEMPT[kind], *SHRUNK[kind]}
    assert found >= set(SHRUNK[kind])
    assert not found & set(EXEMPT[kind])


def test_groups_have_their_own_rate_and_decay():
    module, config = trained("part"), find_recipe("part", "ci").optimizer
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = {}
    for group in make_optimizer(module, config).param_groups:
        groups |= {names[id(parameter)]: (group["factor"], group["weight_decay"]) for parameter in group["params"]}
    assert groups["space_embedding"] == (10, 0.0)
    assert groups["latent_conditioner.kind"] == (1, 0.0)
    assert groups["embed.weight"] == (1, config.weight_decay)
    assert groups.keys() == set(names.values())
