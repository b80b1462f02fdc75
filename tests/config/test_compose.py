import pytest

from mammo_dp.cli import compose
from mammo_dp.config.compose import config_dir
from mammo_dp.config.rules import warnings
from mammo_dp.errors import UserError
from tests.conftest import config_of

# what a choice cannot do without
NEEDED = {
    "syn": ("synthetic=release", "privacy.epsilon=inf"),
    "synpre": ("synthetic=release", "privacy.epsilon=inf"),
    "real_syn": ("synthetic=release",),
    "patches": ("public.root=/images", "public.population=others"),
    "mammograms": ("public.root=/images", "public.population=others"),
}


def test_every_group_choice_composes():
    groups = [p for p in config_dir().iterdir() if p.is_dir() and p.name not in ("hydra", "sweep")]
    assert len(groups) >= 7
    for group in groups:
        for choice in group.glob("*.yaml"):
            config_of(f"{group.name}={choice.stem}", *NEEDED.get(choice.stem, ()))


def test_paper_recipe_is_the_paper():
    recipe = config_of("recipe=paper").recipe
    assert (recipe.name, recipe.epochs, recipe.batch_size, recipe.lr) == ("paper", 300, 128, 1e-5)
    assert (recipe.weight_decay, recipe.label_smoothing, recipe.max_grad_norm) == (1e-8, 0.1, 1.0)
    assert (recipe.select, recipe.flips, recipe.test_flips) == ("best_val", "random", False)


def test_all_faults_are_reported_at_once():
    with pytest.raises(UserError) as caught:
        config_of("privacy.epsilon=-1", "privacy.delta=2", "seed=x")
    assert all(key in str(caught.value) for key in ("privacy.epsilon=-1", "privacy.delta=2", "seed=x"))


@pytest.mark.parametrize("word", ["privacy.epsillon=3", "+privacy.epsillon=3"])
def test_unknown_key_names_the_nearest(word):
    with pytest.raises(UserError, match=r"Did you mean privacy\.epsilon"):
        config_of(word)


def test_config_is_frozen():
    config = config_of()
    with pytest.raises(Exception, match="frozen"):
        config.privacy.epsilon = 100.0


def test_epsilon_inf_is_not_private():
    assert not config_of("privacy.epsilon=inf").privacy.is_private
    assert config_of("privacy.epsilon=1").privacy.is_private


def test_private_run_needs_a_published_count():
    with pytest.raises(UserError, match=r"privacy\.public_count"):
        config_of("stage=train_classifier", "dataset.public_count=null")
    assert config_of("dataset.public_count=null", "privacy.public_count=900").public_count == 900
    with pytest.raises(UserError, match=r"privacy\.public_count"):
        config_of(
            "stage=train_classifier", "dataset=release", "dataset.split=official", "dataset.val_fraction=0.1"
        )
    assert config_of("dataset=cbis_ddsm", "dataset.split=official").public_count == 1120  # 85 % of 1318
    assert config_of("privacy.unit=patient").public_count == 578
    assert config_of("dataset.public_count=null", "privacy.epsilon=inf").public_count is None


def test_delta_of_one_over_n_warns():
    assert warnings(config_of("privacy.delta=0.001"))
    assert not warnings(config_of("privacy.delta=0.0001"))


def test_the_delta_of_a_private_generator_warns_too():
    words = ("stage=train_gan", "gan=mcgan_published", "gan.privacy.epsilon=6")
    assert not warnings(config_of(*words, "recipe=dp_gd"))
    assert "gan.privacy.delta=0.5" in warnings(config_of(*words, "gan.privacy.delta=0.5"))[0]


def test_one_bad_job_refuses_all():
    with pytest.raises(UserError):
        compose([["seed=1"], ["seed=2"], ["seed=1.5"]])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("recipe=paper", "privacy.adjacency=replace"), "full batches only"),
        (("recipe=paper", "privacy.accountant=gdp"), "can underestimate"),
        (("stage=train_classifier", "experiment=syn", "synthetic=release"), "privacy.epsilon=inf"),
        (("stage=train_classifier", "experiment=real_syn", "synthetic.per_class=0"), "greater than 0"),
        (
            ("stage=sample_synthetic", "synthetic=release", "synthetic.root=null"),
            r"set synthetic\.root=FOLDER",
        ),
        (("stage=train_gan", "gan.privacy.epsilon=6", "gan.select=fid"), r"set gan\.select=epoch"),
        (("stage=train_gan", "gan.privacy.epsilon=6", "gan.norm=batch"), r"set gan\.norm=instance"),
        (
            ("stage=train_gan", "gan=mcgan_published", "gan.privacy.epsilon=6", "dataset.public_count=null"),
            r"gan\.privacy\.public_count=N",
        ),
        (("stage=train_gan", "gan=mcgan_published", "gan.privacy.epsilon=1e4"), "bounds nothing"),
        (("stage=train_gan", "gan.size=64"), r"gan\.generator_channels .* 128 px and gan\.size=64"),
        (("stage=sample_synthetic", "synthetic.epoch=7"), "every gan.checkpoint_every=50 epochs"),
        (
            ("stage=train_gan", "gan.privacy.epsilon=6", "privacy.unit=patient", "gan.privacy.unit=image"),
            "claims patients",
        ),
        (("gan.zoom=[0,1]",), "greater than 0"),
        (("gan.real_target=[1.2,0.7]",), "the smaller first"),
        (("gan.betas=[0.5,1.0]",), "less than 1"),
        (("evaluation.pairs=[train:moon]",), "train:moon is no pair"),
        (("privacy.unit=breast",), "patient"),
        (("privacy.require=0",), "greater than 0"),
        (("export.accept=[everything]",), "no_guarantee"),
    ],
)
def test_what_cannot_be_accounted_is_refused(words, expected):
    with pytest.raises(UserError, match=expected):
        config_of(*words)


def test_full_batches_take_every_adjacency_and_the_exact_formula():
    for word in ("privacy.adjacency=replace", "privacy.accountant=gdp", "privacy.adjacency=zero_out"):
        assert config_of("recipe=dp_gd", word).is_full_batch
    assert config_of("recipe=paper", "recipe.batch_size=1104", "privacy.adjacency=replace").is_full_batch


def test_pooled_synthetic_images_count_and_public_ones_do_not():
    """Osuala et al. 2024: N = 4104 for real and 3000 synthetic images."""
    words = ("stage=train_classifier", "experiment=real_syn", "synthetic=release")
    assert config_of(*words).public_count == 4104
    assert config_of(*words, "synthetic.role=public").public_count == 1104
    assert config_of(*words, "privacy.unit=patient").public_count == 3578


def test_published_counts_are_those_of_masses():
    """1104 images must not be taken for the number of calcifications."""
    for abnormality in ("calc", "all"):
        assert config_of(f"dataset.abnormality={abnormality}").public_count is None
        with pytest.raises(UserError, match=r"privacy\.public_count"):
            config_of("stage=train_classifier", f"dataset.abnormality={abnormality}")
    assert config_of("dataset.abnormality=all", "privacy.public_count=2000").public_count == 2000


def test_the_paper_s_gan():
    gan = config_of().gan
    assert (gan.lr, gan.betas, gan.batch_size, gan.epochs) == (1e-4, [0.5, 0.999], 16, 1400)
    assert (gan.real_target, gan.zoom, gan.aspect, gan.flips) == ([0.7, 1.2], [0.9, 1.1], [0.95, 1.1], True)
    assert (gan.size, gan.discriminator_steps, gan.averaging, gan.select) == (128, 1, 0.0, "epoch")
    assert not gan.privacy.is_private


def test_the_toy_brings_small_networks_unless_others_are_asked_for():
    assert config_of("dataset=toy").gan.name == "small"
    assert config_of("dataset=toy").classifier.weights == "pkg:swin_micro.safetensors"
    assert config_of("dataset=toy", "gan=mcgan", "classifier=swin_t").gan.name == "mcgan"
    assert config_of("dataset=toy", "classifier=swin_t").classifier.weights == "imagenet"


def test_the_generator_follows_the_claim_of_the_classifier():
    """One unit and one delta for both, unless said otherwise, so that they compose to one claim."""
    words = (
        "stage=train_gan", "gan=mcgan_published", "gan.privacy.epsilon=6", "privacy.unit=patient", "privacy.delta=1e-5",
    )  # fmt: skip
    config = config_of(*words)
    assert (config.gan.privacy.unit, config.gan.privacy.delta, config.generator_count) == (
        "patient",
        1e-5,
        578,
    )
    assert config_of(*words, "privacy.unit=image", "gan.privacy.unit=patient").generator_count == 578
    assert config_of(*words, "privacy.unit=image").generator_count == 1104
    assert config_of(*words, "privacy.public_count=500").generator_count == 500
    assert config_of(*words, "privacy.public_count=500", "gan.privacy.public_count=90").generator_count == 90


def test_custom_data_needs_no_count_before_it_trains():
    assert config_of("stage=extract_patches", "dataset=custom").public_count is None


def test_a_private_run_on_data_of_ones_own_names_its_patients():
    words = ("stage=train_classifier", "dataset=custom", "privacy.public_count=100")
    with pytest.raises(UserError, match=r"set dataset\.population to an identifier"):
        config_of(*words)
    assert config_of(*words, "dataset.population=clinic").dataset.population == "clinic"
    config_of(*words[:2], "privacy.epsilon=inf")
