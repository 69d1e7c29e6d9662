"""Cleaning: deduplication within a domain, decontamination against evaluation sets. Pure and order-independent."""
