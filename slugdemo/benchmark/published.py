"""Published figures on Stable Diffusion 1.5: not comparable with ours, shown beside them as such.

UnlearnCanvas (arXiv 2402.11846), table 2: UA / IRA / CRA in per cent for styles and for objects,
FID, seconds, GB of memory, GB of storage. RAZOR (arXiv 2603.14819): its own row, which is of Stable
Diffusion V3. Knows digits.
"""

from typing import NamedTuple


class Rates(NamedTuple):
    """UA, IRA and CRA in per cent."""

    ua: float
    ira: float
    cra: float


class Published(NamedTuple):
    """One row of a paper's table; what it does not print is None."""

    method: str
    style: Rates
    object: Rates
    fid: float | None
    seconds: float | None
    memory_gb: float | None
    storage_gb: float | None
    source: str
    model: str = "Stable Diffusion 1.5"

    @property
    def note(self) -> str:
        """What must be said wherever its figures are shown."""
        return f"{self.model}, not comparable"

    def rates(self, domain: str) -> Rates:
        """Its rates for a concept of a domain: those for styles, or else those for objects."""
        return self.style if domain == "style" else self.object


CANVAS = "UnlearnCanvas, arXiv 2402.11846"
SLUG = "SLUG, arXiv 2407.11867"
RAZOR = "RAZOR, arXiv 2603.14819"
SD3 = "Stable Diffusion V3"
ROWS = (
    Published("ESD", Rates(98.58, 80.97, 93.96), Rates(92.15, 55.78, 44.23), 65.55, 6163, 17.8, 4.3, CANVAS),
    Published("FMN", Rates(88.48, 56.77, 46.60), Rates(45.64, 90.63, 73.46), 131.37, 350, 17.9, 4.2, CANVAS),
    Published("UCE", Rates(98.40, 60.22, 47.71), Rates(94.31, 39.35, 34.67), 182.01, 434, 5.1, 1.7, CANVAS),
    Published("CA", Rates(60.82, 96.01, 92.70), Rates(46.67, 90.11, 81.97), 54.21, 734, 10.1, 4.2, CANVAS),
    Published("SalUn", Rates(86.26, 90.39, 95.08), Rates(86.91, 96.35, 99.59), 61.05, 667, 30.8, 4.0, CANVAS),
    Published("SEOT", Rates(56.90, 94.68, 84.31), Rates(23.25, 95.57, 82.71), 62.38, 95, 7.34, 0.0, CANVAS),
    Published("SPM", Rates(60.94, 92.39, 84.33), Rates(71.25, 90.79, 81.65), 59.79, 29700, 6.9, 0.0, CANVAS),
    Published("EDiff", Rates(92.42, 73.91, 98.93), Rates(86.67, 94.03, 48.48), 81.42, 1567, 27.8, 4.0, CANVAS),
    Published("SHS", Rates(95.84, 80.42, 43.27), Rates(80.73, 81.15, 67.99), 119.34, 1223, 31.2, 4.0, CANVAS),
    Published("SLUG", Rates(86.29, 84.59, 88.43), Rates(75.43, 77.50, 81.18), 75.97, 39, 3.61, 0.04, SLUG),
    Published("RAZOR", Rates(99.40, 98.97, 100.0), Rates(98.80, 98.35, 100.0), None, 78, 4.2, 0.06, RAZOR, SD3),
)  # fmt: skip
NOT_PORTED = {
    "AdvUnlearn": "adversarial training: 1,000 iterations, some 40 GB of memory",
    "EDiff": "bilevel training on both sets for five epochs",
    "SHS": "re-initialises weights and then needs two epochs of fine-tuning",
    "DoCo": "2,000 iterations of adversarial training",
    "ACE": "1,000 iterations of adversarial training",
    "ANT": "trains along whole denoising paths",
    "UnGuide": "200 iterations for an adapter, and a second pass while drawing",
    "RealEra": "200 to 500 iterations around sampled neighbours",
    "CRCE": "training of its own; formulas not checked by us",
    "Co-Erasing": "training of its own; formulas not checked by us",
    "SFD": "training of its own; formulas not checked by us",
    "PURE": "rank threshold, steps and anchors are printed nowhere; with thresholds from 0.2 to 0.99 the "
    "octopus stays (UA 0 to 0.5) or the styles go (CRA 0.24)",
    "SAeUron": "a sparse autoencoder on U-Net activations: hours of training; sae is after it",
    "Concept Steerers": "a middle text layer, both passes; sae is after it, on the last states",
    "ItD": "a sparse autoencoder of 524,288 features on a middle text layer; sae has 1,024",
    "EraseAnything": "made for FLUX alone",
}
