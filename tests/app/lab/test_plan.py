"""A matrix as a file: what it means, what is skipped, and what is refused before any work."""

from pathlib import Path

import numpy as np
import pytest

from tacit.app.config import Settings
from tacit.app.lab.attacks import ATTACKS, Ground, Named
from tacit.app.lab.defences import DEFENCES, Defence
from tacit.app.lab.federation import settings_of
from tacit.app.lab.plan import Block, Plan
from tacit.app.material import material
from tacit.client.trainer import Examples
from tacit.crypto.errors import ParameterError
from tacit.simulations.attacks.base import Target
from tacit.simulations.attacks.linear import LinearReadout
from tacit.simulations.data.dataset import Dataset, divided
from tacit.simulations.trial import Cell

BLOCK = """
[[block]]
attacks = ["linear-readout", "spear draws=64"]
defences = ["none", "secure"]
models = ["mlp"]
data = ["digits"]
devices = [1, 4]
seeds = 2
"""


def load(text: str, tmp_path: Path) -> Plan:
    (tmp_path / "m.toml").write_text(text)
    return Plan.load(tmp_path / "m.toml")


class TestPlan:
    def test_every_combination_that_makes_sense(self, tmp_path: Path) -> None:
        trials, skipped = load(BLOCK, tmp_path).checked()
        cells = {cell for cell, _ in trials}
        assert {(c.attack, c.defence, c.devices) for c in cells} == {
            (attack, *rest)
            for attack in ("linear-readout", "spear draws=64")
            # In the clear, what one device sends is the same however many there are.
            for rest in (("none", 1), ("secure", 4))
        }
        assert len(trials) == 2 * len(cells)
        assert [seed for _, seed in trials] == [0] * 4 + [1] * 4  # every cell once, then again
        assert not skipped

    def test_an_attack_is_skipped_where_it_does_not_apply(self, tmp_path: Path) -> None:
        both = BLOCK.replace('["mlp"]', '["mlp", "cnn"]')
        trials, skipped = load(both, tmp_path).checked()
        assert {cell.model for cell, _ in trials} == {"mlp"}
        assert {(each.cell.model, each.reason) for each in skipped} == {
            ("cnn", "the model's first layer, conv0, is not a dense one")
        }

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (('["mlp"]', '["cnn"]'), "linear-readout applies to nothing in its block: the model's"),
            (("linear-readout", "linear-raedout"), "did you mean 'linear-readout'"),
            (("draws=64", "darws=64"), "unexpected keyword argument 'darws'"),
            (("draws=64", "draws=0"), "draws=0"),
            (("draws=64", "draws="), "expected a name, then option=value"),
            (('"none"', '"noen"'), "unknown defence 'noen' .did you mean 'none'"),
            (('"none"', '"none secure.bits=3"'), "secure.bits"),
            (("seeds", "sedes"), "unknown key block.1.sedes .did you mean 'seeds'"),
            (("seeds = 2", "seeds = 0"), "block.1.seeds = 0"),
            (("seeds = 2", 'seeds = "2"'), "block.1.seeds = '2'"),
            (('["digits"]', '["digist"]'), "did you mean 'digits'"),
            (('["mlp"]', '["mpl"]'), "did you mean 'mlp'"),
            (("[1, 4]", "[1, 2]"), "a sum is over 3 devices or more"),
            (("[1, 4]", "[1, 100000]"), "100000"),
            (("[[block]]", "[[block"), "is not TOML"),
            ((BLOCK, "title = 'x'"), "block"),
        ],
    )
    def test_mistakes_are_named_before_any_work(
        self, change: tuple[str, str], says: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ParameterError, match=says):
            load(BLOCK.replace(*change), tmp_path).checked()

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ParameterError, match="there is no"):
            Plan.load(tmp_path / "none.toml")

    @pytest.mark.parametrize(
        "name", ["quick", "standard", pytest.param("text", marks=pytest.mark.needs_data)]
    )
    def test_what_comes_with_tacit_can_be_run(self, name: str) -> None:
        trials, skipped = Plan.find(Path(name)).checked()
        assert trials
        assert not skipped


class TestDefences:
    @pytest.mark.parametrize("name", DEFENCES)
    def test_each_is_a_run_as_it_is_set_up(self, name: str) -> None:
        rounds = 2 if name == "fixed-cohorts" else 1
        cell = Cell(
            "linear-readout", f"{name} train.weight_decay=0.5", "mlp", "digits", 4, rounds=rounds
        )
        settings = settings_of(cell, 7)
        assert settings.train.weight_decay == 0.5
        assert (settings.run.seed, settings.data.devices) == (7, 4)
        private = name in ("local", "distributed", "central", "fixed-cohorts")
        assert (settings.private is not None) == private == Defence.parse(name).is_private
        open_ = settings.secure.protocol == "plain"
        assert open_ == Defence.parse(name).is_open == (name in ("none", "ideal-sum"))

    def test_a_cell_says_how_devices_train(self) -> None:
        cell = Cell("spear", "secure", "mlp:7", "digits", 4, 3, 5, 0.25, 2)
        settings = settings_of(cell, 0)
        train = settings.train
        assert (train.epochs, train.batch_size, train.learning_rate) == (5, 0, 0.25)
        assert (settings.data.limit, settings.run.rounds, train.momentum) == (3, 2, 0.0)

    @pytest.mark.parametrize(
        "text",
        ["secure data.devices=7", "none run.seed=3", 'none secure.protocol="pairwise"',
         'secure privacy.mode="distributed"', "secure train.learning_rate=1.0"],
    )  # fmt: skip
    def test_what_a_cell_says_no_defence_changes(self, text: str) -> None:
        with pytest.raises(ParameterError, match="in another place"):
            Defence.parse(text)

    def test_a_torn_text(self) -> None:
        with pytest.raises(ParameterError, match="No closing quotation"):
            Defence.parse('none "')


class TestAttacks:
    def ground(self, model: str, data: str = "digits") -> Ground:
        changes = [f'model.name="{model}"', f'data.name="{data}"', "data.devices=3"]
        settings = Settings().changed(changes)
        return Ground.of(settings, material(settings.data, 0))

    def test_what_anyone_knows(self) -> None:
        ground = self.ground("mlp:9,8")
        assert (ground.first(), ground.hidden(), ground.last()) == ("fc0", "fc0", "head")
        assert list(ground.arrays.values())[:2] == [(9, 64), (9,)]
        assert [tuple(p.shape) for p in ground.build().parameters()] == list(ground.arrays.values())
        with pytest.raises(ParameterError, match="no layer but fc"):
            self.ground("softmax").hidden()
        with pytest.raises(ParameterError, match="are not images"):
            self.ground("mlp", "breast-cancer").image()

    def test_options_are_those_of_the_attack(self) -> None:
        made = Named.parse("linear-readout tolerance=0.5").make(self.ground("mlp"))
        assert made == LinearReadout("fc0", (1, 8, 8), tolerance=0.5)

    def test_ones_own_attack(self) -> None:
        made = Named.parse("tests.app.lab.test_plan:own low=-1.0").make(self.ground("mlp"))
        assert made == LinearReadout("fc0", (1, 8, 8), low=-1.0)

    def test_inputs_that_would_be_cut_off_at_1_are_told(self) -> None:
        ground = self.ground("mlp", "tests.app.lab.test_plan:wide")
        assert Named.parse("label-counts").make(ground).target is Target.LABELS
        with pytest.raises(ParameterError, match=r"outside 0 \.\. 1"):
            Named.parse("linear-readout").make(ground)

    def test_ones_own_must_be_an_attack(self) -> None:
        with pytest.raises(ParameterError, match="made int, which is no attack"):
            Named.parse("tests.app.lab.test_plan:none").make(self.ground("mlp"))

    def test_every_attack_is_documented(self) -> None:
        page = (Path(__file__).parents[3] / "docs" / "leakage.md").read_text()
        assert not [name for name in ATTACKS if f"`{name}`" not in page]
        assert not [name for name in DEFENCES if f"`{name}`" not in page]


def wide() -> Dataset:
    x = np.linspace(-3, 3, 120, dtype=np.float32).reshape(40, 3)
    return divided("wide", Examples(x, np.arange(40) % 2), ("a", "b"), "none")


def none(ground: Ground) -> int:
    return 5


def own(ground: Ground, low: float) -> LinearReadout:
    return LinearReadout(ground.first(), ground.shape, low=low)


def test_the_keys_of_a_block_are_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "leakage.md").read_text()
    assert not [name for name in Block.model_fields if f"`{name}`" not in page]
