"""The built-in models, and how a name becomes a trainer."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tacit.client.numpy_trainer import NumpyTrainer
from tacit.client.torch_trainer import TorchTrainer
from tacit.client.trainer import Examples, LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.simulations import models
from tacit.simulations.models import MODELS, Backend, lenet, mlp, resnet, trainer, transformer

SHAPES = [(1, 8, 8), (1, 25, 25), (3, 32, 32)]
OF_PICTURES = [name for name in MODELS if name != "transformer"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OF_PICTURES)
def test_every_model_gives_finite_scores_and_gradients(name: str, shape: tuple[int, ...]) -> None:
    net = MODELS[name](shape, 5)
    scores = net(torch.rand(2, *shape))
    assert scores.shape == (2, 5)
    nn.functional.cross_entropy(scores, torch.tensor([0, 4])).backward()
    for weight, values in net.named_parameters():
        assert values.grad is not None, weight
        assert values.grad.isfinite().all(), weight
        assert values.grad.abs().max() > 0, weight


@pytest.mark.parametrize("name", [name for name in OF_PICTURES if name != "bn-cnn"])
def test_no_model_but_the_one_made_to_be_attacked_mixes_examples(name: str) -> None:
    net = MODELS[name]((3, 32, 32), 4)
    x = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]), rtol=1e-4, atol=1e-5)
    assert not list(net.buffers())  # no statistics of one device's data


def test_features_go_into_softmax_and_mlp_only() -> None:
    for name in OF_PICTURES:
        if name in models.IN_NUMPY:
            assert MODELS[name]((30,), 2)(torch.rand(4, 30)).shape == (4, 2)
        else:
            with pytest.raises(ParameterError, match=rf"{name}.*takes images.*\(30,\)"):
                MODELS[name]((30,), 2)


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_too_small_an_image(name: str) -> None:
    with pytest.raises(ParameterError, match="at least 4x4"):
        MODELS[name]((1, 8, 3), 2)


def test_lenet_is_drawn_from_half_either_way() -> None:
    torch.manual_seed(0)
    drawn = torch.cat([weight.flatten() for weight in lenet((3, 32, 32), 10).parameters()])
    assert float(drawn.detach().abs().max()) <= 0.5
    # A uniform on ±0.5 has deviation 0.2887; 16,000 draws put the estimate within 0.5 % of it.
    assert float(drawn.detach().std()) == pytest.approx(12**-0.5, rel=0.02)


@pytest.mark.parametrize(("blocks", "layers"), [(1, 8), (2, 14)])
def test_resnet_depth(blocks: int, layers: int) -> None:
    net = resnet((3, 32, 32), 10, blocks)
    kinds = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len([m for m in kinds if getattr(m, "kernel_size", (3, 3)) == (3, 3)]) == layers
    assert not [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


class TestTransformer:
    def test_it_takes_tokens_in_any_dtype_and_shorter_texts_too(self) -> None:
        net = transformer((6,), 9)
        tokens = torch.tensor([[0, 8, 3, 3, 1, 0], [5, 4, 3, 2, 1, 0]])
        scores = net(tokens.float())
        assert scores.shape == (2, 9)
        assert torch.equal(scores, net(tokens))
        assert net(tokens[:, :2]).shape == (2, 9)
        torch.testing.assert_close(scores[1:], net(tokens[1:]))  # and mixes no examples
        nn.functional.cross_entropy(scores, torch.tensor([0, 8])).backward()
        for name, values in net.named_parameters():
            assert values.grad is not None
            assert values.grad.isfinite().all()
            assert values.grad.abs().max() > 0, name

    def test_no_position_sees_what_comes_after_it(self) -> None:
        net = transformer((6,), 9)
        seen: list[torch.Tensor] = []
        net.norm.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
        for last in (1, 2):
            net(torch.tensor([[7, 7, 7, 7, 7, last]]))
        torch.testing.assert_close(seen[0][:, :-1], seen[1][:, :-1])
        assert (seen[0][:, -1] - seen[1][:, -1]).abs().max() > 1e-3

    def test_it_learns_what_comes_next(self) -> None:
        x = np.stack([np.roll(np.arange(6), -i)[:4] for i in range(6)]).astype(np.float32)
        examples = Examples(x, ((x[:, -1] + 1) % 6).astype(np.int64))
        net = trainer("transformer", (4,), 6)
        trained, _ = net.fit(net.initial(0), examples, LocalPlan(epochs=30, momentum=0.9))
        assert net.evaluate(trained, examples)[1] == 1

    def test_what_it_does_not_take(self) -> None:
        with pytest.raises(ParameterError, match=r"takes texts .*\(1, 8, 8\)"):
            transformer((1, 8, 8), 2)
        for wrong in ({"width": 16}, {"width": 40}, {"blocks": 0}):
            with pytest.raises(ParameterError, match="multiple of 32"):
                transformer((4,), 2, **wrong)


def test_mlp_without_a_hidden_layer_is_softmax() -> None:
    with pytest.raises(ParameterError, match="softmax"):
        mlp((4,), 2, ())


@pytest.mark.parametrize("name", models.IN_NUMPY)
def test_both_backends_hold_the_same_arrays(name: str) -> None:
    ours = trainer(name, (1, 5, 4), 3, backend="numpy")
    theirs = trainer(name, (1, 5, 4), 3, backend="torch")
    assert isinstance(ours, NumpyTrainer)
    assert isinstance(theirs, TorchTrainer)
    assert [(n, a.shape, a.dtype) for n, a in ours.initial(0).items()] == [
        (n, a.shape, a.dtype) for n, a in theirs.initial(0).items()
    ]


def test_torch_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(trainer("smooth_cnn", (1, 8, 8), 3), TorchTrainer)
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    assert isinstance(trainer("softmax", (1, 8, 8), 3), NumpyTrainer)
    with pytest.raises(ParameterError, match=r"'cnn' needs torch: pip.*softmax and mlp"):
        trainer("cnn", (1, 8, 8), 3)
    with pytest.raises(ParameterError, match="pip install"):
        trainer("cnn", (1, 8, 8), 3, backend="torch")


def test_the_module_is_imported_without_torch() -> None:
    program = (
        "import sys\n"
        "from tacit.simulations.models import trainer\n"
        "trainer('mlp', (8,), 2, backend='numpy').initial(0)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# One's own

OWN = """
import numpy as np
from torch import nn
from tacit.client.numpy_trainer import NumpyTrainer
calls = 7
def net(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(shape[0], classes))
def trainer(shape, classes): return NumpyTrainer(shape[0], classes)
def text(shape, classes): return "a model"
def nothing(): return None
def broken(shape, classes): return 1 / 0
class Group:
    net = staticmethod(net)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty and not on the search path, as for the installed command."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("attribute", "kind"),
    [("net", TorchTrainer), ("Group.net", TorchTrainer), ("trainer", NumpyTrainer)],
)
def test_ones_own_model_trains(here: Path, attribute: str, kind: type) -> None:
    (here / "some_models.py").write_text(OWN)
    own = trainer(f"some_models:{attribute}", (6,), 2)
    assert isinstance(own, kind)
    data = Examples(np.eye(6, dtype=np.float32), np.arange(6) % 2)
    trained, _ = own.fit(own.initial(0), data, LocalPlan(epochs=50, learning_rate=1.0))
    assert own.evaluate(trained, data)[1] == 1.0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("some_modles:net", "no module 'some_modles'"),
        ("some_models:nett", r"some_models has no 'nett' \(did you mean 'net'\?\)"),
        ("some_models:calls", "is a int, expected something to call"),
        ("some_models:text", "returned str, expected a torch.nn.Module or a Trainer"),
        ("some_models:nothing", r"some_models:nothing\(\(6,\), 2\) failed: TypeError"),
        ("some_models:broken", "failed: ZeroDivisionError: division by zero"),
        ("needs_more:net", "needs the module 'not_there', which is not installed"),
        ("typo:net", "importing typo failed: SyntaxError"),
        ("some_models.inner:net", "no module 'some_models.inner'"),
        ("restnet", r"unknown model 'restnet' \(did you mean 'resnet'\?\)"),
        ("diffusion9000", "unknown model 'diffusion9000'; there are softmax, mlp"),
        ("some models:net", "unknown model 'some models:net'"),
    ],
)
def test_a_name_that_does_not_work_says_why(here: Path, name: str, says: str) -> None:
    (here / "some_models.py").write_text(OWN)
    (here / "needs_more.py").write_text("import not_there")
    (here / "typo.py").write_text("def net(:")
    with pytest.raises(ParameterError, match=says):
        trainer(name, (6,), 2)


@pytest.mark.parametrize("ask", [lambda: trainer("mlp", (6,), 1), lambda: trainer("cnn", (6,), 2)])
def test_what_cannot_be_built_says_so_at_once(ask: Callable[[], object]) -> None:
    with pytest.raises(ParameterError, match=r"expected at least 2|takes images"):
        ask()


class TestNames:
    @pytest.mark.parametrize("backend", ["torch", "numpy"])
    def test_an_mlp_of_other_widths(self, backend: Backend) -> None:
        arrays = trainer("mlp:7,5", (1, 2, 3), 4, backend=backend).initial(0)
        assert [a.shape for n, a in arrays.items() if "weight" in n] == [(7, 6), (5, 7), (4, 5)]

    @pytest.mark.parametrize("name", ["mlp:0", "mlp:1.5", "mlp:7,", "mlp:-1", "cnn:7", "softmax:7"])
    def test_widths_that_are_none(self, name: str) -> None:
        with pytest.raises(ParameterError, match="expected an mlp's widths"):
            trainer(name, (1, 8, 8), 4)
