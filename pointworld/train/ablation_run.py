"""Train and measure the variants of a study; what is done already is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pointworld.errors import InputError
from pointworld.files import write_json
from pointworld.model import ModelSpec, WorldModel, load_checkpoint, save_checkpoint
from pointworld.ptv3 import PTv3Arch
from pointworld.train.ablation import (
    ENCODERS,
    OURS,
    SingleSteps,
    Variant,
    blind_to_colour,
    chained_predictor,
    variants_of,
    with_cameras,
    without_colour,
)
from pointworld.train.cache import (
    CachedSample,
    build_cache,
    cache_folder,
    read_cache,
    spread_out,
)
from pointworld.train.config import TrainConfig
from pointworld.train.curve import read_curve
from pointworld.train.evaluator import evaluate
from pointworld.train.parallel import Ranks
from pointworld.train.predictors import carry_predictors, model_predictor
from pointworld.train.preparation import SURFACE_POINTS, new_preparation
from pointworld.train.statistics import STATISTICS_SAMPLES, measure
from pointworld.train.trainer import train


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all variants share.

    data, validation, test: folders of clips; several of one kind are one set.
    out: one folder per variant, and one file per study.
    cache: folder of cached samples. noisy: share of the training clips seen with a camera's errors.
    limit: test clips, None = all. device: where models are trained.
    config: budget, optimiser, augmentation, loss.
    """

    data: tuple[Path, ...]
    validation: tuple[Path, ...]
    test: Path
    out: Path
    cache: Path
    arch: PTv3Arch
    robot: str = "fr3"
    robot_tokens: int = 16
    context_points: int = 700
    workers: int = 2
    noisy: float = 0.5
    limit: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    config: TrainConfig = field(default_factory=TrainConfig)

    def facts(self, variant: Variant) -> dict[str, Any]:
        """What a variant's result depends on, as JSON."""
        shared = {
            "data": [str(folder) for folder in self.data],
            "test": str(self.test),
            "robot": self.robot,
            "arch": asdict(self.arch),
            "robot_tokens": self.robot_tokens,
            "context_points": self.context_points,
            "limit": self.limit,
            "noisy": self.noisy,
            "config": asdict(self.config),
        }
        described = {k: v for k, v in asdict(variant).items() if k not in ("name", "label")}
        plain: dict[str, Any] = json.loads(json.dumps(shared | {"variant": described}))
        return plain


#: Called with a variant's label and what is done with it.
Progress = Callable[[str, str], None]


def run_study(
    study: str,
    setup: Setup,
    *,
    encoders: Sequence[str] = ENCODERS,
    on_progress: Progress = lambda label, what: None,
) -> dict[str, Any]:
    """Train and measure every variant of a study, and write `<out>/<study>.json`.

    An interrupted study goes on where it stopped; a variant that is done is not trained again.

    Raises:
        InputError: no such study, or the folder holds variants made with other settings.
    """
    rows = []
    for variant in variants_of(study, encoders):
        record = run_variant(variant, setup, on_progress)
        rows.append({"name": variant.name, "label": variant.label, **record})
    result = {"study": study, "minutes": setup.config.minutes, "rows": rows}
    write_json(setup.out / f"{study}.json", result)
    return result


def run_variant(variant: Variant, setup: Setup, on_progress: Progress) -> dict[str, Any]:
    """Train one variant where it needs weights of its own, measure it, and write `result.json` to its folder."""
    folder = setup.out / variant.name
    path, facts = folder / "result.json", setup.facts(variant)
    if path.is_file():
        record: dict[str, Any] = json.loads(path.read_text())
        if record["facts"] != facts:
            different = sorted(k for k in facts if record["facts"].get(k) != facts[k])
            raise InputError(
                f"{folder} was made with another {', '.join(different)}. Choose another --out, or remove it."
            )
        return record
    if variant.weights_of is None:
        model, training = _trained(variant, setup, on_progress)
    else:
        owner = replace(OURS, name=variant.weights_of)
        training = run_variant(owner, setup, on_progress)["training"]
        model = load_checkpoint(setup.out / variant.weights_of)
    on_progress(variant.label, "measuring")
    record = {"facts": facts, "training": training, **measure_variant(variant, model, setup)}
    write_json(path, record)
    return record


def _trained(
    variant: Variant, setup: Setup, on_progress: Progress
) -> tuple[WorldModel, dict[str, Any]]:
    on_progress(variant.label, "reading samples")
    samples = samples_of(variant, setup, setup.data, share=variant.share, noisy=setup.noisy)
    validation = samples_of(variant, setup, setup.validation)
    spec = variant_spec(variant, setup, samples[0])
    on_progress(variant.label, f"training on {len(samples)} samples")
    config = setup.config if variant.loss is None else replace(setup.config, loss=variant.loss)
    folder = setup.out / variant.name
    model = train(
        spec,
        samples,
        validation,
        folder,
        config,
        statistics=measure(spec, spread_out(samples, STATISTICS_SAMPLES), seed=config.seed),
        ranks=Ranks(device=setup.device),
    ).cpu()
    last = read_curve(folder / "curve.csv")[-1]
    training = {
        "train_samples": len(samples),
        "parameters": sum(p.numel() for p in model.parameters()),
        **last,
    }
    save_checkpoint(model, folder, training=training)
    return model, training


def variant_spec(variant: Variant, setup: Setup, sample: CachedSample) -> ModelSpec:
    """The description of a variant's model, for samples like this one."""
    channels = 0 if sample.features is None else int(sample.features.shape[1])
    spec = ModelSpec(
        arch=setup.arch,
        image_channels=channels,
        encoder=variant.encoder,
        robot=setup.robot,
        robot_tokens=setup.robot_tokens,
        context_points=setup.context_points,
        max_robot_points=SURFACE_POINTS,
    )
    return replace(spec, **variant.spec)


def samples_of(
    variant: Variant,
    setup: Setup,
    folders: Sequence[Path],
    *,
    share: float = 1.0,
    noisy: float = 0.0,
) -> Sequence[CachedSample]:
    """What a variant trains on: the first `share` of the clips in every folder."""
    samples: list[CachedSample] = []
    for data in folders:
        preparation = new_preparation(variant.encoder)
        folder = cache_folder(setup.cache, data, preparation, noisy)
        if variant.cameras is not None:
            folder = folder.with_name(f"{folder.name}-cameras{variant.cameras}")
        count = build_cache(
            data,
            folder,
            preparation=preparation,
            workers=setup.workers,
            cameras=variant.cameras,
            noisy=noisy,
        )
        samples += read_cache(data, folder, limit=max(1, round(share * count)))
    if not variant.colour:
        samples = [without_colour(sample) for sample in samples]
    return SingleSteps(samples) if variant.one_step else samples


def measure_variant(variant: Variant, model: WorldModel, setup: Setup) -> dict[str, Any]:
    """`evaluation` of a variant on the test clips, as `pointworld evaluate` gives it."""
    predictor = chained_predictor(model) if variant.chained else model_predictor(model)
    if not variant.colour:
        predictor = blind_to_colour(predictor)
    still = carry_predictors(0.0)["no_motion"]
    table = evaluate(
        [setup.test],
        {"model": predictor, "no_motion": still},
        preparation=new_preparation(variant.encoder),
        limit=setup.limit,
        prepare=lambda clip: with_cameras(clip, variant.seen_cameras),
    )
    return {"evaluation": table}
