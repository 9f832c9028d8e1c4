"""Tiny real models with random weights: the real classes, in the real formats, sharing one CLIP.

Every CLIP parameter is drawn at random, biases and norms too, so that no error hides behind a zero.
"""

import json
from pathlib import Path

import torch
from torch import nn

import slugdemo  # noqa: F401  (its torchvision guard runs before open_clip)

# isort: split
import open_clip
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from slugdemo.edit import LAYER_NORM, Edit, apply, clip_name, qualified
from slugdemo.models import names

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
VOCABULARY = 2 * len(BYTES) + len(MERGES) + 2
CONTEXT = 24
PIXELS = 32
EMBEDDING = 16


def randomised(module: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        gain = "ln" in name or "norm" in name
        parameter.data = noise * 0.2 + 1 if gain and name.endswith("weight") else noise * 0.2
    return module.eval()


def clip_config(*, blocks: int = 3, quick_gelu: bool = True) -> dict:
    vision = {
        "image_size": PIXELS,
        "patch_size": 8,
        "width": 32,
        "head_width": 16,
        "layers": blocks,
    }
    text = {
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "width": 24,
        "heads": 2,
        "layers": blocks,
    }
    return {
        "embed_dim": EMBEDDING,
        "vision_cfg": vision,
        "text_cfg": text,
        "quick_gelu": quick_gelu,
    }


def clip_model(seed: int = 0, *, blocks: int = 3, quick_gelu: bool = True) -> open_clip.CLIP:
    """A CLIP for pictures of 32 x 32 px and prompts of 24 tokens, D = 16."""
    return randomised(open_clip.CLIP(**clip_config(blocks=blocks, quick_gelu=quick_gelu)), seed)


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE in CLIP's own format: 256 bytes, 256 final bytes, four merges, two ends."""
    tokens = [*BYTES, *(letter + "</w>" for letter in BYTES), *("".join(pair) for pair in MERGES)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=MERGES, model_max_length=CONTEXT)


@register_model
def vit_tiny_siglip_32(*, num_classes: int, global_pool: str, **_: object) -> VisionTransformer:
    """timm's vision tower of a SigLIP, for pictures of 32 x 32 px: timm's own are large."""
    return VisionTransformer(
        PIXELS,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        num_classes=num_classes,
        global_pool=global_pool,
        class_token=False,
    )


def siglip_config() -> dict:
    """As the hub's SigLIP 2: timm's vision tower with a pooling head, text without a mask."""
    config = clip_config()
    vision = {
        "image_size": PIXELS,
        "timm_model_name": "vit_tiny_siglip_32",
        "timm_model_pretrained": False,
    }
    extra = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    extra |= {"norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}}
    return {
        "embed_dim": 32,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            **vision,
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {**config["text_cfg"], **extra},
    }


def siglip_model(seed: int = 5) -> open_clip.CustomTextCLIP:
    """A SigLIP for pictures of 32 x 32 px and prompts of 24 tokens, D = 32."""
    config = siglip_config()
    del config["custom_text"]
    return randomised(open_clip.CustomTextCLIP(**config), seed)


def siglip_folder(path: Path, model: open_clip.CustomTextCLIP) -> Path:
    """`path`, holding `model` as the hub holds SigLIPs of open_clip."""
    path.mkdir(parents=True)
    config = siglip_config()
    config["text_cfg"] |= {
        "hf_tokenizer_name": "tiny",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    }
    preprocess = {"size": [PIXELS, PIXELS], "mean": [0.5] * 3, "std": [0.5] * 3, "mode": "RGB"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=1)
    (path / "open_clip_config.json").write_text(text)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path / "open_clip_model.safetensors", {"format": "pt"})
    clip_tokenizer().save_pretrained(path)
    return path


def clip_folder(path: Path, clip: open_clip.CLIP) -> Path:
    """`path`, holding `clip` as an open_clip local-dir with its tokenizer."""
    path.mkdir(parents=True)
    config = clip_config(blocks=len(clip.transformer.resblocks))
    config["text_cfg"]["hf_tokenizer_name"] = "tiny"
    preprocess = {"size": [PIXELS, PIXELS], "mode": "RGB"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=1)
    (path / "open_clip_config.json").write_text(text)
    tensors = {name: tensor.contiguous() for name, tensor in clip.state_dict().items()}
    save_file(tensors, path / "open_clip_model.safetensors", {"format": "pt"})
    clip_tokenizer().save_pretrained(path)
    return path


def pipeline(clip: open_clip.CLIP, *, dropped: int = 0) -> StableDiffusionPipeline:
    """Stable Diffusion for 16 x 16 px with the text tower of `clip`, less `dropped` blocks."""
    text = names.text_model(clip)
    kept = len(text.encoder.layers) - dropped
    text.encoder.layers = text.encoder.layers[:kept]
    text.config.num_hidden_layers = kept
    with torch.random.fork_rng():
        torch.manual_seed(7)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=clip.transformer.width,
            attention_head_dim=2,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
        )
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text,
        tokenizer=clip_tokenizer(),
        unet=unet.eval(),
        scheduler=DPMSolverMultistepScheduler(prediction_type="v_prediction", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def xl_pipeline(clip: open_clip.CLIP, second: open_clip.CLIP) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL for 16 x 16 px with the text towers of two CLIPs."""
    plain = pipeline(clip)
    tower = names.text_model(second)
    text_2 = CLIPTextModelWithProjection(tower.config).eval()
    own = names.to_hf_text(second.state_dict())
    text_2.load_state_dict(
        {n if "_projection" in n else f"text_model.{n}": tensor for n, tensor in own.items()}
    )
    tokenizer_2 = clip_tokenizer()
    tokenizer_2.pad_token = BYTES[0]  # as in SDXL, where it is "!"
    with torch.random.fork_rng():
        torch.manual_seed(7)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=clip.transformer.width + second.transformer.width,
            attention_head_dim=2,
            norm_num_groups=8,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + EMBEDDING,
        )
    return StableDiffusionXLPipeline(
        vae=plain.vae,
        text_encoder=plain.text_encoder,
        text_encoder_2=text_2,
        tokenizer=plain.tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet.eval(),
        scheduler=plain.scheduler,
        add_watermarker=False,
    )


def llava_tokenizer() -> PreTrainedTokenizerFast:
    specials = ["<s>", "</s>", "<pad>", "<image>"]
    vocabulary = {token: number for number, token in enumerate([*specials, *BYTES])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def llama(words: PreTrainedTokenizerFast, *, positions: int) -> LlamaConfig:
    """The config of a language model of two narrow blocks for the tokenizer `words`."""
    return LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )


def reader(words: PreTrainedTokenizerFast, *, pixels: int, patch: int) -> LlavaProcessor:
    """What a LLaVA reads pictures and prompts with."""
    crop = {"height": pixels, "width": pixels}
    pictures = CLIPImageProcessor(size={"shortest_edge": pixels}, crop_size=crop)
    return LlavaProcessor(
        pictures,
        words,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def llava(clip: open_clip.CLIP) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """LLaVA whose vision tower is that of `clip` and which reads hidden_states[-2]."""
    tower, words = names.vision_model(clip), llava_tokenizer()
    text, image = llama(words, positions=128), words.image_token_id
    config = LlavaConfig(vision_config=tower.config, text_config=text, image_token_index=image)
    with torch.random.fork_rng():
        torch.manual_seed(8)
        model = LlavaForConditionalGeneration(config)
    randomised(model.model.language_model, 9)
    randomised(model.lm_head, 10)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    return model.eval(), reader(words, pixels=PIXELS, patch=8)


def edit(clip: open_clip.CLIP, name: str, strength: float, *, seed: int = 0) -> Edit:
    """An edit of one tensor of `clip` along a random direction as long as the tensor."""
    weight = clip.state_dict()[name]
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    delta = {qualified(name): noise * weight.norm() / noise.norm()}
    return Edit("cat", "noise", delta, strength, LAYER_NORM, about={"layer": qualified(name)})


def overwritten(clip: open_clip.CLIP, edits: list[Edit]) -> open_clip.CLIP:
    """`clip` itself, its weights overwritten by those that the edits ask for."""
    state = {qualified(name): tensor for name, tensor in clip.state_dict().items()}
    moved = {clip_name(name): tensor for name, tensor in apply(state, edits).items()}
    clip.load_state_dict({**clip.state_dict(), **moved})
    return clip
