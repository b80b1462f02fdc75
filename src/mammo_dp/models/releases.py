"""Released files of weights, by name."""

# The first eight hex digits of the SHA-256 of released files, as in their names (torchvision.models.*_Weights).
RELEASES = {
    "704ceda3": "torchvision Swin_T_Weights.IMAGENET1K_V1",
    "b0353104": "torchvision MobileNet_V2_Weights.IMAGENET1K_V1",
    "7ebf99e0": "torchvision MobileNet_V2_Weights.IMAGENET1K_V2",
    "0676ba61": "torchvision ResNet50_Weights.IMAGENET1K_V1",
    "11ad3fa6": "torchvision ResNet50_Weights.IMAGENET1K_V2",
}


def release_name(sha256: str) -> str | None:
    """Whose release a file of weights is, by its SHA-256, where that is known here."""
    return RELEASES.get(sha256[:8])
