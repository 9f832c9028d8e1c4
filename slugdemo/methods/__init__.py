"""METHODS: the field's methods by name. One is a file with a function and a line here.

A method is a function from a Task to an Edit. Methods never import each other.
"""

from slugdemo.errors import unknown
from slugdemo.methods.adavd import adavd
from slugdemo.methods.casteer import casteer
from slugdemo.methods.ccup import ccup
from slugdemo.methods.concept_ablation import ca
from slugdemo.methods.cure import cure
from slugdemo.methods.diffquickfix import diffquickfix
from slugdemo.methods.double_projections import double_projections
from slugdemo.methods.esd import esd_u, esd_x
from slugdemo.methods.few_shot import few_shot
from slugdemo.methods.fmn import fmn
from slugdemo.methods.forget_it_all import forget_it_all
from slugdemo.methods.ft import ft
from slugdemo.methods.ga import ga
from slugdemo.methods.gaft import gaft
from slugdemo.methods.hirm import hirm
from slugdemo.methods.inlp import inlp
from slugdemo.methods.leace import leace, leace_together
from slugdemo.methods.locoedit import locoedit
from slugdemo.methods.mace import mace
from slugdemo.methods.method import FRONT, SEARCH, Method
from slugdemo.methods.negative_prompt import negative_prompt
from slugdemo.methods.nest import nest
from slugdemo.methods.razor import razor
from slugdemo.methods.rece import rece
from slugdemo.methods.sae import lacks, sae
from slugdemo.methods.safree import safree
from slugdemo.methods.salun import salun
from slugdemo.methods.seot import seot
from slugdemo.methods.sld import sld
from slugdemo.methods.slug import direction, slug
from slugdemo.methods.slug_variants import (
    causal_tracing,
    orthogonal,
    paper_rule,
    synonyms,
    two_layers,
)
from slugdemo.methods.speed import speed, speed_together
from slugdemo.methods.spm import spm
from slugdemo.methods.ssd import ssd
from slugdemo.methods.trce import trce
from slugdemo.methods.uce import uce, uce_together

EVERY, TOWERS = ("zero-shot", "diffusion", "vlm"), ("text", "vision")
OURS = "ours, after Cai, Tan, Asif, ICML 2025, arXiv 2407.11867"
TABLE_1 = "Cai, Tan, Asif, ICML 2025, arXiv 2407.11867, table 1"
ATTENTION, PROJECTIONS = "closed form on cross-attention", "closed form on CLIP's projections"
POOLED = "; also the pooled text embedding"
NOTHING = "at pocket size these published rates do nothing:"

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "slug",
            slug,
            "single layer",
            ("zero-shot", "diffusion", "vlm"),
            ("text", "vision"),
            "both",
            "Cai, Tan, Asif, ICML 2025, arXiv 2407.11867",
            "weak dominance on the front; a floor for what is kept; next fronts when none passes",
            seconds=30.0,
            of_layer=direction,
            uses=(*SEARCH, *FRONT),
        ),
        Method(
            "slug paper's rule",
            paper_rule,
            "SLUG variants",
            EVERY,
            TOWERS,
            "both",
            OURS,
            "ten steps on every front layer, top 5, no floor for what is kept",
            seconds=60.0,
            uses=FRONT,
        ),
        Method(
            "slug causal tracing",
            causal_tracing,
            "SLUG variants",
            EVERY,
            TOWERS,
            "both",
            OURS,
            "causal tracing instead of gradients chooses the layer",
            seconds=20.0,
            uses=(*SEARCH, "granularity", "batch"),
        ),
        Method(
            "slug synonyms",
            synonyms,
            "SLUG variants",
            EVERY,
            TOWERS,
            "both",
            OURS,
            "the forget gradient is of synonyms and descriptions too",
            seconds=30.0,
            uses=(*SEARCH, *FRONT),
        ),
        Method(
            "slug orthogonal",
            orthogonal,
            "SLUG variants",
            EVERY,
            TOWERS,
            "both",
            OURS,
            "the direction is freed of its part along the retain gradient",
            seconds=30.0,
            uses=(*SEARCH, *FRONT),
        ),
        Method(
            "slug two layers",
            two_layers,
            "SLUG variants",
            EVERY,
            TOWERS,
            "both",
            OURS,
            "two layers of the front move together",
            seconds=30.0,
            uses=(*SEARCH, *FRONT),
        ),
        Method(
            "diffquickfix",
            diffquickfix,
            "single layer",
            ("diffusion",),
            ("text",),
            "texts",
            "Basu et al., ICLR 2024, arXiv 2310.13730",
            "ridge 1 (published .01 also erases other names); the anchor is the nearest name",
            replaces=True,
        ),
        Method(
            "uce",
            uce,
            ATTENTION,
            ("diffusion",),
            ("unet",),
            "texts",
            "Gandikota et al., WACV 2024, arXiv 2308.14761",
            f"tokens from the last word on; the guide is the nearest name; ridge 10{POOLED}",
            replaces=True,
            together=uce_together,
        ),
        Method(
            "rece",
            rece,
            ATTENTION,
            ("diffusion",),
            ("unet",),
            "texts",
            "Gong et al., ECCV 2024, arXiv 2407.12383",
            f"guide, ridge and names to keep of our UCE; what was erased is asked again{POOLED}",
            seconds=2.0,
            replaces=True,
        ),
        Method(
            "speed",
            speed,
            ATTENTION,
            ("diffusion",),
            ("unet",),
            "texts",
            "Li et al., ICLR 2026, arXiv 2503.07392",
            f"keys too; a relative threshold of .01; tokens from the last word on{POOLED}",
            seconds=2.0,
            replaces=True,
            together=speed_together,
        ),
        Method(
            "locoedit",
            locoedit,
            ATTENTION,
            ("diffusion",),
            ("unet",),
            "texts",
            "Basu et al., ICML 2024, arXiv 2405.01008",
            f"the window's share of the layers (8 to 11 of 16); ridge 10{POOLED}",
            replaces=True,
        ),
        Method(
            "mace",
            mace,
            ATTENTION,
            ("diffusion",),
            ("unet",),
            "texts",
            "Lu et al., CVPR 2024, arXiv 2403.06135",
            f"its closed forms only, without the trained LoRA between; ridge 10{POOLED}",
            replaces=True,
        ),
        Method(
            "cure",
            cure,
            ATTENTION,
            ("diffusion",),
            ("unet",),
            "texts",
            "Das Biswas et al., NeurIPS 2025, arXiv 2505.12677",
            f"single tokens instead of their mean; pocket-sd's styles stay{POOLED}",
        ),
        Method(
            "double projections",
            double_projections,
            ATTENTION,
            ("diffusion",),
            ("unet",),
            "texts",
            "Zhang et al., CVPR 2026, arXiv 2604.10032",
            f"many tokens, so a pseudoinverse; spans cut at 95 % and 99 % of energy{POOLED}",
            replaces=True,
        ),
        Method(
            "trce",
            trce,
            ATTENTION,
            ("diffusion",),
            ("unet",),
            "texts",
            "Chen et al., ICCV 2025, arXiv 2503.07389",
            f"stage 1 only, without the trained stage 2; ridge .1, preserve .003{POOLED}",
            replaces=True,
        ),
        Method(
            "leace",
            leace,
            PROJECTIONS,
            ("zero-shot",),
            TOWERS,
            "both",
            "Belrose et al., NeurIPS 2023, arXiv 2306.03819",
            "no bias and no shrinkage; on both towers",
            seconds=3.0,
            together=leace_together,
        ),
        Method(
            "ccup",
            ccup,
            PROJECTIONS,
            ("zero-shot",),
            ("vision",),
            "texts",
            "after arXiv 2512.14137",
            "CCUP-like, form and constants ours: one direction, half the energy of the other names kept",
        ),
        Method(
            "inlp",
            inlp,
            PROJECTIONS,
            ("zero-shot",),
            TOWERS,
            "both",
            "Ravfogel et al., ACL 2020, arXiv 2004.07667",
            "2 rounds; both classes weigh the same; on both towers",
            seconds=3.0,
        ),
        Method(
            "razor",
            razor,
            "several layers",
            EVERY,
            TOWERS,
            "both",
            "Ranjan et al., CVPR 2026 Findings, arXiv 2603.14819",
            "RAZOR, constants ours: alpha .5, rho 1, tau .6 of the best, both lambdas 1; no step "
            "that keeps less than the floor, so that styles may stay",
            seconds=12.0,
            uses=("batch",),
        ),
        Method(
            "nest",
            nest,
            "several layers",
            EVERY,
            TOWERS,
            "both",
            "NEST, built on SLUG's repository",
            "batches of 8; normal for Student's distribution; the shared projections stay; the score's "
            "last factor is relative to the layer",
            seconds=26.0,
        ),
        Method(
            "forget-it-all",
            forget_it_all,
            "several layers",
            ("diffusion",),
            ("unet",),
            "texts",
            "Forget-It-All, ICML 2026, arXiv 2601.06163",
            "r2 .1 (published .007, .03) and the first 3 of 10 steps; at pocket size about half "
            "of a thing's pictures survive, and styles",
            seconds=1.5,
        ),
        Method(
            "ga",
            ga,
            "trained",
            EVERY,
            TOWERS,
            "pictures",
            TABLE_1,
            f"rate 1e-4 ({NOTHING} 1e-7, 1e-6), 4 to 30 iterations; matrices only",
            seconds=1.5,
            uses=("batch",),
        ),
        Method(
            "ft",
            ft,
            "trained",
            EVERY,
            TOWERS,
            "pictures",
            TABLE_1,
            f"rate 1e-4 ({NOTHING} 1e-7, 1e-6), 20 iterations; matrices only; names nothing to "
            "forget, so the concept mostly stays",
            seconds=4.0,
            uses=("batch",),
        ),
        Method(
            "gaft",
            gaft,
            "trained",
            EVERY,
            TOWERS,
            "both",
            TABLE_1,
            f"rate 1e-4 ({NOTHING} 1e-7, 1e-6), 6 to 30 and 20 iterations; matrices only",
            seconds=6.0,
            uses=("batch",),
        ),
        Method(
            "salun",
            salun,
            "trained",
            EVERY,
            TOWERS,
            "both",
            "Fan et al., ICLR 2024, arXiv 2310.12508",
            f"on CLIP; rate 1e-4 ({NOTHING} 1e-7, 1e-6), 6 to 30 and 20 iterations; matrices only",
            seconds=9.0,
            uses=("batch",),
        ),
        Method(
            "ssd",
            ssd,
            "trained",
            EVERY,
            TOWERS,
            "both",
            "Foster et al., AAAI 2024, arXiv 2308.07707",
            "one dampening, alpha 10 to 50, lambda 1; both importances are of the cosine loss",
            seconds=2.5,
        ),
        Method(
            "negative prompt",
            negative_prompt,
            "at inference",
            ("diffusion",),
            ("none",),
            "texts",
            "what users try first; no paper",
            "nothing happens without guidance",
        ),
        Method(
            "sld",
            sld,
            "at inference",
            ("diffusion",),
            ("none",),
            "texts",
            "Schramowski et al., CVPR 2023, arXiv 2211.05105",
            "the paper's Hyp-Strong; nothing happens without guidance",
        ),
        Method(
            "seot",
            seot,
            "at inference",
            ("diffusion",),
            ("none",),
            "texts",
            "Li et al., ICLR 2024, arXiv 2402.05375",
            "soft weights alone, without its optimisation of attention maps; "
            "told where the name stands, so paraphrases pass",
        ),
        Method(
            "safree",
            safree,
            "at inference",
            ("diffusion",),
            ("none",),
            "texts",
            "Yoon et al., ICLR 2025, arXiv 2410.12761",
            "end tokens filtered too; "
            "t 3 (published 5.333), for all steps (10 of 50); no re-attention on latents",
        ),
        Method(
            "adavd",
            adavd,
            "at inference",
            ("diffusion",),
            ("none",),
            "texts",
            "Wang et al., CVPR 2025, arXiv 2412.06143",
            "no gate (published as an option); the half that reads prompts alone; where the text "
            "enters the time embedding, its values too",
        ),
        Method(
            "casteer",
            casteer,
            "at inference",
            ("diffusion",),
            ("none",),
            "texts",
            "Gaintseva et al., 2025, arXiv 2503.09630",
            "16 pairs of prompts at 8 steps; the half that reads prompts alone",
            seconds=3.0,
        ),
        Method(
            "sae",
            sae,
            "at inference",
            ("diffusion",),
            ("none",),
            "texts",
            "after Cywiński, Deja, ICML 2025, arXiv 2501.18052, and Kim, Ghadiyaram, 2025, arXiv 2501.19066",
            "one autoencoder of 1,024 features on the text tower's last states, 12 active; only what "
            "the features add is taken away, and twice",
            lacks=lacks,
        ),
        Method(
            "few-shot",
            few_shot,
            "trained",
            ("diffusion",),
            ("text",),
            "pictures",
            "Fuchi, Takagi, 2024, arXiv 2405.07288",
            f"rate 1e-4 ({NOTHING} 1e-5), 40 steps, 8 pictures; matrices only; "
            "at pocket size styles survive it",
            seconds=3.0,
        ),
        Method(
            "hirm",
            hirm,
            "trained",
            ("zero-shot", "diffusion"),
            ("text",),
            "texts",
            "HiRM, by the erasing toolkit's train_hirm.py",
            "rate, iterations and coefficient ours (3e-4, 300, 10); matrices only",
            seconds=4.0,
        ),
        Method(
            "esd-x",
            esd_x,
            "trained",
            ("diffusion",),
            ("unet",),
            "texts",
            "Gandikota et al., ICCV 2023, arXiv 2303.07345",
            f"rate 1e-3 ({NOTHING} 5e-5), 20 iterations, styles 30; also trains the pooled text; noised "
            "pictures from a pool; the concept also in two contexts",
            seconds=5.0,
        ),
        Method(
            "esd-u",
            esd_u,
            "trained",
            ("diffusion",),
            ("unet",),
            "texts",
            "Gandikota et al., ICCV 2023, arXiv 2303.07345",
            f"rate 1.5e-4 ({NOTHING} 5e-5), 60 iterations; noised pictures from a pool; the "
            "concept also in two contexts",
            seconds=7.0,
        ),
        Method(
            "ca",
            ca,
            "trained",
            ("diffusion",),
            ("unet",),
            "texts",
            "Kumari et al., ICCV 2023, arXiv 2303.13516",
            f"rate 5e-4 ({NOTHING} 2e-6), 40 iterations; also trains the pooled text; noised "
            "pictures from a pool; the next neighbour as anchor, or no style",
            seconds=5.0,
            replaces=True,
        ),
        Method(
            "fmn",
            fmn,
            "trained",
            ("diffusion",),
            ("unet",),
            "pictures",
            "Zhang et al., 2023, arXiv 2303.17591",
            f"rate 5e-4 ({NOTHING} 2e-6), 35 iterations, no inversion; all tokens from the name on; "
            "styles may survive it",
            seconds=2.5,
        ),
        Method(
            "spm",
            spm,
            "trained",
            ("diffusion",),
            ("unet",),
            "texts",
            "Lyu et al., CVPR 2024, arXiv 2312.16145",
            f"rate 3e-3 ({NOTHING} 1e-4), 60 iterations; anchors of equal weight; folded into the "
            "weights, so the adapter counts whatever the prompt",
            seconds=15.0,
        ),
    )
}


def named(name: str) -> Method:
    """The method of this name, in any case. Raises SlugError for another, with those near it."""
    for method in METHODS.values():
        if method.name.casefold() == name.strip().casefold():
            return method
    raise unknown("method", name, METHODS)
