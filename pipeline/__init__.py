"""recap-data: counter-aligned prefill mixtures for RECAP (arXiv 2510.00938)."""

__version__ = "0.1.0"
