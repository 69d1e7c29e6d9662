"""The files that an export for verl is made of, as `pipeline.trainer.verl` writes them out."""
