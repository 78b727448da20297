"""Recipes of whole papers: several techniques one after the other, each stage measured."""

from tersor.recipes.deep_compression import DeepCompressed, Stage, deep_compression, paper_recipe

__all__ = ["DeepCompressed", "Stage", "deep_compression", "paper_recipe"]
