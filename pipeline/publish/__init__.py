"""What leaves a build: Parquet, data card, manifest, and the folder they appear in whole or not at all."""
