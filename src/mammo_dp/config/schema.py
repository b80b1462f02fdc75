"""Every setting once: name, type, default, range and meaning. The defaults are the paper's.

Hydra composes `configs/` on these defaults (`compose.py`); a file of `configs/` holds only what differs from them.
`docs/settings.md` and `--help SETTING` are made from the docstrings here. Rules between sections: `rules.py`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

Split = Literal["official", "paper"]
Abnormality = Literal["mass", "calc", "all"]
Duplicates = Literal["keep", "drop", "drop_conflicts"]
Unit = Literal["image", "patient"]
Randomness = Literal["seeded", "secure"]
Space = Literal["backbone", "inception", "radimagenet", "radiomics"]
IMAGE_SETS = ("train", "val", "test", "external", "synthetic")
INFINITY = float("inf")
AS_PRIVACY: Any = "${{privacy.{}}}"  # Hydra resolves it: one claim has one delta, one unit


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


def _ordered(given: list[float]) -> list[float]:
    if given[0] > given[1]:
        raise ValueError("must be [from, to], the smaller first")
    return given


Interval = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ordered)]  # from, to
Ratio = Annotated[float, Field(gt=0, le=10)]
Ratios = Annotated[list[Ratio], Field(min_length=2, max_length=2), AfterValidator(_ordered)]
Fractions = Annotated[
    list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2), AfterValidator(_ordered)
]


# --- data -------------------------------------------------------------------------------------------------------


class Source(Section):
    """One collection of images of a dataset."""

    reader: str
    """The format of its files: cbis_ddsm, bcdr, release, custom, or another one of `data/readers/`."""
    root: str
    """Its folder: absolute, or relative to dataset.root."""
    role: Literal["development", "external"]
    """development: split into train, val and test. external: a test set only."""
    optional: bool = False
    """Whether its folder may be absent."""
    licence: str = ""
    """For the data card."""
    citation: str = ""
    """For the data card."""


class PublicCount(Section):
    """Published sizes of a training set. A private run uses no other size."""

    image: int = Field(gt=0)
    """Masses."""
    patient: int = Field(gt=0)
    """Patients."""


class Toy(Section):
    """Sizes of the generated phantom cohorts (`data/toy.py`)."""

    train_patients: int = Field(gt=1)
    """Patients, before validation patients are set aside."""
    test_patients: int = Field(gt=1)
    """Patients of the official test set."""
    external_patients: int = Field(gt=1)
    """Patients of the external test set."""
    height: int = Field(ge=320)
    """Of a mammogram, in px."""
    width: int = Field(ge=256)
    """Of a mammogram, in px."""
    second_mass_every: int = Field(ge=1)
    """Every n-th patient has a second mass in the CC view."""
    seed: int = Field(ge=0)
    """Seed of the phantoms."""


class Dataset(Section):
    """Which images, whose, and how they are split."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """Name in folders and tables."""
    population: str = Field(min_length=1)
    """Identifier of the cohort. Datasets of the same patients share it; releases are added up under it."""
    root: str | None = None
    """Folder of the raw data."""
    sources: dict[str, Source] = Field(min_length=1)
    """Collections of images, by name."""
    split: Split = "paper"
    """official: as the source states it. paper: the patients that the paper trained on (Sec. 2)."""
    val_fraction: float = Field(0.15, ge=0, lt=1)
    """Of the patients whom the split does not name, or of all training patients where split=official."""
    test_fraction: float = Field(0.0, ge=0, lt=1)
    """Of the patients for whom the source states no split."""
    split_seed: int = Field(0, ge=0)
    """Seed of the fractions."""
    abnormality: Abnormality = "mass"
    """Kind of lesion. With calc and all, set privacy.public_count."""
    duplicates: Duplicates = "keep"
    """Copies of a lesion. drop: one stays. drop_conflicts: one stays, none where labels disagree (docs/data.md)."""
    max_skipped: float = Field(0.05, ge=0, le=1)
    """Extraction fails if more than this fraction of rows gives no patch."""
    table: str | None = None
    """Of custom data: the table, a file name in the source's folder or an absolute path."""
    pseudonyms: str | None = None
    """Of custom data: the file that keeps the patients' pseudonyms. null: beside the table."""
    public_count: dict[Split, PublicCount] | None = None
    """Published size of the training set, by split; of official, before validation patients are set aside."""
    toy: Toy | None = None
    """Phantoms to generate; null for real data."""

    @property
    def is_confidential(self) -> bool:
        """Whether file names may identify patients, and messages of libraries may quote them."""
        return any(source.reader == "custom" for source in self.sources.values())


class Public(Section):
    """Public images of other people, which a recipe with `components` learns directions from (docs/recipes.md)."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """Name in folders, cards and statements."""
    population: str = Field(min_length=1)
    """Identifier of the people, as dataset.population. No patient of the study may be among them."""
    licence: str = ""
    """For the card."""
    citation: str = ""
    """For the card."""
    kind: Literal["patches", "mammograms", "dataset"] = "patches"
    """patches: a folder of square patches. mammograms: a folder of whole images, from which random crops of tissue are
    cut. dataset: one that the readers know."""
    root: str | None = None
    """The folder of patches or mammograms, with any folders inside."""
    dataset: Dataset | None = None
    """Of dataset: which one. Its labels are not used."""
    crops: int = Field(10, gt=0)
    """Of mammograms: from each."""
    crop_side: Fractions = [0.06, 0.16]
    """Of mammograms: side of a crop, [from, to] as fractions of the longer side of the image, log-uniform. The default
    is 15 to 40 mm of a film of 25 cm, as the paper's patches are."""
    seed: int = Field(0, ge=0)
    """Of mammograms: of the crops."""

    @model_validator(mode="after")
    def _check_kind(self) -> "Public":
        if (self.kind == "dataset") != (self.dataset is not None):
            raise ValueError("public.dataset goes with public.kind=dataset, and public.root with the others")
        if self.kind != "dataset" and not self.root:
            raise ValueError("public.root is missing; set public.root=FOLDER of public images")
        return self


class Patches(Section):
    """Geometry of a patch (paper, Sec. 2)."""

    box: Literal["contour", "mask"] = "contour"
    """Bounding box of the largest contour, or of all that is marked."""
    margin: int = Field(60, ge=0)
    """Added on each side of the square, in px (Sec. 2)."""
    min_side: int = Field(128, gt=0)
    """Of the square before the margin, in px (Sec. 2)."""
    size: int = Field(128, ge=8)
    """Of the patch that is written, in px (Sec. 2)."""


# --- classifiers ------------------------------------------------------------------------------------------------


# Backbones whose ImageNet weights are torchvision's, as in the paper's code, and not timm's: by name in torchvision.
TORCHVISION = {"swin_tiny_patch4_window7_224": "Swin_T_Weights.IMAGENET1K_V1"}


class Classifier(Section):
    """The backbone, its weights, and which of its parameters train."""

    backbone: str = "swin_tiny_patch4_window7_224"
    """Any model name of timm."""
    backbone_args: dict[str, Any] = {}
    """Passed to timm.create_model."""
    weights: str = "imagenet"
    """imagenet: those of the paper's code for swin_t (torchvision's IMAGENET1K_V1), timm's for any other backbone.
    imagenet_timm: timm's. none: random. Else a .safetensors or .pth FILE in any known layout, or pkg:NAME, a file of
    this package."""
    init_seed: int = Field(0, ge=0)
    """Seed of random weights."""
    input_size: int = Field(224, ge=16)
    """In px."""
    mean: float = 0.5
    """Inputs are (x / 255 - mean) / std. The paper's value, not that of ImageNet."""
    std: float = Field(0.5, gt=0)
    """See mean."""
    trainable: Literal["head", "norm_head", "last_stage", "bias", "all"] = "head"
    """norm_head: also scale and shift of the last normalisation. last_stage: the backbone's last stage and all behind
    it. bias: every bias (Bu et al. 2022). all: every parameter."""
    backbone_mode: Literal["eval", "train"] = "eval"
    """Mode of a frozen backbone in training. train: with stochastic depth, as the published code; never cached."""
    pretrained_on: list[str] = []
    """Every dataset.population whose images the weights were trained on, by anyone, without privacy."""
    features: Literal["last", "stages"] = "last"
    """The backbone's last features, or those of every stage, each of unit length (Evci et al. 2022, Head2Toe)."""
    cache_features: bool = True
    """false: every step runs the frozen backbone on the images."""

    @field_validator("backbone_args")
    @classmethod
    def _reject_weight_args(cls, given: dict[str, Any]) -> dict[str, Any]:
        taken = [key for key in given if key.startswith(("pretrained", "checkpoint")) or key == "num_classes"]
        if taken:
            raise ValueError(f"{taken[0]} is not for backbone_args; weights are named by classifier.weights")
        return given

    @property
    def trains_backbone(self) -> bool:
        """Whether parameters inside the backbone train, so that every step runs it on the images."""
        return self.trainable in ("last_stage", "bias", "all")

    @property
    def backbone_settings(self) -> dict[str, Any]:
        """What the backbone's features depend on, beside its weights."""
        kept = self.model_dump(include={"backbone", "backbone_args", "input_size", "mean", "std"})
        return kept if self.features == "last" else kept | {"features": self.features}

    @property
    def named_weights(self) -> str | None:
        """Weights that no file is given for: whose they are, or random with their seed. None where there is a file."""
        if self.weights == "imagenet" and self.backbone in TORCHVISION:
            return f"torchvision {TORCHVISION[self.backbone]}"
        names = {
            "imagenet": "imagenet",
            "imagenet_timm": "imagenet",
            "none": f"random, seed {self.init_seed}",
        }
        return names.get(self.weights)

    @property
    def label(self) -> str:
        """Name for folders and tables: the backbone, or the file of this package that makes it another one."""
        packaged = self.weights.startswith("pkg:")
        return Path(self.weights.removeprefix("pkg:")).stem if packaged else self.backbone

    @property
    def weights_file(self) -> Path | None:
        """The file of weights on this machine, or None where they are random or downloaded."""
        if self.weights in ("none", "imagenet", "imagenet_timm"):
            return None
        if self.weights.startswith("pkg:"):
            return Path(__file__).resolve().parents[1] / "models" / self.weights.removeprefix("pkg:")
        return Path(self.weights)


class Recipe(Section):
    """How the head is trained. The defaults are the paper's (Sec. 3; published code)."""

    name: str = Field("paper", pattern=r"^[a-z0-9_]+$")
    """Name in tables."""
    head: Literal["linear", "mlp"] = "mlp"
    """mlp: Linear(d, hidden), LeakyReLU(0.2), Linear(hidden, 2)."""
    hidden: int | None = Field(None, ge=1)
    """Units of the mlp. null: half the features, 384 for Swin-T."""
    zero_init: bool = False
    """Start from zero; linear head only."""
    normalize_features: bool = False
    """Layer norm without parameters, then the length `feature_norm`, of each feature vector."""
    feature_norm: float = Field(1.0, gt=0, le=1e3)
    """L2 norm of a normalised feature vector. The bias reads a constant 1 beside it: the longer the vector, the less of
    a clipped gradient is the bias's."""
    components: int | None = Field(None, ge=1)
    """Of the features, so many principal components of the public images (`public`). null: all features as they are."""
    whitening: float = Field(0.5, ge=0, le=1)
    """Each component is divided by its standard deviation to this power. 0: not at all, 1: to equal variances."""
    optimizer: str = "adamw"
    """adamw, sgd, or another one of `training/optimizers.py`."""
    lr: float | None = Field(1e-5, gt=0, le=1e6)
    """Learning rate. null: as large as noise and stability allow (`training/optimizers.py`)."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Of sgd."""
    weight_decay: float = Field(1e-8, ge=0)
    """Of the optimizer."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Of the cross-entropy."""
    epochs: int = Field(300, gt=0)
    """Passes over the data. With batch_size=null, an epoch is a step."""
    batch_size: int | None = Field(128, gt=0)
    """Units of privacy in a step, images or patients (under DP its expectation, which sets q). null: the full batch."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Clipping norm C of a unit's gradient; finite epsilon only."""
    flips: Literal["none", "random", "all", "mean"] = "random"
    """all: the mean over the 4 flips inside each image's gradient. mean: one feature vector an image, the mean of its
    flips', in training and in scoring."""
    select: Literal["last", "average", "ema", "best_val"] = "best_val"
    """average: the mean of the second half of the iterates. ema: their exponential moving average (De et al. 2022).
    best_val: the epoch of the highest AUPRC (benign) on validation images; under DP, among the epochs at 75 to 105 % of
    the target epsilon."""
    test_flips: bool = False
    """The score of an image is the mean over its 4 flips."""

    @model_validator(mode="after")
    def _check_zero_init(self) -> "Recipe":
        if self.zero_init and self.head == "mlp":
            raise ValueError("zero_init=true leaves an mlp head without a gradient; use head=linear")
        return self

    @model_validator(mode="after")
    def _check_step(self) -> "Recipe":
        descent = (self.optimizer, self.batch_size, self.head, self.normalize_features)
        if self.lr is None and descent != ("sgd", None, "linear", True):
            raise ValueError(
                "recipe.lr=null is a rule for full steps of SGD on a linear head and normalised features; give "
                "recipe.lr a number"
            )
        return self

    @model_validator(mode="after")
    def _check_features(self) -> "Recipe":
        if self.components is not None and (self.normalize_features, self.flips) != (True, "mean"):
            raise ValueError("recipe.components needs recipe.normalize_features=true and recipe.flips=mean")
        if self.flips == "mean" and (not self.normalize_features or self.test_flips):
            raise ValueError(
                "recipe.flips=mean scores the mean feature of the flips: set recipe.normalize_features=true and "
                "recipe.test_flips=false"
            )
        if self.feature_norm != 1 and not self.normalize_features:
            raise ValueError("recipe.feature_norm is of recipe.normalize_features=true")
        return self

    @property
    def stable_lr(self) -> float:
        """Below it, full steps of a linear head with momentum m converge: 2 (1 + m) / L (Polyak 1964).

        L = (feature_norm^2 + 1) / 2 bounds the second derivative of the cross-entropy of two classes.
        """
        return 4 * (1 + self.momentum) / (self.feature_norm**2 + 1)


class Experiment(Section):
    """The setup: which images a classifier is trained on."""

    name: Literal["real", "syn", "synpre", "real_syn", "synpre_realft"] = "real"
    """The paper's name of the setup (Table 1)."""

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
        """Whether backbone and head come from the run `synpre` of the same seed."""
        return self.name == "synpre_realft"


# --- privacy ----------------------------------------------------------------------------------------------------


class Privacy(Section):
    """The privacy budget of a classifier's training."""

    epsilon: float = Field(6.0, gt=0, allow_inf_nan=True)
    """inf: trained without privacy."""
    delta: float = Field(1e-4, gt=0, lt=1)
    """The paper's; keep it well below 1/N."""
    unit: Unit = "image"
    """Neighbouring datasets differ in one patch (image, the paper's), or in all images of one patient."""
    adjacency: Literal["add_remove", "zero_out", "replace"] = "zero_out"
    """How they differ. add_remove: a unit is there or not. zero_out: it is there or null; their number is public.
    replace: it has other content (sensitivity 2C)."""
    accountant: Literal["prv", "rdp", "gdp"] = "prv"
    """Of Poisson sampling. Full batches use the exact Gaussian formula; gdp names it and holds nowhere else."""
    randomness: Randomness = "seeded"
    """seeded: reproducible, and anyone who knows the seed can remove the noise. secure: from the operating system;
    needed for a release (docs/sharp_edges.md)."""
    public_count: int | None = Field(None, gt=0)
    """Published number of training units. null: that of the dataset."""
    require: float | None = Field(None, gt=0)
    """Refuse a run whose end-to-end epsilon would exceed this."""

    @property
    def is_private(self) -> bool:
        return self.epsilon != INFINITY


class GanPrivacy(Section):
    """The privacy budget of the generator. Its discriminator alone sees private images, with DP-SGD (Poisson)."""

    epsilon: float = Field(INFINITY, gt=0, allow_inf_nan=True)
    """inf: trained without privacy. Finite: DP-SGD on the discriminator."""
    delta: float = Field(default=AS_PRIVACY.format("delta"), gt=0, lt=1)
    """One claim has one delta."""
    unit: Unit = Field(default=AS_PRIVACY.format("unit"))
    """As privacy.unit."""
    accountant: Literal["prv", "rdp"] = "prv"
    """As privacy.accountant."""
    randomness: Randomness = Field(default=AS_PRIVACY.format("randomness"))
    """As privacy.randomness."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Clipping norm C of the discriminator's gradient of one unit."""
    public_count: int | None = Field(None, gt=0)
    """Published number of training units. null: that of the dataset."""

    @property
    def is_private(self) -> bool:
        return self.epsilon != INFINITY


# --- synthetic images -------------------------------------------------------------------------------------------


Share = Annotated[float, Field(ge=0, lt=1)]
Channels = Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)]


def _within_tanh(given: list[float]) -> list[float]:
    if not -1 <= given[0] < given[1] <= 1:
        raise ValueError("must be [black, white] within the generator's -1 to 1, black the smaller")
    return given


PixelRange = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_within_tanh)]


class Gan(Section):
    """The malignancy-conditioned GAN: its two networks and their training. The defaults are the published code's."""

    name: str = Field("mcgan_published", pattern=r"^[a-z0-9_]+$")
    """Name in folders."""
    size: int = 128
    """Of the images that it sees and makes, in px. Smaller ones are faster and, under DP, learn more (docs/gan.md)."""
    latent_dim: int = Field(100, gt=0)
    """Length of the latent vector."""
    generator_channels: Channels = [1024, 512, 256, 128, 64]
    """Of the hidden blocks."""
    discriminator_channels: Channels = [64, 128, 256, 512, 1024]
    """Of the hidden blocks."""
    generator_kernel: Literal[4, 6, 8] = 4
    """In px."""
    discriminator_kernel: Literal[4, 6, 8] = 6
    """In px."""
    norm: Literal["instance", "batch", "group"] = "instance"
    """Normalisation; batch cannot be private."""
    image_range: PixelRange = [0.0, 1.0]
    """What black and white are in the networks, whose generator ends in a Tanh. The published code has [0, 1], a DCGAN
    [-1, 1]."""
    label_injection: Literal["embedding", "auxiliary"] = "embedding"
    """embedding (the paper): learnt numbers beside the latents, a learnt plane beside the image. auxiliary: one-hot
    beside the latents, and the discriminator also names the class (Odena et al. 2017)."""
    label_dim: int = Field(50, gt=0)
    """Of the embedding."""
    label_channels: int = Field(100, gt=0)
    """Of the embedding: numbers that the generator's first block gets beside the latents."""
    lr: float = Field(1e-4, gt=0)
    """Of Adam, for both networks."""
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.5, 0.999]
    """Of Adam."""
    batch_size: int = Field(16, gt=0)
    """Under DP, expected units of privacy in a step; else images."""
    epochs: int = Field(1400, gt=0)
    """Passes over the training patches. The authors chose theirs by eye out of 10,000."""
    discriminator_steps: int = Field(1, gt=0)
    """For each step of the generator; more help a private one (docs/gan.md)."""
    averaging: float = Field(0.0, ge=0, lt=1)
    """Decay of the running mean of the generator's weights, which is then what is kept (Yazici et al. 2019)."""
    real_target: Interval = [0.7, 1.2]
    """Target of the discriminator on real images, uniform for each image; 0 on generated ones."""
    flips: bool = True
    """Horizontal and vertical, each with probability 0.5."""
    zoom: Ratios = [0.9, 1.1]
    """Area of the random crop relative to the patch, uniform; what becomes of an area above 1: gan.crop."""
    aspect: Ratios = [0.95, 1.1]
    """Width over height of the crop, log-uniform."""
    crop: Literal["inside", "mirrored"] = "inside"
    """inside: as torchvision, never beyond the border: an area above 1 is drawn again, ten times at most.
    mirrored: it zooms out."""
    augment: list[Literal["color", "translation", "cutout"]] = []
    """Of real and generated images before the discriminator (Zhao et al. 2020)."""
    checkpoint_every: int = Field(50, gt=0)
    """Epochs between two generators that are kept, with a grid of samples."""
    select: Literal["epoch", "fid"] = "epoch"
    """epoch: the last. fid: the lowest Frechet distance to the training patches in features of the classifier's
    backbone, mean over the classes."""
    select_images: int = Field(500, gt=1)
    """Of each class, for that distance."""
    stop_after: int = Field(50, gt=0)
    """Stop after so many epochs in a row in which the discriminator is certain of every generated image."""
    stop_spread: float = Field(0.25, ge=0, lt=1)
    """Stop where, for three checkpoints in a row, the samples of a class spread less than this share of what the real
    images of the class do: a collapse. Of a private generator real images are not looked at, and only samples that are
    all alike stop it."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Seed of the training."""
    privacy: GanPrivacy


class Synthetic(Section):
    """Synthetic masses. They enter a run through its experiment only."""

    name: Literal["mcgan", "release", "authors_generator"] = "mcgan"
    """mcgan: drawn from the generator that stage=train_gan trained on the same patches. release: published images.
    authors_generator: drawn from the paper's published generator (medigan's 00008_C-DCGAN_MMG_MASSES)."""
    root: str | None = None
    """Of release: their folder, absolute or relative to dataset.root."""
    file: str | None = None
    """Of authors_generator: its state dict."""
    malignant_condition: Literal[0, 1] = 0
    """Of authors_generator: which of its two conditions is malignant. Its code's label is `is_benign`, so 0."""
    per_class: int = Field(1500, gt=0)
    """Images of each class."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Seed of the latents that images are drawn from."""
    epoch: int | None = Field(None, gt=0)
    """Of mcgan: a checkpoint of the generator. null: the one that gan.select chose."""
    role: Literal["pooled", "public"] = "pooled"
    """pooled: they count as private records (the paper). public: their gradients are added without noise."""
    weight: float = Field(1.0, gt=0)
    """Of a synthetic image against a real one, where role=public."""
    val_fraction: float = Field(0.15, ge=0, lt=1)
    """Held out where syn or synpre chooses an epoch."""
    validation: Literal["synthetic", "real"] = "synthetic"
    """What syn and synpre choose an epoch on: held-out synthetic images, or real validation patients (the paper)."""
    trained_on: str = ""
    """Of published images and generators: the dataset.population that they were trained on without privacy."""

    @property
    def count(self) -> int:
        return 2 * self.per_class


class Evaluation(Section):
    """How synthetic images are judged (paper, Fig. 2)."""

    spaces: list[Space] = Field(["backbone", "inception", "radimagenet", "radiomics"], min_length=1)
    """backbone: the classifier's. inception: torch-fidelity's. radimagenet: ResNet-50. radiomics: frd-score, v0."""
    inception_weights: str = "download"
    """download, or FILE."""
    radimagenet_weights: str | None = None
    """FILE: RadImageNet's ResNet50.pt."""
    pairs: list[str] = Field(
        ["train:train", "synthetic:synthetic", "train:synthetic", "external:external", "train:external"],
        min_length=1,
    )
    """FIRST:SECOND of train, val, test, external, synthetic. Sets that a dataset lacks are left out."""
    subsets: int = Field(3, ge=2)
    """Random parts of each set, no patient in two of them (the paper's 3)."""
    seed: int = Field(0, ge=0)
    """Of the parts and of the figure's images."""
    held_out: list[Literal["val", "test"]] = Field(["test"], min_length=1)
    """Whom memorisation compares training patients with."""
    bootstrap: int = Field(1000, ge=0)
    """Draws of patients for the intervals."""

    @field_validator("pairs")
    @classmethod
    def _check_pairs(cls, given: list[str]) -> list[str]:
        for pair in given:
            names = pair.split(":")
            if len(names) != 2 or not set(names) <= set(IMAGE_SETS):
                raise ValueError(f"{pair} is no pair FIRST:SECOND of {', '.join(IMAGE_SETS)}")
        return given


# --- what is done with a finished run ------------------------------------------------------------------------------


class Audit(Section):
    """How a finished classifier is attacked."""

    models: int = Field(1000, ge=0)
    """Heads retrained for images, and as many for patients; half of them fit the attack. 0: none."""
    canaries: int = Field(4000, ge=0)
    """Of the white-box attack, over as many runs as they need. 0: none."""
    noise_fraction: float = Field(1.0, ge=0.01, le=1)
    """A control: the attacked training adds this fraction of the claimed noise. Below 1 the audit should find it."""
    alpha: float = Field(0.05, ge=1e-6, le=0.5)
    """Chance that a lower bound lies above the true epsilon."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the attacks."""

    @field_validator("models", "canaries")
    @classmethod
    def _check_halves(cls, given: int) -> int:
        if 0 < given < 40:
            raise ValueError("half of them fit the attack and half are attacked; give 40 or more, or 0")
        return given


class Export(Section):
    """What stage=export may build a bundle in spite of. The bundle's statement says so."""

    accept: list[Literal["no_guarantee", "seeded_noise", "large_delta"]] = []
    """Faults of a guarantee that do not stop the export."""

    @field_validator("accept", mode="before")
    @classmethod
    def _allow_one_word(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else sorted(given)


class Predict(Section):
    """What stage=predict scores, and with what."""

    model: str | None = None
    """Folder of a trained classifier: a finished run or an exported bundle; or a checkpoint of the paper's own code,
    whose second output is benign."""
    input: str | None = None
    """Folder of images, each one patch, or a table (CSV) of images and where the lesion is (docs/data.md)."""
    names: bool = False
    """Also write the names of the files, which may identify patients."""


class Clean(Section):
    """What stage=clean may do."""

    apply: bool = False
    """Delete what it lists."""


class Runtime(Section):
    """Where and how fast. `precision`, and for the GAN `compile` and `channels_last`, can change a result."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where torch computes."""
    workers: int | None = Field(None, gt=0)
    """Processes that cut patches or measure radiomics. null: one a core, up to 8."""
    threads: int | None = Field(None, gt=0)
    """Threads of torch. null: its own choice."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the backbone's forward pass, and of the GAN."""
    compile: bool = False
    """torch.compile of the GAN's networks: a minute at the start; no gain on a CPU."""
    channels_last: bool | None = None
    """Memory format of the GAN's networks. null: on CUDA only."""
    tensorboard: bool = False
    """The GAN's curves also for TensorBoard, in outputs/.tensorboard (extra `tensorboard`)."""
    batch_size: int = Field(64, gt=0)
    """Images in a forward pass of the backbone, or of the generator when it samples."""
    memory_limit: float = Field(4.0, gt=0)
    """GiB that the gradients of single images of a whole network, and what they follow from, may take."""
    checkpoint_seconds: float = Field(10.0, ge=0)
    """Between two checkpoints of a training run."""


class Launcher(Section):
    """How the runs of a sweep are started (`engine/launch.py`)."""

    kind: Literal["serial", "laptop", "slurm", "local"] = "serial"
    """serial: one after the other. laptop: several processes on this machine, each with its share of the cores. slurm:
    jobs of a SLURM cluster, through submitit. local: submitit's processes on this machine, to try slurm out."""
    jobs: int | None = Field(None, gt=0)
    """Runs at a time. null: of laptop one a core, each about 1 GB of memory; of slurm no limit."""
    timeout_min: int = Field(240, gt=0)
    """Minutes of a job. One that runs out of time is queued again and resumes from its last checkpoint."""
    max_requeues: int = Field(20, ge=0)
    """Times that a job is queued again."""
    partition: str | None = None
    """Of SLURM."""
    account: str | None = None
    """Of SLURM."""
    gpus_per_node: int | None = Field(1, ge=0)
    """Of a job. null: not asked for."""
    cpus_per_task: int = Field(8, gt=0)
    """Of a job."""
    mem_gb: int | None = Field(32, gt=0)
    """Of a job. null: not asked for."""
    signal_delay_s: int = Field(120, gt=0)
    """Seconds between SLURM's warning and the end of a job's time."""
    slurm: dict[str, Any] = {}
    """Further parameters of sbatch, as in {constraint: a100}."""


def _paths_of(data: Dataset, key: str) -> dict[str, str]:
    """The keys of a data set that hold a path of outside data, with that path.

    Paths below another path are left out, but for those of confidential data.
    """
    paths = {f"{key}.sources.{name}.root": source.root for name, source in data.sources.items()}
    paths |= {f"{key}.table": data.table or "", f"{key}.pseudonyms": data.pseudonyms or ""}
    kept = {
        k: path
        for k, path in paths.items()
        if Path(path).is_absolute() or (data.is_confidential and path.strip("./"))
    }
    return kept | {f"{key}.root": data.root or ""}


# --- the whole --------------------------------------------------------------------------------------------------

# stages that are about one classifier, so that its settings must make sense
OF_A_CLASSIFIER = ("train_classifier", "audit_privacy", "export")
OF_PUBLIC_IMAGES = (
    "extract_public_patches",
    "extract_public_features",
    "fit_preparation",
    "check_public_images",
)


class Config(Section):
    """Settings of the command, and the sections."""

    stage: str = "status"
    """What to do; --help lists the stages."""
    outputs: str = "outputs"
    """Root folder of all artifacts."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Seed of the classifier."""
    force: bool = False
    """Run the stage again even if it is finished."""
    build_inputs: bool = False
    """Build missing inputs first."""
    dry_run: bool = False
    """Only print what would be built."""
    dataset: Dataset
    public: Public | None = None
    """Public images of other people; null: none (docs/recipes.md)."""
    patches: Patches
    classifier: Classifier
    recipe: Recipe
    pretraining: Recipe = Recipe.model_validate({"name": "synpre", "head": "linear"})
    """How the setups synpre and synpre_realft train every parameter on synthetic masses, whatever `recipe` is: by
    default the paper's recipe with a linear head (Sec. 3)."""
    privacy: Privacy
    experiment: Experiment
    gan: Gan
    synthetic: Synthetic
    evaluation: Evaluation
    audit: Audit
    export: Export
    predict: Predict
    clean: Clean
    launcher: Launcher
    runtime: Runtime

    @property
    def uses_public(self) -> bool:
        """Whether the head's inputs are directions of public images."""
        return self.recipe.components is not None and self.public is not None

    @property
    def public_images(self) -> Public:
        """The public images, for stages that are refused without them."""
        assert self.public is not None
        return self.public

    @property
    def public_count(self) -> int | None:
        """The published number of training units, images or patients; None if it is not stated.

        Pooled synthetic images are counted as units of their own.
        """
        count = self.privacy.public_count
        if count is None:
            count = self._published_count(self.privacy.unit)
        if count is not None and self.pools_synthetic:
            count += self.synthetic.count
        return count

    @property
    def generator_count(self) -> int | None:
        """The published number of units that a private generator is trained on; None if it is not stated."""
        own, shared = self.gan.privacy, self.privacy
        stated = own.public_count or (shared.public_count if own.unit == shared.unit else None)
        return stated or self._published_count(own.unit)

    def _published_count(self, unit: Unit) -> int | None:
        counts = (self.dataset.public_count or {}).get(self.dataset.split)
        if counts is None or self.dataset.abnormality != "mass":  # the published numbers are those of masses
            return None
        kept = 1 - self.dataset.val_fraction if self.dataset.split == "official" else 1.0
        return round(kept * getattr(counts, unit))

    @property
    def pools_synthetic(self) -> bool:
        """Whether synthetic images count as private records of this run."""
        return self.experiment.name == "real_syn" and self.synthetic.role == "pooled"

    @property
    def reads_synthetic(self) -> bool:
        """Whether the stage that is asked for needs synthetic images."""
        if self.stage == "extract_features":
            return self.experiment.continues_synpre
        if self.stage in OF_A_CLASSIFIER:
            return self.experiment.name != "real"
        return self.stage in ("sample_synthetic", "evaluate_synthetic", "extract_synthetic_features")

    @property
    def trains_gan(self) -> bool:
        """Whether the stage that is asked for is, or rests on, the training of a generator."""
        return self.stage == "train_gan" or (self.reads_synthetic and self.synthetic.name == "mcgan")

    @property
    def validates_on_real(self) -> bool:
        """Whether an epoch is chosen on validation patients; without real images only when that is asked for."""
        asked = self.experiment.uses_real or self.synthetic.validation == "real"
        return self.recipe.select == "best_val" and asked

    @property
    def reads_features(self) -> bool:
        """Whether the classifier trains on features that were computed once."""
        classifier = self.classifier
        return (
            classifier.cache_features
            and not classifier.trains_backbone
            and classifier.backbone_mode == "eval"
        )

    @property
    def synpre(self) -> "Config":
        """The run `synpre` of the same seed, whose backbone and head `synpre_realft` starts from."""
        return self.model_copy(
            update={
                "experiment": Experiment(name="synpre"),
                "recipe": self.pretraining,
                "classifier": self.classifier.model_copy(
                    update={"trainable": "all", "backbone_mode": "eval"}
                ),
                "privacy": self.privacy.model_copy(update={"epsilon": INFINITY, "require": None}),
            }
        )

    @property
    def is_full_batch(self) -> bool:
        """Whether every step of a private run sees all units."""
        return self.recipe.batch_size is None or self.recipe.batch_size >= (self.public_count or 0)

    @property
    def no_retrains(self) -> str | None:
        """Why an audit cannot retrain heads like this run's in one batch, as a clause; None where it can."""
        recipe = self.recipe
        for fault, reason in (
            (self.experiment.uses_synthetic, "the run also trains on synthetic images"),
            (not self.reads_features, "the run trains on images, not on cached features"),
            (self.classifier.trainable != "head", "more than the head trains"),
            (recipe.head != "linear" or recipe.optimizer != "sgd", "its recipe is not SGD on a linear head"),
            (recipe.flips == "random", "its recipe flips at random"),
            (recipe.select == "best_val", "its recipe chooses an epoch"),
            (recipe.batch_size is not None, "its recipe has batches, not full steps"),
        ):
            if fault:
                return reason
        return None

    @property
    def external_paths(self) -> dict[str, str]:
        """The keys that hold a path of outside data, with that path, so that no record keeps it.

        Paths below another path are left out, but for those of confidential data.
        """
        data, public, made = self.dataset, self.public, self.synthetic.root or ""
        paths = _paths_of(data, "dataset")
        if public is not None and public.dataset is not None:
            paths |= _paths_of(public.dataset, "public.dataset")
        weights, inception = self.classifier.weights, self.evaluation.inception_weights
        paths |= {
            "synthetic.root": made if Path(made).is_absolute() else "",
            "synthetic.file": self.synthetic.file or "",
            "outputs": self.outputs if data.is_confidential else "",  # may lie beside the data
            "public.root": (public and public.root) or "",
            "classifier.weights": weights if self.classifier.weights_file and weights[:4] != "pkg:" else "",
            "predict.model": self.predict.model or "",
            "predict.input": self.predict.input or "",
            "evaluation.inception_weights": inception if inception != "download" else "",
            "evaluation.radimagenet_weights": self.evaluation.radimagenet_weights or "",
        }
        return {key: path for key, path in paths.items() if path}
