"""The configuration: `schema.py` has every setting, `rules.py` what does not go together, `compose.py` the way in."""

from mammo_dp.config.schema import Config

__all__ = ["Config"]
