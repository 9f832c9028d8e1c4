"""Folders in exactly the hub's layout: the published depth, names and files, narrow random weights.

Depth, vocabulary, picture size and context are the real ones, so that dropped blocks and layers
that nobody reads are where they are in the published models; only the widths are small.
"""

import json
import shutil
from pathlib import Path

import open_clip
import tiny
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration

from slugdemo.models import names

WIDTH, EMBEDDING = 32, 24


def narrow(name: str) -> dict:
    """The open_clip config of a published model with its widths made small."""
    config = open_clip.get_model_config(name)
    config["embed_dim"] = EMBEDDING
    config["vision_cfg"] |= {"width": WIDTH, "head_width": 8}
    config["text_cfg"] |= {"width": WIDTH, "heads": 4}
    return config


def clip(name: str, *, seed: int = 0) -> open_clip.CLIP:
    """A published CLIP, narrow, with random weights in every tensor."""
    with torch.random.fork_rng():
        model = open_clip.CLIP(**narrow(name))
    return tiny.randomised(model, seed)


def clip_folder(path: Path, name: str, model: open_clip.CLIP) -> Path:
    """`path` as the hub holds an open_clip model."""
    path.mkdir(parents=True)
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}
    config = {"model_cfg": narrow(name), "preprocess_cfg": preprocess}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(contiguous(model.state_dict()), path / "open_clip_model.safetensors")
    (path / "README.md").write_text("---\nlicense: mit\n---\n")
    return path


def contiguous(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone().contiguous() for name, tensor in weights.items()}


def sd(path: Path, model: open_clip.CLIP, *, dropped: int = 0) -> Path:
    """`path` as the hub holds Stable Diffusion: 1.5, or 2.1 with a text block `dropped`."""
    tiny.pipeline(model, dropped=dropped).save_pretrained(path)
    text = path / "text_encoder"
    old = {f"text_model.{name}": one for name, one in load_file(text / "model.safetensors").items()}
    old["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(old, text / "model.safetensors", {"format": "pt"})
    shutil.rmtree(path / "tokenizer")
    tokenizer(path / "tokenizer", pad="!" if dropped else "<|endoftext|>")
    shared = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    shared |= {"steps_offset": 1, "set_alpha_to_one": False}
    scheduler = DDIMScheduler if dropped else PNDMScheduler
    own = {"skip_prk_steps": True}
    if dropped:
        own = {"prediction_type": "v_prediction", "clip_sample": False}
    scheduler(**shared, **own).save_pretrained(path / "scheduler")
    index = json.loads((path / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", scheduler.__name__]
    if not dropped:  # 1.5 has a safety checker, whose weights are not fetched
        index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
        (path / "safety_checker").mkdir()
        (path / "safety_checker" / "config.json").write_text('{"model_type": "clip"}')
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    CLIPImageProcessor().save_pretrained(path / "feature_extractor")
    index.pop("requires_safety_checker", None)
    (path / "model_index.json").write_text(json.dumps(index))
    return path


def tokenizer(path: Path, *, pad: str) -> None:
    """CLIP's own tokenizer in the files that the hub has."""
    path.mkdir()
    bpe = SimpleTokenizer()
    ends = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {ends.get(token, token): number for token, number in bpe.encoder.items()}
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    ordered = sorted(bpe.bpe_ranks, key=bpe.bpe_ranks.get)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in ordered)]
    (path / "merges.txt").write_text("\n".join(lines) + "\n")
    facts = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": pad}
    facts |= {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    facts |= {"unk_token": "<|endoftext|>"}
    (path / "tokenizer_config.json").write_text(json.dumps(facts))


def llava(path: Path, model: open_clip.CLIP, *, shards: int = 3) -> Path:
    """`path` as the hub holds LLaVA-1.5: old names, several files and an index of them."""
    tower, words = names.vision_model(model), tiny.llava_tokenizer()
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=tiny.llama(words, positions=4096),
        image_token_index=words.image_token_id,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=576,
    )
    with torch.random.fork_rng():
        whole = LlavaForConditionalGeneration(config)
    tiny.randomised(whole, 4)
    whole.model.vision_tower.load_state_dict(tower.state_dict())
    whole.save_pretrained(path)
    tiny.reader(words, pixels=336, patch=14).save_pretrained(path)
    sharded(path, shards)
    return path


OLD = {  # how the hub's file calls what transformers 5 calls otherwise
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


def old_name(name: str) -> str:
    """A tensor's name in the hub's file."""
    if name.startswith(("vision_tower.", "multi_modal_projector.", "language_model.")):
        return name
    begin = next(new for new in OLD if name.startswith(new))
    return OLD[begin] + name.removeprefix(begin)


def sharded(path: Path, shards: int) -> None:
    """Divides the weights of a folder into several files, under their old names."""
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    named, places = sorted((old_name(name), tensor) for name, tensor in weights.items()), {}
    for number in range(shards):
        part = dict(named[number::shards])
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, path / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
