"""Paraphrased leaks: prompts that say what an evaluation prompt says in other words.

A static model proposes and a sentence model decides. The static one is made of the sentence model's own table of word
pieces: its 256 principal components, weighted by rank, since vocabularies are sorted by frequency (Zipf), and summed
over a text, as in model2vec and SIF (Arora et al. 2017). It runs a hundred times as fast, and of the pairs that
all-MiniLM-L6-v2 takes for paraphrases at .9 it proposes all. An embedding sees what a text is about and not what it
wants: so safe and unsafe twins are never compared, nor math problems, which differ in their numbers only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.clean.decontaminate import Hit
from pipeline.errors import InputError

COMPARED = ("harmful", "benign")
"""The domains whose prompts are compared."""

_PROPOSED = 0.84
_COMPONENTS = 256
_ROWS = 2048
_LONGEST = 2_000
"""Characters of a text that are read: sentence models cut it no later."""

Vectors = npt.NDArray[np.float32]


class Sentences:
    """A sentence model in this process, on the CPU, and the static model made of it.

    Args:
        model: its folder, or its name on the Hub.
        revision: the commit that is loaded of a model on the Hub.

    Raises:
        InputError: the package sentence-transformers is missing, or the model can't be loaded.
    """

    def __init__(self, model: str, revision: str | None) -> None:
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging
        except ImportError as error:
            raise InputError(
                f"clean.decontaminate.semantic needs sentence-transformers ({error}): pip install "
                "'recap-data[semantic]', or remove semantic:."
            ) from error
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self._model: Any = SentenceTransformer(model, revision=revision, device="cpu")
            table = self._model[0].auto_model.get_input_embeddings().weight.detach().float().numpy()
        except (OSError, ValueError, AttributeError, TypeError) as error:
            why = " ".join(str(error).split())[:200]
            raise InputError(
                f"clean.decontaminate.semantic: {model} is no sentence model that loads: {why}."
            ) from error
        centred = table - table.mean(axis=0)
        _, components = np.linalg.eigh(centred.T @ centred)
        weights = np.log1p(np.arange(len(table), dtype=np.float32))
        self._pieces: Vectors = centred @ components[:, -_COMPONENTS:] * weights[:, np.newaxis]

    def static(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of the static model, one row a text."""
        ids = self._model.tokenizer([t[:_LONGEST] for t in texts], add_special_tokens=False, truncation=True)[
            "input_ids"
        ]
        return _units(np.array([self._pieces[row].sum(axis=0) for row in ids]).reshape(len(texts), -1))

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of the sentence model, one row a text."""
        found = self._model.encode([text[:_LONGEST] for text in texts], batch_size=32, show_progress_bar=False)
        return _units(np.asarray(found, dtype=np.float32))


@lru_cache(maxsize=1)
def sentences(model: str, revision: str | None) -> Sentences:
    """The model, loaded once a process."""
    return Sentences(model, revision)


class ParaphraseIndex:
    """The evaluation texts, ready to be compared with any number of prompts.

    Args:
        model: who decides.
        texts: the normalised texts of all evaluation sets.
        domains: the domain of each, None where it isn't known: it is then compared with harmful and benign prompts.
        above: the cosine similarity from which a prompt is a paraphrase, in (0, 1].
    """

    def __init__(self, model: Sentences, texts: Sequence[str], domains: Sequence[str | None], above: float) -> None:
        self._model, self._texts, self._above = model, texts, above
        self._domains = np.array([domain or "" for domain in domains], dtype=object)
        self._static = model.static(texts) if len(texts) else np.empty((0, 0), np.float32)

    def hits(self, texts: Sequence[str], domain: str) -> list[Hit]:
        """The prompts of one domain that are paraphrases, by place, each with the text it is most like."""
        places = np.flatnonzero((self._domains == domain) | (self._domains == ""))
        if domain not in COMPARED or not len(places):
            return []
        proposed: list[tuple[int, int]] = []
        for start in range(0, len(texts), _ROWS):
            alike = self._model.static(texts[start : start + _ROWS]) @ self._static[places].T
            proposed += [(start + row, places[place]) for row, place in np.argwhere(alike >= _PROPOSED).tolist()]
        if not proposed:
            return []
        rows, one = np.unique([row for row, _ in proposed], return_inverse=True)
        evaluations, other = np.unique([place for _, place in proposed], return_inverse=True)
        left = self._model.encode([texts[row] for row in rows])
        right = self._model.encode([self._texts[place] for place in evaluations])
        measured = np.round(np.einsum("ij,ij->i", left[one], right[other]).astype(float), 4)
        best: dict[int, Hit] = {}
        for row, evaluation, similarity in zip(
            rows[one].tolist(), evaluations[other].tolist(), measured.tolist(), strict=True
        ):
            if similarity >= self._above and (row not in best or similarity > best[row].similarity):
                best[row] = Hit(row, evaluation, "paraphrase", min(similarity, 1.0))
        return [best[row] for row in sorted(best)]


def revision(model: str, asked: str | None, folder: Path) -> tuple[str, str]:
    """Where a model is loaded from, and what stands there: of a folder ``sha256:<hex>``, of the Hub the commit.

    A folder is looked for relative to `folder`.

    Raises:
        InputError: it is neither a folder nor a model on the Hub that can be reached, or the folder isn't as `asked`.
    """
    place = folder / Path(model).expanduser()
    if place.is_dir():
        found = _content(place)
        if asked not in (None, found):
            raise InputError(
                f"{model} holds another model than clean.decontaminate.semantic.revision says ({asked}). Put that "
                "back, or remove revision:."
            )
        return str(place.absolute()), found
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return model, str(HfApi().model_info(model, revision=asked, timeout=10).sha)
    except (HfHubHTTPError, HFValidationError, OSError, RuntimeError) as error:
        raise InputError(
            f"clean.decontaminate.semantic: there is no folder {place}, and no model {model} on the Hub that can be "
            f"reached ({type(error).__name__}). Give the path of a sentence model's folder, relative to the recipe."
        ) from error


def _content(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            whole.update(name.as_posix().encode("utf-8", "surrogateescape") + b"\0")
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    return "sha256:" + whole.hexdigest()


def _units(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: Vectors = (vectors / np.maximum(lengths, 1e-9)).astype(np.float32)
    return units
