"""What a model must beat to be worth its memory: the commonest class, and counting words.

Both learn from the training rows and answer with one label a test row, so that the same metrics judge them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from groundup.core.errors import GroundupError, UsageError


def majority(labels: Sequence[str], rows: int) -> list[str]:
    """The commonest training label, `rows` times; of equally common ones the first in the alphabet."""
    if not labels:
        raise UsageError("the majority class needs at least one training row")
    counts = Counter(labels)
    return [min(counts, key=lambda label: (-counts[label], label))] * rows


def tfidf(texts: Sequence[str], labels: Sequence[str], unseen: Sequence[str]) -> list[str]:
    """Logistic regression over TF-IDF weights of words and word pairs (scikit-learn): labels for the `unseen` texts."""
    if len(texts) != len(labels):
        raise UsageError(f"{len(texts)} training texts for {len(labels)} labels: there must be one each")
    if len(set(labels)) < 2 or not unseen:
        return majority(labels, len(unseen))
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise GroundupError("this baseline needs scikit-learn: pip install 'groundup[data]'") from error
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    model = LogisticRegression(C=10.0, max_iter=1000)
    model.fit(words.fit_transform(texts), labels)
    return [str(label) for label in model.predict(words.transform(unseen))]
