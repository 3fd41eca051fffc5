"""deepinv's physics as operators, and our operators as its physics.

deepinv is optional: only a config that names one of its objects imports it.
"""

import copy
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import in_a_line
from core.seeds import seed_from
from recovery.operators import ImageShape, Operator, device_of


def require_deepinv(what: str) -> None:
    """Raise ValueError, which says how to install deepinv, if it is missing."""
    if importlib.util.find_spec("deepinv") is None:
        raise ValueError(f"{what} needs deepinv, which is not installed: pip install deepinv")


class Deepinv:
    """An object of deepinv that a config describes: {class_path: deepinv..., init_args: {...}}.

    Values of `init_args` may be such descriptions too, of classes or of functions. Leave out what
    the image decides: `img_size` is its (C, H, W), `img_width` its width. For a parameter that a
    `deepinv.physics.generator` draws (a mask, a filter) you may give that generator.
    Names of arguments are checked before anything is built; types are not (in deepinv's hints
    `tuple[int]` means any length).

    Raises:
        ValueError: this describes no object of deepinv; names the key that is wrong.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = dict(spec)
        check(self.spec, outermost=True)

    def build(self, image_shape: ImageShape) -> Any:
        """Build the object for images (C, H, W); its class's name seeds whatever is random in it.

        Raises ValueError, with what its class raises: for its arguments, say, or for a package or
        a download that it lacks.
        """
        with torch.random.fork_rng():
            torch.manual_seed(seed_from("deepinv", str(self.spec["class_path"])))
            try:
                return build(self.spec, image_shape)
            except Exception as error:  # weights that cannot be downloaded, say
                said = in_a_line(error)
                raise ValueError(f"{self.spec['class_path']} cannot be made: {said}") from error

    def __call__(self, image_shape: ImageShape) -> "Physics":
        """Make the operator, as any operator factory does."""
        return Physics(image_shape, self)


def is_spec(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_path" in value


def find(class_path: str) -> Callable[..., Any]:
    """Find the class or function of that dotted name. Raises ValueError if there is none."""
    module, _, name = class_path.rpartition(".")
    if class_path.startswith("deepinv."):
        require_deepinv(class_path)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{class_path}: there is no such class or function ({error})") from error


def check(spec: Mapping[str, Any], outermost: bool = False) -> None:
    """Raise ValueError unless the names in a description exist."""
    if not is_spec(spec) or not isinstance(spec["class_path"], str):
        raise ValueError("expected class_path and init_args of an object of deepinv")
    target = find(spec["class_path"])
    bases = inspect.getmro(target) if inspect.isclass(target) else (target,)
    if outermost and not any(base.__module__.split(".")[0] == "deepinv" for base in bases):
        raise ValueError(f"{spec['class_path']} is not of deepinv")
    given = spec.get("init_args") or {}
    known = known_arguments(target)
    free = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(target).parameters.values())
    # deepinv's physics pass unknown arguments on to their bases, and the last one drops them
    free = free and not target.__module__.startswith("deepinv.physics")
    for name, value in given.items():
        if name not in known and not free:
            raise ValueError(
                f"{spec['class_path']} has no argument {name!r}; it takes {', '.join(known)}"
            )
        if is_spec(value):
            check(value)


def known_arguments(target: Callable[..., Any]) -> list[str]:
    """List the names of a function's arguments, or of a class's and its bases'."""
    found: dict[str, None] = {}
    for one in inspect.getmro(target) if inspect.isclass(target) else (target,):
        if one not in (object, nn.Module):
            found |= dict.fromkeys(inspect.signature(one).parameters)
    return [name for name in found if name not in ("args", "kwargs")]


def build(spec: Mapping[str, Any], image_shape: ImageShape) -> Any:
    target = find(spec["class_path"])
    known = inspect.signature(target).parameters
    arguments = {
        name: value
        for name, value in (("img_size", tuple(image_shape)), ("img_width", image_shape[-1]))
        if name in known
    }
    for name, value in (spec.get("init_args") or {}).items():
        if is_spec(value):
            value = build(value, image_shape)
            if hasattr(value, "step") and not isinstance(value, nn.Module | Tensor):
                value = value.step()[name]
            elif hasattr(value, "step") and name in (drawn := value.step()):
                value = drawn[name]
        arguments[name] = tuple(value) if isinstance(value, list) else value
    return target(**arguments)


class Physics(Operator):
    """A deepinv physics as an operator.

    It measures images one by one, on the CPU where there is noise, each with its own seed: noise
    follows the image, not the batch or the device.

    Args:
        image_shape: (C, H, W).
        physics: a description, or the physics itself.
        seed: of the noise.

    Attributes:
        measurements: entries of y that are not always zero.
        sigma: of deepinv's GaussianNoise; 0 where the noise is of another kind.
        noise_energy: of that noise; 0 where unknown, so that no search stops at the noise.

    Raises:
        ValueError: the physics does not measure such images.
    """

    def __init__(
        self, image_shape: ImageShape, physics: Deepinv | nn.Module, seed: int = 0
    ) -> None:
        shape = self.inner_shape(image_shape)
        built: Any = physics.build(shape) if isinstance(physics, Deepinv) else physics
        model: Any = built.noise_model
        gaussian = type(model).__name__ == "GaussianNoise" and model.sigma.numel() == 1
        super().__init__(image_shape, float(model.sigma) if gaussian else 0.0, seed)
        self.spec = physics.spec if isinstance(physics, Deepinv) else {}
        self.physics: Any = built
        # a copy to measure noise with; in a tuple, or it would be a submodule and move to the GPU
        self._on_cpu: tuple[Any] = (copy.deepcopy(built).cpu(),)
        self._complex = False
        self.linear = hasattr(built, "A_adjoint") and is_linear(built)
        self.denoises = type(built).__name__ == "Denoising"
        self._tells_noise = gaussian or type(model).__name__ == "ZeroNoise"
        y, noisy = self._measure_example()
        self._count = int((y != 0).sum())
        self._noise_energy = int((noisy != y).sum()) * self.sigma**2

    def _measure_example(self) -> tuple[Tensor, Tensor]:
        """Measure a random image, without noise and with it."""
        example = torch.rand(1, *self.image_shape, generator=torch.Generator().manual_seed(0))
        example = example.to(device_of(self.physics))
        try:
            try:
                y = self.A(example)
            except RuntimeError:  # torch's, where a real image meets complex numbers
                if not holds_complex(self.physics):
                    raise
                self._complex = True  # our images have an imaginary part of 0
                y = self.A(example)
            if not isinstance(y, Tensor) or y.is_complex():
                raise TypeError("measurements that are not a real tensor")
            return y, self._noisy(y, 0)
        except Exception as error:  # a foreign operator may raise anything: name what it raised
            raise ValueError(
                f"{self.label} does not measure images of shape {self.image_shape}: "
                f"{type(error).__name__}: {error}"
            ) from error

    @property
    def label(self) -> str:
        return str(self.spec.get("class_path") or type(self.physics).__name__)

    def inner_shape(self, image_shape: ImageShape) -> ImageShape:
        """Return the shape of the images that the physics measures."""
        return image_shape

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.physics.A(x + 0j if self._complex else x, **kwargs)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        if not self.linear:
            raise TypeError(f"{self.label} is not linear: it has no adjoint")
        image = self.physics.A_adjoint(y, **kwargs)
        return image.real if image.is_complex() else image

    def forward(self, x: Tensor, seeds: Sequence[int] | None = None, **kwargs: Any) -> Tensor:
        seeds = range(len(x)) if seeds is None else seeds
        if len(seeds) != len(x):
            raise ValueError(f"{len(x)} images need as many seeds, got {len(seeds)}")
        y = self.A(x)
        mixed = [seed_from("noise", self.seed, seed) for seed in seeds]
        return torch.cat([self._noisy(y[i : i + 1], seed) for i, seed in enumerate(mixed)])

    def _noisy(self, y: Tensor, seed: int) -> Tensor:
        (physics,) = self._on_cpu
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if getattr(physics.noise_model, "rng", None) is not None:
                physics.noise_model.rng.manual_seed(seed)
            if type(physics.noise_model).__name__ == "GammaNoise":
                y = y.clamp_min(1e-6)  # speckle scales with its pixel, and refuses a black one
            return physics.sensor(physics.noise(y.cpu())).to(y)

    @property
    def measurements(self) -> int:
        return self._count

    @property
    def tells_noise(self) -> bool:  # type: ignore[override]
        return self._tells_noise

    @property
    def noise_energy(self) -> float:
        return self._noise_energy


class PerChannel(Physics):
    """A deepinv physics of one-channel images, applied to every channel of an image.

    Args:
        image_shape: (C, H, W).
        physics: a description.
        complex: the physics takes complex images, real and imaginary part as channels, as deepinv's
            MRI does: a channel becomes the real part, and the imaginary part is 0.
        seed: of the noise.
    """

    def __init__(
        self, image_shape: ImageShape, physics: Deepinv, complex: bool = False, seed: int = 0
    ) -> None:
        object.__setattr__(self, "complex", complex)  # needed before there is a module
        super().__init__(image_shape, physics, seed)

    def inner_shape(self, image_shape: ImageShape) -> ImageShape:
        return (2 if self.complex else 1, *image_shape[1:])

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        one = x.flatten(0, 1).unsqueeze(1)
        if self.complex:
            one = torch.cat([one, torch.zeros_like(one)], dim=1)
        return super().A(one, **kwargs).unflatten(0, x.shape[:2])

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return super().A_adjoint(y.flatten(0, 1), **kwargs)[:, 0].unflatten(0, y.shape[:2])

    def _noisy(self, y: Tensor, seed: int) -> Tensor:
        return super()._noisy(y.flatten(0, 1), seed).unflatten(0, y.shape[:2])


def is_linear(physics: nn.Module) -> bool:
    from deepinv.physics import LinearPhysics

    return isinstance(physics, LinearPhysics)


def holds_complex(physics: nn.Module) -> bool:
    return any(tensor.is_complex() for tensor in (*physics.buffers(), *physics.parameters()))


def as_operator(physics: nn.Module, y: Tensor, image_shape: ImageShape | None) -> Operator:
    """Make a physics an operator for images of that shape, or of its adjoint's of y."""
    if isinstance(physics, Operator):
        return physics
    if image_shape is None:
        if not is_linear(physics):
            raise ValueError(f"{type(physics).__name__} does not tell the shape of its images")
        with torch.no_grad():
            _, *sides = physics.A_adjoint(y[:1]).shape  # type: ignore[operator]
        image_shape = (sides[0], sides[1], sides[2])
    return Physics(image_shape, physics)


def as_physics(operator: Operator) -> nn.Module:
    """Make an operator a deepinv physics, with its noise.

    A copy, because deepinv's algorithms leave settings on their physics.
    """
    from deepinv import physics as dp

    if type(operator) is Physics:
        return copy.deepcopy(operator.physics)
    noise = dp.GaussianNoise(operator.sigma) if operator.sigma > 0 else dp.ZeroNoise()
    if operator.denoises:
        return dp.Denoising(noise)
    if not operator.linear:
        return dp.Physics(A=operator.A, noise_model=noise)
    return dp.LinearPhysics(
        A=operator.A,
        A_adjoint=operator.A_adjoint,
        img_size=operator.image_shape,
        noise_model=noise,
    )
