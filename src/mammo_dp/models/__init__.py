"""Networks: frozen backbones and the heads that are trained on their features."""
