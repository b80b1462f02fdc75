"""`stage=fit_preparation`: features of public images -> the directions that a head is trained in."""

from mammo_dp.engine.stage import Input, Stage


class FitPreparation(Stage):
    name, version = "fit_preparation", 1
    summary = "features of public images -> the directions in which a private head is trained"
    uses = (
        "recipe.components", "recipe.whitening", "public.name", "public.population", "public.licence",
        "public.citation",
    )  # fmt: skip
    optional = True

    def label(self, config):
        return f"{config.public_images.name}-{config.classifier.label}-{config.recipe.components}"

    def inputs(self, config):
        return {"features": Input("extract_public_features")}

    def events(self, config, cache):
        return ()  # public images of other people

    def claim(self, config):
        return config.gan.privacy
