"""Stable Diffusion as a start: read from its layouts, from the hub's cache too, and widened without effect."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from hicast.encoders.style import StyleCode, StyleEncoder
from hicast.errors import ModelError
from hicast.models.conditions import Conditions
from hicast.training import stock

WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_first_prediction_is_that_of_the_stock_net_whatever_content_and_style(shared_stock, stock_config):
    model = stock.widened_model(shared_stock / "unet", stock_config)
    net = UNet2DConditionModel.from_pretrained(shared_stock / "unet").eval()
    generator = torch.Generator().manual_seed(1)
    latents, content = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    context = stock.empty_prompt(shared_stock)
    style = StyleCode(torch.randn(2, 2944, generator=generator))
    with torch.no_grad():
        ours = model(latents, torch.tensor([7, 901]), Conditions.of(content, style, context))
        theirs = net(latents, torch.tensor([7, 901]), context.expand(2, -1, -1)).sample
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert model.unet.config.in_channels == 7 and all(parameter.requires_grad for parameter in model.parameters())


def test_new_parts_have_a_gradient_where_a_first_step_can_have_one(shared_stock, stock_config):
    model = stock.widened_model(shared_stock / "unet", stock_config)
    conditions = Conditions.of(torch.randn(1, 4, 8, 8), StyleCode(torch.randn(1, 2944)), stock.empty_prompt(shared_stock))
    model(torch.randn(1, 4, 8, 8), 500, conditions).square().mean().backward()
    assert (model.unet.conv_in.weight.grad[:, 4:] != 0).any()
    assert (model.unet.class_embedding.linear_2.weight.grad != 0).any()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    model.zero_grad()
    model(torch.randn(1, 4, 8, 8), 500, conditions).square().mean().backward()
    new = ("unet.class_embedding", "content_projection.projection", "content_projection.modulation.2")
    assert [name for name, parameter in model.named_parameters() if name.startswith(new) and not parameter.grad.any()] == []


def test_context_is_what_the_text_encoder_says_to_an_empty_prompt(shared_stock):
    encoder = CLIPTextModel.from_pretrained(shared_stock / "text_encoder").eval()
    with torch.no_grad():
        expected = encoder(torch.tensor([[4, 5, 5, 5, 5, 5, 5]])).last_hidden_state
    found = stock.empty_prompt(shared_stock)
    assert found.shape == (1, 7, 24) and torch.allclose(found, expected, atol=1e-6)


def test_layouts_of_other_releases_are_read(shared_stock, stock_config, tmp_path):
    vae = tmp_path / "vae"
    vae.mkdir()
    (vae / "config.json").write_bytes((shared_stock / "vae" / "config.json").read_bytes())
    former = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    state = load_file(shared_stock / "vae" / WEIGHTS)
    renamed = {}
    for name, value in state.items():
        old = next((name.replace(new, word) for new, word in former.items() if new in name), name)
        renamed[old] = value[..., None, None].half() if old != name and value.ndim == 2 else value.half()
    assert set(renamed) != set(state)
    save_file(renamed, vae / "diffusion_pytorch_model.fp16.safetensors")
    found = stock.stock_autoencoder(vae, stock_config.autoencoder).state_dict()
    assert all(torch.equal(found[name], value.half().float()) for name, value in state.items())
    (vae / "diffusion_pytorch_model.fp16.safetensors").unlink()
    torch.save(state, vae / "diffusion_pytorch_model.bin")
    found = stock.stock_autoencoder(vae, stock_config.autoencoder).state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_hub_id_without_network_or_cache_is_one_line(monkeypatch):
    import huggingface_hub

    def offline(name, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no\nroute")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    notes: list[str] = []
    with pytest.raises(ModelError, match=r"^--base some/model: expected a folder, or a hub id .*\(LocalEntryNotFoundError\).*$"):
        stock.stock_folder("some/model", notes.append)
    assert notes == ["taking some/model from the hub: some 4 GB where they are not in the cache"]


def test_hub_id_in_the_cache_is_found_without_network(shared_stock, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(shared_stock))
    assert stock.stock_folder("some/model") == shared_stock


def test_style_encoder_of_the_preset_has_no_tokens(stock_config):
    assert "token_mean" not in dict(StyleEncoder(**stock_config.style_encoder).named_buffers())
