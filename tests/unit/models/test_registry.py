import pytest
import torch
from torch import nn

from unipart.config import Config
from unipart.errors import UserError
from unipart.models.registry import MODELS, model_entry, model_name


def test_every_model_is_built_from_its_default_config_and_found_again_by_it():
    for name, entry in MODELS.items():
        config = entry.config_class()
        assert model_name(config) == name
        with torch.device("meta"):
            model = entry.build(config)
        assert isinstance(model, nn.Module)
        assert model.config == config


def test_configs_tell_models_apart():
    assert len({entry.config_class for entry in MODELS.values()}) == len(MODELS)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UserError, match="Did you mean 'whole_dit'"):
        model_entry("whole_dti")


def test_an_unregistered_config_is_our_mistake():
    with pytest.raises(ValueError, match="registry"):
        model_name(Config())
