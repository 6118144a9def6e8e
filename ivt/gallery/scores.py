"""How well a picture fits each clause of a query, compared with the whole gallery.

Dimensions: Q queries, C clauses, R results, n pictures, D embedding width.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class GalleryStatistics:
    """How the embeddings of a gallery are spread, measured on all of them or on a sample.

    Attributes:
        size: number of pictures in the gallery.
        mean: their mean embedding (D,).
        covariance: of their embeddings (D, D).
    """

    size: int
    mean: torch.Tensor
    covariance: torch.Tensor

    @classmethod
    def of(cls, image_embeds: torch.Tensor, size: int | None = None) -> "GalleryStatistics":
        """Measure embeddings (n, D) that stand for a gallery of `size` pictures, n if it is None."""
        mean = image_embeds.mean(dim=0)
        centred = image_embeds - mean
        return cls(len(image_embeds) if size is None else size, mean, centred.T @ centred / len(image_embeds))

    def of_scores(self, query_embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (Q,) of the cosines that queries (Q, D) have over the gallery."""
        variance = torch.einsum("qd,de,qe->q", query_embeds, self.covariance, query_embeds)
        return query_embeds @ self.mean, variance.clamp(min=0).sqrt()


def clause_scores(
    clause_embeds: torch.Tensor, image_embeds: torch.Tensor, statistics: GalleryStatistics
) -> torch.Tensor:
    """Say how well each picture fits each clause, compared with the gallery it comes from.

    Cosines of different clauses do not compare: "black pants" may be close to every picture and "umbrella" to none. So
    a score is the cosine's distance from its mean over the gallery, in standard deviations: 0 is the gallery's average
    picture, and only a few in a hundred pictures reach 2. A negated clause is scored like any other: low is good.

    Args:
        clause_embeds: embeddings of the clauses (C, D).
        image_embeds: embeddings of the pictures (R, D).
        statistics: of the gallery.

    Returns:
        Scores (R, C); 0 for a clause in which the gallery's pictures do not differ.
    """
    mean, deviation = statistics.of_scores(clause_embeds)  # (C,)
    distances = image_embeds @ clause_embeds.T - mean  # (R, C)
    return torch.where(deviation > 1e-4, distances / deviation.clamp(min=1e-4), 0.0)
