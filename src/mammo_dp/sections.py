"""The settings of each group, with type, unit and range: the sections of the configuration."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

Split = Literal["official", "paper"]
Abnormality = Literal["mass", "calc", "all"]
# copies of a lesion: all stay; one stays; one stays, and none where their labels contradict each other
Duplicates = Literal["keep", "drop", "drop_conflicts"]
# neighbouring data sets differ in one patch (a mammogram may give several), or in all images of one patient
Unit = Literal["image", "patient"]
# seeded: reproducible, and whoever knows the seed can remove the noise; secure: from the operating system
Randomness = Literal["seeded", "secure"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Source(Section):
    """One collection of images inside a dataset."""

    reader: Literal["cbis_ddsm", "bcdr", "release", "custom"]
    root: str  # folder; relative to dataset.root, or absolute
    role: Literal["development", "external"]  # development: split into train, val, test; external: test only
    optional: bool = False  # its folder may be absent
    licence: str = ""  # for the data card
    citation: str = ""  # for the data card


class PublicCount(Section):
    """Published sizes of a training set, the only sizes a private run may use."""

    image: int = Field(gt=0)
    patient: int = Field(gt=0)


class Toy(Section):
    """Sizes of the generated phantom studies (`data/toy.py`)."""

    train_patients: int = Field(gt=1)  # before validation patients are set aside
    test_patients: int = Field(gt=1)
    external_patients: int = Field(gt=1)
    height: int = Field(ge=320)  # px
    width: int = Field(ge=256)  # px
    second_mass_every: int = Field(ge=1)  # every n-th patient has a second mass in the CC view
    seed: int = Field(ge=0)


class Dataset(Section):
    name: str = Field(pattern=r"^[a-z0-9_]+$")
    population: str = Field(min_length=1)  # whose images: the same word for data sets of the same patients
    root: str | None  # folder of the raw data
    sources: dict[str, Source] = Field(min_length=1)
    split: Split  # official: as the source states it
    val_fraction: float = Field(ge=0, lt=1)  # of the patients of the official training set
    # of the patients for whom the source states no split
    test_fraction: float = Field(default=0.0, ge=0, lt=1)
    split_seed: int = Field(ge=0)
    abnormality: Abnormality
    duplicates: Duplicates
    max_skipped: float = Field(ge=0, le=1)  # fraction of rows without a patch above which extraction fails
    table: str | None = None  # of custom data: file name in the source's folder, or absolute
    # of custom data: file that keeps the patients' pseudonyms; None: beside the table
    pseudonyms: str | None = None
    # by split; of the official one before validation patients are set aside
    public_count: dict[Split, PublicCount] | None
    toy: Toy | None = None

    @property
    def is_confidential(self) -> bool:
        """Whether names of files may name patients, and messages of libraries quote them."""
        return any(source.reader == "custom" for source in self.sources.values())


class Patches(Section):
    """Geometry of a patch (paper, Sec. 2)."""

    box: Literal["contour", "mask"]  # bounding box of the largest contour, or of all that is marked
    margin: int = Field(ge=0)  # px on each side of the square
    min_side: int = Field(gt=0)  # px, of the square before the margin
    size: int = Field(ge=8)  # px, of the patch that is written


class Classifier(Section):
    backbone: str  # any timm model name
    backbone_args: dict[str, Any]  # passed to timm.create_model
    weights: (
        str  # imagenet, none, the path of a .safetensors or .pth file, or pkg:NAME for a file of this package
    )
    init_seed: int = Field(ge=0)  # of random weights
    input_size: int = Field(ge=16)  # px
    mean: float  # inputs are (x / 255 - mean) / std
    std: float = Field(gt=0)
    # which parameters train: the head; norm_head: also scale and shift of the body's last normalisation; last_stage:
    # the body's last stage and all behind it; bias: every bias (Bu et al. 2022); all: every one
    trainable: Literal["head", "norm_head", "last_stage", "bias", "all"]
    # of a frozen body in training: eval; train: with stochastic depth, as the published code (never cached)
    body_mode: Literal["eval", "train"]
    # of the body: its last, or those of every stage (Evci et al. 2022, Head2Toe), each of unit length
    features: Literal["last", "stages"]
    cache_features: bool  # False: every step runs the frozen body on the images

    @field_validator("backbone_args")
    @classmethod
    def _weights_enter_by_one_door(cls, given: dict[str, Any]) -> dict[str, Any]:
        taken = [key for key in given if key.startswith(("pretrained", "checkpoint")) or key == "num_classes"]
        if taken:
            raise ValueError(f"{taken[0]} is not for backbone_args; weights are named by classifier.weights")
        return given

    @property
    def trains_body(self) -> bool:
        """Whether parameters inside the body train, so that every step runs it on the images."""
        return self.trainable in ("last_stage", "bias", "all")

    @property
    def body_settings(self) -> dict[str, Any]:
        """What the features of the body depend on, beside its weights."""
        kept = self.model_dump(include={"backbone", "backbone_args", "input_size", "mean", "std"})
        return kept if self.features == "last" else kept | {"features": self.features}

    @property
    def named_weights(self) -> str | None:
        """Weights that no file holds, in words: imagenet, or random with their seed. None where there is a file."""
        return {"imagenet": "imagenet", "none": f"random, seed {self.init_seed}"}.get(self.weights)

    @property
    def label(self) -> str:
        """Its name for folders and tables: the backbone, or the file of this package that makes it another one."""
        packaged = self.weights.startswith("pkg:")
        return Path(self.weights.removeprefix("pkg:")).stem if packaged else self.backbone

    @property
    def weights_file(self) -> Path | None:
        """The file of weights on this machine, or None where they are random or downloaded."""
        if self.weights in ("none", "imagenet"):
            return None
        if self.weights.startswith("pkg:"):
            return Path(__file__).resolve().parent / "models" / self.weights.removeprefix("pkg:")
        return Path(self.weights)


class Recipe(Section):
    """How the head is trained."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    head: Literal["linear", "mlp"]
    hidden: int | None = Field(ge=1)  # units of the mlp; None: half the features
    zero_init: bool  # linear head only
    normalize_features: bool  # layer norm without parameters, then unit L2 norm, per feature vector
    optimizer: Literal["adamw", "sgd"]
    # None: as large as the noise allows (training/optimizers.py, learning_rate)
    lr: float | None = Field(gt=0, le=1e6)
    momentum: float = Field(ge=0, lt=1)  # sgd only
    weight_decay: float = Field(ge=0)
    label_smoothing: float = Field(ge=0, lt=1)
    epochs: int = Field(gt=0)  # passes over the data; with batch_size None, an epoch is a step
    # units of privacy a step, images or patients (expected, under DP, which sets q); None: the full batch
    batch_size: int | None = Field(gt=0)
    max_grad_norm: float = Field(gt=0)  # C; used with finite epsilon only
    flips: Literal["none", "random", "all"]  # all: the mean over the 4 flips inside each image's gradient
    # average: the mean of the second half of the iterates; ema: their exponential moving average (De et al. 2022);
    # both are post-processing of what was released
    select: Literal["last", "average", "ema", "best_val"]
    test_flips: bool  # the score of an image is the mean over its 4 flips

    @model_validator(mode="after")
    def _zero_init_needs_linear(self) -> "Recipe":
        if self.zero_init and self.head == "mlp":
            raise ValueError("zero_init=true leaves an mlp head without a gradient; use head=linear")
        return self

    @model_validator(mode="after")
    def _the_rule_of_lr_is_of_descent(self) -> "Recipe":
        fits = (self.optimizer, self.batch_size, self.head, self.normalize_features) == (
            "sgd", None, "linear", True,
        )  # fmt: skip
        if self.lr is None and not fits:
            raise ValueError(
                "recipe.lr=null is a rule for full steps of SGD on a linear head and features of unit length; give "
                "recipe.lr a number"
            )
        return self


class Privacy(Section):
    epsilon: float = Field(gt=0, allow_inf_nan=True)  # inf: not private
    delta: float = Field(gt=0, lt=1)
    unit: Unit
    # how they differ: a unit is there or not; is there or null, their number public; has other content (sensitivity 2C)
    adjacency: Literal["add_remove", "zero_out", "replace"]
    # of Poisson sampling; full batches use the exact Gaussian formula, which gdp names and which holds nowhere else
    accountant: Literal["prv", "rdp", "gdp"]
    randomness: Randomness
    public_count: int | None = Field(gt=0)  # None: that of the dataset, in the unit of privacy
    require: float | None = Field(gt=0)  # refuse a run whose headline epsilon would exceed this

    @property
    def is_private(self) -> bool:
        return self.epsilon != float("inf")


class Experiment(Section):
    name: Literal["real", "syn", "synpre", "real_syn", "synpre_realft"]  # the paper's names of its setups

    @property
    def uses_real(self) -> bool:
        """Whether real images are trained on."""
        return self.name in ("real", "real_syn", "synpre_realft")

    @property
    def uses_synthetic(self) -> bool:
        """Whether synthetic images are trained on, by the run itself."""
        return self.name in ("syn", "synpre", "real_syn")

    @property
    def continues_synpre(self) -> bool:
        """Whether body and head come from the run `synpre` of the same seed."""
        return self.name == "synpre_realft"


class GanPrivacy(Section):
    """Of the generator: its discriminator alone sees private images, and is trained with DP-SGD (Poisson sampling)."""

    epsilon: float = Field(gt=0, allow_inf_nan=True)  # inf: not private
    delta: float = Field(gt=0, lt=1)
    unit: Unit
    accountant: Literal["prv", "rdp"]
    randomness: Randomness
    max_grad_norm: float = Field(gt=0)  # C, of the discriminator's gradient of one unit
    public_count: int | None = Field(gt=0)  # None: that of the dataset, in the unit of privacy

    @property
    def is_private(self) -> bool:
        return self.epsilon != float("inf")


def _ordered(given: list[float]) -> list[float]:
    if given[0] > given[1]:
        raise ValueError("must be [from, to], the smaller first")
    return given


Interval = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ordered)]  # from, to
Ratio = Annotated[float, Field(gt=0, le=10)]
Ratios = Annotated[list[Ratio], Field(min_length=2, max_length=2), AfterValidator(_ordered)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Gan(Section):
    """The malignancy-conditioned GAN: its two networks and how they are trained (paper, Sec. 2; published code)."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    size: int  # px, of the images that it sees and makes; patches are resized to it, and samples back
    latent_dim: int = Field(gt=0)
    generator_channels: list[Annotated[int, Field(gt=0)]] = Field(min_length=1)  # of the hidden blocks
    discriminator_channels: list[Annotated[int, Field(gt=0)]] = Field(min_length=1)  # of the hidden blocks
    generator_kernel: Literal[4, 6, 8]  # px
    discriminator_kernel: Literal[4, 6, 8]  # px
    norm: Literal["instance", "batch", "group"]
    # how both networks are told the class. embedding (the paper): learnt numbers beside the latents, a learnt plane
    # beside the image; auxiliary: one-hot beside the latents, and the discriminator also names the class (Odena et al.
    # 2017)
    label_injection: Literal["embedding", "auxiliary"]
    label_dim: int = Field(gt=0)  # of the embedding and next: of embedding only
    label_channels: int = Field(gt=0)  # numbers that the generator's first block gets beside the latents
    lr: float = Field(gt=0)  # of Adam, for both networks
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]  # of Adam
    batch_size: int = Field(gt=0)  # units of privacy a step (expected, where private), else images
    epochs: int = Field(gt=0)  # passes over the training patches
    discriminator_steps: int = Field(gt=0)  # for each step of the generator
    # decay of the running mean of the generator's weights, which is then what is kept (Yazici et al. 2019); 0: the
    # weights themselves
    averaging: float = Field(ge=0, lt=1)
    real_target: Interval  # of the discriminator on real images, uniform for each image; 0 on generated ones
    flips: bool  # horizontal and vertical, each with probability 0.5
    zoom: Ratios  # area of the random crop relative to the patch, uniform; above 1 it zooms out
    aspect: Ratios  # width over height of the crop, log-uniform
    checkpoint_every: int = Field(gt=0)  # epochs between two generators that are kept, with a grid of samples
    # epoch: the last; fid: the lowest Frechet distance to the training patches in features of the classifier's
    # backbone, mean over the classes
    select: Literal["epoch", "fid"]
    select_images: int = Field(gt=1)  # of each class, for that distance
    stop_after: int = Field(
        gt=0
    )  # epochs in a row of a discriminator that is certain of every generated image
    seed: int = Field(ge=0, lt=2**63)
    privacy: GanPrivacy


class Synthetic(Section):
    """Synthetic masses. They enter a run through its experiment only."""

    name: Literal["none", "release", "mcgan"]
    root: str | None  # of release: folder; relative to dataset.root, or absolute
    per_class: int = Field(ge=0)  # images of each class
    seed: int = Field(ge=0, lt=2**63)  # of mcgan's latents
    epoch: int | None = Field(
        gt=0
    )  # of mcgan: a checkpoint of the generator; None: the one that gan.select chose
    # of mcgan, a control: images made as one class are called the other
    swap_labels: bool
    # pooled: they count as private records (the paper); public: their gradients are added without noise
    role: Literal["pooled", "public"]
    weight: float = Field(gt=0)  # of a synthetic image against a real one, where role=public
    val_fraction: float = Field(ge=0, lt=1)  # held out where syn or synpre chooses an epoch
    # what syn and synpre choose an epoch on: held-out synthetic images, or real validation patients (the paper)
    validation: Literal["synthetic", "real"]
    # of release: the patients that its generator was trained on without privacy, a dataset.population
    trained_on: str

    @property
    def count(self) -> int:
        return 2 * self.per_class


IMAGE_SETS = ("train", "val", "test", "external", "synthetic")
Space = Literal["backbone", "inception", "radimagenet", "radiomics"]


class Evaluation(Section):
    """How synthetic images are judged (paper, Fig. 2)."""

    # backbone: the classifier's; inception: torch-fidelity's; radimagenet: ResNet-50; radiomics: frd-score, version v0
    spaces: list[Space] = Field(min_length=1)
    inception_weights: str  # download, or FILE
    radimagenet_weights: str | None  # FILE
    pairs: list[str] = Field(
        min_length=1
    )  # FIRST:SECOND of IMAGE_SETS; sets that a dataset lacks are left out
    subsets: int = Field(ge=2)  # random parts of each set, no patient in two of them
    seed: int = Field(ge=0)  # of the parts and of the figure's images
    held_out: list[Literal["val", "test"]] = Field(
        min_length=1
    )  # whom memorisation compares training patients with
    bootstrap: int = Field(ge=0)  # draws of patients for the intervals

    @field_validator("pairs")
    @classmethod
    def _pairs_of_sets(cls, given: list[str]) -> list[str]:
        for pair in given:
            names = pair.split(":")
            if len(names) != 2 or not set(names) <= set(IMAGE_SETS):
                raise ValueError(f"{pair} is no pair FIRST:SECOND of {', '.join(IMAGE_SETS)}")
        return given


class Export(Section):
    """What a bundle may be built in spite of; its statement says so."""

    accept: list[Literal["no_guarantee", "seeded_noise", "large_delta"]]

    @field_validator("accept", mode="before")
    @classmethod
    def _one_word_will_do(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given


class Predict(Section):
    """What stage=predict scores, and with what."""

    model: str | None  # folder of a trained classifier: a finished run, or an exported bundle
    input: str | None  # folder of images, each one patch, or a table (CSV) of images and where the lesion is
    names: bool  # also write the files' names, which may name patients


class Clean(Section):
    """What stage=clean may do."""

    apply: bool  # delete what it lists


class Audit(Section):
    """How a finished classifier is attacked."""

    models: int = Field(ge=0)  # heads retrained per unit, half for fitting the attack; 0: none
    canaries: int = Field(ge=0)  # in the white-box attack, over as many runs as they need; 0: none
    # a control: of the claimed noise, what the attacked training adds; below 1 the audit should find it out
    noise_fraction: float = Field(ge=0.01, le=1)
    alpha: float = Field(ge=1e-6, le=0.5)  # chance that a lower bound lies above the true epsilon
    seed: int = Field(ge=0, lt=2**63)

    @field_validator("models", "canaries")
    @classmethod
    def _enough_for_two_halves(cls, given: int) -> int:
        if 0 < given < 40:
            raise ValueError("half of them fit the attack and half are attacked; give 40 or more, or 0")
        return given


class Runtime(Section):
    """Where and how fast; `precision`, and for the GAN `compile` and `channels_last`, can change a result."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    workers: int | None = Field(
        gt=0
    )  # processes that cut patches or measure radiomics; None: one a core, up to 8
    threads: int | None = Field(gt=0)  # of torch; None: its own choice
    precision: Literal["float32", "bfloat16"]  # of the backbone's forward pass, and of the GAN
    compile: bool  # the GAN's networks by torch.compile: a minute at the start; no gain on a CPU
    channels_last: bool | None  # memory format of the GAN's networks; None: on CUDA only
    tensorboard: bool  # the GAN's curves also for TensorBoard, in outputs/.tensorboard (extra `tensorboard`)
    batch_size: int = Field(
        gt=0
    )  # images a forward pass of the backbone, or of the generator when it samples
    # GiB that the gradients of single images of a whole network, and what they follow from, may take
    memory_limit: float = Field(gt=0)
    checkpoint_seconds: float = Field(ge=0)  # between two checkpoints of a training run
