"""One notebook's data, trained parts and exercises.

Enters: the parameters cell. Leaves: the simulated subject ready for the preset, every stage trained so far (by the
student in an earlier lesson, else as shipped), and a verdict on each exercise.
"""

from __future__ import annotations

import json
import logging
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from visdec_lite import chain
from visdec_lite.datasets import BrainDataset, load_dataset
from visdec_lite.identity import differences, flat
from visdec_lite.presets import Preset, preset
from visdec_lite.teaching.verdicts import Verdict, judge
from visdec_lite.weights import read_metadata, save_weights

logger = logging.getLogger(__name__)

MADE_IN = {"pretrain": "03", "fuse": "04", "finetune": "05"}  # stage -> the lesson that ends with it
FOLDER = Path("runs") / "lessons"


class Lesson:
    """What the notebook `number` works with.

    Args:
        number: "00" to "09".
        preset_name: smoke, class or paper; lessons are written for class.
        seed: of everything random.
        device: where lessons train.
        use_solutions: check the solutions instead of what stands in the cells, and stop at a wrong one.
        folder: where artefacts are handed from lesson to lesson.
        overrides: preset fields by dotted path.

    Attributes:
        preset: the numbers of every stage.
    """

    def __init__(
        self,
        number: str,
        preset_name: str = "class",
        seed: int = 0,
        device: str = "cpu",
        use_solutions: bool = False,
        folder: Path | str = FOLDER,
        **overrides: Any,
    ) -> None:
        self.number, self.seed, self.device, self.use_solutions = number, seed, device, use_solutions
        self.folder = Path(folder)
        self.preset: Preset = preset(preset_name, **overrides).with_seed(seed)
        self.verdicts: dict[str, Verdict] = {}

    # --- data and trained parts ---

    @cached_property
    def dataset(self) -> BrainDataset:
        """Simulated subject 1."""
        return chain.ready_for(load_dataset("simulated"), self.preset)

    @cached_property
    def world(self) -> chain.World:
        """The shipped prior, referee and image autoencoder of the simulated world."""
        return chain.load_world(chain.shipped("simulated"), self.preset)

    def new_brain(self) -> chain.Brain:
        """An untrained fMRI autoencoder, fusion and conditioned diffusion model on a world of its own."""
        world = chain.load_world(chain.shipped("simulated"), self.preset)
        return chain.new_brain(self.preset, self.dataset.num_voxels, world, self.seed)

    def checkpoint(self, stage: str, shipped: bool = False) -> chain.Brain:
        """A brain whose `stage` is trained: by an earlier lesson if its artefact is there, else as shipped.

        Args:
            stage: "pretrain" (phase 1), "fuse" (phase 2) or "finetune"; the part of that stage is trained.
            shipped: take the shipped one even if there is an own.

        Raises:
            ValueError: no stage of that name.
        """
        own = self._artefact(stage)
        brain = self.new_brain()
        differing = "shipped" if shipped else self._differs(own, self._identity(stage, brain))
        chain.load_stage(chain.shipped("simulated") / own.name if differing else own, brain, stage, self.preset)
        taken = f"yours, from lesson {MADE_IN[stage]} ({self.preset.name}, seed {self.seed})"
        if differing:
            taken = "as shipped" + ("" if shipped or not own.exists() else f", because yours {differing}")
        logger.info("%s: %s", stage, taken)
        return brain

    def _differs(self, own: Path, asked: dict[str, Any]) -> str:
        """Why an artefact is not of this lesson's preset, seed, model and data, in words; empty if it is."""
        if not own.exists():
            return "is not there"
        try:
            kept = read_metadata(own)["identity"]
        except ValueError as error:
            return f"cannot be read ({error})"
        for name in ("preset", "seed"):
            if kept.get(name) != asked[name]:
                return f"is of {name} {kept.get(name)}"
        words = differences(kept, asked, most=3)
        return words and f"is of another run: {words}"

    def _identity(self, stage: str, brain: chain.Brain) -> dict[str, Any]:
        """What an artefact must have in common with the lesson that takes it; how long it learnt is the student's."""
        facts = {"preset": self.preset.name, "seed": self.seed, "fingerprint": self.dataset.fingerprint}
        return json.loads(json.dumps({**facts, **flat(chain.brain_configs(brain, self.preset)[stage], "model.")}))

    def save(self, stage: str, brain: chain.Brain, **card: Any) -> Path:
        """Hand a stage on to the lessons after this one.

        Raises:
            ValueError: no stage of that name.
        """
        path = self._artefact(stage)
        part, only = chain.stage_part(brain, stage)
        config, card = chain.brain_configs(brain, self.preset)[stage], {"lesson": self.number, **card}
        save_weights(path, part, stage, config, only=only, card=card, identity=self._identity(stage, brain))
        return path

    def _artefact(self, stage: str) -> Path:
        if stage not in MADE_IN:
            raise ValueError(f"no stage {stage!r}; there are {', '.join(MADE_IN)}")
        return self.folder / MADE_IN[stage] / f"{stage}.safetensors"

    # --- exercises ---

    def check(self, exercise: str, attempt: Any) -> Verdict:
        """Judge an attempt (with `use_solutions`, the solution in its place).

        Raises:
            AssertionError: a solution fails its own check.
        """
        check = getattr(import_module(f"visdec_lite.teaching.checks.lesson_{self.number}"), exercise)
        if self.use_solutions:
            attempt = self.solution(exercise)
        verdict = judge(exercise, check, attempt)
        self.verdicts[exercise] = verdict
        if self.use_solutions and not verdict.passed:
            raise AssertionError(f"the solution of {self.number} {verdict!r}")
        return verdict

    def solution(self, exercise: str) -> Any:
        """One way to do it: a function or an answer. Try first."""
        return getattr(import_module(f"visdec_lite.teaching.solutions.lesson_{self.number}"), exercise)

    def recap(self) -> str:
        """How many exercises are right, wrong and not tried."""
        passed = [verdict.passed for verdict in self.verdicts.values()]
        return (
            f"Lesson {self.number}: {passed.count(True)} of {len(passed)} exercises right, "
            f"{passed.count(False)} not yet, {passed.count(None)} not tried."
        )
